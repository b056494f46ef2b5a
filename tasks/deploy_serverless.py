"""Serve the uploaded archive on a SageMaker serverless endpoint: first a plan, then the act.

The plan is pure: names, image, environment, size and tags. The names of model and endpoint configuration come from
what they describe, so that deploying twice changes nothing and a run that was cut off is finished by the next one.
The act looks before it creates, updates an endpoint in place, and checks at the end which configuration answers:
after a failed update SageMaker goes back to the old one and says "InService" all the same.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

from askline.clients import aws_client
from askline.config import DeployConfig
from askline.errors import ConfigError, DeployError
from askline.progress import Progress, quiet
from askline.records import EndpointRef, PackageRef, Target, UploadRef
from tasks.aws.deployment_plan import MANAGED, DeploymentPlan, plan_deployment
from tasks.aws.errors import explained, is_missing
from tasks.aws.execution_role import ensure_local_role

VARIANT = "AllTraffic"
#: Endpoint statuses that pass by themselves.
PASSING = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})
#: Seconds between two looks at the endpoint.
POLL_SECONDS = {"local": 0.5, "aws": 10.0}
DELETE_SECONDS = 180


def deploy_serverless(
    config: DeployConfig, upload: UploadRef, package: PackageRef, *, target: Target, progress: Progress = quiet
) -> EndpointRef:
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
    if config.role_arn is None and target.kind == "aws":
        raise ConfigError("deploy.role_arn is needed on AWS: the IAM role that SageMaker takes on to read the archive")
    role = config.role_arn or ensure_local_role(upload, target=target, tags={**MANAGED, **config.tags})
    plan = plan_deployment(config, upload, package, target=target, role_arn=role)
    return apply_plan(plan, target=target, wait_seconds=config.wait_seconds, progress=progress)


def apply_plan(plan: DeploymentPlan, *, target: Target, wait_seconds: float, progress: Progress = quiet) -> EndpointRef:
    """Carry out a plan; see :func:`deploy_serverless` for what it raises."""
    return _Act(plan, target, wait_seconds, progress).run()


class _StillUnderWayError(DeployError):
    """Time is up, but SageMaker is not done: it may yet succeed, and nothing can be deleted meanwhile."""


class _Act:
    """One deployment under way: its clients, its deadline, and what it has created so far."""

    def __init__(self, plan: DeploymentPlan, target: Target, wait_seconds: float, progress: Progress) -> None:
        self.plan = plan
        self.client = aws_client(target, "sagemaker")
        self.progress = progress
        self.poll = POLL_SECONDS[target.kind]
        self.started = time.monotonic()
        self.wait_seconds = wait_seconds
        self.tags = [{"Key": key, "Value": value} for key, value in plan.tags.items()]
        #: Names of what this run created and the calls that delete it, in the order of creation.
        self.undo: list[tuple[str, Callable[[], Any]]] = []

    def run(self) -> EndpointRef:
        """Bring the endpoint to the planned configuration."""
        try:
            return self._run()
        except _StillUnderWayError:
            raise
        except DeployError as error:
            if error.retryable:  # the next try goes on from here
                raise
            left = self._undo()
            if left:
                raise DeployError(f"{error}\nStill there, and to be deleted by hand: {', '.join(left)}") from error
            raise

    def _run(self) -> EndpointRef:
        endpoint = self._settled()
        if endpoint is not None:
            self._check_is_ours(endpoint)
        if endpoint is not None and endpoint["EndpointStatus"] == "Failed":
            # A first creation that failed, of this package or another: it never answered and cannot be updated.
            self._delete_endpoint()
            endpoint = None
        if endpoint is not None and endpoint["EndpointStatus"] != "InService":
            raise DeployError(
                f"the endpoint {self.plan.endpoint_name} is {endpoint['EndpointStatus']} and can be neither used nor "
                f"updated ({endpoint.get('FailureReason', 'no reason given')}); delete it and deploy again"
            )
        if endpoint is not None and endpoint["EndpointConfigName"] == self.plan.config_name:
            self.progress(1.0, "in service already, nothing to change")
            return self._ref(endpoint, "unchanged")
        self._ensure_model()
        self._ensure_config()
        name, config = self.plan.endpoint_name, self.plan.config_name
        if endpoint is None:
            with self._explained(f"create the endpoint {name}"):
                self.client.create_endpoint(EndpointName=name, EndpointConfigName=config, Tags=self.tags)
            self.undo.append((f"endpoint {name}", self._delete_endpoint))
        else:
            with self._explained(f"update the endpoint {name}"):
                self.client.update_endpoint(EndpointName=name, EndpointConfigName=config)
        return self._ref(self._served(), "created" if endpoint is None else "updated")

    def _served(self) -> dict[str, Any]:
        """Wait, and return the endpoint if the planned configuration is the one that answers."""
        name = self.plan.endpoint_name
        endpoint = self._settled()
        if endpoint is None:
            raise DeployError(f"the endpoint {name} was deleted by someone else during the deployment; deploy again")
        reason = endpoint.get("FailureReason", "no reason given; see the endpoint's log in CloudWatch")
        if endpoint["EndpointStatus"] != "InService":
            raise DeployError(f"the endpoint {name} is {endpoint['EndpointStatus']}: {reason}")
        if endpoint["EndpointConfigName"] != self.plan.config_name:
            raise DeployError(
                f"the update of {name} failed, and SageMaker went back to {endpoint['EndpointConfigName']}, which "
                f"still answers: {reason}"
            )
        return endpoint

    def _settled(self) -> dict[str, Any] | None:
        """Wait until the endpoint is in a state that lasts; None when there is none."""
        while True:
            endpoint = self._describe(self.client.describe_endpoint, EndpointName=self.plan.endpoint_name)
            if endpoint is None or endpoint["EndpointStatus"] not in PASSING:
                return endpoint
            seconds = time.monotonic() - self.started
            if seconds > self.wait_seconds:
                status = endpoint["EndpointStatus"]
                raise _StillUnderWayError(
                    f"the endpoint {self.plan.endpoint_name} is still {status} after {seconds:.0f} s; "
                    "deploy again to wait on, or give it longer with deploy.wait_seconds"
                )
            self.progress(min(0.99, seconds / self.wait_seconds), f"{endpoint['EndpointStatus']}, {seconds:.0f} s")
            time.sleep(self.poll)

    def _check_is_ours(self, endpoint: dict[str, Any]) -> None:
        """Refuse to touch an endpoint that somebody else made."""
        with self._explained(f"read the tags of {self.plan.endpoint_name}"):
            tags = self.client.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
        if not all({"Key": key, "Value": value} in tags for key, value in MANAGED.items()):
            raise DeployError(
                f"the endpoint {self.plan.endpoint_name} exists and was not made by askline; choose another "
                "deploy.mlkey, delete the endpoint, or tag it askline:managed=true to hand it over"
            )

    def _ensure_model(self) -> None:
        plan = self.plan
        if self._describe(self.client.describe_model, ModelName=plan.model_name) is not None:
            return
        container = {"Image": plan.image, "ModelDataUrl": plan.archive_uri, "Environment": plan.environment}
        with self._explained(f"create the model {plan.model_name} (role {plan.role_arn}, archive {plan.archive_uri})"):
            self.client.create_model(
                ModelName=plan.model_name,
                PrimaryContainer=container,
                ExecutionRoleArn=plan.role_arn,
                Tags=self.tags,
            )
        delete = lambda: self.client.delete_model(ModelName=plan.model_name)  # noqa: E731
        self.undo.append((f"model {plan.model_name}", delete))

    def _ensure_config(self) -> None:
        plan = self.plan
        found = self._describe(self.client.describe_endpoint_config, EndpointConfigName=plan.config_name)
        if found is not None:
            return
        variant = {
            "VariantName": VARIANT,
            "ModelName": plan.model_name,
            "ServerlessConfig": {"MemorySizeInMB": plan.memory_mb, "MaxConcurrency": plan.max_concurrency},
        }
        with self._explained(f"create the endpoint configuration {plan.config_name}"):
            self.client.create_endpoint_config(
                EndpointConfigName=plan.config_name, ProductionVariants=[variant], Tags=self.tags
            )
        delete = lambda: self.client.delete_endpoint_config(EndpointConfigName=plan.config_name)  # noqa: E731
        self.undo.append((f"endpoint configuration {plan.config_name}", delete))

    def _delete_endpoint(self) -> None:
        """Delete the endpoint and wait until it is gone, so that its name is free."""
        name = self.plan.endpoint_name
        with self._explained(f"delete the failed endpoint {name}"):
            self.client.delete_endpoint(EndpointName=name)
        deadline = time.monotonic() + DELETE_SECONDS
        while self._describe(self.client.describe_endpoint, EndpointName=name) is not None:
            if time.monotonic() > deadline:
                raise DeployError(f"the endpoint {name} is not deleted after {DELETE_SECONDS} s; deploy again later")
            time.sleep(self.poll)

    def _undo(self) -> list[str]:
        """Delete what this run created, newest first; return what could not be deleted."""
        from botocore.exceptions import BotoCoreError, ClientError

        left = []
        for what, delete in reversed(self.undo):
            try:
                delete()
            except (DeployError, BotoCoreError, ClientError):
                left.append(what)
        return left

    def _describe(self, call: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with self._explained(f"look up {next(iter(name.values()))}"):
            try:
                return call(**name)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

    def _explained(self, doing: str) -> Any:
        return explained(doing, error_type=DeployError)

    def _ref(self, endpoint: dict[str, Any], action: Literal["created", "updated", "unchanged"]) -> EndpointRef:
        plan = self.plan
        seconds = time.monotonic() - self.started
        self.progress(1.0, f"{plan.endpoint_name} {action}, {seconds:.0f} s")
        return EndpointRef(
            name=plan.endpoint_name,
            arn=endpoint["EndpointArn"],
            mlkey=plan.mlkey,
            model_name=plan.model_name,
            config_name=plan.config_name,
            image=plan.image,
            memory_mb=plan.memory_mb,
            max_concurrency=plan.max_concurrency,
            action=action,
            seconds=seconds,
        )
