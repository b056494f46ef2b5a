"""``model.tar.gz``: built, proved in a clean process, and brought to S3."""
