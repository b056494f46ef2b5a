"""A second place for artifacts that several machines share: a folder, ``s3://…`` or any other fsspec URL.

An artifact lies there as ``<kind>/<sha256>/<files>``, and last of all ``<kind>/<sha256>.json``, the list of its files.
Where the list is, the files are: a machine that is cut off while it writes leaves files that nobody reads, and the
next one writes them again. Credentials come from the environment, never from an option.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from askline.errors import ArtifactError, ConfigError


class SharedArtifacts:
    """Artifacts at a URL.

    Parameters
    ----------
    url
        ``s3://bucket/prefix``, ``file:///mnt/shared`` or what else fsspec knows.
    options
        What fsspec needs beside it, such as the address of an S3 that is not AWS's. No secrets.

    Raises
    ------
    ConfigError
        If fsspec does not know the URL's protocol.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            here = fsspec.utils.get_protocol(self.url) in ("file", "local")
            # Folders are made on the way; buckets never are.
            settings = {**(options or {}), **({"auto_mkdir": True} if here else {})}
            self._files, self._root = fsspec.core.url_to_fs(self.url, **settings)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"artifacts {url!r} cannot be used: {error}. Give a folder, s3://bucket/prefix or another URL that "
                "fsspec knows and whose package is installed"
            ) from error

    def has(self, kind: str, sha256: str) -> bool:
        """Say whether the artifact was written there to its end."""
        return self._names(kind, sha256) is not None

    def put(self, kind: str, sha256: str, folder: Path) -> None:
        """Copy an artifact there, unless it is there already.

        Raises
        ------
        ArtifactError
            If the place cannot be written; retryable where the network may be at fault.
        """
        if self.has(kind, sha256):
            return
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        with self._explained(f"write {kind} {sha256[:12]} to"):
            for name in names:
                self._files.put_file(str(folder / name), self._place(kind, sha256, name))
            self._files.pipe_file(self._place(kind, f"{sha256}.json"), json.dumps(names).encode())

    def get(self, kind: str, sha256: str, folder: Path) -> bool:
        """Copy an artifact from there into an empty folder; return False where it is not there, or not whole.

        The caller compares the sha256: what lies there may be damaged.

        Raises
        ------
        ArtifactError
            If the place cannot be read.
        """
        names = self._names(kind, sha256)
        if names is None:
            return False
        with self._explained(f"read {kind} {sha256[:12]} from"):
            for name in names:
                local = folder / name
                if not local.resolve().is_relative_to(folder.resolve()):
                    raise ArtifactError(f"the list of {kind} {sha256[:12]} in {self.url} names {name!r}, outside of it")
                local.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._files.get_file(self._place(kind, sha256, name), str(local))
                except FileNotFoundError:
                    self.forget(kind, sha256)
                    return False
        return True

    def forget(self, kind: str, sha256: str) -> None:
        """Remove the list of an artifact that turned out to be damaged, so that it is written again."""
        with self._explained(f"remove {kind} {sha256[:12]} from"):
            self._files.rm_file(self._place(kind, f"{sha256}.json"))

    def _names(self, kind: str, sha256: str) -> list[str] | None:
        place = self._place(kind, f"{sha256}.json")
        with self._explained(f"look for {kind} {sha256[:12]} in"):
            self._files.invalidate_cache()  # another machine may have written it since
            try:
                names = json.loads(self._files.cat_file(place))
            except (FileNotFoundError, ValueError):
                return None
        return [str(name) for name in names] if isinstance(names, list) else None

    def _place(self, *parts: str) -> str:
        return "/".join((str(self._root).rstrip("/"), *parts))

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (PermissionError, ClientError) as error:
            raise ArtifactError(
                f"not allowed to {doing} {self.url}: {error}. Check the credentials, and that they may read and write "
                "there"
            ) from error
        except FileNotFoundError as error:
            raise ArtifactError(f"cannot {doing} {self.url}: {error} is not there") from error
        except (OSError, BotoCoreError, TimeoutError) as error:
            raise ArtifactError(f"cannot {doing} {self.url}: {error}", retryable=True) from error
