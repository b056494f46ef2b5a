"""The one configuration of the pipeline: the same model fills the command line, a TOML file, environment
variables and the Prefect form.

Frozen, and strict about unknown keys. It holds no secret: credentials come from AWS's own chain, from ``HF_TOKEN``
or from a Prefect block.
"""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from askline.deploy_config import DeployConfig as DeployConfig
from askline.deploy_config import MemoryTier as MemoryTier
from askline.section import Section, digits_to_int

Fraction = Annotated[float, Field(ge=0, lt=1)]

#: The times that CloudWatch offers for keeping a log, in days.
LogDays = Annotated[
    Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], BeforeValidator(digits_to_int)
]


#: The steps from which a run can be told to begin anew, in their order.
Step = Literal[
    "fetch-dataset", "fine-tune", "evaluate", "push-to-hf", "package", "upload", "deploy-serverless", "smoke-invoke"
]
STEPS: tuple[str, ...] = get_args(Step)


class DatasetConfig(Section):
    """Where the questions and answers come from, and how they are split."""

    source: str = Field("sample", min_length=1)
    """A Hugging Face dataset id (owner/name), a file or folder, s3://… or https://…; "sample" is the biography that
    comes with askline."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset; the default is the newest commit, which is recorded."""
    subset: str | None = None
    """Configuration (sub-folder or name) of a Hub dataset that has several."""
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "squad"] = "auto"
    """Format of a file; "auto" goes by its name and content."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """Column separator of a CSV; the default is found from its content."""
    encoding: str | None = None
    """Text encoding, for example latin-1; the default is found from the bytes."""
    question_column: str | None = None
    """Column with the questions; the default is found by its name."""
    answer_column: str | None = None
    """Column with the answers; the default is found by its name."""
    group_column: str | None = None
    """Column that says which rows ask for the same fact; rows of one group never fall on two sides of a split."""
    split_by: Literal["auto", "group", "answer", "wording"] = "auto"
    """How to split a dataset without splits: by group, by answer, or "wording" for unseen wordings of seen facts.
    "auto" goes by group where there is a group column, else by answer."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the rows held out for the evaluation, where the dataset has no test split."""
    seed: int = Field(13, ge=0)
    """Seed of the split."""
    unanswerable: str = "I don't know"
    """The answer that marks a question as out of scope."""
    max_rejected: Fraction = 0.1
    """Share of rows that may be rejected (blank, duplicate …) before the run stops."""


