"""How well a model answers."""

from typing import ClassVar, Literal

from pydantic import Field

from askline.records.record import Record


class SplitScores(Record):
    """Scores of one answerer on one set of questions; shares between 0 and 1."""

    questions: int
    exact_match: float
    token_f1: float
    rouge_l: float


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
    answers: Literal["known", "free"] = "free"
    """Whether the model chose among the known answers or wrote freely; the package does the same."""
    seconds: float
    incidental: ClassVar[frozenset[str]] = frozenset({"seconds"})
