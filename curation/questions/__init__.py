"""What a person asks of a finished run: why a document is where it is, what resembles a text, how two runs differ."""
