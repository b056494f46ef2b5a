"""A base that cannot change, and what was trained from it."""

from typing import ClassVar

from pydantic import Field

from askline.records.record import Record


class BaseRef(Record):
    """A base model, resolved to something that cannot change."""

    name: str
    """A Hub id, a folder, or "scratch": what ``training.base`` says, or what was chosen where that says "auto"."""
    revision: str | None
    """Commit sha on the Hub; None for a folder or "scratch"."""
    fingerprint: str
    """The commit sha, the sha256 of the folder, or "scratch"."""
    why: str | None = None
    """Why this one, where ``training.base`` leaves it open."""
    incidental: ClassVar[frozenset[str]] = frozenset({"name", "why"})


class ModelRef(Record):
    """A fine-tuned checkpoint that ``from_pretrained`` reads, with ``askline.json`` and ``training_log.jsonl``."""

    sha256: str
    """Address of the ``model`` artifact."""
    base: str
    base_revision: str | None
    """Commit sha of the base on the Hub; None for a folder or "scratch"."""
    dataset_sha256: str
    prompt: str
    parameters: int
    steps: int
    epochs: float
    train_loss: float
    precision: str
    seconds: float
    max_source_tokens: int
    max_target_tokens: int
    cut_questions: int = 0
    """Training questions whose prompt is longer than that."""
    cut_answers: int = 0
    """Training answers that are longer than that; the stored text of a known answer is whole all the same."""
    trained_parameters: int | None = None
    """Fewer than ``parameters`` where an adapter was trained."""
    choices: tuple[str, ...] = ()
    """What was chosen to suit the machine that trained, a sentence each, with the reason."""
    rates: dict[str, float] = Field(default_factory=dict)
    """``tokens_per_second``, ``samples_per_second``, ``memory_mb`` (peak) and ``mfu`` while training."""
    best_step: int | None = None
    """The step whose weights early stopping kept."""
    best_exact_match: float | None = None
    """Exact match on the validation questions at that step."""
    incidental: ClassVar[frozenset[str]] = frozenset({"seconds", "choices", "rates"})
