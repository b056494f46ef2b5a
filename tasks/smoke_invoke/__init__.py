"""Whether what was deployed answers as it was evaluated."""
