"""The base model: a local folder, or a repository on the Hub resolved to a commit and downloaded once."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from askline.clients import hub_client, public_hub
from askline.errors import HubError, TrainingError
from askline.records import BaseRef, ModelRef, Target
from askline.store import sha256_of_folder
from tasks.t5.scratch import AUTO, SCRATCH, SENTINELS, initial_model, small_t5, tokenizer_from_pieces
from tasks.t5.whole import check_tokenizer_fits, check_tokenizer_is_there, check_weights
from tasks.workplace import Workplace

#: ``model_type`` of what is fine-tuned. mT5 is T5 1.1 over another vocabulary, which writes every script and has no
#: sentinels; it is trained, exported and packaged as T5.
KINDS = ("t5", "mt5")
#: Seconds within which a Hub has to answer, where the base is chosen.
PATIENCE = 2.0
#: Training questions up to which flan-t5-base trains in less than about twenty minutes without a GPU: six passes at the
#: 2.7 questions a second of one core in fp32.
BASE_ON_A_PROCESSOR = 500


@dataclass(frozen=True)
class Base:
    """A pretrained T5 on this machine."""

    folder: Path
    name: str
    """Hub id, or the folder's own name: nothing in it depends on where on the machine it lies."""
    revision: str | None
    """Commit sha on the Hub; None for a folder."""
    fingerprint: str
    """What identifies its bytes: the commit sha, or the sha256 of the folder."""


def is_hub_id(base: str) -> bool:
    """Say whether ``base`` names a Hub repository and no folder that is there."""
    if base in (SCRATCH, AUTO) or Path(base).expanduser().is_dir():
        return False
    return not base.startswith(("/", ".", "~")) and base.count("/") <= 1 and "\\" not in base


def find_base(base: str, revision: str | None, *, place: Workplace) -> Base:
    """Return the pretrained base, downloaded from the Hub into ``place.work`` where it is no local folder.

    Raises
    ------
    TrainingError
        If there is no such folder, or it holds no T5.
    HubError
        If the Hub has no such repository or revision, or cannot be reached.
    """
    if is_hub_id(base):
        found = _download(base, revision, target=place.target, cache=place.work / "hub")
    else:
        folder = _folder(base)
        found = Base(folder, folder.resolve().name, None, sha256_of_folder(folder))
    _check_is_t5(found)
    return found


def choose_base(rows: int, *, place: Workplace, seconds: float = PATIENCE) -> BaseRef:
    """Choose a base for somebody's own data: Flan-T5 where a Hub has it, else the small T5 that needs no download.

    Parameters
    ----------
    rows
        Training questions.
    seconds
        How long a Hub may take to answer.
    """
    name, why = _flan_t5(rows)
    located: queue.SimpleQueue[_Located | HubError] = queue.SimpleQueue()

    def locate() -> None:
        try:
            located.put(_locate(name, None, place.target))
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no base to be had there
            located.put(error if isinstance(error, HubError) else HubError(_first_line(error)))

    # A thread of its own: resolving a name has no time limit that can be set.
    threading.Thread(target=locate, daemon=True).start()
    try:
        found = located.get(timeout=seconds)
    except queue.Empty:
        found = HubError(f"no answer within {seconds:g} s")
    if isinstance(found, _Located):
        return BaseRef(name=name, revision=found.sha, fingerprint=found.sha, why=why)
    return BaseRef(
        name=SCRATCH,
        revision=None,
        fingerprint=SCRATCH,
        why=f"{name} cannot be had here, so a small T5 learns from your questions alone; it knows no other words than "
        "theirs. With a network, or --training.base FOLDER, Flan-T5 understands more ways to ask",
    )


def _flan_t5(rows: int) -> tuple[str, str]:
    """Return which Flan-T5 suits the data and the machine, and why."""
    from torch.cuda import is_available

    if is_available():
        return "google/flan-t5-base", "there is a GPU"
    if rows <= BASE_ON_A_PROCESSOR:
        return "google/flan-t5-base", f"{rows:,} questions are few enough to train it without a GPU"
    return "google/flan-t5-small", f"without a GPU, {rows:,} questions would train for hours with flan-t5-base"


def resolve_base(base: str, revision: str | None, *, place: Workplace) -> BaseRef:
    """Pin a base to a commit or a hash, without downloading it.

    Raises
    ------
    TrainingError, HubError
        As :func:`find_base`.
    """
    if base in (SCRATCH, AUTO):  # undecided, it is the one that needs no download
        return BaseRef(name=SCRATCH, revision=None, fingerprint=SCRATCH)
    if is_hub_id(base):
        sha = _locate(base, revision, place.target).sha
        return BaseRef(name=base, revision=sha, fingerprint=sha)
    return BaseRef(name=base, revision=None, fingerprint=sha256_of_folder(_folder(base)))


def _folder(base: str) -> Path:
    folder = Path(base).expanduser()
    if not folder.is_dir():
        raise TrainingError(
            f"there is no folder {base!r} to fine-tune from. Give a folder that from_pretrained reads, a Hub id "
            'such as google/flan-t5-base, or "scratch" with --training.base'
        )
    return folder


