"""The embedded cloud: AWS, SageMaker, the Hub and Prefect on loopback, without an account and without Docker."""
