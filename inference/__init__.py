"""What travels in the archive's ``code/`` folder: ``inference.py`` alone. It imports nothing of ours."""
