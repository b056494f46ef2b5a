"""Find out whether there is something new to train on: another revision of the dataset, or enough new feedback.

It looks and compares; what was seen before is handed in and what is seen now is given back, so that whoever keeps it
(the flow ``watch_dataset``, in a Prefect variable) decides when it counts as seen.
"""

import hashlib
from pathlib import Path

from askline.config import PipelineConfig
from askline.records import Record, Target
from tasks.feedback.collect import collect_feedback, find_log
from tasks.fetch_dataset.fetch_dataset import resolve_source
from tasks.workplace import Workplace


class Seen(Record):
    """What a watch saw when it last looked."""

    source: str
    """``dataset.source``, as the configuration names it."""
    revision: str
    """The commit of a Hub dataset, else a hash of the content."""
    feedback_rows: int = 0
    """Rows of feedback when a training was last asked for because of them."""


class Look(Record):
    """What a watch found."""

    seen: Seen
    """To be handed in at the next look."""
    dataset_changed: bool
    """The source has another revision than before; False at the first look, which only remembers."""
    new_feedback: int | None = None
    """Rows since a training was last asked for, where these are enough to ask for one; else None."""


def memory_of(mlkey: str) -> str:
    """Return the name under which a watch remembers what it saw: lower case, digits and underscores."""
    return f"askline_watch_{hashlib.sha256(mlkey.encode()).hexdigest()[:16]}"


def look(
    config: PipelineConfig,
    *,
    target: Target,
    before: Seen | None,
    feedback_into: Path | None = None,
    feedback_rows: int = 50,
) -> Look:
    """Compare the dataset's revision with the one seen before, and count the feedback.

    Parameters
    ----------
    before
        What the last look gave back; None at the first.
    feedback_into
        A ``.csv`` or ``.jsonl`` file that takes the confirmed and corrected answers of the API's question log, best one
        in the dataset's own folder; None to leave the feedback alone.
    feedback_rows
        New rows in it that are enough for a training.

    Raises
    ------
    DatasetError, HubError, ConfigError, CloudError
        Where the source or the question log cannot be read.
    """
    counted = 0
    if feedback_into is not None:
        log = find_log(target, stack_name=config.api.stack_name)
        found = collect_feedback(log=log, mlkey=config.deploy.mlkey, out=feedback_into, target=target)
        counted = sum(found.rows.values())
    source = resolve_source(config.dataset, place=Workplace(target, config.state_dir))
    if before is None or before.source != config.dataset.source:
        seen = Seen(source=config.dataset.source, revision=source.revision, feedback_rows=counted)
        return Look(seen=seen, dataset_changed=False)
    new = counted - before.feedback_rows
    enough = feedback_into is not None and new >= feedback_rows
    seen = Seen(
        source=config.dataset.source,
        revision=source.revision,
        # After a log was emptied the count begins anew.
        feedback_rows=counted if enough or new < 0 else before.feedback_rows,
    )
    return Look(
        seen=seen,
        dataset_changed=source.revision != before.revision,
        new_feedback=new if enough else None,
    )
