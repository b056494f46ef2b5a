"""A model on the Hub."""

from askline.records.record import Record


class HubRef(Record):
    """Where the model was published, or why it was not."""

    repo_id: str | None
    url: str | None
    commit: str | None
    tag: str | None
    skipped: str | None = None
