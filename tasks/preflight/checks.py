"""What the checks before a deployment have in common: how one is written down, and how AWS's refusals are read."""

from collections.abc import Iterator

from askline.errors import LocalCloudError
from askline.records import PreflightCheck
from tasks.aws.errors import code_of, explained

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


def made(name: str, checks: Checks, permission: str) -> Checks:
    """Yield the checks; where they cannot be made, one that says why.

    Parameters
    ----------
    permission
        The action that it takes, for a caller who may not.

    Raises
    ------
    CloudError
        If AWS cannot be reached, or there are no credentials: then nothing can be checked.
    """
    with explained(f"check the {name}"):
        try:
            yield from checks
        except LocalCloudError as error:
            yield unknown(name, f"not checked: {error}")
        except Exception as error:
            if not denied(error):
                raise
            yield unknown(name, f"not checked: these credentials may not ask ({permission})", f"grant {permission}")
