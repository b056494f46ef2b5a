"""The records that pass between steps: small, frozen, with a content address and the facts the next step needs.

The bytes stay in the artifact store (:mod:`askline.store`); a record says where, with the sha256 to verify them by.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    incidental: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the thing came about and not what it is, such as the seconds it took."""

    def identity(self) -> dict[str, Any]:
        """Return the fields that make this thing what it is: what a later step's result may depend on.

        Two runs on two machines that come to the same have the same identity.
        """
        return {
            name: value.identity() if isinstance(value, Record) else self.model_dump(mode="json", include={name})[name]
            for name, value in self
            if name not in self.incidental
        }


class Target(Record):
    """Where the calls go: AWS and the Hub, or the embedded cloud. Holds addresses only, never credentials."""

    kind: Literal["local", "aws"]
    region: str
    endpoints: dict[str, str] = Field(default_factory=dict)
    """boto3 service name (``s3``, ``sagemaker-runtime`` …) to URL; empty on AWS."""
    hub: str = "https://huggingface.co"
    """Where models are published, and datasets and bases looked up first."""
    prefect_api: str | None = None
    prefect_ui: str | None = None


class SourceRef(Record):
    """A dataset's source, resolved to something that cannot change."""

    kind: Literal["hub", "file", "s3", "https"]
    location: str
    """Hub id, absolute path, or URL."""
    revision: str
    """Commit sha of a Hub dataset, else the sha256 (or S3 version/ETag) of the content."""
    subset: str | None = None
    public: bool = False
    """True for a dataset of the public Hub that is used with the embedded cloud."""

    def identity(self) -> dict[str, Any]:
        """Return what identifies the source: of a file its name and content, not the folder in which it lies."""
        said = super().identity()
        return said | {"location": Path(self.location).name} if self.kind == "file" else said


class BaseRef(Record):
    """A base model, resolved to something that cannot change."""

    name: str
    """What ``training.base`` says: a Hub id, a folder, or "scratch"."""
    revision: str | None
    """Commit sha on the Hub; None for a folder or "scratch"."""
    fingerprint: str
    """The commit sha, the sha256 of the folder, or "scratch"."""
    incidental: ClassVar[frozenset[str]] = frozenset({"name"})


class DatasetRef(Record):
    """A clean, split dataset: ``train.jsonl``, ``test.jsonl`` (and ``validation.jsonl``), ``rejected.jsonl`` and
    ``profile.json``.

    Each line of a split is ``{"question": str, "answer": str, "group": str | null, "in_scope": bool}``.
    """

    sha256: str
    """Address of the ``dataset`` artifact."""
    source: SourceRef
    splits: dict[str, int]
    """Rows by split."""
    rejected: int
    question_column: str
    answer_column: str
    split_by: Literal["existing", "group", "answer", "wording"]
    unanswerable: str
    warnings: tuple[str, ...] = ()
    """Findings that a person should read, such as conflicting answers."""


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
    prediction, 0 to 1, not calibrated.
    """

    sha256: str
    """Address of the ``scores`` artifact."""
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
    seconds: float
    incidental: ClassVar[frozenset[str]] = frozenset({"seconds"})


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
    comparison: Comparison | None = None
    """The model beside the one that is deployed; None where there is none, or it was not looked at."""
    approval: Approval | None = None
    """What a person said, where one was asked."""


class HubRef(Record):
    """Where the model was published, or why it was not."""

    repo_id: str | None
    url: str | None
    commit: str | None
    tag: str | None
    skipped: str | None = None


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


class DeployPlan(Record):
    """What a deployment will create, in which size, and what it will cost, computed before anything is created.

    Dollars are those of the price file, without tax and discounts. A figure that cannot be known is None.
    """

    mlkey: str
    target: Literal["serverless", "real-time", "async"]
    region: str
    endpoint_name: str
    model_name: str
    config_name: str
    image: str
    archive_uri: str
    role_arn: str
    tags: dict[str, str]
    max_concurrency: int | None
    memory_mb: int | None
    """Of the serverless tier; None for an endpoint on instances."""
    memory_chosen: Literal["measured", "configured", "not measured"]
    """Why this tier or instance: it holds the measured need, the configuration names it, or nothing was measured."""
    measured_mb: float | None
    """Most resident memory of the package's own process, in MiB."""
    container_mb: float
    """What the image's own processes take beside it, in MiB."""
    headroom: float
    needed_mb: float | None
    """(measured + container) × headroom; on an instance of all workers, with what they share."""
    answer_seconds: float | None
    """Median seconds of one answer, measured where the package was built."""
    measured_on: str | None
    """The processor there."""
    usd_per_second: float | None
    """Of one busy endpoint instance of this tier; None for an endpoint on instances."""
    usd_per_1000_calls: float | None
    calls_per_month: int
    usd_per_month: float | None
    """Of ``calls_per_month`` calls."""
    instance: str | None
    """The chosen instance, for a serverless endpoint the cheapest that would hold the model; None where the price file
    has none."""
    instance_usd_per_hour: float | None
    instance_usd_per_month: float | None
    break_even_calls: float | None
    """Calls a month at which the serverless endpoint costs as much as that instance."""
    break_even_busy: float | None
    """Answers under way at once, on average, at so many calls."""
    prices: str
    """Region, date and source of the prices."""
    instance_count: int | None = None
    """Instances to begin with; None for a serverless endpoint."""
    workers: int = 1
    usd_per_hour: float | None = None
    """Of ``instance_count`` instances."""
    usd_per_hour_most: float | None = None
    """Of as many instances as autoscaling may start."""
    target_model: str | None = None
    """Of an endpoint with several models, the archive that answers for this MLKey."""
    settings: dict[str, str] = Field(default_factory=dict)
    """What else is set up, a name and a sentence each: scaling, capture, queue, network, how an update moves."""
    notes: tuple[str, ...] = ()
    """What a person should know before going on."""


