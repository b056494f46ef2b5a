"""How well a model answers."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from askline.records.record import Record
from askline.records.second_opinion import SecondOpinionRef


class SplitScores(Record):
    """Scores of one answerer on one set of questions; shares between 0 and 1."""

    questions: int
    exact_match: float
    token_f1: float
    rouge_l: float
    strict_match: float | None = None
    """Share that is the same letter by letter, white space aside; None in an older evaluation."""

    def right(self, metric: str) -> float:
        """Return the share that counts as right by "strict" or "squad"."""
        return self.exact_match if metric == "squad" or self.strict_match is None else self.strict_match


class KindScores(Record):
    """Questions of one kind: how many are answered rightly, and how sure that share is."""

    questions: int
    right: float
    """Out of scope: declined."""
    low: float
    """Lower end of the 95 % interval (Wilson's)."""
    high: float


class Scores(Record):
    """The evaluation: scores by split and baselines, with the predictions in ``predictions.jsonl``.

    Each line there is ``{"split", "question", "answer", "prediction", "confidence", "exact_match", "token_f1",
    "in_scope"}``, and for a held-out question ``"baselines"``. The confidence is exp(mean token log-probability) of the
    prediction, 0 to 1, not calibrated. Where the model chose among known answers, of the tokens that it chose by; a
    line then has ``"answer_id"`` too, null where it declined, and ``"expected_id"``.
    """

    sha256: str
    """Address of the ``scores`` artifact; of known answers it holds ``answers.jsonl`` and ``answers.bin`` too."""
    model_sha256: str
    train: SplitScores
    test: SplitScores
    """In-scope held-out questions only."""
    out_of_scope: SplitScores | None
    """Held-out questions whose right answer is the unanswerable text; None where the dataset has none."""
    false_abstention: float
    """Share of in-scope held-out questions wrongly answered with the unanswerable text."""
    baselines: dict[str, SplitScores]
    """``untuned base``, ``nearest question`` and ``logistic regression`` on the same in-scope held-out questions."""
    out_of_scope_baselines: dict[str, SplitScores] = Field(default_factory=dict)
    metric: Literal["strict", "squad"] = "squad"
    """What counts as right for gate, champion and calibration."""
    kinds: dict[str, KindScores] = Field(default_factory=dict)
    """``as written`` (training questions), ``held-out wordings``, ``in other words`` (by rule), ``out of scope``."""
    second_opinion: SecondOpinionRef | None = None
    """The encoder that judged beside the model; None where the model judged alone."""
    judgement: dict[str, Any] | None = None
    """What the two opinions are judged by, as the package's manifest has it."""
    answers: Literal["known", "free"] = "free"
    """Whether the model chose among the known answers or wrote freely; the package does the same."""
    seconds: float
    incidental: ClassVar[frozenset[str]] = frozenset({"seconds"})
