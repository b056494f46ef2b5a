"""After a deployment that failed or was interrupted: the endpoint serves what the registry names, and is asked.

::

    done = restore(config.deploy, deployed=endpoint, place=place)
    done.said

What counts as "before" is the registry's newest promotion, not what this run happened to find: a run that was killed
may have left something on the endpoint that nobody ever tested. A first deployment, that no promotion stands behind,
leaves nothing.
"""

import time
from typing import Any

from askline.clients import aws_client
from askline.config import DeployConfig
from askline.errors import AsklineError, CloudError, DeployError
from askline.records import EndpointRef, Record, Serving, Target
from tasks.ask.endpoint import Caller
from tasks.ask.question import Question, ask
from tasks.aws.errors import explained
from tasks.aws.names import endpoint_of, is_ours, named_by, tags_of
from tasks.deploy_serverless import autoscaling, registry
from tasks.deploy_serverless.endpoint import PASSING, POLL_SECONDS, delete_endpoint, describe
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.deploy_serverless.requests import read_config
from tasks.deploy_serverless.serve import input_folder, serve
from tasks.deployed.question import ANY, question_for
from tasks.deployed.teardown import sweep
from tasks.report.words import words
from tasks.workplace import Workplace


class Restored(Record):
    """What stands after a deployment that failed."""

    endpoint: str
    config_name: str | None = None
    """What it serves with now; None where there is no endpoint, or it is not known."""
    put_back: bool = False
    """Whether the configuration had to be changed back."""
    verified: bool = False
    """Whether the endpoint answered a question as the version that it should be."""
    said: str
    """The same for a person."""
    deleted: tuple[str, ...] = ()
    """What of the failed deployment is gone."""


@words.register
def _(record: Restored) -> str:
    return record.said


def restore(
    config: DeployConfig,
    *,
    mlkey: str | None = None,
    endpoint: str | None = None,
    deployed: EndpointRef | None = None,
    settle_seconds: float = 0,
    place: Workplace,
    cold_seconds: float | None = None,
) -> Restored:
    """Let the endpoint serve what it served before, verify it by asking, and delete what the failure left.

    Parameters
    ----------
    mlkey, endpoint
        Of whom, and where; the default is what ``config`` names.
    deployed
        What this run brought into service; None if it did not come to that.
    settle_seconds
        How long to wait for an endpoint that is being changed, as after an interrupt: until then nothing can be put
        back.
    place
        In its state folder lie the reports of earlier runs, which know questions and their answers.

    Raises
    ------
    CloudError
        If AWS refuses to say what is there. What else goes wrong is in the result: it is told beside the first failure.
    """
    mlkey = mlkey or config.mlkey
    name = endpoint or endpoint_of(config.multi_model or mlkey)
    client = aws_client(place.target, "sagemaker")
    promotions = registry.history(mlkey, place.target)
    found = _settled(client, name, settle_seconds, place)
    if found is not None and found["EndpointStatus"] in PASSING:
        said = f"{name} is still {found['EndpointStatus']}: nothing was put back. The same command goes on from there."
        return Restored(endpoint=name, said=said)
    if found is not None:
        with explained(f"read the tags of {name}", error_type=DeployError):
            ours = is_ours(tags_of(client, found["EndpointArn"]))
        if not ours:
            return Restored(endpoint=name, said=f"{name} was not made by askline and was left alone.")
    place.progress(0.1, "what served before")
    standing = promotions or _others(name, mlkey, place.target)
    if found is None and not standing:
        said = f"There is no endpoint {name}, as there was none before; nothing is left behind."
        done = Restored(endpoint=name, said=said)
    elif found is None:
        done = Restored(endpoint=name, said=f"There is no endpoint {name}; python -m flows.rollback makes it again.")
    elif not standing and (
        (deployed is not None and deployed.previous_config is None) or found["EndpointStatus"] == "Failed"
    ):
        done = _taken_down(client, name, place.target)
    else:
        done = _put_back(config, mlkey, found, standing, deployed, place, cold_seconds)
    place.progress(0.9, "what the failure left")
    try:
        deleted = sweep(name, mlkey, target=place.target)
    except CloudError as error:
        return done.model_copy(
            update={"said": f"{done.said}\nWhat the failed deployment left was not deleted: {error}"}
        )
    place.progress(1.0, done.said)
    return done.model_copy(update={"deleted": (*done.deleted, *deleted)})


