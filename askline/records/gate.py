"""The gate's decision, and what it rests on."""

from typing import Literal

from askline.records.record import Record


class ChampionRef(Record):
    """What answers for an MLKey before this run, as the registry says."""

    mlkey: str
    endpoint: str
    target_model: str | None = None
    """Of an endpoint with several models, the one that is meant."""
    answers_later: bool = False
    """Whether the endpoint is asynchronous, so that its package is asked instead."""
    model_version: str
    """The first 12 digits of its model's sha256."""
    archive_sha256: str
    dataset: str
    """Source and revision of its dataset, for people."""
    dataset_sha256: str | None = None
    """Address of its dataset artifact; None where the registry's entry does not say."""
    promoted_at: str
    run_id: str


class Paired(Record):
    """Champion and challenger on the same questions, compared question by question."""

    questions: int
    champion: float
    """Share of the questions that the champion answered rightly (exact match), 0 to 1."""
    challenger: float
    """The same of the challenger."""
    only_champion: int
    """Questions that only the champion answered rightly."""
    only_challenger: int
    """Questions that only the challenger answered rightly."""
    p_better: float
    """How likely so many wins of the challenger are if both are equally good (exact McNemar test, one-sided)."""
    p_worse: float
    """The same of the champion's wins."""
    low: float
    """Lower end of the confidence interval of challenger - champion (paired bootstrap over facts)."""
    high: float
    """Upper end."""

    @property
    def difference(self) -> float:
        """Challenger - champion, -1 to 1."""
        return self.challenger - self.champion


class Comparison(Record):
    """The challenger beside the champion on the same held-out questions."""

    champion: ChampionRef
    verdict: Literal["same model", "better", "unproven", "worse"]
    reason: str
    """The verdict in a sentence, with its figures."""
    overall: Paired | None = None
    """All compared questions; None where nothing was asked."""
    in_scope: Paired | None = None
    out_of_scope: Paired | None = None
    champion_token_f1: float | None = None
    """On the in-scope questions that were compared, 0 to 1."""
    challenger_token_f1: float | None = None
    left_out: int = 0
    """Held-out questions that the champion was trained on, which were not compared."""
    sha256: str | None = None
    """Address of the ``comparison`` artifact: ``answers.jsonl`` with both answers to each question."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the two were compared."""


class Approval(Record):
    """What a person said to the model before it was published."""

    approved: bool
    note: str = ""


class Gate(Record):
    """Whether the model is good enough to be published and deployed, and why not."""

    passed: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What a person should know of a model that passes all the same."""
    comparison: Comparison | None = None
    """The model beside the one that is deployed; None where there is none, or it was not looked at."""
    standing: int | None = None
    """Number of the registry's newest promotion when it was decided, 0 where there was none; None where the deployed
    model was not looked at."""
    approval: Approval | None = None
    """What a person said, where one was asked."""
