"""Two models on the same questions: ``asking`` a deployed one, and what the difference is worth (``paired``)."""
