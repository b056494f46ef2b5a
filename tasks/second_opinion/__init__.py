"""A sentence encoder and a linear layer over the known answers, which judge each question beside the model."""
