"""What will be deployed, what was looked at before, and what stands."""

from typing import Literal

from askline.records.record import Record
from askline.records.serving import Destination, EndpointKind, Serving


class Size(Record):
    """Why a tier of memory, or an instance, was chosen; MiB throughout. What was not measured is None."""

    chosen: Literal["measured", "configured", "not measured"]
    """It holds the measured need, the configuration names it, or nothing was measured."""
    measured_mb: float | None
    """Most resident memory of the package's own process."""
    container_mb: float
    """What the image's own processes take beside it."""
    headroom: float
    needed_mb: float | None
    """(measured + container) × headroom; on an instance of all workers, with what they share."""
    workers: int = 1
    answer_seconds: float | None
    """Median seconds of one answer, measured where the package was built."""
    measured_on: str | None
    """The processor there."""


class ApiCosts(Record):
    """What 1,000 questions through the API cost, in dollars, by part."""

    gateway_usd: float
    lambda_usd: float
    """The function waits for the answer, and its memory is paid for meanwhile."""
    endpoint_usd: float
    calls_per_month: int
    prices: str
    """Date and source of the prices of gateway and function."""

    @property
    def usd_per_1000(self) -> float:
        """All parts together."""
        return self.gateway_usd + self.lambda_usd + self.endpoint_usd

    @property
    def usd_per_month(self) -> float:
        """Of ``calls_per_month`` questions."""
        return self.usd_per_1000 * self.calls_per_month / 1000


class Costs(Record):
    """What an endpoint will cost, in dollars of the price file, without tax and discounts; None cannot be known."""

    calls_per_month: int
    usd_per_month: float | None
    """Of ``calls_per_month`` calls, or of ``instance_count`` instances that are always on."""
    usd_per_1000_calls: float | None
    usd_per_second: float | None = None
    """Of one busy endpoint instance of the serverless tier; None for an endpoint on instances."""
    usd_per_hour: float | None = None
    """Of all instances at the beginning; None for a serverless endpoint."""
    usd_per_hour_most: float | None = None
    """Of as many instances as autoscaling may start."""
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
    api: ApiCosts | None = None
    """What a caller of the API costs in all; None where it is not measured or its prices are not known."""


class DeployPlan(Destination):
    """What a deployment will create, in which size and at what price: shown before anything is created, then done."""

    region: str
    serving: Serving
    size: Size
    costs: Costs
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

    @property
    def summary(self) -> str:
        """How many checks passed, in a few words."""
        passed = sum(check.passed is True for check in self.checks)
        left = sum(check.passed is None for check in self.checks)
        said = f"{passed} of {len(self.checks)} checks passed"
        return said + (f", {len(self.failed)} failed" if self.failed else "") + (f", {left} not made" if left else "")


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
    target: EndpointKind = "serverless"
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
    changes: tuple[str, ...] = ()
    """Options of the shared API that this run changed, each as ``option: old → new``."""


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
    """The deployed endpoint was asked and gave the evaluation's answers."""

    asked: int
    agreed: int
    answers: tuple[SmokeAnswer, ...]
    cold_start_seconds: float


class Promotion(Record):
    """The MLKey answers from the new model: the registry says so, and the API was asked."""

    mlkey: str
    model_version: str
    version: int
    """Its number, counted by the registry."""
    replaced: str | None
    """The model version that answered before; None of a first promotion."""
    api_checked: bool
    swept: tuple[str, ...] = ()
    """What earlier runs had left behind, and is deleted."""
