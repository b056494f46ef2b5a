"""What a deployment will create, computed before anything is: names, image, environment, size and tags."""

import hashlib
import json
import re
from typing import Any

from pydantic import Field

from askline.config import DeployConfig
from askline.errors import ConfigError
from askline.records import PackageRef, Target, UploadRef
from tasks.deploy_serverless.sizing import serverless_memory, sized_instance
from tasks.deploy_serverless.variants import Serving, configured, deployment_config

#: The newest Hugging Face inference image for CPU that the SDK's table lists.
IMAGE = {"version": "5.5", "base_framework_version": "pytorch2.6.0", "py_version": "py312"}
MANAGED = {"askline:managed": "true"}
#: Fields of a plan that belong to the model and not to the endpoint configuration.
_OF_THE_MODEL = ("multi_model", "network_isolation", "subnets", "security_groups")


class DeploymentPlan(Serving):
    """All that a deployment will create, before anything is."""

    mlkey: str
    endpoint_name: str
    target_model: str | None = None
    """Of a multi-model endpoint, the archive that answers for this MLKey: its key below ``archive_uri``."""
    deployment_config: dict[str, Any] | None = None
    """How UpdateEndpoint moves from old to new; None leaves it to SageMaker."""
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def input_folder(self) -> str | None:
        """Where the requests of an async endpoint are put, an S3 address in the archive's bucket."""
        bucket = self.archive_uri.removeprefix("s3://").partition("/")[0]
        return f"s3://{bucket}/async/{self.mlkey}/input" if self.target == "async" else None


def inference_image(region: str, instance_type: str = "ml.m5.xlarge") -> str:
    """Return the address of the Hugging Face inference image in a region; the table travels with the SDK.

    Parameters
    ----------
    instance_type
        What it is to run on: an instance with a GPU gets the image with its drivers.

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
                "huggingface", region=region, instance_type=instance_type, image_scope="inference", **IMAGE
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
        If no image is named and none is known for the region, or no instance holds the package within the budget.
    DeployError
        If no tier of serverless memory holds the package.
    """
    fields = configured(config, bucket=upload.bucket)
    if config.target == "serverless":
        fields["memory_mb"] = serverless_memory(config, package, region=target.region).memory_mb
        image = config.image or inference_image(target.region)
    else:
        fields["instance_type"] = instance = sized_instance(config, package, region=target.region).instance_type
        image = config.image or inference_image(target.region, instance)
    environment = _environment(config.workers)
    archive_uri, target_model = upload.uri, None
    if config.multi_model is not None:
        archive_uri, target_model = _below_the_folder(upload, config.mlkey)
    named = config.multi_model or config.mlkey
    model: dict[str, Any] = {"uri": archive_uri, "image": image, "environment": environment, "role": role_arn}
    if not config.multi_model:
        model["archive"] = package.archive_sha256
    model |= {name: fields[name] for name in _OF_THE_MODEL if fields.get(name)}
    return DeploymentPlan(
        mlkey=config.mlkey,
        endpoint_name=f"serv-hf-endpoint-{named}",
        model_name=_name(named, model),
        config_name=_name(named, {**model, **_size(fields)}),
        image=image,
        archive_uri=archive_uri,
        target_model=target_model,
        environment=environment,
        role_arn=role_arn,
        deployment_config=None if config.target == "serverless" else deployment_config(config.blue_green),
        tags={**MANAGED, "askline:mlkey": named, **config.tags},
        **fields,
    )


def _environment(workers: int) -> dict[str, str]:
    environment = {
        "SAGEMAKER_PROGRAM": "inference.py",
        # Else one worker a vCPU loads the model, and a large one runs out of memory.
        "MMS_DEFAULT_WORKERS_PER_MODEL": str(workers),
        # The archive holds all that is needed, and only /tmp can be written to.
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": "/tmp/huggingface",  # noqa: S108 - a folder in the container
        "TOKENIZERS_PARALLELISM": "false",
    }
    return environment if workers == 1 else {**environment, "ASKLINE_WORKERS": str(workers)}  # of the lean image


def _below_the_folder(upload: UploadRef, mlkey: str) -> tuple[str, str]:
    """Return the folder of all archives, and this one's key below it: <MLKey>/<sha256>/model.tar.gz."""
    folder, found, below = upload.uri.rpartition(f"/{mlkey}/")
    if not found:
        raise ConfigError(f"the archive {upload.uri} does not lie in a folder of its MLKey {mlkey}; upload it anew")
    return f"{folder}/", f"{mlkey}/{below}"


def _size(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what tells two configurations of one model apart; scaling is no part of them."""
    if fields["target"] == "serverless":
        size = {"memory": fields["memory_mb"], "concurrency": fields["max_concurrency"]}
        provisioned = fields["provisioned_concurrency"]
        return size if provisioned is None else {**size, "provisioned": provisioned}
    return {name: value for name, value in fields.items() if name not in ("scaling", *_OF_THE_MODEL)}


def _name(mlkey: str, content: dict[str, Any]) -> str:
    """Return a name of at most 63 characters (8 + 46 + 1 + 8) that changes with the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"askline-{mlkey}-{digest[:8]}"
