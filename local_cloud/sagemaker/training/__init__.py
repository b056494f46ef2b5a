"""Training jobs: what is checked, their containers, files and logs, and how they end."""
