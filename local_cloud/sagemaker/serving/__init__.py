"""Endpoints at work: archives unpacked, containers running, calls answered one by one or from a queue."""
