"""Calling the API as a client does: signed where it asks for it, and through loopback where it is the embedded one."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from askline.clients import LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY
from askline.errors import CloudError
from askline.records import ApiRef, Target

if TYPE_CHECKING:
    import httpx


def dialable(url: str) -> tuple[str, dict[str, str]]:
    """Return an address that any HTTP client can connect to, and the headers that it needs.

    curl and browsers take every name under ``localhost`` for this machine; Python asks the resolver, which may not
    know. So ``http://<api>.execute-api.localhost:4566/…`` becomes ``http://127.0.0.1:4566/…`` with the name as
    ``Host``. Other addresses are returned as they are.
    """
    parts = urlsplit(url)
    if not (parts.hostname or "").endswith(".localhost"):
        return url, {}
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"127.0.0.1{port}").geturl(), {"Host": parts.netloc}


def call_api(
    api: ApiRef,
    path: str = "",
    *,
    target: Target,
    method: str = "GET",
    query: dict[str, str] | None = None,
    json: Any = None,
    timeout: float = 30.0,
) -> "httpx.Response":
    """Send one request to the deployed API and return what it answers, whatever the status.

    Parameters
    ----------
    path
        After the stage URL, without a slash at its front: ``""``, ``"models"``, ``"health"``.
    json
        Sent as the body, with its content type.
    timeout
        Seconds; the API itself gives up after 29.

    Raises
    ------
    CloudError
        If the API asks for signed requests and there are no AWS credentials.
    httpx.HTTPError
        If nothing answers.
    """
    import httpx

    url, headers = dialable(api.url + path)
    if query:
        # A space as %20: in a signature a plus sign is a plus sign.
        url += "?" + urlencode(query, quote_via=quote)
    with httpx.Client(timeout=timeout, trust_env=target.kind == "aws") as client:
        request = client.build_request(method, url, json=json, headers=headers)
        if api.auth == "iam":
            _sign(request, target)
        return client.send(request)


def _sign(request: "httpx.Request", target: Target) -> None:
    """Sign the request with AWS Signature Version 4, for ``execute-api``."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    if target.kind == "local":
        credentials: Any = Credentials(LOCAL_ACCESS_KEY_ID, LOCAL_SECRET_ACCESS_KEY)
    else:
        import boto3

        found = boto3.session.Session(region_name=target.region).get_credentials()
        if found is None:
            raise CloudError("the API asks for signed requests, and there are no AWS credentials; run aws configure")
        credentials = found.get_frozen_credentials()
    signed = {name: value for name, value in request.headers.items() if name in ("host", "content-type")}
    unsigned = AWSRequest(method=request.method, url=str(request.url), data=request.content, headers=signed)
    SigV4Auth(credentials, "execute-api", target.region).add_auth(unsigned)
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
        if name in unsigned.headers:
            request.headers[name] = unsigned.headers[name]
