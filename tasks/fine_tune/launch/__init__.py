"""Where a training runs, and how it is followed there. Nothing here shapes a weight, so nothing here is in a key."""
