"""boto3 and Hub clients for a target. With the embedded cloud every call goes to its address, with its own keys.

A local target never falls back on AWS: a service without an address is an error, and the person's own
credentials are not read.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from askline.errors import LocalCloudError
from askline.records import Target

#: The keys of an embedded service that runs by itself, outside an embedded cloud: it holds nothing to protect.
LOCAL_ACCESS_KEY_ID = "test"
LOCAL_SECRET_ACCESS_KEY = "test"  # noqa: S105
LOCAL_HUB_TOKEN = "hf_local"  # noqa: S105
#: Variables with the keys of another user of the embedded cloud, where it enforces permissions.
LOCAL_KEY_VARIABLES = ("ASKLINE_LOCAL_ACCESS_KEY_ID", "ASKLINE_LOCAL_SECRET_ACCESS_KEY")


class LocalKeys(NamedTuple):
    """The keys of one embedded cloud; they open nothing else."""

    access_key_id: str = LOCAL_ACCESS_KEY_ID
    secret_access_key: str = LOCAL_SECRET_ACCESS_KEY
    hub_token: str = LOCAL_HUB_TOKEN
    prefect_auth: str | None = None
    """``user:password`` of the Prefect server's API."""

    @classmethod
    def of(cls, target: Target) -> "LocalKeys":
        """Return the keys of a local target.

        Raises
        ------
        LocalCloudError
            If its file of keys cannot be read.
        """
        return cls() if target.keys_file is None else cls.read(Path(target.keys_file))

    @classmethod
    def read(cls, path: Path) -> "LocalKeys":
        """Return the keys in a file.

        Raises
        ------
        LocalCloudError
            If it cannot be read.
        """
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise LocalCloudError(
                f"cannot read the embedded cloud's keys in {path} ({getattr(error, 'strerror', None) or error}); "
                "start it as the same user: python -m local_cloud up"
            ) from error


def local_keys(target: Target) -> tuple[str, str]:
    """Return the access key and its secret for the embedded cloud: root's, or those in LOCAL_KEY_VARIABLES."""
    key, secret = (os.environ.get(name) for name in LOCAL_KEY_VARIABLES)
    return (key, secret) if key and secret else LocalKeys.of(target)[:2]


def public_hub(target: Target) -> Target:
    """Return a target whose Hub is the public one (``HF_ENDPOINT``, else huggingface.co), with the person's own token.

    A dataset or a base that the embedded Hub does not hold is looked up there, so that a laptop can try
    google/flan-t5-base before there is any AWS account. Nothing is ever published there from a local target.
    """
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    return Target(kind="aws", region=target.region, hub=hub)


def hub_client(target: Target) -> Any:
    """Return an ``HfApi`` at the target's Hub, with the embedded Hub's token or the person's own."""
    # Servers without xet storage would otherwise be asked for it; read when huggingface_hub is first imported.
    if target.kind == "local":
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    from huggingface_hub import HfApi

    return HfApi(endpoint=target.hub, token=LocalKeys.of(target).hub_token if target.kind == "local" else None)


def aws_client(target: Target, service: str, **config: Any) -> Any:
    """Return a boto3 client for ``service`` (``s3``, ``sagemaker``, ``sagemaker-runtime`` …) at ``target``.

    ``config`` goes to :class:`botocore.config.Config` (``read_timeout`` and the like).

    Raises
    ------
    LocalCloudError
        If the embedded cloud has no such service.
    """
    from botocore.config import Config

    options = Config(**{"retries": {"mode": "standard", "max_attempts": 5}, **config})
    if target.kind == "aws":
        return _session(region_name=target.region).client(service, config=options)
    if service not in target.endpoints:
        raise LocalCloudError(
            f"the embedded cloud has no service {service!r}; it offers {', '.join(sorted(target.endpoints))}"
        )
    key, secret = local_keys(target)
    session = _session(aws_access_key_id=key, aws_secret_access_key=secret, region_name=target.region)
    if service == "s3":
        options = options.merge(Config(s3={"addressing_style": "path"}))
    return session.client(service, endpoint_url=target.endpoints[service], config=options)


def _session(**options: str) -> Any:
    """Return a boto3 session of its own (sessions keep credentials) that reads no service model a second time."""
    import boto3
    from botocore.session import Session

    session = Session()
    session.register_component("data_loader", _models())
    return boto3.session.Session(botocore_session=session, **options)


@cache
def _models() -> Any:
    """Return what reads botocore's service models, megabytes of JSON, and remembers them."""
    from botocore.loaders import create_loader
    from botocore.session import Session

    return create_loader(Session().get_config_variable("data_path"))
