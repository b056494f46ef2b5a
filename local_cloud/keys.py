"""The keys of one embedded cloud: made when it is first started, kept in its folder, read by whoever may read that.

They are the secret that tells this user's programs from a page in a browser, and from other users of the machine.
"""

import json
import secrets
from pathlib import Path

from askline.clients import LocalKeys
from askline.errors import LocalCloudError
from askline.records import Target
from local_cloud.state import write_whole

#: Services that MiniStack does not answer, to the names that boto3 gives them in variables.
_VARIABLES = {
    "sagemaker": "SAGEMAKER",
    "sagemaker-runtime": "SAGEMAKER_RUNTIME",
    "application-autoscaling": "APPLICATION_AUTO_SCALING",
    "service-quotas": "SERVICE_QUOTAS",
}

_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def make() -> LocalKeys:
    """Return new keys, in the forms that the services' own clients take. Each has 80 random bits or more."""
    return LocalKeys(
        access_key_id="AKIA" + "".join(secrets.choice(_BASE32) for _ in range(16)),
        secret_access_key=secrets.token_hex(20),
        hub_token="hf_" + secrets.token_hex(17),
        prefect_auth="askline:" + secrets.token_hex(10),
    )


def of(root: Path) -> LocalKeys:
    """Return the keys of the embedded cloud in ``root``; make them if there are none.

    Raises
    ------
    LocalCloudError
        If the file is damaged.
    """
    path = root / "keys.json"
    if not path.exists():
        write_whole(path, json.dumps(make()._asdict(), indent=2), mode=0o600)
    try:
        return LocalKeys.read(path)
    except LocalCloudError:
        raise LocalCloudError(
            f"{path} is damaged: delete it, then run python -m local_cloud down and up; new keys are made"
        ) from None


def exports(target: Target) -> dict[str, str]:
    """Return the variables with which the services' ordinary tools find this cloud."""
    keys = LocalKeys.of(target)
    values = {
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_SESSION_TOKEN": "",
        "AWS_DEFAULT_REGION": target.region,
        "AWS_REGION": target.region,
    }
    if "s3" in target.endpoints:
        values["AWS_ENDPOINT_URL"] = target.endpoints["s3"]
    for service, name in _VARIABLES.items():
        if service in target.endpoints:
            values[f"AWS_ENDPOINT_URL_{name}"] = target.endpoints[service]
    values |= {"HF_ENDPOINT": target.hub, "HF_TOKEN": keys.hub_token, "HF_HUB_DISABLE_XET": "1"}
    if target.prefect_api is not None:
        values |= {"PREFECT_API_URL": target.prefect_api, "PREFECT_API_AUTH_STRING": keys.prefect_auth or ""}
    return values
