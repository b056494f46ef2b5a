"""A dataset behind an https address: pin its content, and bring it to this machine."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from askline.errors import DatasetFormatError, DatasetNotFoundError
from askline.files import write_whole
from askline.records import SourceRef
from askline.store import sha256_of_file
from tasks.fetch_dataset.cache import MAX_DOWNLOAD_BYTES, changed, temporary

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0


def resolve_https(url: str, *, cache: Path, max_bytes: int = MAX_DOWNLOAD_BYTES) -> SourceRef:
    """Download an address to the cache, and resolve it to the sha256 of what came.

    A server that sent an ETag is asked whether it has changed, so that a second run downloads nothing.

    Raises
    ------
    DatasetNotFoundError
        If it is not there, may not be read, or the server does not answer (retryable).
    DatasetFormatError
        If it is larger than ``max_bytes``.
    """
    import httpx

    _refuse_plain_http(url)
    folder = cache / "https"
    known_at = folder / f"{hashlib.sha256(url.encode()).hexdigest()}.json"
    known = _read_known(known_at, folder)
    headers = {"If-None-Match": known["etag"]} if known else {}
    timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    with (
        _explained_https(url),
        httpx.Client(timeout=timeout, follow_redirects=True, event_hooks={"request": [_check_request]}) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.status_code == httpx.codes.NOT_MODIFIED and known:
            return SourceRef(kind="https", location=url, revision=known["sha256"])
        response.raise_for_status()
        sha256 = _keep(response, folder, max_bytes, url)
        if etag := response.headers.get("ETag"):
            write_whole(known_at, json.dumps({"etag": etag, "sha256": sha256}))
    return SourceRef(kind="https", location=url, revision=sha256)


def download_https(source: SourceRef, *, cache: Path) -> Path:
    """Return the file of a resolved address, from the cache or downloaded again.

    Raises
    ------
    DatasetNotFoundError
        As :func:`resolve_https`; also if the content has changed since (retryable).
    """
    path = cache / "https" / source.revision
    if not path.is_file() or sha256_of_file(path) != source.revision:
        path.unlink(missing_ok=True)
        if resolve_https(source.location, cache=cache).revision != source.revision:
            raise changed(source.location)
    return path


def name_of(url: str) -> str:
    """Return the file name at the end of an address."""
    return PurePosixPath(unquote(urlsplit(url).path)).name or "dataset"


def _refuse_plain_http(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise DatasetNotFoundError(f"{url}: plain http is taken from this machine only; use https://")
    if not parts.hostname:
        raise DatasetNotFoundError(f"{url} is not an address: it names no host")


def _check_request(request: Any) -> None:
    _refuse_plain_http(str(request.url))  # also after a redirect


def _read_known(path: Path, folder: Path) -> dict[str, str] | None:
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        content = folder / known["sha256"]
        return known if known["etag"] and sha256_of_file(content) == known["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(response: Any, folder: Path, max_bytes: int, url: str) -> str:
    """Stream a response to the cache under its sha256."""
    too_large = DatasetFormatError(f"{url} is larger than {max_bytes:,} bytes, the most that askline downloads")
    if int(response.headers.get("Content-Length") or 0) > max_bytes:
        raise too_large
    digest, size = hashlib.sha256(), 0
    with temporary(folder) as (stream, name):
        for block in response.iter_bytes():
            size += len(block)
            if size > max_bytes:
                raise too_large
            digest.update(block)
            stream.write(block)
        stream.close()
        name.replace(folder / digest.hexdigest())
    return digest.hexdigest()


@contextmanager
def _explained_https(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        hint = {401: " It asks for a login, which askline does not send.", 403: " It may not be read from here."}.get(
            status, ""
        )
        raise DatasetNotFoundError(
            f"{url} answered {status} {error.response.reason_phrase}.{hint}",
            retryable=status >= 500 or status in (408, 429),
        ) from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise DatasetNotFoundError(f"{url} cannot be fetched: {error}") from None
    except httpx.HTTPError as error:
        raise DatasetNotFoundError(
            f"cannot fetch {url}: {error or type(error).__name__}. Check the address and the network.", retryable=True
        ) from error
