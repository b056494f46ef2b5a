"""What training, evaluation and packaging share of the model: the base, decoding, threads."""
