"""From what was asked to what is trained next."""
