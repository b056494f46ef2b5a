"""Which failed steps are tried again, how often, and when."""

from typing import Any

from prefect.tasks import exponential_backoff


def _is_retryable(task: Any, task_run: Any, state: Any) -> bool:
    try:
        state.result()
    except Exception as error:  # noqa: BLE001 - whatever it was, the error itself says whether to try again
        return bool(getattr(error, "retryable", False))
    return False


#: ``@task`` options: tried again, ever later, only when the error itself says that this can help.
RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_retryable,
}
