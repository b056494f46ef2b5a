"""Where a step works: what its calls reach, the folder that it keeps things in, and who hears how far it is."""

import os
from functools import cache
from pathlib import Path

from askline.clients import local_keys
from askline.progress import Progress, part, quiet
from askline.records import Run, Target
from askline.shared_artifacts import SharedArtifacts
from askline.store import ArtifactStore


class Workplace:
    """What every step needs beside its inputs, in one object.

    A run makes one for each step (:meth:`of`). In a REPL a line makes one::

        place = Workplace(connect(PipelineConfig()), ".askline")
        dataset = fetch_dataset(config, source, place=place)

    Parameters
    ----------
    target
        Where the calls to AWS and the Hub go.
    state_dir
        The folder that a run keeps its artifacts, downloads, checkpoints and reports in; the default is the one that
        ``store`` lies in, or else ``.askline``.
    store
        Where artifacts are read and written; the default is ``artifacts`` in the state folder.
    progress
        Told how far the step is.
    run_id
        The run on whose behalf the step works; it stands in what is published.
    """

    def __init__(
        self,
        target: Target,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        store: ArtifactStore | None = None,
        progress: Progress = quiet,
        run_id: str = "by hand",
    ) -> None:
        self.target = target
        here = ".askline" if store is None else store.root.parent
        self.state_dir = Path(here if state_dir is None else state_dir).resolve()
        self.store = ArtifactStore(self.state_dir / "artifacts") if store is None else store
        self.progress = progress
        self.run_id = run_id

    @classmethod
    def of(cls, run: Run, progress: Progress = quiet) -> "Workplace":
        """Return the workplace of a run's step."""
        return cls(run.target, run.state_dir, store=store_of(run), progress=progress, run_id=run.run_id)

    def of_part(self, start: float, end: float) -> "Workplace":
        """Return the same workplace for a part of the step, from one share of its progress to another."""
        return Workplace(
            self.target,
            self.state_dir,
            store=self.store,
            progress=part(self.progress, start, end),
            run_id=self.run_id,
        )

    @property
    def work(self) -> Path:
        """The folder for what can be made again: checkpoints, downloaded bases, unpacked packages."""
        return self.state_dir / "work"


def store_of(run: Run) -> ArtifactStore:
    """Return the artifact store of a run.

    Raises
    ------
    ConfigError
        If the shared place is a URL that fsspec does not know.
    """
    shared = None
    if run.artifact_store is not None:
        shared = _shared(run.artifact_store, tuple(sorted(file_system_options(run).items())))
    return ArtifactStore(run.state_dir / "artifacts", shared)


def file_system_options(run: Run) -> dict[str, str]:
    """Return what fsspec needs to reach the run's shared place; AWS's own S3 and folders need nothing.

    The keys are those of the embedded cloud, which open nothing else; AWS's come from its own chain.
    """
    if run.target.kind != "local" or not (run.artifact_store or "").startswith("s3"):
        return {}
    key, secret = local_keys(run.target)
    return {
        "endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3") or run.target.endpoints["s3"],
        "key": key,
        "secret": secret,
    }


def checkpoints_of(run: Run) -> str | None:
    """Return where a run keeps its training's checkpoints for other machines: beside the artifacts that they share.

    None where it shares nothing, or where only the embedded cloud's S3 is shared, whose address no other machine knows
    unless the environment (``AWS_ENDPOINT_URL_S3``) names it.
    """
    if run.artifact_store is None:
        return None
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if file_system_options(run) and not named:
        return None
    return f"{run.artifact_store.rstrip('/')}/checkpoints"


def is_folder(url: str) -> bool:
    """Say whether a shared place is a folder of this machine, or one that is mounted on it."""
    return url.startswith(("/", "file:"))


def folder_of(url: str) -> Path:
    """Return the path of a shared place that is a folder."""
    return Path(url.removeprefix("file://").removeprefix("file:"))


@cache
def _shared(url: str, options: tuple[tuple[str, str], ...]) -> SharedArtifacts:
    return SharedArtifacts(url, dict(options))
