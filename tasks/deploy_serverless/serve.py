"""The one verb: let an endpoint serve something, and wait, and ask.

::

    served = serve(plan.serving, plan, place=place, wait_seconds=900)
    served = serve(entry.served_by, destination, question=Question("Who?"), place=place, wait_seconds=900)

A deployment, a rollback and the restoring of what the registry names are its callers. Model, endpoint configuration,
endpoint and scaling are each looked for before they are made, and the archive's bytes are held against their sha256
before anything is. An endpoint is updated in place, and at the end the configuration that answers is compared with the
wanted one: after a failed update SageMaker goes back to the old one and says "InService" all the same.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from askline.clients import aws_client
from askline.errors import DeployError
from askline.progress import Progress
from askline.records import Destination, EndpointRef, Scaling, Serving, Target
from tasks.ask.endpoint import Caller
from tasks.ask.question import Asked, Question, ask
from tasks.aws.errors import explained, is_missing
from tasks.aws.names import is_ours, tags_of
from tasks.deploy_serverless import autoscaling
from tasks.deploy_serverless.endpoint import PASSING, POLL_SECONDS, delete_endpoint, describe
from tasks.deploy_serverless.requests import config_request, model_request, read_config
from tasks.package.in_s3 import require_archive
from tasks.workplace import Workplace

#: Seconds for which what was made a moment ago may still be unknown where it is named: SageMaker's reads are eventually
#: consistent, and its documentation asks to try again.
FRESH_SECONDS = 20.0


class Served(NamedTuple):
    """An endpoint that serves what it should."""

    endpoint: EndpointRef
    asked: Asked | None
    """None where nothing was asked."""


class StillUnderWayError(DeployError):
    """Time is up, but SageMaker is not done: it may yet succeed, and nothing can be deleted meanwhile."""


def serve(
    serving: Serving,
    to: Destination,
    *,
    archive_sha256: str | None,
    question: Question | None = None,
    place: Workplace,
    wait_seconds: float,
) -> Served:
    """Let the endpoint serve it, wait until it does, and ask.

    Twice is once, and a run that was cut off is finished by the next. After a failure that trying again cannot mend, or
    an interrupt, what this call created is deleted; an endpoint that served before still serves what it did, or is put
    back by whoever called this (:mod:`tasks.deployed.restore`).

    Parameters
    ----------
    archive_sha256
        What the archive must be, byte by byte; looked at before anything is made or changed. None where nothing was
        ever promoted that says so.
    question
        What is asked; None where the caller asks itself.

    Raises
    ------
    DeployError
        If AWS refuses, the archive is gone or another one, the endpoint fails, goes back to its old configuration or is
        not up in ``wait_seconds``, or does not answer as it should.
    """
    endpoint = _Act(serving, to, archive_sha256, place.target, wait_seconds, place.progress).run()
    if question is None:
        return Served(endpoint, None)
    caller = Caller.of(endpoint, target=place.target, patience=question.cold_seconds, progress=place.progress)
    return Served(endpoint, ask(caller, question))


class _Act:
    """One deployment under way: its clients, its deadline, and what it has created so far."""

    def __init__(
        self,
        serving: Serving,
        to: Destination,
        archive_sha256: str | None,
        target: Target,
        wait_seconds: float,
        progress: Progress,
    ) -> None:
        self.serving = serving
        self.to = to
        self.archive_sha256 = archive_sha256
        self.target = target
        self.client = aws_client(target, "sagemaker")
        self.progress = progress
        self.poll = POLL_SECONDS[target.kind]
        self.started = time.monotonic()
        self.wait_seconds = wait_seconds
        self.tags = [{"Key": key, "Value": value} for key, value in to.tags.items()]
        #: Whether the endpoint itself is this call's.
        self.creates = False
        #: Names of what this call created and the calls that undo it, in the order of creation.
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
        except BaseException:
            # Interrupted. What is being updated can only be put right when it has come to rest, by whoever restores.
            if self.creates:
                self._settled()  # SageMaker deletes no endpoint that is being created
                self._undo()
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
                f"the endpoint {self.to.endpoint_name} is {endpoint['EndpointStatus']} and can be neither used nor "
                f"updated ({endpoint.get('FailureReason', 'no reason given')}); delete it and deploy again"
            )
        if endpoint is None:
            return self._create()
        if endpoint["EndpointConfigName"] != self.serving.config_name:
            return self._update(endpoint)
        if self.serving.may_scale:
            self._scale()
        self.progress(1.0, "in service already, nothing to change")
        return self._ref(endpoint, "unchanged", None)

    def _create(self) -> EndpointRef:
        self._ensure_config()
        name, config = self.to.endpoint_name, self.serving.config_name
        with self._explained(f"create the endpoint {name}"):
            self._naming(self.client.create_endpoint, EndpointName=name, EndpointConfigName=config, Tags=self.tags)
        self.creates = True
        self.undo.append((f"endpoint {name}", self._delete_endpoint))
        endpoint = self._served()
        if self.serving.scaling is not None:
            self._scale()
        return self._ref(endpoint, "created", None)

    def _update(self, endpoint: dict[str, Any]) -> EndpointRef:
        serving, name, previous = self.serving, self.to.endpoint_name, str(endpoint["EndpointConfigName"])
        with self._explained(f"look up {previous}"):
            before = read_config(self.client, previous)
        self._check_can_become(endpoint, before)
        self._ensure_config()
        scales = serving.may_scale or before is None or before.may_scale
        alike = before is not None and _scale_alike(before, serving)
        scaled = autoscaling.read_if_allowed(name, target=self.target) if scales else None
        if scales and not alike:
            # SageMaker refuses to change the kind or size of instances of a variant that scales.
            autoscaling.remove_if_allowed(name, target=self.target)
            self._remember_scaling(scaled)
        request: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": serving.config_name}
        if self.to.update is not None:
            request["DeploymentConfig"] = self.to.update
        if scaled is not None and serving.scaling is not None and alike:
            request["RetainAllVariantProperties"] = True  # as many instances as the demand has called for
        with self._explained(f"update the endpoint {name}"):
            self._naming(self.client.update_endpoint, **request)
        served = self._served()
        if scales:
            self._scale()
        return self._ref(served, "updated", previous)

    def _scale(self) -> None:
        """Let it scale as it should, or not at all; where nothing has to change, nothing is."""
        scaling, name = self.serving.scaling, self.to.endpoint_name
        if scaling is None:
            autoscaling.remove_if_allowed(name, target=self.target)
            return
        self.progress(0.99, f"scaling from {scaling.min} to {scaling.max}")
        autoscaling.ensure(name, scaling, target=self.target, tags=self.to.tags)

    def _remember_scaling(self, scaled: Scaling | None) -> None:
        if scaled is None:
            return
        name, tags = self.to.endpoint_name, self.to.tags
        back = lambda: autoscaling.ensure(name, scaled, target=self.target, tags=tags)  # noqa: E731
        self.undo.append((f"the scaling of {name}, which is off", back))

    def _check_can_become(self, endpoint: dict[str, Any], before: Serving | None) -> None:
        """Refuse what SageMaker refuses, before anything is made: from instances to serverless."""
        serverless_now = "CurrentServerlessConfig" in (endpoint.get("ProductionVariants") or [{}])[0]
        on_instances = before.on_instances if before is not None else not serverless_now
        if self.serving.target == "serverless" and on_instances:
            kind = before.target if before is not None else "real-time"
            raise DeployError(
                f"the endpoint {self.to.endpoint_name} runs on instances ({kind}), and SageMaker does not make such "
                f"an endpoint serverless; take it down first (python -m flows.teardown --mlkey {self.to.mlkey}), or "
                "choose another deploy.mlkey. It answers as before."
            )

    def _served(self) -> dict[str, Any]:
        """Wait, and return the endpoint if the wanted configuration is the one that answers."""
        name = self.to.endpoint_name
        endpoint = self._settled()
        if endpoint is None:
            raise DeployError(f"the endpoint {name} was deleted by someone else during the deployment; deploy again")
        reason = endpoint.get("FailureReason", "no reason given; see the endpoint's log in CloudWatch")
        if endpoint["EndpointStatus"] != "InService":
            raise DeployError(f"the endpoint {name} is {endpoint['EndpointStatus']}: {reason}")
        if endpoint["EndpointConfigName"] != self.serving.config_name:
            raise DeployError(
                f"the update of {name} failed, and SageMaker went back to {endpoint['EndpointConfigName']}, which "
                f"still answers: {reason}"
            )
        return endpoint

    def _settled(self) -> dict[str, Any] | None:
        """Wait until the endpoint is in a state that lasts; None when there is none."""
        while True:
            endpoint = describe(self.client.describe_endpoint, EndpointName=self.to.endpoint_name)
            if endpoint is None or endpoint["EndpointStatus"] not in PASSING:
                return endpoint
            seconds = time.monotonic() - self.started
            if seconds > self.wait_seconds:
                status = endpoint["EndpointStatus"]
                raise StillUnderWayError(
                    f"the endpoint {self.to.endpoint_name} is still {status} after {seconds:.0f} s; "
                    "deploy again to wait on, or give it longer with deploy.wait_seconds"
                )
            self.progress(min(0.99, seconds / self.wait_seconds), f"{endpoint['EndpointStatus']}, {seconds:.0f} s")
            time.sleep(self.poll)

    def _check_is_ours(self, endpoint: dict[str, Any]) -> None:
        """Refuse to touch an endpoint that somebody else made."""
        with self._explained(f"read the tags of {self.to.endpoint_name}"):
            ours = is_ours(tags_of(self.client, endpoint["EndpointArn"]))
        if not ours:
            raise DeployError(
                f"the endpoint {self.to.endpoint_name} exists and was not made by askline; choose another "
                "deploy.mlkey, delete the endpoint, or tag it askline:managed=true to hand it over"
            )

    def _ensure_config(self) -> None:
        """Make the configuration where it is missing, with its model; the archive is looked at first."""
        serving, to = self.serving, self.to
        if self.archive_sha256 is not None:
            self.progress(0.0, "the archive")
            require_archive(serving.archive_uri + (to.target_model or ""), self.archive_sha256, target=self.target)
        if describe(self.client.describe_model, ModelName=serving.model_name) is None:
            what = f"create the model {serving.model_name} (role {serving.role_arn}, archive {serving.archive_uri})"
            with self._explained(what):
                self.client.create_model(**model_request(serving), Tags=self.tags)
            delete = lambda: self.client.delete_model(ModelName=serving.model_name)  # noqa: E731
            self.undo.append((f"model {serving.model_name}", delete))
        if describe(self.client.describe_endpoint_config, EndpointConfigName=serving.config_name) is None:
            with self._explained(f"create the endpoint configuration {serving.config_name}"):
                self._naming(self.client.create_endpoint_config, **config_request(serving), Tags=self.tags)
            gone = lambda: self.client.delete_endpoint_config(EndpointConfigName=serving.config_name)  # noqa: E731
            self.undo.append((f"endpoint configuration {serving.config_name}", gone))

    def _naming(self, call: Callable[..., Any], **request: Any) -> None:
        """Make a call that names what may have been made a moment ago, again while that is not known yet."""
        from botocore.exceptions import ClientError

        deadline = time.monotonic() + FRESH_SECONDS
        while True:
            try:
                call(**request)
            except ClientError as error:
                if not self.undo or not is_missing(error) or time.monotonic() > deadline:
                    raise
            else:
                return
            time.sleep(self.poll)

    def _delete_endpoint(self) -> None:
        """Delete the endpoint, and how it scales, and wait until it is gone, so that its name is free."""
        name = self.to.endpoint_name
        if self.serving.may_scale:
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

    def _explained(self, doing: str) -> Any:
        return explained(doing, error_type=DeployError)

    def _ref(
        self, endpoint: dict[str, Any], action: Literal["created", "updated", "unchanged"], previous: str | None
    ) -> EndpointRef:
        serving, to = self.serving, self.to
        seconds = time.monotonic() - self.started
        self.progress(1.0, f"{to.endpoint_name} {action}, {seconds:.0f} s")
        return EndpointRef(
            name=to.endpoint_name,
            arn=endpoint["EndpointArn"],
            mlkey=to.mlkey,
            model_name=serving.model_name,
            config_name=serving.config_name,
            image=serving.image,
            memory_mb=serving.memory_mb,
            max_concurrency=serving.max_concurrency,
            action=action,
            seconds=seconds,
            target=serving.target,
            instance_type=serving.instance_type,
            instance_count=serving.instance_count,
            target_model=to.target_model,
            input_folder=input_folder(serving, to.mlkey),
            previous_config=previous,
        )


def input_folder(serving: Serving, mlkey: str) -> str | None:
    """Return where the requests of an async endpoint are put, an S3 address in the archive's bucket."""
    bucket = serving.archive_uri.removeprefix("s3://").partition("/")[0]
    return f"s3://{bucket}/async/{mlkey}/input" if serving.target == "async" else None


def _scale_alike(before: Serving, after: Serving) -> bool:
    """Say whether what is registered with Application Auto Scaling can stay through the update."""
    return (before.target, before.instance_type) == (after.target, after.instance_type) and (
        before.may_scale == after.may_scale
    )
