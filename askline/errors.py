"""Every error that askline raises on purpose.

::

    AsklineError
    ├── ConfigError            an option is wrong, missing or contradicts another
    ├── DatasetError           the dataset cannot be used as it is
    │   ├── DatasetNotFoundError   the file, folder, repository or revision is not there
    │   └── DatasetFormatError     it is there, but a row, column or encoding is wrong
    ├── TrainingError          fine-tuning cannot start or cannot go on
    │   └── TrainingStoppedError   it was asked to stop, and left a checkpoint to go on from
    ├── ArtifactError          something in the artifact store is missing or damaged
    ├── PackageError           the archive cannot be built, or does not hold what it must
    ├── HubError               the Hub refused or could not be reached
    ├── PreflightError         what a deployment needs is not as it must be; nothing was created
    ├── CloudError             an AWS call failed
    │   └── DeployError            the endpoint or the API did not come up, or answers wrongly
    ├── StepTimeoutError       a step took longer than its limit and was broken off
    ├── BusyError              another run is at what only one may do at a time
    ├── WorkersError           Dask workers that share the work are missing, died or lack something
    └── LocalCloudError        the embedded cloud cannot start or has gone away

A message names the value that failed, what was expected and what to do. ``retryable`` says whether trying the
same thing again can help: throttling, a time-out and a lost connection can; a bad role or a bad CSV cannot.
"""


class AsklineError(Exception):
    """Base of all errors that askline raises on purpose; the message is written for the person who runs it."""

    retryable: bool = False

    def __init__(self, message: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable


class ConfigError(AsklineError):
    """An option is wrong, is missing or contradicts another."""


class DatasetError(AsklineError):
    """The dataset cannot be used as it is."""


class DatasetNotFoundError(DatasetError):
    """The file, folder, repository or revision is not there."""


class DatasetFormatError(DatasetError):
    """The dataset is there, but a row, a column or the encoding is wrong."""


class TrainingError(AsklineError):
    """Fine-tuning cannot start or cannot go on."""


class TrainingStoppedError(TrainingError):
    """Fine-tuning was asked to stop, and did so with a checkpoint; the same run again goes on from there.

    Not retryable by itself: the process that was asked is meant to end.
    """


class ArtifactError(AsklineError):
    """Something in the artifact store is missing or damaged."""


class PackageError(AsklineError):
    """The archive cannot be built, or does not hold what it must."""


class HubError(AsklineError):
    """The Hugging Face Hub refused, or could not be reached."""


class PreflightError(AsklineError):
    """Checks before a deployment failed; the message lists them all. Nothing was created."""


class CloudError(AsklineError):
    """An AWS call failed."""


class DeployError(CloudError):
    """The endpoint or the API did not come up, or does not answer as the evaluation did."""


class StepTimeoutError(AsklineError):
    """A step took longer than its limit and was broken off."""


class BusyError(AsklineError):
    """Another run is at what only one may do at a time, and was not done in the time that this one waited."""


class WorkersError(AsklineError):
    """The Dask workers that were to share the work cannot be reached, have died, or lack something."""


class LocalCloudError(AsklineError):
    """The embedded cloud cannot start or has gone away."""
