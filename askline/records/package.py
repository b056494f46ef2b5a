"""The archive, its proof, and where it lies in S3."""

from askline.records.record import Record


class Agreement(Record):
    """How the packed engine's answers compare with the evaluation's, on held-out questions; shares from 0 to 1."""

    questions: int
    same_answers: float
    """Share of questions with the same answer, letter for letter."""
    same_tokens: float
    """Tokens that both answers have in common, in order; the mean over the questions."""
    exact_match: float
    exact_match_evaluated: float
    """The same of the evaluation's answers to these questions."""
    token_f1: float
    token_f1_evaluated: float


class Measured(Record):
    """What the package needed when it was proved, in a process of its own on the machine that built it."""

    load_seconds: float
    """Imports and loading, until the first question can be asked."""
    load_peak_mb: float
    """Most resident memory until then, in MiB."""
    peak_mb: float
    """Most resident memory while answering."""
    first_answer_seconds: float
    answer_seconds: float
    """Median of one question at a time."""
    answer_seconds_p95: float
    batch_seconds: float
    """One request of ``batch_questions`` questions."""
    batch_questions: int
    processor: str


class PackageRef(Record):
    """The ``package`` artifact: one ``model.tar.gz``."""

    sha256: str
    """Address of the ``package`` artifact."""
    archive_sha256: str
    """sha256 of ``model.tar.gz`` itself."""
    size: int
    """Bytes of the archive."""
    unpacked_size: int
    model_sha256: str
    members: tuple[str, ...]
    engine: str = "transformers"
    """What answers: "onnxruntime" or "transformers"."""
    quantisation: str = "fp32"
    """How its weights are kept: "int8" or "fp32"."""
    python: str | None = None
    """The container's Python, for which the engine's libraries travel in the archive; None where they do not."""
    passed_over: tuple[str, ...] = ()
    """Engines that were tried first and failed the gates, each with the reason."""
    notes: tuple[str, ...] = ()
    """What else a person should read."""
    agreement: Agreement | None = None
    measured: Measured | None = None
    differing: tuple[str, ...] = ()
    """Held-out questions that the package answers otherwise than the evaluation did."""


class UploadRef(Record):
    """The archive in S3."""

    bucket: str
    key: str
    uri: str
    archive_sha256: str
    version_id: str | None
    reused: bool
    """True where the same bytes were there already."""
