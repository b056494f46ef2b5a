"""What a run is around its steps: where its calls go, what it is called, and where it waits for a person."""

import asyncio
import os
import time
import uuid
from datetime import timedelta
from typing import Any, Literal

from askline.config import EvaluationConfig, PipelineConfig
from askline.console import say, step
from askline.errors import ConfigError
from askline.records import Approval, FanOut, Gate, Run, Scores
from tasks.gate.gate import answered
from tasks.report import markdown
from tasks.running.connect import connect, prepare_environment

#: The run is looked at so often while it waits, in seconds; each look is a call to the server.
POLL_SECONDS = 3
#: The server ends a run as failed whose pause ran out, so it is told to wait longer than the run itself does.
LONGER_SECONDS = 120
_FILE = "approval.json"


def open_run(config: PipelineConfig, *, redo_from: str | None = None) -> Run:
    """Connect to the target and return what every step of this run shares.

    Parameters
    ----------
    redo_from
        Name of the step from which on nothing that an earlier run remembered is taken.

    Raises
    ------
    LocalCloudError
        If the target is local and the embedded cloud does not come up.
    ConfigError
        If there is no Secret block of the name ``hub.token_block``.
    """
    from prefect.runtime import flow_run

    target = connect(config)
    prepare_environment(target)
    _take_token(config.hub.token_block)
    return Run(
        run_id=flow_run.id or str(uuid.uuid4()),
        state_dir=config.state_dir.resolve(),
        target=target,
        artifact_store=config.artifact_store,
        redo_from=redo_from,
        timeouts=config.timeouts.model_dump(),
        fan_out=FanOut(workers=config.evaluation.workers, scheduler=config.evaluation.scheduler),
    )


def _take_token(block: str | None) -> None:
    """Put the Hub's token from a Prefect Secret block where the Hub's client looks for it: into the environment."""
    if block is None:
        return
    from prefect.blocks.system import Secret

    try:
        secret: Any = Secret.load(block)
    except ValueError as error:
        raise ConfigError(
            f"there is no Prefect Secret block {block!r} (hub.token_block): make it in the UI under Blocks, or set "
            "HF_TOKEN instead"
        ) from error
    os.environ["HF_TOKEN"] = str(secret.get())


def container_python(config: PipelineConfig) -> str:
    """Return the Python that the engine's libraries are packed for: the container's.

    Raises
    ------
    ConfigError
        If it cannot be told from the name of ``deploy.image``.
    """
    from tasks.deploy_serverless import deployment_plan
    from tasks.package.libraries import own_python

    if config.package.python or not config.package.carry_libraries:
        return config.package.python or own_python()
    # The embedded cloud runs the archive with this Python, whatever image it is told.
    return own_python() if config.target == "local" else deployment_plan.container_python(config.deploy.image)


def run_name() -> str:
    """Name a flow run by its dataset and MLKey, for lists in which many runs stand."""
    from prefect.runtime import flow_run

    config: Any = flow_run.parameters["config"]
    config = config if isinstance(config, PipelineConfig) else PipelineConfig.model_validate(config)
    source = config.dataset.source.rstrip("/").rpartition("/")[2]
    return f"{source} → {config.deploy.mlkey} ({config.target}) {uuid.uuid4().hex[:4]}"


def ask_a_person(config: EvaluationConfig, gate: Gate, scores: Scores, run: Run) -> Gate:
    """Wait for a person's yes or no, and return the gate with it.

    The model that is deployed already needs no new yes. An answer is kept beside the run's report, so that a retry of
    the run does not ask again. Nobody's answer within ``config.approval_hours`` is a no.

    Raises
    ------
    RuntimeError
        If it is not called in a flow run.
    """
    if gate.comparison is not None and gate.comparison.verdict == "same model":
        return gate
    kept = run.state_dir / "runs" / run.run_id / _FILE
    if kept.is_file():
        return answered(gate, Approval.model_validate_json(kept.read_text(encoding="utf-8")))
    with step("approval") as line:
        if run.target.prefect_ui:
            say(f"  … waiting for a yes or no: {run.target.prefect_ui}/runs/flow-run/{run.run_id} (Resume)")
        approval = _wait(f"{markdown.gate(gate)}\n\n{markdown.scores(scores)}", timedelta(hours=config.approval_hours))
        line.done(
            ("approved" if approval.approved else "not approved") + (f": {approval.note}" if approval.note else "")
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f".{_FILE}")
    draft.write_text(approval.model_dump_json(), encoding="utf-8")
    draft.replace(kept)
    return answered(gate, approval)


def _wait(shown: str, patience: timedelta) -> Approval:
    from prefect.flow_runs import apause_flow_run
    from prefect.input import RunInput
    from prefect.utilities.asyncutils import run_coro_as_sync
    from pydantic import Field

    class Publish(RunInput):
        """The form."""

        approve: Literal["yes", "no"] = Field(description="Publish and deploy this model?")
        note: str = Field("", description="Why; it is kept in the report.")

    form: Any = Publish.with_initial_data(description=shown)
    seconds = max(1, round(patience.total_seconds()))
    key = uuid.uuid4().hex

    async def ask() -> Any:
        pause = apause_flow_run(
            wait_for_input=form,
            timeout=seconds + LONGER_SECONDS,
            poll_interval=min(POLL_SECONDS, seconds),
            key=key,
        )
        return await asyncio.wait_for(pause, seconds)

    started = time.monotonic()
    try:
        given = run_coro_as_sync(ask())
    except TimeoutError:
        given = _go_on(form, key)
    if given is None:
        waited = timedelta(seconds=round(time.monotonic() - started))
        return Approval(approved=False, note=f"nobody answered within {waited}")
    return Approval(approved=given.approve == "yes", note=given.note.strip())


def _go_on(form: Any, key: str) -> Any:
    """Take the run out of its pause; return the answer that came after the last look, or None."""
    from prefect.client.orchestration import get_client
    from prefect.input import keyset_from_paused_state
    from prefect.runtime import flow_run
    from prefect.states import Paused, Running

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run.id).state
        if state is not None and state.is_running():
            return form.load(keyset_from_paused_state(Paused(pause_key=key)))
        client.set_flow_run_state(flow_run.id, Running(), force=True)
    return None
