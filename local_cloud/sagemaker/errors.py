"""What the embedded SageMaker answers when it refuses: AWS's error codes, over both protocols."""

from typing import Any


class ApiError(Exception):
    """A refusal that goes back to the caller: AWS's error code, HTTP status and message."""

    def __init__(self, code: str, message: str, status: int = 400, **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.members = members
        """Further members of the error's body, such as ``OriginalStatusCode``."""


def validation_error(message: str) -> ApiError:
    """Return the control plane's ValidationException."""
    return ApiError("ValidationException", message)


def runtime_validation_error(message: str) -> ApiError:
    """Return the runtime's ValidationError (there it has no "Exception" in its name)."""
    return ApiError("ValidationError", message)


class StateError(Exception):
    """The state folder cannot be used; the message names the file and what to do."""
