"""Carrying out a plan: model, endpoint configuration, endpoint, scaling, each looked for before it is made.

::

    ref = apply_plan(plan, target=target, wait_seconds=900)

An endpoint is updated in place, and at the end the configuration that answers is compared with the planned one: after
a failed update SageMaker goes back to the old one and says "InService" all the same.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

from askline.clients import aws_client
from askline.errors import DeployError
from askline.progress import Progress, quiet
from askline.records import EndpointRef, Target
from tasks.aws.errors import explained, is_missing
from tasks.deploy_serverless import autoscaling
from tasks.deploy_serverless.deployment_plan import MANAGED, DeploymentPlan
from tasks.deploy_serverless.served_by import ServedBy, read_config
from tasks.deploy_serverless.variants import Scaling

#: Endpoint statuses that pass by themselves.
PASSING = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})
#: Seconds between two looks at the endpoint.
POLL_SECONDS = {"local": 0.5, "aws": 10.0}
DELETE_SECONDS = 180


def apply_plan(plan: DeploymentPlan, *, target: Target, wait_seconds: float, progress: Progress = quiet) -> EndpointRef:
    """Bring the endpoint to the planned configuration, and wait until that is what answers.

    Twice is once, and a run that was cut off is finished by the next. After a failure that trying again cannot mend,
    what this run created is deleted; an endpoint that served before still serves what it did.

    Raises
    ------
    DeployError
        If AWS refuses, the endpoint fails, goes back to its old configuration or is not up in ``wait_seconds``.
    """
    return _Act(plan, target, wait_seconds, progress).run()


class StillUnderWayError(DeployError):
    """Time is up, but SageMaker is not done: it may yet succeed, and nothing can be deleted meanwhile."""


class _Act:
    """One deployment under way: its clients, its deadline, and what it has created so far."""

    def __init__(self, plan: DeploymentPlan, target: Target, wait_seconds: float, progress: Progress) -> None:
        self.plan = plan
        self.target = target
        self.client = aws_client(target, "sagemaker")
        self.progress = progress
        self.poll = POLL_SECONDS[target.kind]
        self.started = time.monotonic()
        self.wait_seconds = wait_seconds
        self.tags = [{"Key": key, "Value": value} for key, value in plan.tags.items()]
        #: Names of what this run created and the calls that undo it, in the order of creation.
        self.undo: list[tuple[str, Callable[[], Any]]] = []

    def run(self) -> EndpointRef:
        """Bring the endpoint to the planned configuration."""
        try:
            return self._run()
        except StillUnderWayError:
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
        if endpoint is None:
            return self._create()
        if endpoint["EndpointConfigName"] != self.plan.config_name:
            return self._update(endpoint)
        if self.plan.may_scale:
            self._scale()
        self.progress(1.0, "in service already, nothing to change")
        return self._ref(endpoint, "unchanged", None)

    def _create(self) -> EndpointRef:
        self._ensure_model()
        self._ensure_config()
        name, config = self.plan.endpoint_name, self.plan.config_name
        with self._explained(f"create the endpoint {name}"):
            self.client.create_endpoint(EndpointName=name, EndpointConfigName=config, Tags=self.tags)
        self.undo.append((f"endpoint {name}", self._delete_endpoint))
        endpoint = self._served()
        if self.plan.scaling is not None:
            self._scale()
        return self._ref(endpoint, "created", None)

    def _update(self, endpoint: dict[str, Any]) -> EndpointRef:
        plan, previous = self.plan, str(endpoint["EndpointConfigName"])
        with self._explained(f"look up {previous}"):
            before = read_config(self.client, previous)
        self._check_can_become(endpoint, before)
        self._ensure_model()
        self._ensure_config()
        scales = plan.may_scale or before is None or before.may_scale
        scaled = autoscaling.read_if_allowed(plan.endpoint_name, target=self.target) if scales else None
        if scales and not (before is not None and _scale_alike(before, plan)):
            # SageMaker refuses to change the kind or size of instances of a variant that scales.
            autoscaling.remove_if_allowed(plan.endpoint_name, target=self.target)
            self._remember_scaling(scaled)
        request: dict[str, Any] = {"EndpointName": plan.endpoint_name, "EndpointConfigName": plan.config_name}
        if plan.deployment_config is not None:
            request["DeploymentConfig"] = plan.deployment_config
        if scaled is not None and plan.scaling is not None and before is not None and _scale_alike(before, plan):
            request["RetainAllVariantProperties"] = True  # as many instances as the demand has called for
        with self._explained(f"update the endpoint {plan.endpoint_name}"):
            self.client.update_endpoint(**request)
        served = self._served()
        if scales:
            self._scale()
        return self._ref(served, "updated", previous)

    def _scale(self) -> None:
        """Let it scale as planned, or not at all; where nothing has to change, nothing is."""
        plan = self.plan
        if plan.scaling is None:
            autoscaling.remove_if_allowed(plan.endpoint_name, target=self.target)
            return
        self.progress(0.99, f"scaling from {plan.scaling.min} to {plan.scaling.max}")
        autoscaling.ensure(plan.endpoint_name, plan.scaling, target=self.target, tags=plan.tags)

    def _remember_scaling(self, scaled: Scaling | None) -> None:
        if scaled is None:
            return
        plan = self.plan
        back = lambda: autoscaling.ensure(plan.endpoint_name, scaled, target=self.target, tags=plan.tags)  # noqa: E731
        self.undo.append((f"the scaling of {plan.endpoint_name}, which is off", back))

    def _check_can_become(self, endpoint: dict[str, Any], before: ServedBy | None) -> None:
        """Refuse what SageMaker refuses, before anything is made: from instances to serverless."""
        serverless_now = "CurrentServerlessConfig" in (endpoint.get("ProductionVariants") or [{}])[0]
        on_instances = before.on_instances if before is not None else not serverless_now
        if self.plan.target == "serverless" and on_instances:
            kind = before.target if before is not None else "real-time"
            raise DeployError(
                f"the endpoint {self.plan.endpoint_name} runs on instances ({kind}), and SageMaker does not make such "
                f"an endpoint serverless; take it down first (python -m flows.teardown --mlkey {self.plan.mlkey}), or "
                "choose another deploy.mlkey. It answers as before."
            )

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
                raise StillUnderWayError(
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
        with self._explained(f"create the model {plan.model_name} (role {plan.role_arn}, archive {plan.archive_uri})"):
            self.client.create_model(**plan.model_request(), Tags=self.tags)
        delete = lambda: self.client.delete_model(ModelName=plan.model_name)  # noqa: E731
        self.undo.append((f"model {plan.model_name}", delete))

    def _ensure_config(self) -> None:
        plan = self.plan
        found = self._describe(self.client.describe_endpoint_config, EndpointConfigName=plan.config_name)
        if found is not None:
            return
        with self._explained(f"create the endpoint configuration {plan.config_name}"):
            self.client.create_endpoint_config(**plan.config_request(), Tags=self.tags)
        delete = lambda: self.client.delete_endpoint_config(EndpointConfigName=plan.config_name)  # noqa: E731
        self.undo.append((f"endpoint configuration {plan.config_name}", delete))

    def _delete_endpoint(self) -> None:
        """Delete the endpoint, and how it scales, and wait until it is gone, so that its name is free."""
        name = self.plan.endpoint_name
        if self.plan.may_scale:
            autoscaling.remove_if_allowed(name, target=self.target)
        delete_endpoint(self.client, name, poll=self.poll)

    def _undo(self) -> list[str]:
        """Undo what this run did, newest first; return what could not be undone."""
        from botocore.exceptions import BotoCoreError, ClientError

        left = []
        for what, undo in reversed(self.undo):
            try:
                undo()
            except (DeployError, BotoCoreError, ClientError):
                left.append(what)
        return left

    def _describe(self, call: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
        return describe(call, **name)

    def _explained(self, doing: str) -> Any:
        return explained(doing, error_type=DeployError)

    def _ref(
        self, endpoint: dict[str, Any], action: Literal["created", "updated", "unchanged"], previous: str | None
    ) -> EndpointRef:
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
            target=plan.target,
            instance_type=plan.instance_type,
            instance_count=plan.instance_count,
            target_model=plan.target_model,
            input_folder=plan.input_folder,
            previous_config=previous,
        )


def _scale_alike(before: ServedBy, plan: DeploymentPlan) -> bool:
    """Say whether what is registered with Application Auto Scaling can stay through the update."""
    return (before.target, before.instance_type) == (plan.target, plan.instance_type) and (
        before.may_scale == plan.may_scale
    )


def describe(call: Callable[..., dict[str, Any]], **name: str) -> dict[str, Any] | None:
    """Return what a Describe call answers; None where there is no such thing.

    Raises
    ------
    DeployError
        If AWS refuses.
    """
    from botocore.exceptions import ClientError

    with explained(f"look up {next(iter(name.values()))}", error_type=DeployError):
        try:
            return call(**name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise


def delete_endpoint(client: Any, name: str, *, poll: float) -> None:
    """Delete an endpoint at rest and wait until it is gone: only then is its name free.

    Raises
    ------
    DeployError
        If AWS refuses, or it is still there after three minutes.
    """
    from botocore.exceptions import ClientError

    with explained(f"delete the endpoint {name}", error_type=DeployError):
        try:
            client.delete_endpoint(EndpointName=name)
        except ClientError as error:
            if not is_missing(error):
                raise
    deadline = time.monotonic() + DELETE_SECONDS
    while describe(client.describe_endpoint, EndpointName=name) is not None:
        if time.monotonic() > deadline:
            raise DeployError(f"the endpoint {name} is not deleted after {DELETE_SECONDS} s; deploy again later")
        time.sleep(poll)
