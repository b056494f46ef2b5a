"""What the Hub's client raises, as one clear error each."""

from collections.abc import Iterator
from contextlib import contextmanager

from askline.errors import HubError


@contextmanager
def explained(doing: str, *, hub: str, repo_id: str | None = None, secret: str | None = None) -> Iterator[None]:
    """Turn whatever the client raises inside into a :class:`HubError` that says what to do.

    Parameters
    ----------
    doing
        What is being done, as in "cannot <doing>".
    hub
        Address of the Hub.
    repo_id
        The repository, where there is one already.
    secret
        The token; it is blotted out should it ever stand in a message.

    Raises
    ------
    HubError
        Retryable where trying again can help: no connection, a time-out, too many requests, a fault of the Hub, or
        another commit at the same moment.
    """
    from huggingface_hub import errors

    transport_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the client that it is built on

    def fail(error: BaseException, advice: str, *, retryable: bool = False) -> HubError:
        what = f"cannot {doing} on {hub}: {_reason(error)}. {advice}"
        return HubError(what.replace(secret, "***") if secret else what, retryable=retryable)

    try:
        yield
    except HubError:
        raise
    except errors.HFValidationError as error:
        raise fail(error, "Give hub.repo_id as owner/name with letters, digits, '-', '_' and '.'.") from None
    except errors.LocalTokenNotFoundError as error:
        raise fail(error, "Set HF_TOKEN, or run hf auth login.") from None
    except errors.OfflineModeIsEnabled as error:
        raise fail(error, "Unset HF_HUB_OFFLINE, or set hub.push to never.") from None
    except Exception as error:
        answered = _http_error(error)
        if answered is not None:
            advice, retryable = _advice(answered, hub, repo_id)
            raise fail(answered, advice, retryable=retryable) from None
        if any(isinstance(each, transport_error | ConnectionError | TimeoutError) for each in _chain(error)):
            raise fail(error, "Check the network and that the Hub is up, then try again.", retryable=True) from error
        if isinstance(error, OSError):
            raise fail(error, "Check the disk's free space and the permissions of the files.") from error
        if isinstance(error, KeyError | TypeError):
            raise fail(error, "It does not answer as a Hugging Face Hub does: check its address.") from error
        if isinstance(error, ValueError | RuntimeError):
            raise fail(error, "Please report this.") from error
        raise


def _advice(error: "errors.HfHubHTTPError", hub: str, repo_id: str | None) -> tuple[str, bool]:  # type: ignore[name-defined]  # noqa: F821
    """Return what to do about an answer of the Hub, and whether trying again can help."""
    status = error.response.status_code
    said = (error.server_message or "").lower()
    where = repo_id or "the repository"
    if status in (402, 413, 507) or "storage" in said or "quota" in said:
        return "The account or the disk has no room left for it: free some, or take another account.", False
    if status == 401:
        return f"The token is missing, wrong or expired: make one that may write at {hub}/settings/tokens.", False
    if status == 403:
        return (
            f"The token may not write to {where}: take one with write permission there, or another hub.repo_id.",
            False,
        )
    if status == 404:
        return f"{where} is not there, or the token may not see it: check hub.repo_id and the token.", False
    if status in (409, 412):
        return f"Somebody else changed {where} at the same moment: try again.", True
    if status in (408, 429) or status >= 500:
        return "The Hub is busy or has a fault: try again later.", True
    return "Check hub.repo_id and the model card's license.", False


def _http_error(error: BaseException) -> "errors.HfHubHTTPError | None":  # type: ignore[name-defined]  # noqa: F821
    from huggingface_hub.errors import HfHubHTTPError

    # Uploads run in threads, whose errors arrive wrapped.
    return next((each for each in _chain(error) if isinstance(each, HfHubHTTPError)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        status = f"{error.response.status_code} {error.response.reason_phrase}".strip()
        said = " ".join((error.server_message or "").split()).rstrip(".")
        return f"{status}: {said}" if said else status
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split("\n")[0].split()).rstrip(".")[:500]
