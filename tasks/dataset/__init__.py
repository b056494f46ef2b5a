"""What fetch-dataset is made of: sources, layout, readers, columns, cleaning, splitting and the profile."""
