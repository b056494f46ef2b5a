"""Whether a model is good enough to be seen by others, and better than the one that is deployed."""
