"""One question to an endpoint or to a package."""
