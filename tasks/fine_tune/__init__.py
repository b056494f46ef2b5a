"""From a dataset and a base to a checkpoint that answers."""
