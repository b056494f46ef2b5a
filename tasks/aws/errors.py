"""What AWS says, turned into an error that tells a person what to do and whether trying again can help."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from askline.errors import CloudError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

#: Codes after which the same call can succeed. Besides these, every HTTP status from 500 on.
RETRYABLE = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "ModelNotReadyException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_ADVICE = {
    # A HEAD request is refused without a word.
    "403": "grant s3:GetObject on the object, and s3:ListBucket on its bucket, to the credentials in use",
    "AccessDenied": "grant this action to the credentials in use",
    "AccessDeniedException": "grant this action to the credentials in use",
    "ExpiredToken": "sign in again: the credentials have expired",
    "ExpiredTokenException": "sign in again: the credentials have expired",
    "InvalidAccessKeyId": "check the credentials: AWS does not know this access key",
    "InvalidClientTokenId": "check the credentials: AWS does not know this access key",
    "ResourceLimitExceeded": "raise the quota (Service Quotas), or lower deploy.memory_mb or max_concurrency",
    "SignatureDoesNotMatch": "check the credentials, and the clock of this machine",
}


def code_of(error: "ClientError") -> str:
    """Return AWS's error code, such as ``AccessDenied`` or, for a HEAD request, ``404``."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def status_of(error: "ClientError") -> int:
    """Return the HTTP status of the answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_missing(error: "ClientError") -> bool:
    """Say whether a describe call failed because there is no such thing.

    SageMaker has no code for it: a ValidationException whose message starts with "Could not find".
    """
    return code_of(error) in ("404", "NoSuchKey", "NoSuchBucket", "NoSuchEntity", "NotFound", "ResourceNotFound") or (
        code_of(error) == "ValidationException" and "could not find" in str(error).lower()
    )


def or_none(call: Callable[..., Any], *arguments: Any, **request: Any) -> Any:
    """Return what a call answers, or None where there is no such thing (any more).

    Raises
    ------
    ClientError
        If AWS refuses for another reason.
    """
    from botocore.exceptions import ClientError

    try:
        return call(*arguments, **request)
    except ClientError as error:
        if is_missing(error):
            return None
        raise


@contextmanager
def explained(
    doing: str, *, advice: Mapping[str, str] | None = None, error_type: type[CloudError] = CloudError
) -> Iterator[None]:
    """Turn botocore's errors inside the block into ``error_type``.

    Parameters
    ----------
    doing
        What failed, in words that follow "cannot": ``"create the bucket x"``.
    advice
        What to do about an error code, before the general advice.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError, ProfileNotFound
    from botocore.exceptions import ConnectionError as NoConnectionError

    try:
        yield
    except S3UploadFailedError as error:
        # The managed upload hides the answer in a text; the error itself is what it was raised from.
        cause = error.__cause__ or error.__context__
        raise (
            _from_client(cause, doing, advice or {}, error_type)
            if isinstance(cause, ClientError)
            else error_type(f"cannot {doing}: {error}", retryable=True)
        ) from error
    except ClientError as error:
        raise _from_client(error, doing, advice or {}, error_type) from error
    except (NoCredentialsError, ProfileNotFound) as error:
        raise error_type(
            f"cannot {doing}: {error}; sign in (aws configure, aws sso login) or set AWS_PROFILE"
        ) from error
    except (HTTPClientError, NoConnectionError) as error:
        raise error_type(f"cannot {doing}: the connection was lost ({error}); try again", retryable=True) from error
    except BotoCoreError as error:
        raise error_type(f"cannot {doing}: {error}") from error


def _from_client(
    error: "ClientError", doing: str, advice: Mapping[str, str], error_type: type[CloudError]
) -> CloudError:
    code, status = code_of(error), status_of(error)
    message = error.response.get("Error", {}).get("Message") or "no reason given"
    retryable = code in RETRYABLE or status >= 500
    what = advice.get(code) or _ADVICE.get(code) or ("try again in a moment" if retryable else None)
    return error_type(f"cannot {doing}: {code}: {message}" + (f"; {what}" if what else ""), retryable=retryable)
