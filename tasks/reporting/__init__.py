"""Records in words: for the terminal, for the artifacts in the Prefect UI."""
