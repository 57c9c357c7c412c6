"""What is written to disk: complete or absent, and resumed after a kill."""
