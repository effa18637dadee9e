"""What a run tells people: the terminal summary."""
