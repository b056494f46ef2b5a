"""What the checks before a deployment have in common: how one is written down, and how AWS's refusals are read."""

from collections.abc import Iterator
from typing import Any

from askline.clients import aws_client
from askline.errors import LocalCloudError
from askline.records import PreflightCheck, Target
from tasks.aws.errors import RETRYABLE, code_of, explained, status_of

Checks = Iterator[PreflightCheck]

_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}


def good(name: str, found: str) -> PreflightCheck:
    """Return a check that passed."""
    return PreflightCheck(name=name, passed=True, found=found)


def bad(name: str, found: str, remedy: str) -> PreflightCheck:
    """Return a check that failed, with what to do."""
    return PreflightCheck(name=name, passed=False, found=found, remedy=remedy)


def unknown(name: str, why: str, remedy: str = "") -> PreflightCheck:
    """Return a check that could not be made: no failure."""
    return PreflightCheck(name=name, passed=None, found=why, remedy=remedy)


def denied(error: Exception) -> bool:
    """Say whether AWS refused a call for lack of permission."""
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and code_of(error) in _DENIED


def looking(target: Target, service: str) -> Any:
    """Return a client for looking at something: it tries once, and gives up within seconds.

    What does not answer is told as not looked at; it must not hold up the rest.
    """
    once = {"mode": "standard", "total_max_attempts": 1}
    return aws_client(target, service, connect_timeout=3, read_timeout=10, retries=once)


def made(name: str, checks: Checks, permission: str) -> Checks:
    """Yield the checks; where they cannot be made, one that says why.

    Parameters
    ----------
    permission
        The action that it takes, for a caller who may not.

    Raises
    ------
    CloudError
        If there are no credentials, or AWS refuses for another reason: then nothing can be checked.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

    with explained(f"check the {name}"):
        try:
            yield from checks
        except LocalCloudError as error:
            yield unknown(name, f"not checked: {error}")
        except (NoCredentialsError, ProfileNotFound):
            raise
        except BotoCoreError as error:  # no connection, or an answer that is none of AWS's
            yield unknown(name, f"not looked at: the service did not answer ({error})")
        except ClientError as error:
            if denied(error):
                yield unknown(name, f"not checked: these credentials may not ask ({permission})", f"grant {permission}")
            elif status_of(error) >= 500 or code_of(error) in RETRYABLE:
                yield unknown(name, f"not looked at: the service answered {code_of(error)}, try again later")
            else:
                raise
