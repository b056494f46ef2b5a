"""What must be so before anything is created, by subject."""
