"""What a question and an answer are: rows, the prompt, predictions, and when two answers are the same."""
