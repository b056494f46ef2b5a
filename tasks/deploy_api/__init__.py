"""The HTTP API in front of the endpoints: Lambda, API Gateway, CloudFormation."""
