"""All sections in one, and what belongs to the run as a whole."""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from askline.config.api import ApiConfig
from askline.config.dataset import DatasetConfig
from askline.config.deploy import DeployConfig
from askline.config.evaluation import EvaluationConfig
from askline.config.hub import HubConfig
from askline.config.package import PackageConfig
from askline.config.section import Section
from askline.config.smoke import SmokeConfig
from askline.config.training import TrainingConfig

#: The steps from which a run can be told to begin anew, in their order.
Step = Literal[
    "fetch-dataset",
    "fine-tune",
    "second-opinion",
    "evaluate",
    "push-to-hf",
    "package",
    "upload",
    "deploy-serverless",
    "smoke-invoke",
]


STEPS: tuple[str, ...] = get_args(Step)


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
    """Asking the endpoint."""
    promote: Minutes = 30
    """Writing the registry, asking the API, and deleting what earlier runs left."""


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
    def _the_sample_needs_no_download(self) -> Self:
        if self.training.base == "auto" and self.dataset.source == "sample":
            # The fine-tuning step sees the training's options alone.
            object.__setattr__(self, "training", self.training.model_copy(update={"base": "scratch"}))
        return self

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