def _settled(client: Any, name: str, seconds: float, place: Workplace) -> dict[str, Any] | None:
    """Return the endpoint, at rest where that comes in time; None where there is none."""
    started = time.monotonic()
    while True:
        found = describe(client.describe_endpoint, EndpointName=name)
        waited = time.monotonic() - started
        if found is None or found["EndpointStatus"] not in PASSING or waited >= seconds:
            return found
        place.progress(0.0, f"{found['EndpointStatus']}, {waited:.0f} s")
        time.sleep(POLL_SECONDS[place.target.kind])


def _others(endpoint: str, mlkey: str, target: Target) -> tuple[RegistryEntry, ...]:
    """Return the promotions of the other MLKeys that the endpoint answers for, the newest of each first."""
    if named_by(endpoint) == mlkey:
        return ()
    found = [entry for entry in registry.entries(target) if entry.endpoint == endpoint and entry.mlkey != mlkey]
    return tuple(entry for each in found for entry in registry.history(each.mlkey, target))


def _taken_down(client: Any, name: str, target: Target) -> Restored:
    """A first deployment: nobody was ever sent to it."""
    try:
        autoscaling.remove_if_allowed(name, target=target)
        delete_endpoint(client, name, poll=POLL_SECONDS[target.kind])
    except CloudError as error:
        return Restored(
            endpoint=name, said=f"It was the first deployment, and the endpoint {name} could not be deleted: {error}"
        )
    said = f"It was the first deployment: the endpoint {name} was deleted again, and nothing is left behind."
    return Restored(endpoint=name, said=said, deleted=(f"endpoint {name}",))


def _put_back(
    config: DeployConfig,
    mlkey: str,
    found: dict[str, Any],
    promotions: tuple[RegistryEntry, ...],
    deployed: EndpointRef | None,
    place: Workplace,
    cold_seconds: float | None,
) -> Restored:
    """Let the endpoint serve what was promoted last, else what this run replaced; ask it, and say what stands."""
    name, active, target = str(found["EndpointName"]), str(found["EndpointConfigName"]), place.target
    current = promotions[0] if promotions else None
    question = Question(ANY, cold_seconds=cold_seconds)
    if current is not None:
        question = question_for(current, promotions, place.state_dir, cold_seconds=cold_seconds)
    before: Serving | None = None
    try:
        before = _before(current, deployed, active, target)
        if current is not None or before.config_name != active:
            serve(
                before,
                registry.destination(mlkey, name, None if current is None else current.target_model, config.tags),
                archive_sha256=None if current is None else current.archive_sha256,
                place=place,
                wait_seconds=config.wait_seconds,
            )
    except AsklineError as error:
        what = "What served before" if before is None else f"What served before, {before.config_name},"
        return Restored(endpoint=name, config_name=active, said=f"{what} could not be put back: {error}")
    put_back = active != before.config_name
    done = Restored(endpoint=name, config_name=before.config_name, put_back=put_back, said="")
    what = "What served before was put back" if put_back else "What served before still serves"
    caller = Caller(
        name,
        target=target,
        target_model=None if current is None else current.target_model,
        input_folder=input_folder(before, mlkey),
        patience=cold_seconds,
    )
    try:
        asked = ask(caller, question)
    except AsklineError as error:
        said = f"{what} ({name} is InService on {before.config_name}), but it does not answer: {error}"
        return done.model_copy(update={"said": said})
    said = (
        f"{what}, and was verified: {name} is InService on {before.config_name} and answered {asked.answer!r} to "
        f"{asked.question!r} in {asked.seconds:.1f} s."
    )
    return done.model_copy(update={"verified": True, "said": said})


def _before(current: RegistryEntry | None, deployed: EndpointRef | None, active: str, target: Target) -> Serving:
    """Return what the endpoint should serve: what was promoted last, else what this run replaced, else what it does."""
    if current is not None and current.served_by is not None:
        return current.served_by
    name = (deployed.previous_config if deployed is not None else None) or active
    with explained(f"read the configuration {name}", error_type=DeployError):
        found = read_config(aws_client(target, "sagemaker"), name)
    if found is None:
        raise DeployError(f"the configuration {name} is gone, or is not of a form that askline makes")
    return found
