"""How the model is fine-tuned, and on what."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from askline.config.section import Fraction, Section


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

    # The base counts as what it was resolved to: a commit, or the hash of a folder.
    shapes_nothing: ClassVar[frozenset[str]] = frozenset(
        {"answers", "base", "base_revision", "checkpoint_steps", "checkpoint_store", "report_to", "where", "cluster"}
    )

    base: str = Field("auto", min_length=1)
    """A Hub id such as google/flan-t5-base, a local folder, or "scratch": a small T5 trained from the dataset alone.
    "auto" is Flan-T5, small or base by the size of the data and the machine, where the Hub can be reached, else
    "scratch"; for the sample it is "scratch"."""
    base_revision: str | None = None
    """Branch, tag or commit of the base on the Hub."""
    prompt: str = "question: {question} answer:"
    """The prompt template, used by training, evaluation, serving and the API alike."""
    epochs: float | None = Field(None, gt=0, le=1000)
    """Passes over the training questions; default 6 for a pretrained base."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, instead of epochs; default for "scratch" 150 and one for each question, at
    most 400, or 15 epochs where that is more."""
    batch_size: int | None = Field(None, ge=1, le=4096)
    """Questions per step; default 4, for "scratch" 64."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """Peak learning rate; default 3e-4, for "scratch" 1.2e-3."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """AdamW weight decay."""
    max_source_tokens: int | None = Field(None, ge=8, le=4096)
    """A longer prompt is cut, which is counted and said. The default is what the questions need: 128, or more up to
    512."""
    max_target_tokens: int | None = Field(None, ge=4, le=1024)
    """A longer answer is trained without its end, which is counted and said, and generation stops there. The default is
    what the answers need: 64, or more up to 512."""
    max_unreadable: Fraction = 0.3
    """Share of training questions of which the base may read too little (most of the characters are unknown to its
    tokenizer) before the run stops."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass; "auto" takes bf16 where the processor or GPU has it, fp16 on a GPU
    that has only that."""
    answers: Literal["known", "free"] = "known"
    """"known" says nothing but the dataset's own answers, letter by letter, or that it does not know; "free" has the
    model write every answer. Training is the same, and a published checkpoint writes freely either way."""
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
