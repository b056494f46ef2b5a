"""Judges from outside: other versions of transformers, and the software inside SageMaker's containers."""