class PreflightCheck(Record):
    """One thing that must be so before anything is created."""

    name: str
    passed: bool | None
    """None where it could not be looked at, for lack of permission or because nothing answers for it."""
    found: str
    remedy: str = ""
    """What to do about it."""


class Preflight(Record):
    """What the checks before a deployment found."""

    checks: tuple[PreflightCheck, ...]

    @property
    def failed(self) -> tuple[PreflightCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)


class EndpointRef(Record):
    """A SageMaker endpoint in service. What does not apply to its kind is None."""

    name: str
    arn: str
    mlkey: str
    model_name: str
    config_name: str
    image: str
    memory_mb: int | None
    max_concurrency: int | None
    action: Literal["created", "updated", "unchanged"]
    seconds: float
    target: Literal["serverless", "real-time", "async"] = "serverless"
    instance_type: str | None = None
    instance_count: int | None = None
    target_model: str | None = None
    """Of an endpoint with several models, the archive that answers for this MLKey: its key in their folder."""
    input_folder: str | None = None
    """Where the requests of an async endpoint are put, an S3 address."""
    previous_config: str | None = None
    """The endpoint configuration that this deployment replaced."""

    @property
    def runs_on(self) -> str:
        """What it runs on, in words."""
        if self.target == "serverless":
            return f"{self.memory_mb} MB"
        return f"{self.instance_count} × {self.instance_type}"


class ApiRef(Record):
    """The HTTP API."""

    url: str
    """Stage URL with a trailing slash, as curl takes it."""
    stack_name: str
    stack_id: str
    auth: Literal["none", "iam", "key", "cognito"]
    action: Literal["created", "updated", "unchanged"]
    api_key_id: str | None = None
    """Id of the API key for auth "key", never the key itself."""


class SmokeAnswer(Record):
    """One question asked of the deployed endpoint."""

    question: str
    expected: str
    evaluated: str
    """What the evaluation's model answered."""
    answered: str
    """What the endpoint answered."""
    withheld: str | None = None
    """What the model would have said, where the package was not sure enough and gave the unanswerable text."""
    seconds: float


class SmokeRef(Record):
    """The deployed endpoint and API were asked and gave the evaluation's answers."""

    asked: int
    agreed: int
    answers: tuple[SmokeAnswer, ...]
    api_checked: bool
    cold_start_seconds: float


class RunReport(Record):
    """What is known of a run, however it ended: what a failed one leaves as ``report.json``."""

    run_id: str
    run_name: str
    state: Literal["Promoted", "NotPromoted", "Planned", "Failed"]
    started: str
    seconds: float
    target: Target
    config: dict[str, Any]
    dataset: DatasetRef | None = None
    model: ModelRef | None = None
    scores: Scores | None = None
    gate: Gate | None = None
    hub: HubRef | None = None
    package: PackageRef | None = None
    plan: DeployPlan | None = None
    preflight: Preflight | None = None
    upload: UploadRef | None = None
    endpoint: EndpointRef | None = None
    api: ApiRef | None = None
    smoke: SmokeRef | None = None
    steps: dict[str, float] = Field(default_factory=dict)
    """Seconds by step."""
    error: str | None = None
    """Why it failed."""


class PipelineReport(RunReport):
    """What a run did that came to its end, kept as ``report.json``."""

    state: Literal["Promoted", "NotPromoted", "Planned"]
    dataset: DatasetRef
    model: ModelRef
    scores: Scores
    gate: Gate


class FanOut(Record):
    """Who shares the work of answering many questions."""

    workers: int = 1
    """Processes of this machine; 1 is this one alone."""
    scheduler: str | None = None
    """Address of the Dask scheduler whose workers do it instead."""

    @property
    def asked_for(self) -> bool:
        """Whether there is anybody but this process."""
        return self.workers > 1 or self.scheduler is not None


class Run(Record):
    """What every step of one run shares; not part of any cache key, since it shapes no result."""

    run_id: str
    state_dir: Path
    target: Target
    artifact_store: str | None = None
    """URL of the place where artifacts, results and checkpoints are shared with other machines; None for this one."""
    redo_from: str | None = None
    """Name of the step from which on nothing remembered is taken."""
    timeouts: dict[str, float] = Field(default_factory=dict)
    """Minutes by step, with underscores, after which it is broken off; "deploy" is that of the endpoint."""
    fan_out: FanOut = FanOut()
    """Who answers the evaluation's questions."""
