"""What Lambda starts: the clients, made once for each execution environment, and the handler.

Environment: ``ASKLINE_REGISTRY`` (SSM path of the registry), ``ASKLINE_MODEL_TIMEOUT`` (seconds), ``POWERTOOLS_…``, and
boto3's own ``AWS_ENDPOINT_URL_…`` where the calls go somewhere else than AWS.
"""

import os

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.parameters import SSMProvider
from botocore.config import Config

from lambda_handler.api import create_handler
from lambda_handler.registry import Registry


# API Gateway gives up after 29 s and the function after 28. The registry (at most 2 s) and the model (1 s to connect
# and 24 to answer) fit into that with one attempt each; trying again is the caller's, who is told when.
def _one_attempt(*, connect: float, read: float) -> Config:
    return Config(connect_timeout=connect, read_timeout=read, retries={"total_max_attempts": 1, "mode": "standard"})


_MODEL_TIMEOUT_SECONDS = float(os.environ.get("ASKLINE_MODEL_TIMEOUT", "24"))

_logger = Logger(service=os.environ.get("POWERTOOLS_SERVICE_NAME", "askline-api"))
_runtime = boto3.client("sagemaker-runtime", config=_one_attempt(connect=1, read=_MODEL_TIMEOUT_SECONDS))  # type: ignore[call-overload]
_parameters = SSMProvider(boto_config=_one_attempt(connect=0.5, read=1.5))

handler = create_handler(
    runtime=_runtime,
    registry=Registry(os.environ.get("ASKLINE_REGISTRY", "/askline/registry"), _parameters, logger=_logger),
    logger=_logger,
)
