"""What surrounds a step: where its calls go, what it is called, what is remembered of it, and who shares its work."""
