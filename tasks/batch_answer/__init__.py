"""A file of questions, answered by the model that is deployed."""
