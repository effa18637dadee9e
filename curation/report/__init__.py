"""What a run tells people: report.json and the summary on the terminal."""
