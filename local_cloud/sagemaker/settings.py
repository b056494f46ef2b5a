"""What the embedded SageMaker is started with."""

from dataclasses import dataclass
from pathlib import Path

#: The folder that holds ``local_cloud`` and ``deployments``.
PROJECT_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server was started with."""

    state_dir: Path
    s3_url: str
    iam_url: str
    sns_url: str
    cloudwatch_url: str
    region: str = "us-east-1"
    account: str = "000000000000"
    startup_seconds: float = 180.0
    """A serverless container must answer /ping within 3 minutes."""
    invocation_seconds: float = 60.0
    """A call must be answered within 60 seconds."""
    cold_seconds: float = 60.0
    """How long a call waits for the container to start before it is told that the model is not ready."""
    idle_seconds: float = 0.0
    """Stop a serverless container after this long without a call; 0 means never."""
    authorize_url: str | None = None
    """Where to ask whether a caller may do what it asks; None lets everybody."""
    minute_seconds: float = 60.0
    """How long a minute takes for what waits by the minute: metrics, alarms, cool-downs, baking of an update."""

    def waiting(self, seconds: float) -> float:
        """Return how long a wait of so many of SageMaker's seconds takes here."""
        return seconds * self.minute_seconds / 60.0
