"""The options of the endpoint: which kind, how large, how it scales, and what each kind excludes.

What AWS refuses for a kind of endpoint is refused here, with the reason, before anything is trained.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from askline.config.section import Section, digits_to_int

#: The memory sizes that SageMaker offers for serverless endpoints, or "auto" for the smallest that holds the package;
#: text from a command line is taken for a number.
MemoryTier = Annotated[Literal["auto", 1024, 2048, 3072, 4096, 5120, 6144], BeforeValidator(digits_to_int)]


EndpointKind = Literal["serverless", "real-time", "async"]


_S3 = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$"


_TOPIC = r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_.-]+$"


_NAME = r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$"


class AutoscalingConfig(Section):
    """How many instances there are, by how much is asked; for a serverless endpoint, how much of it is kept warm."""

    max: int | None = Field(None, ge=1, le=200)
    """Most instances, or most provisioned concurrency of a serverless endpoint; without it nothing scales."""
    min: int | None = Field(None, ge=0, le=200)
    """Least; the default is 1, for an async endpoint 0: it sleeps while its queue is empty, and wakes for a request."""
    invocations_per_instance: float = Field(600, gt=0)
    """Real-time: requests a minute that one instance should have."""
    backlog_per_instance: float = Field(5, gt=0)
    """Async: waiting requests for each instance."""
    utilisation: float = Field(0.7, gt=0, lt=1)
    """Serverless: share of the provisioned concurrency that should be in use."""
    scale_out_seconds: int = Field(60, ge=0, le=3600)
    """Pause after scaling out, before scaling out again."""
    scale_in_seconds: int = Field(300, ge=0, le=3600)
    """Pause after scaling in, before scaling in again."""


class DataCaptureConfig(Section):
    """Keeping what is asked and answered in S3. It may be personal: tell those who ask."""

    percentage: int = Field(0, ge=0, le=100)
    """Share of the requests that is kept; 0 keeps none."""
    destination: str | None = Field(None, pattern=_S3, max_length=512)
    """Folder for it; the default is data-capture/<MLKey> in the archive's bucket."""


class AsyncConfig(Section):
    """Where an async endpoint puts its answers, and who is told."""

    output_path: str | None = Field(None, pattern=_S3, max_length=512)
    """Folder for answers; the default is async/<MLKey>/output in the archive's bucket."""
    failure_path: str | None = Field(None, pattern=_S3, max_length=512)
    """Folder for what went wrong; the default is async/<MLKey>/failure in the archive's bucket."""
    success_topic: str | None = Field(None, pattern=_TOPIC)
    """SNS topic that hears of every answer."""
    error_topic: str | None = Field(None, pattern=_TOPIC)
    """SNS topic that hears of every failure."""
    max_concurrent_per_instance: int | None = Field(None, ge=1, le=1000)
    """Requests that one instance is given at once; the default is one for each worker."""


class BlueGreenConfig(Section):
    """How an endpoint on instances moves from the old configuration to the new one."""

    traffic: Literal["all-at-once", "canary", "linear"] = "all-at-once"
    """All requests at once, a first share of them, or share by share."""
    step_percent: int = Field(20, ge=1, le=50)
    """The share, of the instances."""
    step_seconds: int = Field(120, ge=0, le=3600)
    """How long each share is watched before the next."""
    keep_old_seconds: int = Field(0, ge=0, le=3600)
    """How long the old instances stay after the last request has moved."""
    alarms: tuple[str, ...] = Field((), max_length=10)
    """CloudWatch alarms, by name: if one goes off meanwhile, SageMaker moves back to the old configuration."""


class VpcConfig(Section):
    """A network of one's own for the containers."""

    subnets: tuple[str, ...] = Field((), max_length=16)
    """Subnet ids."""
    security_groups: tuple[str, ...] = Field((), max_length=5)
    """Security group ids."""


