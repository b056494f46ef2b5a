"""A run, and what it found."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from askline.records.dataset import DatasetRef
from askline.records.deployment import ApiRef, DeployPlan, EndpointRef, Preflight, Promotion, SmokeRef
from askline.records.gate import Gate
from askline.records.hub import HubRef
from askline.records.model import ModelRef
from askline.records.package import PackageRef, UploadRef
from askline.records.record import Record, Target
from askline.records.scores import Scores


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
    promotion: Promotion | None = None
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
