"""What is downloaded lies in a cache: written whole or not at all, under a size limit."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from askline.errors import DatasetNotFoundError

MAX_DOWNLOAD_BYTES = 2 * 1024**3
"""A larger download is refused: questions and answers do not take two gigabytes."""


def changed(location: str) -> DatasetNotFoundError:
    """Return the error for a source whose content is no longer what was resolved."""
    return DatasetNotFoundError(f"{location} has changed since this run began; run the flow again", retryable=True)


@contextmanager
def temporary(folder: Path) -> Iterator[tuple[Any, Path]]:
    """Give a stream and its path for a new file in ``folder``; what is not renamed by the end is dropped."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".part-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream, path
    finally:
        path.unlink(missing_ok=True)
