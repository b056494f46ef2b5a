"""What packing, proving and smoke-testing a model share."""
