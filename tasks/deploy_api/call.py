"""Calling the API as a client does: with what it asks for, and through loopback where it is the embedded one."""

import json as jsonlib
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from askline.clients import aws_client, local_keys
from askline.errors import CloudError
from askline.records import ApiRef, Target
from tasks.deploy_api import cloudformation
from tasks.deploy_api.stack import api_key

if TYPE_CHECKING:
    import httpx

#: A token of the user pool, for an API with auth "cognito".
TOKEN_VARIABLE = "ASKLINE_API_TOKEN"  # noqa: S105 - the variable's name


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
    anonymous: bool = False,
) -> "httpx.Response":
    """Send one request to the deployed API and return what it answers, whatever the status.

    Where the API takes a user pool's tokens and ``ASKLINE_API_TOKEN`` holds none, the function is invoked directly,
    past the gateway: whoever deploys need not be one of the pool's users.

    Parameters
    ----------
    path
        After the stage URL, without a slash at its front: ``""``, ``"models"``, ``"health"``.
    json
        Sent as the body, with its content type.
    timeout
        Seconds; the API itself gives up after 29.
    anonymous
        Send no credentials, whatever the API asks for.

    Raises
    ------
    CloudError
        If the API asks for signed requests and there are no AWS credentials, or its key cannot be read.
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
        if anonymous:
            return client.send(request)
        if api.auth == "iam":
            _sign(request, target)
        elif api.auth == "key" and api.api_key_id:
            request.headers["x-api-key"] = api_key(api.api_key_id, target)
        elif api.auth == "cognito":
            token = os.environ.get(TOKEN_VARIABLE)
            if not token:
                return _invoke(api, request, path, query, target)
            request.headers["Authorization"] = f"Bearer {token}"
        return client.send(request)


def _invoke(
    api: ApiRef, request: "httpx.Request", path: str, query: dict[str, str] | None, target: Target
) -> "httpx.Response":
    """Give the function the event that API Gateway would make of the request, and return its answer as a response."""
    import httpx
    from botocore.exceptions import ClientError

    event = {
        "resource": "/{proxy+}" if path else "/",
        "path": f"/{path}",
        "httpMethod": request.method,
        "headers": dict(request.headers),
        "multiValueHeaders": {name: [value] for name, value in request.headers.items()},
        "queryStringParameters": query or None,
        "multiValueQueryStringParameters": {name: [value] for name, value in query.items()} if query else None,
        "requestContext": {"httpMethod": request.method, "path": urlsplit(api.url).path + path, "requestId": "direct"},
        "body": request.content.decode() or None,
        "isBase64Encoded": False,
    }
    try:
        stack = cloudformation.describe(aws_client(target, "cloudformation"), api.stack_name)
        outputs = {output["OutputKey"]: output["OutputValue"] for output in (stack or {}).get("Outputs", ())}
        client = aws_client(target, "lambda", read_timeout=60, retries={"total_max_attempts": 1})
        reply = client.invoke(FunctionName=outputs["FunctionName"], Payload=jsonlib.dumps(event).encode())
        answer = jsonlib.loads(reply["Payload"].read())
        return httpx.Response(
            answer["statusCode"],
            headers=[(n, v) for n, values in answer.get("multiValueHeaders", {}).items() for v in values],
            content=answer.get("body") or "",
            request=request,
        )
    except (ClientError, KeyError, TypeError) as error:
        raise CloudError(
            f"the function of the API {api.url} cannot be asked directly: {error!r}. The caller needs "
            f"lambda:InvokeFunction on it, or a token of the user pool in {TOKEN_VARIABLE}."
        ) from error


def _sign(request: "httpx.Request", target: Target) -> None:
    """Sign the request with AWS Signature Version 4, for ``execute-api``."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    if target.kind == "local":
        credentials: Any = Credentials(*local_keys(target))
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
