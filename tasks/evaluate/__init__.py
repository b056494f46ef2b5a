"""How well a model answers, beside what it must beat."""
