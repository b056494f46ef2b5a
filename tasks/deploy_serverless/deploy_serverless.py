"""Serve the uploaded archive on a SageMaker endpoint, as the plan says.

What is carried out is the record that was shown (:mod:`.plan`), by the verb that a rollback has too (:mod:`.serve`).
The step's name is of its first and cheapest kind; ``deploy.target`` chooses among serverless, real-time and async.
"""

from askline.config import DeployConfig
from askline.errors import DeployError
from askline.records import DeployPlan, EndpointRef, UploadRef
from tasks.aws.execution_role import ensure_local_role
from tasks.aws.names import MANAGED
from tasks.deploy_serverless.serve import serve
from tasks.workplace import Workplace


def deploy_serverless(config: DeployConfig, plan: DeployPlan, upload: UploadRef, *, place: Workplace) -> EndpointRef:
    """Create the endpoint, update it in place, or leave it as it is, and wait until this package serves.

    Raises
    ------
    DeployError
        If the archive was uploaded to another place than the plan says, AWS refuses, the endpoint fails, goes back to
        its old configuration or is not up in ``wait_seconds``. After a failure that trying again cannot mend, what this
        run created is deleted; an endpoint that served before still serves what it did.
    CloudError
        If the embedded cloud's role cannot be made.
    """
    planned = plan.serving.archive_uri + (plan.target_model or "")
    if upload.uri != planned:
        raise DeployError(f"the archive was uploaded to {upload.uri}, and the plan says {planned}: plan again")
    if config.role_arn is None:
        ensure_local_role(upload, target=place.target, tags={**MANAGED, **config.tags})
    return serve(
        plan.serving, plan, archive_sha256=upload.archive_sha256, place=place, wait_seconds=config.wait_seconds
    ).endpoint
