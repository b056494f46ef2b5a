"""After a deployment that failed: the endpoint goes back to what the registry names, and is asked a question.

::

    done = put_right(config.deploy, deployed=endpoint, place=place)
    done.said

What counts as "before" is the registry's newest promotion, not what this run happened to find: a run that was killed
may have left something on the endpoint that nobody ever tested. A first deployment, that no promotion stands behind,
leaves nothing.
"""

from typing import Any

from askline.clients import aws_client
from askline.config import DeployConfig
from askline.errors import AsklineError, CloudError, DeployError
from askline.records import EndpointRef, Record, Target
from tasks.aws.errors import explained
from tasks.deploy_serverless import autoscaling, registry
from tasks.deploy_serverless.deployment_plan import MANAGED, DeploymentPlan
from tasks.deploy_serverless.endpoint_act import PASSING, POLL_SECONDS, apply_plan, delete_endpoint, describe
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.deploy_serverless.served_by import ServedBy, read_config
from tasks.deployed.question import QUESTION, ask_endpoint, known_answer
from tasks.deployed.sweep import sweep
from tasks.report.words import words
from tasks.workplace import Workplace


class PutRight(Record):
    """What stands after a deployment that failed."""

    endpoint: str
    config_name: str | None
    """What it serves with now; None where there is no endpoint."""
    put_back: bool
    """Whether the configuration had to be changed back."""
    verified: bool
    """Whether the endpoint answered a question as the version that it should be."""
    said: str
    """The same for a person."""
    deleted: tuple[str, ...] = ()
    """What of the failed deployment is gone."""


@words.register
def _(record: PutRight) -> str:
    return record.said


def put_right(
    config: DeployConfig,
    *,
    deployed: EndpointRef | None,
    place: Workplace,
    cold_seconds: float | None = None,
) -> PutRight:
    """Let the endpoint serve what it served before, verify it by asking, and delete what the failure left.

    Parameters
    ----------
    deployed
        What this run brought into service; None if it did not come to that.
    place
        In its state folder lie the reports of earlier runs, which know questions and their answers.

    Raises
    ------
    CloudError
        If AWS refuses to say what is there. What else goes wrong is in the result: it is told beside the first failure.
    """
    target, progress = place.target, place.progress
    named = config.multi_model or config.mlkey
    name = f"serv-hf-endpoint-{named}"
    client = aws_client(target, "sagemaker")
    promotions = registry.history(config.mlkey, target)
    found = describe(client.describe_endpoint, EndpointName=name)
    if found is not None and found["EndpointStatus"] in PASSING:
        said = f"{name} is still {found['EndpointStatus']}: nothing was put back. The same command goes on from there."
        return PutRight(endpoint=name, config_name=None, put_back=False, verified=False, said=said)
    if found is not None and not _is_ours(client, found["EndpointArn"]):
        said = f"{name} was not made by askline and was left alone."
        return PutRight(endpoint=name, config_name=None, put_back=False, verified=False, said=said)
    progress(0.1, "what served before")
    others = _others(name, config.mlkey, target) if config.multi_model else ()
    if found is None:
        done = _nothing(name)
    elif promotions or others:
        done = _back(config, found, promotions or others, deployed, place, cold_seconds)
    elif deployed is not None and deployed.previous_config is not None:
        done = _back(config, found, (), deployed, place, cold_seconds)
    elif deployed is not None or found["EndpointStatus"] == "Failed":
        done = _taken_down(client, name, target)
    else:
        done = _asked(
            PutRight(endpoint=name, config_name=found["EndpointConfigName"], put_back=False, verified=False, said=""),
            _ref(name, found, config, None),
            QUESTION,
            None,
            None,
            target,
            cold_seconds,
        )
    progress(0.9, "what the failure left")
    try:
        deleted = sweep(named, (*promotions, *others), target=target)
    except CloudError as error:
        return done.model_copy(
            update={"said": f"{done.said}\nWhat the failed deployment left was not deleted: {error}"}
        )
    progress(1.0, done.said)
    return done.model_copy(update={"deleted": (*done.deleted, *deleted)})


def sweep_mlkey(mlkey: str, *, endpoint: str, target: Target) -> tuple[str, ...]:
    """Delete what no version of the MLKey, and no other that the endpoint answers for, needs; return it.

    Raises
    ------
    CloudError
        If AWS refuses.
    """
    named = endpoint.removeprefix("serv-hf-endpoint-")
    others = () if named == mlkey else _others(endpoint, mlkey, target)
    return sweep(named, (*registry.history(mlkey, target), *others), target=target)


def _nothing(name: str) -> PutRight:
    said = f"There is no endpoint {name}, as there was none before; nothing is left behind."
    return PutRight(endpoint=name, config_name=None, put_back=False, verified=False, said=said)


