"""What is zipped for AWS Lambda: the HTTP API in front of the SageMaker endpoints.

The zip holds this folder and AWS Lambda Powertools; boto3 comes with Lambda. Nothing else of askline travels with it.
"""
