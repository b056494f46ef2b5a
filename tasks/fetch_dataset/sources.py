"""From what the config names to a source that cannot change: what kind it is, and local files and folders."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from askline.config import DatasetConfig
from askline.errors import ConfigError, DatasetFormatError, DatasetNotFoundError
from askline.records import SourceRef
from askline.store import sha256_of_file
from tasks.fetch_dataset.readers.suffixes import DATA_SUFFIXES, FORMAT_BY_SUFFIX, SUFFIXES

SAMPLE = "sample"
SAMPLE_FOLDER = Path(__file__).resolve().parents[2] / "data"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_PAGE = re.compile(r"/datasets/([^/?#]+/[^/?#]+)/?(?:tree/([^/?#]+)/?)?")
_HUGGING_FACE = "https://huggingface.co"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OTHER_SUFFIXES = (".dat", ".gz", ".xls", ".ods", ".pdf", ".docx")
_ABOUT = ("readme", "license", "licence", "changelog", "contributing", "code_of_conduct", "requirements")


@dataclass(frozen=True, slots=True)
class Place:
    """Where ``--dataset.source`` points."""

    kind: Literal["sample", "hub", "file", "s3", "https"]
    location: str
    revision: str | None = None
    """A revision that stands in the location itself, as in a Hub page's address."""


def classify(source: str, hub: str) -> Place:
    """Say what kind of place a source is, without asking the network.

    An existing path wins over a Hub id of the same form; ``./x``, ``x.csv`` and the like are always paths. The address
    of a dataset's page on the Hub at ``hub``, or on huggingface.co, stands for its id.

    Raises
    ------
    DatasetNotFoundError
        If it is a path to nothing, or of no known form.
    """
    if source == SAMPLE:
        return Place("sample", SAMPLE)
    if source.startswith("s3://"):
        return Place("s3", source)
    for home in (hub, _HUGGING_FACE):
        if home and source.startswith(f"{home}/") and (page := _HUB_PAGE.fullmatch(source.removeprefix(home))):
            return Place("hub", page[1], page[2])
    if source.startswith("hf://datasets/"):
        name, _, revision = source.removeprefix("hf://datasets/").partition("@")
        return Place("hub", name, revision or None)
    if source.startswith(("https://", "http://")):
        return Place("https", source)
    if scheme := _SCHEME.match(source):
        raise DatasetNotFoundError(
            f"--dataset.source {source}: askline does not read {scheme[1]}:// addresses; it takes a Hub id "
            "(owner/name), a file or folder, s3://… or https://…"
        )
    path = Path(source).expanduser()
    if path.exists():
        return Place("file", str(path.absolute()))
    suffix = path.suffix.lower()
    written_as_path = source.startswith(("./", "../", "/", "~", ".\\", "..\\")) or source.endswith(("/", "\\"))
    if written_as_path or suffix in FORMAT_BY_SUFFIX or suffix in _OTHER_SUFFIXES or not _HUB_ID.fullmatch(source):
        raise DatasetNotFoundError(
            f"there is no file or folder {source} (looked in {path.absolute().parent}). "
            '--dataset.source takes a file or folder, a Hub id (owner/name), s3://…, https://… or "sample".'
        )
    return Place("hub", source)


def resolve_local(path: Path, config: DatasetConfig) -> SourceRef:
    """Resolve a file or folder to the sha256 of its content.

    Raises
    ------
    ConfigError
        If a revision is asked of it.
    DatasetFormatError
        If a folder holds no data file.
    DatasetNotFoundError
        If it cannot be read.
    """
    refuse_revision(config, str(path))
    if path.is_file() and config.subset is not None:
        raise ConfigError(
            f"--dataset.subset {config.subset!r} chooses within a folder or a Hub dataset; {path} is one file"
        )
    return SourceRef(kind="file", location=str(path), revision=content_sha256(path), subset=config.subset)


def content_sha256(path: Path) -> str:
    """Return the sha256 of a file, or of the names and hashes of a folder's data files and card."""
    try:
        if path.is_file():
            return sha256_of_file(path)
        files = data_files(path)
        if not files:
            raise DatasetFormatError(f"the folder {path} holds no data file; askline reads {SUFFIXES}")
        card = [path / "README.md"] if (path / "README.md").is_file() else []
        lines = [f"{sha256_of_file(file)}  {file.relative_to(path).as_posix()}\n" for file in files + card]
    except OSError as error:
        raise DatasetNotFoundError(f"cannot read {error.filename or path}: {error.strerror}") from error
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def data_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose name says that they hold data, sorted; hidden ones are left out.

    Markdown and text files count where there is nothing else, and a readme, a licence or a change log never does.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in FORMAT_BY_SUFFIX
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    sure = [path for path in files if path.suffix.lower() in DATA_SUFFIXES]
    bots = [path for path in files if path.name.lower() == "nlu.md"]
    return sorted(sure + bots) if sure else [path for path in files if not path.stem.lower().startswith(_ABOUT)]


def refuse_revision(config: DatasetConfig, location: str) -> None:
    """Raise :class:`~askline.errors.ConfigError` where a revision is asked of what has none."""
    if config.revision is not None:
        raise ConfigError(
            f"--dataset.revision {config.revision!r} applies to Hub datasets only, and {location} is not one"
        )