class ClusterConfig(Section):
    """Where and on what training runs, when it is not this process."""

    processes: int | None = Field(None, ge=1, le=64)
    """Processes on each machine; the default is one for each GPU. Where there is none, torchrun starts two, and a
    SageMaker job one."""
    nodes: int = Field(1, ge=1, le=64)
    """torchrun: machines that train together, each of which starts its own processes."""
    rendezvous: str | None = Field(None, pattern=r"^[a-zA-Z0-9.-]+:\d{1,5}$")
    """torchrun on several machines: host:port at which they meet; the host is one of them."""
    restarts: int = Field(1, ge=0, le=10)
    """How often torchrun starts all processes again, from the newest checkpoint, when one has failed."""
    sharding: Literal["auto", "none", "full"] = "auto"
    """Several processes: "none" gives each the whole model (DDP), "full" each its part of the weights, the gradients
    and the optimizer's state (FSDP). "auto" divides where these take more than half of a process's memory."""
    instance_type: str = Field("ml.g5.xlarge", pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")
    """SageMaker instance; the Hugging Face training images need one with a GPU."""
    instance_count: int = Field(1, ge=1, le=20)
    """SageMaker instances that train together."""
    spot: bool = False
    """Use spare instances, which cost less, may be waited for, and can be taken away: training then goes on from its
    checkpoints in S3."""
    max_runtime_seconds: int = Field(86_400, ge=60, le=2_419_200)
    """SageMaker ends the job after this long."""
    max_wait_seconds: int | None = Field(None, ge=60, le=2_419_200)
    """Spare instances: longest time for waiting and training together; the default is twice max_runtime_seconds."""
    image: str | None = Field(None, min_length=1, max_length=255)
    """Training image; the default is the newest Hugging Face training image for the region."""
    install: bool = True
    """Have the container install this machine's versions of the libraries, which are newer than the image's. An image
    of your own that holds them needs none; on the embedded cloud nothing is installed."""
    role_arn: str | None = Field(None, pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$")
    """Role that the job takes on; the default is deploy.role_arn."""
    bucket: str | None = Field(None, min_length=3, max_length=63)
    """S3 bucket of the job's code, input, checkpoints and output; default askline-<account>-<region>."""
    prefix: str = Field("training", pattern=r"^[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+)*$", max_length=200)
    """Folder in the bucket."""
    checkpoint_uri: str | None = Field(None, pattern=r"^s3://[^/]+/.+$")
    """Where in S3 checkpoints are kept; the default is a folder of the bucket. Each training has a folder there."""
    volume_gb: int = Field(50, ge=1, le=16_384)
    """Disk of each SageMaker instance."""

    @model_validator(mode="after")
    def _nodes_meet_somewhere(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("cluster.nodes above 1 needs cluster.rendezvous: host:port of one of the machines")
        if self.max_wait_seconds is not None and self.max_wait_seconds < self.max_runtime_seconds:
            raise ValueError("cluster.max_wait_seconds includes the training: it must be max_runtime_seconds or more")
        return self


class LoraTuningConfig(Section):
    """LoRA: train a few small matrices beside a large base, and add them into it at the end."""

    rank: int | None = Field(None, ge=1, le=1024)
    """Rank of the matrices, for example 16; the default is to train all weights instead."""
    alpha: float | None = Field(None, gt=0)
    """What their product is scaled by, divided by the rank; default twice the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of their inputs left out at random."""
    target_modules: tuple[str, ...] = Field(("q", "v"), min_length=1)
    """Names of the layers that get them."""


class EarlyStoppingConfig(Section):
    """Stop when exact match on validation questions has stopped rising, and keep the best weights."""

    enabled: bool = False
    """Measure while training, on the dataset's validation split, or else on training questions held out for it."""
    steps: int = Field(50, ge=1)
    """Optimizer steps between two measurements."""
    patience: int = Field(4, ge=1)
    """Stop after so many measurements without a better one."""
    fraction: float = Field(0.1, gt=0, le=0.5)
    """Share of the training questions held out, where the dataset has no validation split."""


class TrainingConfig(Section):
    """How the model is fine-tuned. What is left empty takes the default that suits the base."""

    base: str = Field("scratch", min_length=1)
    """A Hub id such as google/flan-t5-base, a local folder, or "scratch": a small T5 trained from the dataset alone."""
    base_revision: str | None = None
    """Branch, tag or commit of the base on the Hub."""
    prompt: str = "question: {question} answer:"
    """The prompt template, used by training, evaluation, serving and the API alike."""
    epochs: float | None = Field(None, gt=0, le=1000)
    """Passes over the training questions; default 6 for a pretrained base."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, instead of epochs; default 400 for "scratch", or 15 epochs where that is more."""
    batch_size: int | None = Field(None, ge=1, le=4096)
    """Questions per step; default 4, for "scratch" 64."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """Peak learning rate; default 3e-4, for "scratch" 1.2e-3."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """AdamW weight decay."""
    max_source_tokens: int = Field(128, ge=8, le=4096)
    """A longer prompt is truncated."""
    max_target_tokens: int = Field(64, ge=4, le=1024)
    """A longer answer is truncated, and generation stops there."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass; "auto" takes bf16 where the processor or GPU has it, fp16 on a GPU
    that has only that."""
    augment: bool | None = None
    """Vary the wording of training questions; default on for "scratch", off for a pretrained base."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each label that is spread over all tokens."""
    lora: LoraTuningConfig = LoraTuningConfig()
    """Train an adapter instead of all weights."""
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    """Stop when the answers get no better."""
    micro_batch: int | None = Field(None, ge=1, le=4096)
    """Questions that go through the model at once; the default is the whole batch, halved when memory runs out. The
    batch, and so the result up to rounding, stays the same."""
    gradient_checkpointing: Literal["auto", "on"] = "auto"
    """Compute activations again instead of keeping them; "auto" does where memory runs out with one question at
    once."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; "auto" uses it on a GPU where training is long enough to earn back the time it takes."""
    report_to: tuple[str, ...] = ("tensorboard",)
    """Who else hears of losses and rates, as transformers names them: tensorboard, wandb, mlflow …; "none" for
    nobody."""
    checkpoint_store: str | None = Field(None, min_length=1)
    """Another place for checkpoints, so that another machine can go on: a folder or s3://bucket/prefix."""
    checkpoint_steps: int = Field(100, ge=1)
    """Optimizer steps between two checkpoints."""
    seed: int = Field(42, ge=0)
    """Seed of the initial weights, the order and the augmentation."""
    where: Literal["process", "torchrun", "sagemaker"] = "process"
    """Where to train: in this process, in several started by torchrun, or in a SageMaker training job."""
    cluster: ClusterConfig = ClusterConfig()
    """The processes, machines or instances, where training is not "process"."""

    @field_validator("prompt")
    @classmethod
    def _prompt_has_a_place_for_the_question(cls, value: str) -> str:
        if value.count("{question}") != 1:
            raise ValueError("the prompt template must hold {question} exactly once")
        return value

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give either epochs or max_steps, not both")
        return self

    @model_validator(mode="after")
    def _sharding_has_what_it_needs(self) -> Self:
        if self.cluster.sharding != "full":
            return self
        if self.where == "process":
            raise ValueError(
                'cluster.sharding "full" divides the model over several processes: set where to "torchrun" or '
                '"sagemaker"'
            )
        if self.compile == "on":
            raise ValueError('compile "on" is not offered with cluster.sharding "full"')
        if self.precision == "fp16":
            raise ValueError(
                'precision "fp16" is not offered with cluster.sharding "full": use "auto", "bf16" or "fp32"'
            )
        return self


class EvaluationConfig(Section):
    """How the model is measured, and what it must reach to be published and deployed."""

    batch_size: int = Field(128, ge=1, le=4096)
    """Questions generated together."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the answers: "bf16" answers in it first, and in fp32 where that was not sure; "auto" does so for a
    model of 20 million parameters or more where the GPU or the processor multiplies in bf16. The answers are those of
    fp32, the confidences differ in the third digit."""
    min_exact_match: float = Field(0.5, ge=0, le=1)
    """Gate: exact match on the held-out questions must be at least this."""
    min_token_f1: float = Field(0.0, ge=0, le=1)
    """Gate: token F1 on the held-out questions must be at least this."""
    min_out_of_scope: float = Field(0.0, ge=0, le=1)
    """Gate: share of out-of-scope questions answered with the unanswerable text, where the dataset has some."""
    beat_base: bool = True
    """Gate: exact match must not be below the untuned base's."""
    champion: Literal["auto", "required", "off"] = "auto"
    """Gate: compare the model with the deployed one on the same held-out questions. "auto" does so where the MLKey has
    one; "required" stops where it has none; "off" deploys whatever passes the other gates."""
    promote: Literal["better", "not-worse", "always"] = "better"
    """What the comparison must say: "better" asks for proof, "not-worse" lets a difference within the noise pass,
    "always" only reports."""
    min_improvement: float = Field(0.0, ge=0, lt=1)
    """"better" means: by more than this share of the held-out questions."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """How likely a model that is no better may be promoted by chance."""
    champion_questions: int = Field(1000, ge=10, le=100_000)
    """Most held-out questions that the deployed endpoint is asked."""
    approval: bool = False
    """Wait for a person's yes in the Prefect UI before anything is published."""
    approval_hours: float = Field(24, gt=0, le=24 * 30)
    """How long to wait for it; after that the model is not promoted."""
    workers: int = Field(1, ge=1, le=64)
    """Processes of this machine that answer the questions side by side, as Dask workers; 1 is this process alone. The
    answers are the same."""
    scheduler: str | None = Field(None, pattern=r"^(tcp|tls)://[^\s/]+:\d{1,5}$")
    """Address of a running Dask scheduler, tcp://host:8786, whose workers answer the questions instead."""

    @model_validator(mode="after")
    def _one_kind_of_workers(self) -> Self:
        if self.workers > 1 and self.scheduler is not None:
            raise ValueError(
                "give either evaluation.workers, processes of this machine, or evaluation.scheduler, whose workers "
                "are there already"
            )
        return self

    def measuring(self) -> "EvaluationConfig":
        """Return the options that shape the scores, the gates' own at their defaults, and so who answers.

        What the evaluation is remembered by: another floor asks for another decision, not for another measurement, and
        more workers measure the same.
        """
        gates = {name for name in type(self).model_fields if name.startswith(("min_", "champion", "approval"))}
        gates |= {"beat_base", "promote", "alpha", "workers", "scheduler"}
        return self.model_copy(update={name: type(self).model_fields[name].default for name in gates})


class HubConfig(Section):
    """Where the model is published."""

    push: Literal["auto", "always", "never"] = "auto"
    """"auto" pushes when there is a token (the embedded Hub needs none); "always" fails without one."""
    repo_id: str | None = None
    """Repository, owner/name; default <your account>/askline-<MLKey>."""
    private: bool = True
    """Create the repository private."""
    license: str = "apache-2.0"
    """License in the model card."""
    token_block: str | None = Field(None, json_schema_extra={"pattern": "^(?!hf_)"})
    """Name of a Prefect Secret block that holds the Hub's token; the default is HF_TOKEN, or what `hf auth login` kept.
    Never the token itself."""

    @field_validator("token_block")
    @classmethod
    def _no_token_as_a_name(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("hf_"):
            raise ValueError(
                "this looks like a token itself, which the server would keep for everybody to read: revoke it, put a "
                "new one into a Prefect Secret block, and give the block's name"
            )
        return value


class PackageConfig(Section):
    """The archive that SageMaker serves."""

    engine: Literal["auto", "onnxruntime", "transformers"] = "auto"
    """What answers in the container: ONNX Runtime, carried in the archive, or the plain checkpoint through the
    container's own transformers. "auto" is ONNX Runtime for every T5."""
    quantisation: Literal["auto", "int8", "fp32"] = "auto"
    """How ONNX Runtime keeps the weights. "auto" and "int8" take bytes where these pass the gates, else fp32."""
    min_same_answers: Fraction = 0.97
    """Gate: share of held-out questions that the packed engine must answer exactly as the evaluation did."""
    max_score_loss: Fraction = 0.01
    """Gate: how much exact match and token F1 may lose by packing."""
    python: str | None = Field(None, pattern=r"^3\.\d{1,2}$")
    """The container's Python, whose libraries travel in the archive; the default is that of the image: 3.12 on AWS,
    this machine's on the embedded cloud."""
    carry_libraries: bool = True
    """Put the engine's libraries into the archive; an image that holds them needs none."""
    answers: Literal["full", "bare"] = "full"
    """"bare" answers with the text alone, as the first version's endpoints did, so that its Lambda works with it."""

    bucket: str | None = Field(None, min_length=3, max_length=63)
    """S3 bucket; default askline-<account>-<region>, created when missing."""
    prefix: str = "deploy"
    """Folder in the bucket."""
    min_confidence: float | None = Field(None, gt=0, lt=1)
    """Abstain when unsure: an answer that is right with a lower (calibrated) probability than this is replaced by the
    unanswerable text; the default is never."""
    target_precision: float | None = Field(None, gt=0, lt=1)
    """Abstain when unsure, instead of min_confidence: as often as it takes for this share of the remaining answers to
    be right, measured on the held-out questions."""

    @model_validator(mode="after")
    def _one_way_to_abstain(self) -> Self:
        if self.min_confidence is not None and self.target_precision is not None:
            raise ValueError("give either min_confidence or target_precision, not both")
        return self


class ApiLimitsConfig(Section):
    """How much the API takes on before it answers 429."""

    requests_per_second: int = Field(50, ge=1, le=10_000)
    """Requests per second, of all callers together; with auth "key", of each key too."""
    burst: int = Field(100, ge=1, le=5_000)
    """Requests that may come at once."""
    requests_per_day: int | None = Field(None, ge=1, le=10_000_000)
    """Requests that one API key has in a day; needs auth "key"."""
    concurrency: int | None = Field(None, ge=1, le=1_000)
    """Executions of the function at once, reserved from the account's; the default is whatever the account has."""


class ApiLogsConfig(Section):
    """What the API writes down about its requests. Never a question: that is the question log's."""

    retention_days: LogDays = 30
    """How long CloudWatch keeps the logs."""
    access_log: Literal["auto", "on", "off"] = "auto"
    """One line for each request, without its query string and body. "auto" writes it where the account lets API
    Gateway write logs."""
    access_log_role: bool = False
    """Let API Gateway write logs: a role that the whole account and region share, and that outlives the stack."""
    tracing: bool = False
    """X-Ray traces of the gateway and the function."""


class ApiAlarmsConfig(Section):
    """CloudWatch alarms. They are counted over five minutes, latency over fifteen."""

    enabled: bool = True
    """Make the alarms."""
    notify: str | None = Field(None, pattern=r"^(arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+)$")
    """Who hears of an alarm: an SNS topic's ARN, or an e-mail address, which must be confirmed once."""
    server_errors: int = Field(5, ge=1)
    """Answers with a status of 500 and above."""
    throttles: int = Field(20, ge=1)
    """Requests refused because too many came: by the function's concurrency, and with an access log all 429."""
    client_errors: int = Field(200, ge=1)
    """Answers with a status of 400 to 499."""
    p95_seconds: float = Field(10.0, gt=0, le=29)
    """Time that 95 of 100 answers stay below."""


class QuestionLogConfig(Section):
    """What is asked and answered, kept as JSON Lines in S3 for the next training."""

    enabled: bool = False
    """Keep questions and answers. They may be personal: tell those who ask."""
    bucket: str | None = Field(None, min_length=3, max_length=63)
    """A bucket of yours, whose encryption and retention are yours too; the default is one that the stack makes."""
    prefix: str = Field("questions", pattern=r"^[a-zA-Z0-9_-]+(/[a-zA-Z0-9_=-]+)*$", max_length=200)
    """Folder in the bucket."""
    redact: Literal["none", "personal", "text"] = "personal"
    """What is left out: nothing, what looks like personal data (addresses, numbers …), or all text."""
    retention_days: int = Field(90, ge=1, le=3650)
    """Days after which the stack's own bucket deletes an entry."""


class ApiConfig(Section):
    """The HTTP API: Lambda behind API Gateway."""

    enabled: bool = True
    """Deploy the API."""
    stack_name: str = Field("askline-api", pattern=r"^[a-zA-Z][-a-zA-Z0-9]{0,127}$")
    """CloudFormation stack; one API serves every MLKey."""
    stage: str = Field("default", pattern=r"^[a-zA-Z0-9_]{1,128}$")
    """Stage name, the last part of the URL."""
    auth: Literal["auto", "none", "iam", "key", "cognito"] = "auto"
    """Who may call: "iam" (signed requests), "cognito" (a user pool's tokens), "key" (an API key, which limits use and
    proves nothing about the caller) or "none" (anyone). "auto" is "none" on the embedded cloud, else "iam"."""
    user_pool_arn: str | None = Field(None, pattern=r"^arn:aws[a-z-]*:cognito-idp:[a-z0-9-]+:\d{12}:userpool/[\w-]+$")
    """The Cognito user pool for auth "cognito"."""
    memory_mb: int = Field(256, ge=128, le=3008)
    """Memory of the function, in MB."""
    cold_wait_seconds: int = Field(20, ge=0, le=24)
    """How long a request waits for an endpoint that is starting; after that it is answered 503 with Retry-After."""
    keep_warm_minutes: int | None = Field(None, ge=2, le=60)
    """Ask one question every so many minutes, which keeps one instance of the endpoint warm; off by default."""
    keep_warm_mlkey: str | None = Field(None, pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$", max_length=46)
    """The MLKey that is kept warm; the default is the one that is deployed."""
    kms_key: str | None = Field(None, pattern=r"^(create|arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[a-zA-Z0-9-]+)$")
    """Encrypt logs, questions and the environment with a key of your own: its ARN, or "create" for one in the
    stack (1 dollar a month). The default is AWS's own encryption, which costs nothing."""
    limits: ApiLimitsConfig = ApiLimitsConfig()
    """How much the API takes on before it answers 429."""
    logs: ApiLogsConfig = ApiLogsConfig()
    """What the API writes down about its requests."""
    alarms: ApiAlarmsConfig = ApiAlarmsConfig()
    """CloudWatch alarms."""
    question_log: QuestionLogConfig = QuestionLogConfig()
    """What is asked and answered, kept for the next training."""

    @model_validator(mode="after")
    def _auth_has_what_it_needs(self) -> Self:
        if (self.auth == "cognito") != (self.user_pool_arn is not None):
            raise ValueError(
                'api.auth "cognito" and api.user_pool_arn go together: the ARN of the Cognito user pool whose tokens '
                "are taken (arn:aws:cognito-idp:<region>:<account>:userpool/<id>)"
            )
        if self.limits.requests_per_day is not None and self.auth != "key":
            raise ValueError('api.limits.requests_per_day counts the requests of an API key: it needs api.auth "key"')
        return self


class SmokeConfig(Section):
    """The questions asked of the deployed endpoint and the API."""

    questions: int = Field(8, ge=1, le=1000)
    """How many held-out questions to ask."""
    min_agreement: float = Field(1.0, ge=0, le=1)
    """Share of answers that must equal the evaluation's."""


Minutes = Annotated[float, Field(gt=0, le=7 * 24 * 60)]


class TimeoutsConfig(Section):
    """Minutes after which a step is broken off, which fails the run; the next run goes on from there."""

    fetch_dataset: Minutes = 60
    """Reading and splitting the dataset."""
    fine_tune: Minutes = 24 * 60
    """Training; checkpoints are kept."""
    evaluate: Minutes = 4 * 60
    """Asking the held-out questions."""
    push_to_hf: Minutes = 2 * 60
    """Publishing the model."""
    package: Minutes = 2 * 60
    """Building the archive and proving it."""
    upload: Minutes = 2 * 60
    """Bringing the archive to S3; parts that arrived are kept."""
    deploy: Minutes = 2 * 60
    """Bringing the endpoint into service, whatever its target."""
    deploy_api: Minutes = 60
    """Creating or updating the API."""
    smoke_invoke: Minutes = 30
    """Asking the endpoint and the API."""


class PipelineConfig(Section):
    """From a Q&A dataset to an API that answers."""

    target: Literal["local", "aws"] = "local"
    """Where to deploy: the embedded cloud on this machine, or AWS."""
    region: str = Field("us-east-1", pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    """AWS region."""
    state_dir: Path = Path(".askline")
    """Folder for artifacts, checkpoints, reports and the embedded cloud's state."""
    artifact_store: str | None = Field(None, pattern=r"^([a-z0-9+]+://.+|/.*)$")
    """Where several machines share artifacts, results and checkpoints, so that one finds what another has done:
    s3://bucket/prefix, an absolute folder, or another URL that fsspec knows. The default is the state folder alone."""
    dataset: DatasetConfig = DatasetConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hub: HubConfig = HubConfig()
    package: PackageConfig = PackageConfig()
    deploy: DeployConfig = DeployConfig()
    api: ApiConfig = ApiConfig()
    smoke: SmokeConfig = SmokeConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()

    @model_validator(mode="after")
    def _train_with_the_endpoints_role(self) -> Self:
        cluster = self.training.cluster
        if self.training.where == "sagemaker" and cluster.role_arn is None and self.deploy.role_arn is not None:
            filled = cluster.model_copy(update={"role_arn": self.deploy.role_arn})
            # The fine-tuning step sees the training's options alone.
            object.__setattr__(self, "training", self.training.model_copy(update={"cluster": filled}))
        return self

    @model_validator(mode="after")
    def _aws_needs_a_role(self) -> Self:
        if self.target == "aws" and self.deploy.role_arn is None:
            raise ValueError(
                "deploy.role_arn is needed when target is aws: the IAM role that SageMaker takes on to read the "
                "archive (arn:aws:iam::<account>:role/<name>)"
            )
        return self

    @model_validator(mode="after")
    def _the_api_can_ask_it(self) -> Self:
        if self.deploy.target == "async" and self.api.enabled:
            raise ValueError(
                "an async endpoint puts its answers in S3 and cannot be asked through the API: set api.enabled to "
                'false with deploy.target "async", or choose "serverless" or "real-time"'
            )
        return self
