"""What serves behind an endpoint, and where."""

from typing import Any, Literal

from pydantic import Field

from askline.records.record import Record

EndpointKind = Literal["serverless", "real-time", "async"]


class Scaling(Record):
    """How the number of instances, or the provisioned concurrency, follows the demand."""

    by: Literal["invocations", "backlog", "utilisation"]
    """Requests a minute and instance (real-time), waiting requests an instance (async), or share of the provisioned
    concurrency in use (serverless)."""
    value: float
    """Of that, how much is aimed at."""
    min: int
    max: int
    scale_out_seconds: int
    scale_in_seconds: int


class Serving(Record):
    """A model and the endpoint configuration around it: what serves, and all that it takes to make both again.

    It is planned, carried out, read back from SageMaker and kept in the registry. What does not apply to the kind of
    endpoint is None, empty or False.
    """

    config_name: str
    model_name: str
    image: str
    archive_uri: str
    """The archive, or of a multi-model endpoint the folder of all archives, with a slash at its end."""
    environment: dict[str, str]
    role_arn: str
    target: EndpointKind = "serverless"
    memory_mb: int | None = None
    max_concurrency: int | None = None
    provisioned_concurrency: int | None = None
    instance_type: str | None = None
    instance_count: int | None = None
    volume_size_gb: int | None = None
    multi_model: bool = False
    network_isolation: bool = False
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    capture_percentage: int | None = None
    capture_to: str | None = None
    output_path: str | None = None
    failure_path: str | None = None
    success_topic: str | None = None
    error_topic: str | None = None
    max_concurrent_per_instance: int | None = None
    scaling: Scaling | None = None
    """Not part of the endpoint configuration: Application Auto Scaling keeps it."""

    @property
    def on_instances(self) -> bool:
        """Whether instances run for it all the time."""
        return self.target != "serverless"

    @property
    def may_scale(self) -> bool:
        """Whether Application Auto Scaling can have something to say to it."""
        return self.on_instances or self.provisioned_concurrency is not None


class Destination(Record):
    """The endpoint on which something serves, and for whom."""

    mlkey: str
    endpoint_name: str
    target_model: str | None = None
    """Of an endpoint with several models, the archive that answers for this MLKey: its key in their folder."""
    tags: dict[str, str] = Field(default_factory=dict)
    update: dict[str, Any] | None = None
    """How UpdateEndpoint moves from old to new; None leaves it to SageMaker."""