class DeployConfig(Section):
    """The SageMaker endpoint."""

    target: EndpointKind = "serverless"
    """Kind of endpoint: billed by the millisecond of its answers, on instances that always run, or on instances with a
    queue in front."""
    mlkey: str = Field("biography", pattern=_NAME, max_length=46)
    """Name by which callers choose the model; the endpoint is serv-hf-endpoint-<MLKey>."""
    memory_mb: MemoryTier = "auto"
    """Memory of the serverless endpoint, in MB; "auto" is the smallest tier that holds what the package was measured to
    need. vCPUs come in proportion to it."""
    memory_headroom: float = Field(1.25, ge=1, le=4)
    """What "auto" multiplies the measured need by, for what was not asked while measuring."""
    calls_per_month: int = Field(10_000, ge=1)
    """Traffic for which the plan says what a month costs; nothing is limited by it."""
    max_concurrency: int = Field(5, ge=1, le=200)
    """Serverless: requests answered at once before callers are throttled."""
    provisioned_concurrency: int | None = Field(None, ge=1, le=200)
    """Serverless: requests for which containers are kept warm, at a price by the hour."""
    instance_type: str = Field("auto", pattern=r"^(auto|ml\.[a-z0-9-]+\.[a-z0-9]+)$")
    """Real-time and async: the instance, such as ml.m5.xlarge; "auto" is the cheapest that holds the workers."""
    instance_count: int = Field(1, ge=1, le=100)
    """Real-time and async: instances to begin with."""
    budget: float | None = Field(None, gt=0)
    """Real-time and async: most that instance_count instances may cost, in dollars an hour."""
    gpu: bool = False
    """Real-time and async: choose among instances with a GPU."""
    workers: int = Field(1, ge=1, le=96)
    """Real-time and async: processes on each instance that hold the model and answer one request at a time."""
    volume_size_gb: int | None = Field(None, ge=1, le=512)
    """Real-time and async: disk of an instance that has none of its own."""
    multi_model: str | None = Field(None, pattern=_NAME, max_length=46)
    """Real-time: serve this MLKey together with others from the one endpoint serv-hf-endpoint-<multi_model>."""
    network_isolation: bool = False
    """Real-time and async: the container reaches no network at all."""
    role_arn: str | None = Field(None, pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$")
    """Execution role that SageMaker takes on; needed on AWS, created on the embedded cloud."""
    image: str | None = None
    """Container image; default the newest Hugging Face inference image for the region."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Further tags on everything that is created."""
    wait_seconds: int = Field(900, ge=10, le=3600)
    """How long to wait for the endpoint to be in service."""
    queue_seconds: int = Field(1800, ge=0, le=86_400)
    """How long to wait while another run deploys the same MLKey."""
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    """Scaling by demand; off until autoscaling.max is given."""
    data_capture: DataCaptureConfig = DataCaptureConfig()
    """Real-time: keep what is asked and answered in S3."""
    asynchronous: AsyncConfig = AsyncConfig()
    """Async: where answers go."""
    blue_green: BlueGreenConfig = BlueGreenConfig()
    """Real-time and async: how an update moves from old to new."""
    vpc: VpcConfig = VpcConfig()
    """Real-time and async: a network of one's own."""

    @model_validator(mode="after")
    def _nothing_that_the_target_excludes(self) -> Self:
        problems = [*_excluded(self), *_at_odds(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _excluded(config: DeployConfig) -> Iterator[str]:
    """What the kind of endpoint does not have; each with the reason."""
    if config.target == "serverless":
        why = {
            "gpu": "serverless endpoints have no GPU",
            "vpc": "serverless endpoints cannot join a VPC",
            "network_isolation": "serverless endpoints cannot isolate their network",
            "data_capture": "serverless endpoints capture no data (api.question_log keeps questions)",
            "multi_model": "serverless endpoints hold one model",
            "blue_green": "SageMaker moves a serverless endpoint to its new configuration all at once",
            "volume_size_gb": "a serverless endpoint's disk is 5 GB",
            "instance_type": "a serverless endpoint has memory, not instances",
            "instance_count": "a serverless endpoint has max_concurrency, not instances",
            "budget": "a serverless endpoint is billed by the answer, not by the hour",
            "workers": "a serverless container answers one request at a time",
            "asynchronous": "a serverless endpoint answers its callers, and keeps nothing in S3",
        }
        instead = 'deploy.target "real-time" or "async" has it'
    else:
        why = {
            "provisioned_concurrency": "only serverless endpoints have provisioned concurrency",
        }
        instead = 'deploy.target "serverless" has it'
        if config.target == "real-time":
            why["asynchronous"] = "a real-time endpoint answers its callers, and keeps nothing in S3"
            instead = "leave it out, or choose the target that has it"
        else:
            why["data_capture"] = "an async endpoint's requests and answers lie in S3 already"
            why["multi_model"] = "only real-time endpoints serve several models"
            instead = "leave it out, or choose the target that has it"
    for name, reason in why.items():
        if getattr(config, name) != DeployConfig.model_fields[name].get_default(call_default_factory=True):
            yield f'deploy.{name} with deploy.target "{config.target}": {reason}; {instead}'


#: S3 takes ten tags an object; askline:managed and askline:mlkey are two of them.
_MOST_TAGS = 8


def _at_odds(config: DeployConfig) -> Iterator[str]:
    """Options that contradict each other, or what AWS takes."""
    if len(config.tags) > _MOST_TAGS:
        yield (
            f"deploy.tags has {len(config.tags)}, and S3 takes 10 tags an object, two of which are the pipeline's own: "
            f"give at most {_MOST_TAGS}"
        )
    update = config.blue_green
    if update.traffic == "linear" and update.step_percent < 10:
        yield (
            f'deploy.blue_green.step_percent {update.step_percent} with deploy.blue_green.traffic "linear": SageMaker '
            "takes steps of 10 to 50 %"
        )
    scaling, provisioned = config.autoscaling, config.provisioned_concurrency
    least = scaling_min(config)
    if scaling.max is None and scaling.min is not None:
        yield "deploy.autoscaling.min needs deploy.autoscaling.max"
    if scaling.max is not None:
        if least > scaling.max:
            yield f"deploy.autoscaling.min {least} is above deploy.autoscaling.max {scaling.max}"
        if least == 0 and config.target != "async":
            yield (
                f'deploy.autoscaling.min 0 with deploy.target "{config.target}": only an async endpoint scales to zero,'
                " since its queue keeps the requests meanwhile; take at least 1"
            )
        if config.target == "serverless":
            if provisioned is None:
                yield "deploy.autoscaling of a serverless endpoint scales deploy.provisioned_concurrency: set that too"
            if scaling.max > config.max_concurrency:
                yield (
                    f"deploy.autoscaling.max {scaling.max} is above deploy.max_concurrency {config.max_concurrency}, "
                    "which bounds provisioned concurrency"
                )
    if provisioned is not None and provisioned > config.max_concurrency:
        yield (
            f"deploy.provisioned_concurrency {provisioned} is above deploy.max_concurrency {config.max_concurrency}; "
            "AWS takes at most as much"
        )
    if bool(config.vpc.subnets) != bool(config.vpc.security_groups):
        yield "deploy.vpc needs both subnets and security_groups"
    if config.data_capture.destination and not config.data_capture.percentage:
        yield "deploy.data_capture.destination needs deploy.data_capture.percentage above 0"
    if config.budget is not None and config.instance_type != "auto":
        yield 'deploy.budget chooses the instance: it needs deploy.instance_type "auto"'


def scaling_min(config: DeployConfig) -> int:
    """Return the least that autoscaling keeps: 0 for an async endpoint unless said otherwise, else 1."""
    if config.autoscaling.min is not None:
        return config.autoscaling.min
    return 0 if config.target == "async" else 1
