"""What the quality benchmark compares: each measure is the recipe without it and with it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Variant(NamedTuple):
    """One way to train and to ask, as a change to the default recipe."""

    recipe: Mapping[str, Any] = MappingProxyType({})
    """Fields of the recipe that differ from the default's."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is what is kept; 0: the last weights."""
    early_stopping: bool = False
    """Hold out a tenth of the training questions, and keep the weights that answer most of them."""
    beams: int = 1
    """Beams when the questions are answered; 1 is greedy."""
    retired: bool = False
    """What it tried did not earn its place and is not in the product any more; what was measured stays."""


class Measure(NamedTuple):
    """A comparison of two variants."""

    title: str
    before: str
    after: str
    judged_by: str = "em"
    """The figure that decides; "all" where declining is what the measure is for."""


#: What all others differ from, written out where it is a choice of this benchmark's, so that the comparison stays what
#: it is when a default changes.
BASELINE: dict[str, Any] = {}

VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "plain": Variant({"augment": False, "out_of_scope_share": 0.0, "subword_sampling": 0.0}),
    "no-synonyms": Variant(retired=True),
    "no-word-drop": Variant({"word_drop": 0.0}),
    "no-mixing": Variant({"mixing": 0.0}),
    "no-subwords": Variant({"subword_sampling": 0.0}),
    "more-subwords": Variant({"subword_sampling": 0.2}),
    "no-invented": Variant({"out_of_scope_share": 0.0}),
    "ask-for": Variant(retired=True),
    "rephrase": Variant(retired=True),
    "denoise": Variant(retired=True),
    "label-smoothing": Variant({"label_smoothing": 0.1}),
    "ema": Variant(ema=0.98),
    "early-stopping": Variant(early_stopping=True),
    "beams": Variant(beams=4),
}

MEASURES: tuple[Measure, ...] = (
    Measure("all of the default's augmentation", "plain", "default"),
    Measure("synonyms and openings", "no-synonyms", "default"),
    Measure("word dropout, 10 %", "no-word-drop", "default"),
    Measure("mixed wordings, 30 %", "no-mixing", "default"),
    Measure("subword sampling, 10 %", "no-subwords", "default"),
    Measure("subword sampling, 20 % instead of 10 %", "default", "more-subwords"),
    Measure("invented out-of-scope questions, 3 %", "no-invented", "default", "all"),
    Measure("multi-task: answer to question, 15 %", "default", "ask-for"),
    Measure("multi-task: question to other wording, 15 %", "default", "rephrase"),
    Measure("multi-task: denoising, 15 %", "default", "denoise"),
    Measure("label smoothing 0.1", "default", "label-smoothing"),
    Measure("moving average of the weights, 0.98", "default", "ema"),
    Measure("early stopping, best weights kept", "default", "early-stopping"),
    Measure("beam search, 4 beams", "default", "beams"),
)
