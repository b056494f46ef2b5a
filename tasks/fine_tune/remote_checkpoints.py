"""Checkpoints kept in another place too, so that another machine can go on: a folder, or s3://bucket/prefix."""

import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.fine_tune.checkpoints import KEPT, MANIFEST, WRITING, is_whole, publish, step_of

log = logging.getLogger("askline.training")


class CheckpointStore:
    """A place for one run's checkpoints, by its fsspec URL; the endpoint and credentials are those of the environment.

    A checkpoint counts once its manifest is there, which is written last.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._sending = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None
        self.sending: Path | None = None
        """The checkpoint under way, which must not be removed."""

    def save_remote(self, checkpoint: Path) -> None:
        """Send a checkpoint while training goes on; one that comes while another is under way waits its turn.

        A place that cannot be reached does not stop the training: it is logged.
        """
        self.wait()
        self.sending = checkpoint
        self._last = self._sending.submit(self._send, checkpoint)

    def wait(self) -> None:
        """Return when nothing is under way."""
        if self._last is not None:
            try:
                self._last.result()
            except Exception as error:  # noqa: BLE001 - fsspec's back ends raise what they like
                log.warning("the checkpoint could not be kept in %s: %s", self._url, error)
            self._last = self.sending = None

    def restore_remote(
        self, folder: Path, *, newer_than: int = -1, processes: int = 1, sharded: bool = False
    ) -> Path | None:
        """Fetch the newest whole checkpoint above a step into ``folder``; return it, or None where there is none."""
        files, root = self._open()
        for step in sorted(self._steps(files, root), reverse=True):
            if step <= newer_than:
                return None
            name = f"checkpoint-{step}"
            written = folder / WRITING / name
            if self._fetch(files, f"{root}/{name}", written) and is_whole(
                written, processes=processes, sharded=sharded
            ):
                return publish(written, folder)
            log.warning("the checkpoint %s in %s is damaged; taking the one before", name, self._url)
        return None

    @staticmethod
    def _fetch(files: Any, source: str, written: Path) -> bool:
        """Copy a checkpoint here; False where the machine that wrote it was cut off in the middle."""
        shutil.rmtree(written, ignore_errors=True)
        written.mkdir(parents=True)
        try:
            manifest = json.loads(files.cat_file(f"{source}/{MANIFEST}"))
            for file in [*manifest["files"], MANIFEST]:
                local = written / file
                if not local.resolve().is_relative_to(written.resolve()):
                    return False
                local.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(f"{source}/{file}", str(local))
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            return False
        return True

    def remove(self) -> None:
        """Remove what the run left there, once its model is stored."""
        self.wait()
        try:
            files, root = self._open()
            if files.exists(root):
                files.rm(root, recursive=True)
        except Exception as error:  # noqa: BLE001 - fsspec's back ends raise what they like
            log.warning("the checkpoints in %s could not be removed: %s", self._url, error)

    def _send(self, checkpoint: Path) -> None:
        files, root = self._open()
        target = f"{root}/{checkpoint.name}"
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        for name in [*manifest["files"], MANIFEST]:
            files.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
            files.put_file(str(checkpoint / name), f"{target}/{name}")
        newest = sorted(self._steps(files, root), reverse=True)
        for step in newest[KEPT:]:
            files.rm(f"{root}/checkpoint-{step}", recursive=True)
        if step_of(checkpoint) not in newest[:KEPT]:
            log.warning("%s holds newer checkpoints than %s: does another machine train the same?", root, checkpoint)

    def _steps(self, files: Any, root: str) -> list[int]:
        files.invalidate_cache()
        found = files.glob(f"{root}/checkpoint-*/{MANIFEST}")
        return [int(path.split("/")[-2].rpartition("-")[2]) for path in found]

    def _open(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        options = {}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if self._url.startswith("s3://") and endpoint:
            options = {"endpoint_url": endpoint}
        files, root = url_to_fs(self._url, **options)
        return files, root
