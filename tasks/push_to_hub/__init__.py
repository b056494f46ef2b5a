"""The model with its card in a repository of the Hub."""
