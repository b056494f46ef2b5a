"""A run that has ended on the Prefect server does nothing more, even if its process lives.

A process that stands still (a laptop that sleeps, a machine that swaps, SIGSTOP) sends no heartbeat: its run is marked
as crashed, and another machine may take it. When it goes on, it must not publish or deploy beside that one. So before
each step it asks the server for the state of its own run. An end is final, and so is another's turn at the run: either
raises Prefect's own signal for "leave at once, and report no state", which changes nothing on the server.
"""

from prefect.client.orchestration import get_client
from prefect.exceptions import Abort
from prefect.runtime import flow_run

#: Steps that put right what the run has begun: they are for runs that ended, too, unless another process goes on with
#: the run. What they bring back is what the registry names.
UNDOES = ("restore",)

#: How often a run had begun when it went on after a pause, by its id and by how often it had begun when Prefect's
#: engine began it: the engine does not learn that the server counts a resumed run as begun again.
_resumed: dict[tuple[str, int], int] = {}


class RunEnded(Abort):
    """The run has ended on the server, or another process has it."""


def go_on(pause: str) -> None:
    """Count it as this process's own that the run goes on after its pause, unless it ended in between.

    Parameters
    ----------
    pause
        The pause's key.
    """
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run.id)
        states = sorted(client.read_flow_run_states(flow_run.id), key=lambda state: state.timestamp)
    paused = [state.is_paused() and state.state_details.pause_key == pause for state in states]
    if True in paused and not any(state.is_final() for state in states[paused.index(True) :]):
        _resumed[flow_run.id, flow_run.run_count] = run.run_count


def require_own(step: str) -> None:
    """Return if this process's run goes on, on the server too.

    The server counts how often a run began (``run_count``). Prefect's engine reads the count each time that it begins
    the run, which a retry within this process does anew (``flow_run.run_count``): a higher one is another process's.
    After a pause it is higher, too (:func:`go_on`).

    Parameters
    ----------
    step
        What would be done next.

    Raises
    ------
    RunEnded
        If it has ended there, is being cancelled, or was begun by another process.
    """
    if flow_run.id is None:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run.id)
    state = run.state
    begun = _resumed.get((flow_run.id, flow_run.run_count), flow_run.run_count)
    if state is None or (state.is_running() and run.run_count == begun):
        return
    taken = state.is_running() or state.is_scheduled() or state.is_pending()
    if step in UNDOES and not taken:
        return
    if taken:
        what = "was taken by another process while this one stood still"
    else:
        what = f"is {state.name} on the Prefect server" + (f" ({state.message})" if state.message else "")
    raise RunEnded(
        f"this run {what}: it stops before {step}, and publishes and deploys nothing more. Run it again: what is "
        "finished is kept"
    )
