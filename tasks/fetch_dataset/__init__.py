"""From a source to clean, split and profiled questions and answers."""
