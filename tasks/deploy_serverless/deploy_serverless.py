"""Serve the uploaded archive on a SageMaker endpoint: first a plan, then the act.

The plan is pure: names, image, environment, size and tags (:mod:`.deployment_plan`). The names of model and
endpoint configuration come from what they describe, so that deploying twice changes nothing and a run that was cut off
is finished by the next one. The act looks before it creates (:mod:`.endpoint_act`).

The step's name is of its first and cheapest kind; ``deploy.target`` chooses among serverless, real-time and async.
"""

from askline.config import DeployConfig
from askline.errors import ConfigError
from askline.records import EndpointRef, PackageRef, UploadRef
from tasks.aws.execution_role import ensure_local_role
from tasks.deploy_serverless.deployment_plan import MANAGED, DeploymentPlan, plan_deployment
from tasks.deploy_serverless.endpoint_act import DELETE_SECONDS, PASSING, POLL_SECONDS, apply_plan
from tasks.workplace import Workplace

__all__ = [
    "DELETE_SECONDS",
    "PASSING",
    "POLL_SECONDS",
    "DeploymentPlan",
    "apply_plan",
    "deploy_serverless",
]


def deploy_serverless(config: DeployConfig, upload: UploadRef, package: PackageRef, *, place: Workplace) -> EndpointRef:
    """Create the endpoint, update it in place, or leave it as it is, and wait until this package serves.

    Raises
    ------
    DeployError
        If AWS refuses, the endpoint fails, goes back to its old configuration or is not up in ``wait_seconds``. After a
        failure that trying again cannot mend, what this run created is deleted; an endpoint that served before still
        serves what it did.
    ConfigError
        If the role or the image is missing from the configuration.
    """
    target = place.target
    if config.role_arn is None and target.kind == "aws":
        raise ConfigError("deploy.role_arn is needed on AWS: the IAM role that SageMaker takes on to read the archive")
    role = config.role_arn or ensure_local_role(upload, target=target, tags={**MANAGED, **config.tags})
    plan = plan_deployment(config, upload, package, target=target, role_arn=role)
    return apply_plan(plan, target=target, wait_seconds=config.wait_seconds, progress=place.progress)
