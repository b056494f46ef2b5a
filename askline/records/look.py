"""What a file of questions and answers is, before anything is trained."""

from pydantic import Field

from askline.records.record import Record


class Finding(Record):
    """Something about the rows that a person should know."""

    what: str
    rows: int
    """How many rows it concerns."""
    share: float
    """The same as a share of all pairs, 0 to 1."""
    examples: tuple[str, ...] = ()
    """The first of them."""
    remedy: str


class Look(Record):
    """What was understood of a source, how it would be tested, and what to do about it."""

    shape: str
    """What kind of file it is."""
    why: str
    """By what it was recognised."""
    pairs: int
    """Questions with an answer that are used; a question that only repeats another one is none."""
    answers: int
    """Distinct answers, letter by letter."""
    facts: int
    """Questions with their wordings counted once."""
    out_of_scope: int
    """Questions whose answer is the unanswerable text."""
    language: str | None
    """ISO 639-1 code of the likeliest language; None for too little text."""
    question_column: str
    answer_column: str
    first: tuple[tuple[str, str], ...]
    """The first pairs as understood."""
    left_out: tuple[str, ...] = ()
    """What of the file is not used, and why."""
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    """What the chosen base cannot read or write, and what is damaged or contradictory."""
    base: str
    """The base that it was looked at for."""
    longest_answers: tuple[int, ...] = ()
    """Tokens of the longest answers, the longest first."""
    counted: str
    """How the tokens were counted."""
    split: str
    """How it would be split and tested."""
    test_questions: dict[str, int] = Field(default_factory=dict)
    """Questions of the test by kind: wording, made, out_of_scope."""
    minutes: float
    """How long training would take here, about."""
    advice: str
    """The one most useful thing to do."""
