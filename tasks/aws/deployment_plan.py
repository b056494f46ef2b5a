"""What a deployment will create, computed before anything is: names, image, environment, size and tags."""

import hashlib
import json
import re
from typing import Any

from pydantic import Field

from askline.config import DeployConfig
from askline.errors import ConfigError
from askline.records import PackageRef, Record, Target, UploadRef
from tasks.aws.sizing import serverless_memory

#: The newest Hugging Face inference image for CPU that the SDK's table lists.
IMAGE = {"version": "5.5", "base_framework_version": "pytorch2.6.0", "py_version": "py312"}
MANAGED = {"askline:managed": "true"}


class DeploymentPlan(Record):
    """All that a deployment will create, before anything is."""

    mlkey: str
    endpoint_name: str
    config_name: str
    model_name: str
    image: str
    archive_uri: str
    environment: dict[str, str]
    role_arn: str
    memory_mb: int
    max_concurrency: int
    tags: dict[str, str] = Field(default_factory=dict)


def inference_image(region: str) -> str:
    """Return the address of the Hugging Face inference image in a region; the table travels with the SDK.

    Raises
    ------
    ConfigError
        If the SDK's table does not know the region.
    """
    # Looking up an image imports no telemetry and opens no connection.
    from sagemaker.core import image_uris

    try:
        return str(
            image_uris.retrieve(
                "huggingface", region=region, instance_type="ml.m5.xlarge", image_scope="inference", **IMAGE
            )
        )
    except ValueError as error:
        raise ConfigError(
            f"there is no Hugging Face inference image for region {region!r} in the SageMaker SDK's table; set "
            "deploy.image to an image in that region's ECR, or choose another region"
        ) from error


def container_python(image: str | None) -> str:
    """Return the Python of a container image: that of the default image, or what the image's name says (``py312``).

    Raises
    ------
    ConfigError
        If the name of the image does not say it.
    """
    tag = IMAGE["py_version"] if image is None else image
    found = re.search(r"py(3)(\d{1,2})(?!\d)", tag)
    if found is None:
        raise ConfigError(
            f"the name of deploy.image {image!r} does not say which Python is in it, and the archive carries libraries "
            "for one: set package.python, or package.carry_libraries to false where the image holds onnxruntime and "
            "tokenizers itself"
        )
    return f"{found[1]}.{found[2]}"


def plan_deployment(
    config: DeployConfig, upload: UploadRef, package: PackageRef, *, target: Target, role_arn: str
) -> DeploymentPlan:
    """Compute what a deployment creates. No call leaves the machine.

    Parameters
    ----------
    role_arn
        The execution role; ``config.role_arn`` or, on the embedded cloud, the one created there.

    Raises
    ------
    ConfigError
        If no image is named and none is known for the region.
    DeployError
        If no tier of serverless memory holds the package.
    """
    memory_mb = serverless_memory(config, package, region=target.region).memory_mb
    image = config.image or inference_image(target.region)
    environment = {
        "SAGEMAKER_PROGRAM": "inference.py",
        # Else one worker a vCPU loads the model, and a large one runs out of memory.
        "MMS_DEFAULT_WORKERS_PER_MODEL": "1",
        # The archive holds all that is needed, and only /tmp can be written to.
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": "/tmp/huggingface",  # noqa: S108 - a folder in the container
        "TOKENIZERS_PARALLELISM": "false",
    }
    model = {
        "archive": package.archive_sha256,
        "uri": upload.uri,
        "image": image,
        "environment": environment,
        "role": role_arn,
    }
    size = {"memory": memory_mb, "concurrency": config.max_concurrency}
    return DeploymentPlan(
        mlkey=config.mlkey,
        endpoint_name=f"serv-hf-endpoint-{config.mlkey}",
        model_name=_name(config.mlkey, model),
        config_name=_name(config.mlkey, {**model, **size}),
        image=image,
        archive_uri=upload.uri,
        environment=environment,
        role_arn=role_arn,
        memory_mb=memory_mb,
        max_concurrency=config.max_concurrency,
        tags={**MANAGED, "askline:mlkey": config.mlkey, **config.tags},
    )


def _name(mlkey: str, content: dict[str, Any]) -> str:
    """Return a name of at most 63 characters (8 + 46 + 1 + 8) that changes with the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"askline-{mlkey}-{digest[:8]}"
