"""Serving an archive on SageMaker: the plan, the act, and the registry of what serves."""
