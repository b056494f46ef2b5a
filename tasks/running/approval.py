"""Waiting for a person's yes or no before anything is published."""

import asyncio
import time
import uuid
from datetime import timedelta
from typing import Any, Literal

from askline.config import EvaluationConfig
from askline.console import say, step
from askline.files import write_whole
from askline.records import Approval, Gate, Run, Scores
from tasks.gate.gate import answered
from tasks.report import markdown
from tasks.running import fence

#: The run is looked at so often while it waits, in seconds; each look is a call to the server.
POLL_SECONDS = 3
#: The server ends a run as failed whose pause ran out, so it is told to wait longer than the run itself does.
LONGER_SECONDS = 120
_FILE = "approval.json"


def ask_a_person(config: EvaluationConfig, gate: Gate, scores: Scores, run: Run) -> Gate:
    """Wait for a person's yes or no, and return the gate with it.

    The model that is deployed already needs no new yes. An answer is kept beside the run's report, so that a retry of
    the run does not ask again. Nobody's answer within ``config.approval_hours`` is a no.

    Raises
    ------
    RuntimeError
        If it is not called in a flow run.
    RunEnded
        If the run ended on the server meanwhile, or another process has it.
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
        fence.require_own("publishing")
        line.done(
            ("approved" if approval.approved else "not approved") + (f": {approval.note}" if approval.note else "")
        )
    write_whole(kept, approval.model_dump_json())
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
    fence.go_on(key)
    if given is None:
        waited = timedelta(seconds=round(time.monotonic() - started))
        return Approval(approved=False, note=f"nobody answered within {waited}")
    return Approval(approved=given.approve == "yes", note=given.note.strip())


def _go_on(form: Any, key: str) -> Any:
    """Take the run out of its pause; return the answer that came after the last look, or None.

    A run that ended on the server while it was paused (its process stood still) is not brought back to life.
    """
    from prefect.client.orchestration import get_client
    from prefect.input import keyset_from_paused_state
    from prefect.runtime import flow_run
    from prefect.states import Paused, Running

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run.id).state
        if state is not None and state.is_running():
            return form.load(keyset_from_paused_state(Paused(pause_key=key)))
        if state is not None and state.is_paused():
            client.set_flow_run_state(flow_run.id, Running(), force=True)
    return None
