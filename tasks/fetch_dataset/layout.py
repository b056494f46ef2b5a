"""Which files of a folder belong to which split."""

import logging
from pathlib import Path

from askline.errors import ConfigError, DatasetFormatError
from tasks.fetch_dataset.readers.dialogflow import is_dialogflow
from tasks.fetch_dataset.readers.rasa import is_rasa_folder
from tasks.fetch_dataset.readers.suffixes import FORMAT_BY_SUFFIX, SPLIT_SUFFIXES, SUFFIXES
from tasks.fetch_dataset.sources import data_files

ALL = "all"
"""The one split of a dataset that has none."""

_FOREIGN = "the dataset's card names a file outside the dataset"


def find_splits(folder: Path, subset: str | None, *, cache: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Sort a folder's data files into splits, by the card's ``configs:``, folder names or file names.

    The rules are those of the ``datasets`` library, which is asked; it runs no code of the dataset's.

    Parameters
    ----------
    folder
        A local folder or the snapshot of a Hub dataset.
    subset
        A configuration that the card names, or a sub-folder.
    cache
        Folder for the library's lock files.

    Returns
    -------
    dict, list
        Files by split, in order: ``{"all": …}``, or ``train`` with ``test`` and perhaps ``validation``; and what a
        person should know about the choice.

    Raises
    ------
    ConfigError
        If the subset does not exist, or has to be chosen.
    DatasetFormatError
        If there is no data file, or the splits cannot be used.
    """
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError as NothingFoundError

    root = folder
    if subset is not None and (folder / subset).is_dir() and not _card_names(folder, subset):
        root, subset = folder / subset, None
    present = data_files(root)
    if not present:
        raise DatasetFormatError(f"{folder.name} holds no data file; askline reads {SUFFIXES}")
    names = [file.relative_to(root).as_posix() for file in present]
    if is_dialogflow(names) or is_rasa_folder(names):
        return {ALL: [root]}, []  # its files are one chatbot's, and say together what each alone does not
    if len(present) == 1 and subset is None and not _card_names(root, None):
        return {ALL: present}, []
    if not any(file.suffix.lower() in SPLIT_SUFFIXES for file in present):
        return {ALL: present}, []
    talkative = [logging.getLogger(name) for name in ("datasets.load", "huggingface_hub.repocard")]
    levels = [logger.level for logger in talkative]
    for logger in talkative:
        logger.setLevel(logging.ERROR)  # a folder without a card is no reason for a warning
    try:
        builder = load_dataset_builder(str(root.resolve()), name=subset, cache_dir=str(cache))
        found = builder.config.data_files
    except (ValueError, FileNotFoundError, NothingFoundError) as error:
        message = str(error)
        if "Config name is missing" in message or "BuilderConfig" in message:
            choice = "has no subset " + repr(subset) if subset else "has several subsets"
            raise ConfigError(f"the dataset {choice}: name one with --dataset.subset. {_names_in(message)}") from None
        raise DatasetFormatError(f"the splits of {folder.name} cannot be told: {message.splitlines()[0]}") from None
    finally:
        for logger, level in zip(talkative, levels, strict=True):
            logger.setLevel(level)
    splits = {str(split): [_within(Path(file), root) for file in files] for split, files in (found or {}).items()}
    return _choose(splits, present, root)


def _choose(splits: dict[str, list[Path]], present: list[Path], root: Path) -> tuple[dict[str, list[Path]], list[str]]:
    notes: list[str] = []
    used = {file for files in splits.values() for file in files}
    unused = [file.relative_to(root).as_posix() for file in present if file not in used]
    foreign = sorted(file.name for file in used if file.suffix.lower() not in FORMAT_BY_SUFFIX)
    if foreign:
        raise DatasetFormatError(f"{foreign[0]} is not a data file; askline reads {SUFFIXES}")
    if unused:
        notes.append(f"not part of any split and not read: {', '.join(unused[:8])}{' …' if len(unused) > 8 else ''}")
    if len(splits) == 1:
        return {ALL: next(iter(splits.values()))}, notes
    if "train" not in splits:
        raise DatasetFormatError(
            f"none of the dataset's splits is called train; they are {', '.join(splits) or '(none)'}. "
            "Give one file with --dataset.source to have it split, or name the splits in the card's configs."
        )
    kept: dict[str, list[Path]] = {name: splits[name] for name in ("train", "validation", "test") if name in splits}
    left_out = [name for name in splits if name not in kept]
    if left_out:
        notes.append(f"splits that are not used: {', '.join(left_out)}")
    if len(kept) == 1:
        notes.append("the dataset has no test split; one is made from its train split")
        return {ALL: kept["train"]}, notes
    if "test" not in kept:
        kept["test"] = kept.pop("validation")
        notes.append("the dataset has no test split; its validation split is held out in its place")
    return kept, notes


def _within(file: Path, root: Path) -> Path:
    """A card is written by strangers: its paths must not lead elsewhere, nor to an address."""
    if not file.is_absolute():
        raise DatasetFormatError(f"{_FOREIGN}: {file}")
    try:
        relative = file.relative_to(root.resolve())
    except ValueError:
        raise DatasetFormatError(f"{_FOREIGN}: {file}") from None
    if ".." in relative.parts or not (root / relative).is_file():
        raise DatasetFormatError(f"{_FOREIGN}: {relative}")
    return root / relative


def _card_names(folder: Path, subset: str | None) -> bool:
    """Say whether the card has ``configs:``, or one of the name ``subset``."""
    from huggingface_hub import DatasetCard

    path = folder / "README.md"
    if not path.is_file():
        return False
    try:
        configs = DatasetCard.load(path, ignore_metadata_errors=True).data.get("configs") or []
    except (ValueError, OSError):
        return False
    names = [entry.get("config_name") for entry in configs if isinstance(entry, dict)]
    return bool(names) if subset is None else subset in names


def _names_in(message: str) -> str:
    """Give the names that the library lists between brackets."""
    start, end = message.find("["), message.find("]")
    return f"There are: {message[start + 1 : end]}." if 0 <= start < end else ""
