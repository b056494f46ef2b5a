"""What Lambda starts: the clients, made once for each execution environment, and the handler.

Environment: ``ASKLINE_REGISTRY`` (SSM path of the registry), ``ASKLINE_MODEL_TIMEOUT`` and ``ASKLINE_COLD_WAIT``
(seconds), ``ASKLINE_AUTH`` and ``ASKLINE_API_KEY`` (what the gateway asks of callers, for the API's description of
itself), ``ASKLINE_QUESTION_LOG…`` (see :mod:`lambda_handler.question_log`), ``POWERTOOLS_…`` (metrics are on where
``POWERTOOLS_METRICS_NAMESPACE`` is set), and boto3's own ``AWS_ENDPOINT_URL_…`` where the calls go somewhere else than
AWS.
"""

import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.parameters import SSMProvider
from botocore.config import Config

from lambda_handler import metrics, question_log
from lambda_handler.answering import Answering
from lambda_handler.api import create_handler
from lambda_handler.model import FixedRuntimes
from lambda_handler.registry import Registry

# API Gateway gives up after 29 s and the function after 28. The registry (at most 2 s) and the model (1 s to connect
# and 24 to answer) fit into that with one attempt each; trying again is done only while an endpoint is starting.
_CONNECT_SECONDS = 1.0
_SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "askline-api")

# One session for all clients: each further one would read botocore's tables of services and endpoints again.
_session = boto3.session.Session()


def _client(service: str, *, connect: float, read: float) -> Any:
    once = Config(connect_timeout=connect, read_timeout=read, retries={"total_max_attempts": 1, "mode": "standard"})
    return _session.client(service, config=once)  # type: ignore[call-overload]


_logger = Logger(service=_SERVICE)

handler = create_handler(
    Answering(
        runtimes=FixedRuntimes(
            lambda seconds: _client("sagemaker-runtime", connect=_CONNECT_SECONDS, read=seconds),
            model_seconds=float(os.environ.get("ASKLINE_MODEL_TIMEOUT", "24")),
            connect_seconds=_CONNECT_SECONDS,
        ),
        registry=Registry(
            os.environ.get("ASKLINE_REGISTRY", "/askline/registry"),
            SSMProvider(boto3_client=_client("ssm", connect=0.5, read=1.5)),
            logger=_logger,
        ),
        questions=question_log.from_environment(lambda: _client("s3", connect=0.5, read=1.0), logger=_logger),
        counts=metrics.from_environment(service=_SERVICE, logger=_logger),
        logger=_logger,
        cold_seconds=float(os.environ.get("ASKLINE_COLD_WAIT", "20")),
    ),
    auth="KEY" if os.environ.get("ASKLINE_API_KEY") == "true" else os.environ.get("ASKLINE_AUTH"),
)
