"""The SageMaker SDK, made to call the target and nobody else."""

from typing import Any

from askline.clients import local_keys
from askline.records import Target

#: Where a call goes for which the embedded cloud has no service: nothing listens there.
_NOWHERE = "http://127.0.0.1:9"
#: boto's former names, which the SDK uses.
_NAMES = {"runtime.sagemaker": "sagemaker-runtime"}
_QUIET = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}


def sdk_session(target: Target, bucket: str) -> Any:
    """Return a ``sagemaker`` session whose clients go to the target, with ``bucket`` as its default bucket.

    The SDK makes its clients from a boto3 session, and some at addresses that it writes down itself; with a local
    target the boto3 session gives each the embedded cloud's address and keys instead. Telemetry is off.
    """
    import boto3
    from botocore.config import Config
    from sagemaker.core.helper.session_helper import Session

    class TargetSession(boto3.session.Session):
        """A boto3 session whose clients, and the resources made of them, go to the embedded cloud."""

        def client(self, service_name: str, *args: Any, **options: Any) -> Any:  # type: ignore[override]
            name = _NAMES.get(service_name, service_name)
            options["endpoint_url"] = target.endpoints.get(name, _NOWHERE)
            if name == "s3":
                given = options.get("config") or Config()
                options["config"] = given.merge(Config(s3={"addressing_style": "path"}))
            return super().client(name, *args, **options)  # type: ignore[call-overload]

    boto_session = boto3.session.Session(region_name=target.region)
    if target.kind == "local":
        key, secret = local_keys(target)
        boto_session = TargetSession(aws_access_key_id=key, aws_secret_access_key=secret, region_name=target.region)
    return Session(boto_session=boto_session, default_bucket=bucket, sagemaker_config=_QUIET)
