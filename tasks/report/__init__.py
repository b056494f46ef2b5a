"""Records in words: for the terminal, for the Prefect UI, and as one page."""