def load_base(base: Base) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a pretrained T5; weights in fp32, no code of the repository is run.

    Raises
    ------
    TrainingError
        If its files are damaged or are missing.
    """
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    check_tokenizer_is_there(base.folder, base.name)
    sentinels = SENTINELS if _kind(base) == "t5" else 0
    try:
        pieces = base.folder / "spiece.model"
        if pieces.is_file() and not (base.folder / "tokenizer.json").is_file():
            tokenizer = tokenizer_from_pieces(pieces, sentinels)
        elif sentinels:
            tokenizer = T5Tokenizer.from_pretrained(base.folder)
        else:
            tokenizer = T5Tokenizer.from_pretrained(base.folder, extra_ids=0)
        model, report = T5ForConditionalGeneration.from_pretrained(
            base.folder, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        raise TrainingError(f"the base {base.name} cannot be read: {_first_line(error)}") from error
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        raise TrainingError(
            f"the base {base.name} lacks {len(names)} weights, such as {names[0]}; it is no whole T5 checkpoint"
        )
    check_weights(base.folder, model, base.name)
    check_tokenizer_fits(tokenizer, model.get_input_embeddings().num_embeddings, base.name)
    return model, tokenizer


def untuned_base(model_folder: Path, model: ModelRef, *, place: Workplace) -> tuple[Any, Any]:
    """Return (model, tokenizer) from which ``model`` was fine-tuned: what fine-tuning has to improve on.

    From scratch, that is the same architecture with its initial weights, and the trained tokenizer.

    Raises
    ------
    TrainingError
        If the base's folder is gone or has changed since.
    HubError
        If the base is on the Hub and cannot be had any more.
    """
    about = json.loads((model_folder / "askline.json").read_text(encoding="utf-8"))
    if model.base == SCRATCH:
        from transformers import T5Tokenizer

        tokenizer = T5Tokenizer.from_pretrained(model_folder)
        return initial_model(small_t5(len(tokenizer)), tokenizer, about["recipe"]["seed"]), tokenizer
    base = find_base(model.base, model.base_revision, place=place)
    if base.fingerprint != about["base"]["fingerprint"]:
        raise TrainingError(
            f"the base {model.base} has changed since the model was fine-tuned from it, so that nothing can be "
            "compared with it; put it back, or fine-tune again"
        )
    return load_base(base)


class _NotThereError(HubError):
    """The Hub that was asked has no such repository."""


@dataclass(frozen=True)
class _Located:
    """A repository at a commit, and the Hub that holds it."""

    hub: Target
    sha: str
    files: list[str]


def _locate(repo: str, revision: str | None, target: Target) -> _Located:
    """Find a repository on the target's Hub; what the embedded one does not hold is looked up on the public one."""
    try:
        return _ask(repo, revision, target)
    except _NotThereError as error:
        if target.kind != "local":
            raise
        not_here = error
    try:
        return _ask(repo, revision, public_hub(target))
    except HubError as error:
        raise HubError(f"{not_here}; and {error}", retryable=error.retryable) from error


def _ask(repo: str, revision: str | None, target: Target) -> _Located:
    with _explained(repo, revision, target):
        info = hub_client(target).model_info(repo, revision=revision, timeout=30)
    return _Located(target, str(info.sha), [sibling.rfilename for sibling in info.siblings or []])


def _download(repo: str, revision: str | None, *, target: Target, cache: Path) -> Base:
    found = _locate(repo, revision, target)
    weights = "*.safetensors*" if any(name.endswith(".safetensors") for name in found.files) else "pytorch_model*.bin*"
    with _explained(repo, revision, found.hub):
        folder = hub_client(found.hub).snapshot_download(
            repo,
            revision=found.sha,
            cache_dir=cache,
            allow_patterns=["*.json", "spiece.model", weights],
            etag_timeout=30,
        )
    return Base(Path(folder), repo, found.sha, found.sha)


@contextmanager
def _explained(repo: str, revision: str | None, target: Target) -> Iterator[None]:
    """Turn what huggingface_hub raises into one clear error each."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]

    try:
        yield
    except HFValidationError as error:
        raise TrainingError(
            f'the base {repo!r} is neither "scratch", nor a folder on this machine, nor a Hub id such as '
            "google/flan-t5-base"
        ) from error
    except GatedRepoError as error:
        raise HubError(f"the base {repo} is gated: accept its terms on {target.hub} and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise _NotThereError(
            f"there is no model {repo!r} on {target.hub} (or it is private and HF_TOKEN is not set), and no folder "
            "of that name here; check --training.base"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(
            f"the model {repo} on {target.hub} has no revision {revision!r}; check --training.base-revision"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise HubError(
            f"{target.hub} answered {status} for the model {repo}", retryable=status == 429 or status >= 500
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, TransportError, OSError) as error:
        raise HubError(
            f"cannot fetch the base {repo} from {target.hub}: {_first_line(error)}. Check the network, give a local "
            "folder, or train without a download: --training.base scratch",
            retryable=True,
        ) from error


def _kind(base: Base) -> str | None:
    """Return the base's ``model_type``: the one place that decides what is trained is ``KINDS``."""
    try:
        config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TrainingError(
            f"the base {base.name} has no config.json: it is no model that from_pretrained reads"
        ) from error
    except ValueError as error:
        raise TrainingError(f"the config.json of the base {base.name} is no JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None


def _check_is_t5(base: Base) -> None:
    kind = _kind(base)
    if kind not in KINDS:
        raise TrainingError(
            f"the base {base.name} is of type {kind!r}; askline fine-tunes T5, Flan-T5 and mT5 (model_type "
            f"{' or '.join(KINDS)})"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
