"""Application Auto Scaling for endpoints: its API, and what changes endpoints by its policies."""
