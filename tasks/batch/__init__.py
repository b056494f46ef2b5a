"""Answering a file of questions with the model that is deployed."""
