"""One at a time: a lock on the Prefect server that holds for every machine, and is free again when its holder dies."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from prefect import get_client, get_run_logger
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists

from askline.console import current_progress, step
from askline.errors import BusyError

#: Seconds after which a lock whose holder has died is free again; the server takes no less.
_LEASE_SECONDS = 60
_SECONDS_BETWEEN_TRIES = 2.0


@contextmanager
def one_at_a_time(name: str, *, wait_seconds: float, option: str = "deploy.queue_seconds") -> Iterator[None]:
    """Run the block while no other run on this Prefect server, on whatever machine, is in a block of that name.

    A run that has to wait says so as a step of its own. What a killed run held is free again after a minute or so.

    Parameters
    ----------
    name
        Whatever must not happen twice at once: ``"deploy local biography"``.
    wait_seconds
        How long to wait for another run to be done.
    option
        What the configuration calls that.

    Raises
    ------
    BusyError
        If the other run is not done by then.
    """
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    with ExitStack() as held:
        if not _take(name, held):
            with step("wait") as line:
                waited = _wait_for(name, held, wait_seconds, option)
                line.done(f"{waited:.0f} s, until another run was done with {name!r}")
        yield


def _wait_for(name: str, held: ExitStack, wait_seconds: float, option: str) -> float:
    started, told = time.monotonic(), -60.0
    progress = current_progress()
    while True:
        waited = time.monotonic() - started
        if waited > wait_seconds:
            raise BusyError(
                f"another run has been at {name!r} for the {waited:.0f} s that this one waited ({option}); "
                "run again when it is done. If there is no such run any more, free its place: prefect "
                f"global-concurrency-limit update {name!r} --active-slots 0"
            )
        if waited - told >= 30:
            told = waited
            get_run_logger().info("waiting for another run that is at %r, %.0f s", name, waited)
        progress(min(0.99, waited / max(wait_seconds, 1)), f"another run is at {name!r}, {waited:.0f} s")
        time.sleep(_SECONDS_BETWEEN_TRIES)
        if _take(name, held):
            return time.monotonic() - started


def _take(name: str, held: ExitStack) -> bool:
    """Try once. The server's own advice on when to try again may be half a minute, for a lock held for seconds."""
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(name)
    if limit.active_slots >= limit.limit:
        return False
    lock = concurrency(
        name,
        strict=True,
        max_retries=0,
        lease_duration=_LEASE_SECONDS,
        # A server that cannot be reached for a while is no reason to break off in the middle of an update.
        raise_on_lease_renewal_failure=False,
    )
    try:
        held.enter_context(lock)
    except ConcurrencySlotAcquisitionError as error:
        response = getattr(error.__cause__, "response", None)
        if response is None or response.status_code != 423:  # Locked
            raise
        return False
    return True