def _taken_down(client: Any, name: str, target: Target) -> PutRight:
    """A first deployment: nobody was ever sent to it."""
    try:
        autoscaling.remove_if_allowed(name, target=target)
        delete_endpoint(client, name, poll=POLL_SECONDS[target.kind])
    except CloudError as error:
        said = f"It was the first deployment, and the endpoint {name} could not be deleted: {error}"
        return PutRight(endpoint=name, config_name=None, put_back=False, verified=False, said=said)
    said = f"It was the first deployment: the endpoint {name} was deleted again, and nothing is left behind."
    return PutRight(
        endpoint=name, config_name=None, put_back=False, verified=False, said=said, deleted=(f"endpoint {name}",)
    )


def _back(
    config: DeployConfig,
    found: dict[str, Any],
    promotions: tuple[RegistryEntry, ...],
    deployed: EndpointRef | None,
    place: Workplace,
    cold_seconds: float | None,
) -> PutRight:
    """Put the endpoint on the promoted configuration where it is not on it, and ask it."""
    target = place.target
    name, active = str(found["EndpointName"]), str(found["EndpointConfigName"])
    current = promotions[0] if promotions else None
    try:
        before = _before(current, deployed, active, target)
    except CloudError as error:
        said = f"What served before could not be put back: {error}"
        return PutRight(endpoint=name, config_name=active, put_back=False, verified=False, said=said)
    put_back = active != before.config_name
    target_model = None if current is None else current.target_model
    plan = DeploymentPlan(
        mlkey=config.mlkey,
        endpoint_name=name,
        target_model=target_model,
        tags={**MANAGED, "askline:mlkey": config.multi_model or config.mlkey, **config.tags},
        **before.model_dump(),
    )
    done = PutRight(endpoint=name, config_name=before.config_name, put_back=put_back, verified=False, said="")
    try:
        ref = apply_plan(plan, target=target, wait_seconds=config.wait_seconds, progress=place.progress)
    except AsklineError as error:
        said = f"What served before, {before.config_name}, could not be put back: {error}"
        return done.model_copy(update={"config_name": active, "put_back": False, "said": said})
    question, expected = (QUESTION, None) if current is None else known_answer(current, promotions, place.state_dir)
    version = None if current is None else current.model_version
    return _asked(done, ref, question, expected, version, target, cold_seconds)


def _before(current: RegistryEntry | None, deployed: EndpointRef | None, active: str, target: Target) -> ServedBy:
    """Return what the endpoint should serve with: what was promoted last, else what this run replaced, else what is."""
    if current is not None and current.served_by is not None:
        return current.served_by
    name = (deployed.previous_config if deployed is not None else None) or active
    with explained(f"read the configuration {name}", error_type=DeployError):
        found = read_config(aws_client(target, "sagemaker"), name)
    if found is None:
        raise DeployError(f"the configuration {name} is gone")
    return found


def _asked(
    done: PutRight,
    ref: EndpointRef,
    question: str,
    expected: str | None,
    version: str | None,
    target: Target,
    cold_seconds: float | None,
) -> PutRight:
    """Ask, and say what stands."""
    what = "What served before was put back" if done.put_back else "What served before still serves"
    try:
        asked = ask_endpoint(
            ref, question, expected=expected, model_version=version, target=target, cold_seconds=cold_seconds
        )
    except AsklineError as error:
        said = f"{what} ({ref.name} is InService on {ref.config_name}), but it does not answer: {error}"
        return done.model_copy(update={"said": said})
    said = (
        f"{what}, and was verified: {ref.name} is InService on {ref.config_name} and answered {asked.answer!r} to "
        f"{asked.question!r} in {asked.seconds:.1f} s."
    )
    return done.model_copy(update={"verified": True, "said": said})


def _ref(name: str, found: dict[str, Any], config: DeployConfig, target_model: str | None) -> EndpointRef:
    """Return the endpoint as it is, for asking it; sizes do not matter to that."""
    return EndpointRef(
        name=name,
        arn=found["EndpointArn"],
        mlkey=config.mlkey,
        model_name="",
        config_name=found["EndpointConfigName"],
        image="",
        memory_mb=None,
        max_concurrency=None,
        action="unchanged",
        seconds=0,
        target_model=target_model,
    )


def _others(endpoint: str, mlkey: str, target: Target) -> tuple[RegistryEntry, ...]:
    """Return the promotions of the other MLKeys that the endpoint answers for, the newest of each first."""
    found = [entry for entry in registry.entries(target) if entry.endpoint == endpoint and entry.mlkey != mlkey]
    return tuple(entry for each in found for entry in registry.history(each.mlkey, target))


def _is_ours(client: Any, arn: str) -> bool:
    with explained(f"read the tags of {arn}", error_type=DeployError):
        tags = {tag["Key"]: tag["Value"] for tag in client.list_tags(ResourceArn=arn, MaxResults=100)["Tags"]}
    return MANAGED.items() <= tags.items()
