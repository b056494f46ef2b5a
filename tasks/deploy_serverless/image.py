"""The container image that serves: AWS's own for Hugging Face, and which Python an image has."""

import re

from askline.errors import ConfigError

#: The newest Hugging Face inference image for CPU that the SDK's table lists.
IMAGE = {"version": "5.5", "base_framework_version": "pytorch2.6.0", "py_version": "py312"}


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
