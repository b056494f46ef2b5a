"""Runs MiniStack so that ``kill -9`` loses seconds of its control plane, not all since its last clean stop.

MiniStack writes functions, APIs, stacks, roles and parameters when it stops. A part that is killed, for instance when
memory runs out, would come back without the API. So they are written here a few seconds after each change, too, by
MiniStack's own code and in its own files, each under a temporary name that is then renamed.

Where permissions are enforced (``AUTH=true``) it also decides for the embedded SageMaker, which asks it at
``/_askline/authorize`` whether a signed request may do what it wants: signature, user or role and policies are
MiniStack's affair. What MiniStack's evaluator leaves out is added: the resources of ``ssm:GetParametersByPath`` and
``iam:SimulatePrincipalPolicy``, and the context of a simulation.

Started as a script (``python -P ministack_server.py``): MiniStack hands its import path to the Lambda functions, which
must not find this project there.
"""

import base64
import contextvars
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import types
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import ministack.app as server


def _beside(name: str) -> Any:
    """Import a module of this folder by its path: the project's own folder stays out of the import path."""
    spec = importlib.util.spec_from_file_location(f"askline_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


guard, sandbox = _beside("guard"), _beside("sandbox")

log = logging.getLogger("askline.local_cloud")

#: How long after a change the state is written, and so how often at most.
SAVE_SECONDS = 3.0

_READS = re.compile(r"[A-Za-z0-9_]+\.(Get|List|Describe|Lookup|Filter|Test)")

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]


def changes_something(scope: Scope) -> bool:
    """Say whether a request may change the control plane; questions to a deployed API do not."""
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    if scope["path"].startswith("/_ministack/") or "/_user_request_" in scope["path"]:
        return False
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    return ".execute-api." not in headers.get(b"host", "") and not _READS.match(headers.get(b"x-amz-target", ""))


class Saver:
    """Writes the state in the background after changes, and never while MiniStack itself writes it."""

    def __init__(self, state: Callable[[], Any], save: Callable[[Any], None]) -> None:
        self._state = state
        self._save = save
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Event()

    def save(self, state: Any) -> None:
        """Write the state; this is what MiniStack calls when it stops."""
        with self._one_at_a_time:
            self._save(state)

    def watching(self, application: Application) -> Application:
        """Return the application with an eye on its requests."""

        async def watched(scope: Scope, receive: Any, send: Any) -> None:
            try:
                await application(scope, receive, send)
            finally:
                if changes_something(scope):
                    self._changed.set()

        return watched

    def run(self) -> None:
        """Wait for changes and write them, for ever."""
        while True:
            self._changed.wait()
            time.sleep(SAVE_SECONDS)
            self._changed.clear()
            try:
                self.save(self._state())
            except Exception:
                log.exception("the state could not be written; the next change tries again")


def main() -> None:
    """Serve until a signal ends it."""
    save_as_it_changes()
    if getattr(server, "AUTH", False):
        complete_the_evaluator()
        server.app = deciding(server.app)
    give_functions_the_key()
    confine_functions()
    server.app = guard.Guard(without_any_origin(server.app), check_key, is_public=is_public)
    server.main()


_HEALTH = "/_ministack/health"


def is_public(headers: dict[str, str], scope: Scope) -> bool:
    """Say whether a request is for a deployed API, which decides itself who may call it, or for nothing but health."""
    if scope["type"] != "http":
        return False
    if scope["path"] == _HEALTH and scope["method"] in ("GET", "HEAD"):
        return "origin" not in headers
    return server._parse_execute_api_url(headers.get("host", ""), scope["path"]) is not None


def check_key(headers: dict[str, str], scope: Scope) -> None:
    """Refuse a caller whose access key is neither this cloud's nor one that IAM or STS has given out.

    MiniStack itself lets everybody in as root who signs with no key, ``test``, or an account's number.

    Raises
    ------
    Refusal
        403.
    """
    from urllib.parse import parse_qs

    from ministack.core.router import extract_access_key_id

    own = os.environ["AWS_ACCESS_KEY_ID"]
    if scope["path"] == AUTHORIZE:
        key = headers.get("authorization", "").removeprefix("Bearer ")
    else:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        key = extract_access_key_id(headers, query)
    if guard.same(key, own) or (scope["path"] != AUTHORIZE and is_given_out(key)):
        return
    if headers.get("x-amz-target", "").startswith("AWSCognitoIdentityProviderService.") and not key:
        return  # signing in to a user pool takes no key, here as on AWS
    if scope["type"] == "http" and scope["method"] == "GET" and is_of_a_user_pool(scope["path"]):
        return
    raise guard.Refusal(403, "the access key is not this cloud's: use those that python -m local_cloud env prints")


def is_of_a_user_pool(path: str) -> bool:
    """Say whether a path is that of a user pool's public keys, or of the document that names them.

    AWS shows them to anybody. MiniStack's API Gateway fetches them from itself without a key before it judges a token.
    """
    from ministack.services import cognito

    found = re.fullmatch(r"/([^/]+)/\.well-known/(jwks\.json|openid-configuration)", path)
    return found is not None and cognito._get_pool_unscoped(found[1]) is not None


def is_given_out(key: str) -> bool:
    """Say whether an access key is a user's of this cloud, or a session's."""
    from ministack.core.iam_evaluator import find_iam_access_key_account, is_root_access_key
    from ministack.services import sts

    return not is_root_access_key(key) and (key in sts._sessions or find_iam_access_key_account(key) is not None)


def without_any_origin(application: Application) -> Application:
    """Return the application without the leave that MiniStack gives to the pages of every origin.

    What an API's own function or gateway says about origins is passed on: it names them, or says nothing.
    """
    with_headers = server._with_data_plane_headers

    def of_its_own(*arguments: Any, **options: Any) -> Any:
        return with_headers(*arguments, **{**options, "wildcard_cors": False})

    server._with_data_plane_headers = of_its_own

    async def plain(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or is_public(guard.headers_of(scope), scope):
            await application(scope, receive, send)
            return

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                pairs = message.get("headers", [])
                kept = [pair for pair in pairs if not bytes(pair[0]).lower().startswith(b"access-control-")]
                message = {**message, "headers": kept}
            await send(message)

        await application(scope, receive, sent)

    return plain


def confine_functions() -> None:
    """Have the processes of Lambda functions started in the sandbox."""
    from ministack.core import lambda_runtime
    from ministack.services import lambda_svc

    if not sandbox.landlock_version():
        log.warning("this system has no Landlock: Lambda functions may read and write what their user may")
    readable = {sys.prefix, sys.base_prefix, *(path for path in sys.path if path), *_import_path()}

    def confined(command: list[str]) -> list[str]:
        folder = str(Path(command[-1]).parent)  # of the script that MiniStack wrote for this function
        start = [sys.executable, "-I", "-S", sandbox.__file__, folder, os.pathsep.join(sorted(readable))]
        return [*start, *command]

    def popen(command: list[str], **options: Any) -> Any:
        return subprocess.Popen(confined(command), **options)

    def run(command: list[str], **options: Any) -> Any:
        return subprocess.run(confined(command), check=options.pop("check", False), **options)

    starts = types.SimpleNamespace(**{**vars(subprocess), "Popen": popen, "run": run})
    lambda_runtime.subprocess = lambda_svc.subprocess = starts


def _import_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def give_functions_the_key() -> None:
    """Have Lambda functions sign with this cloud's key; MiniStack gives them the account's number for one."""
    from ministack.core import lambda_runtime
    from ministack.services import lambda_svc

    if getattr(server, "AUTH", False):
        return  # then each has a session of its role

    def credentials(_config: dict[str, Any]) -> dict[str, str]:
        return {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}

    lambda_runtime.execution_credentials = credentials
    lambda_svc.execution_credentials = credentials


AUTHORIZE = "/_askline/authorize"


def deciding(application: Application) -> Application:
    """Return the application with a route at which the other parts ask whether a request is allowed."""

    async def decide(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != AUTHORIZE:
            await application(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            status, answer = 200, authorize(json.loads(body))
        except Exception as error:  # the part that asks refuses its caller, and says why
            log.exception("a request could not be judged")
            status, answer = 500, {"code": "InternalFailure", "message": f"{type(error).__name__}: {error}"}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return decide


def authorize(request: dict[str, Any]) -> dict[str, str]:
    """Check the signature of a request to another part, and then each action that it takes to carry it out.

    Parameters
    ----------
    request
        ``method``, ``path``, ``query`` and ``headers`` (pairs) as they came, ``body`` in base64, and ``checks``:
        objects with ``action``, ``resource`` and ``context``.

    Returns
    -------
    Empty if it is allowed, else ``code`` and ``message`` of the refusal.
    """
    from urllib.parse import parse_qs

    from ministack.core import iam_evaluator as iam
    from ministack.core.iam_actions import identity_denial_message
    from ministack.core.responses import get_account_id, get_region, set_request_account_id, set_request_region
    from ministack.core.router import extract_access_key_id, extract_region

    headers = {name.lower(): value for name, value in request["headers"]}
    query = parse_qs(request["query"], keep_blank_values=True)
    key = extract_access_key_id(headers, query)
    set_request_account_id(server._request_account_scope(key))
    set_request_region(extract_region(headers, query))
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request["headers"]]
    iam.pin_signed_request(request["method"], request["path"], query, raw)
    iam.pin_signed_body(base64.b64decode(request["body"]))
    if not key:
        return {"code": "MissingAuthenticationToken", "message": "The request is not signed with an access key."}
    failure = iam.check_credentials(key, "sagemaker")
    if failure is not None:
        return {"code": failure.code, "message": failure.message}
    for check in request["checks"]:
        denied = iam.enforce(key, check["action"], "sagemaker", get_region(), check["resource"], check["context"])
        if denied is not None:
            principal = iam.resolve_principal(key, get_account_id())
            message = identity_denial_message(
                check["action"], getattr(principal, "arn", key), check["resource"], denied.decision == "Deny"
            )
            return {"code": "AccessDeniedException", "message": message}
    return {}


#: The condition keys of the simulation under way.
_simulated: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("askline_simulated", default={})  # noqa: B039


def complete_the_evaluator() -> None:
    """Have MiniStack judge as AWS does what it passes over."""
    from urllib.parse import parse_qs

    from ministack.core import iam_actions, iam_evaluator
    from ministack.services import iam

    resource_of, evaluate = iam_actions.extract_resource_arn, iam_evaluator.evaluate
    simulate = iam._simulate_principal_policy

    def resource_with_path(service: str, method: str, path: str, headers: Any, body: bytes, *others: Any) -> Any:
        # Its Path is the resource, and Name is not a member of it: MiniStack would ask for permission on "*".
        if service == "ssm" and headers.get("x-amz-target", "").endswith(".GetParametersByPath"):
            body = json.dumps({"Name": json.loads(body or b"{}").get("Path", "/")}).encode()
            headers = {**headers, "x-amz-target": "AmazonSSM.GetParameter"}
        if service == "iam" and (source := parse_qs(body.decode("latin-1")).get("PolicySourceArn")):
            return source[0]
        return resource_of(service, method, path, headers, body, *others)

    def evaluate_with_context(context: Any, policies: Any, *limits: Any) -> Any:
        context.service_context.update(_simulated.get())
        return evaluate(context, policies, *limits)

    def simulate_with_context(parameters: Any) -> Any:
        entries: dict[str, Any] = {}
        number = 1
        while name := _first(parameters, f"ContextEntries.member.{number}.ContextKeyName"):
            entries[name.lower()] = _first(parameters, f"ContextEntries.member.{number}.ContextKeyValues.member.1")
            number += 1
        token = _simulated.set(entries)
        try:
            return simulate(parameters)
        finally:
            _simulated.reset(token)

    iam_actions.extract_resource_arn = resource_with_path
    iam_evaluator.evaluate = evaluate_with_context
    iam._IAM_HANDLERS["SimulatePrincipalPolicy"] = simulate_with_context


def _first(parameters: MutableMapping[str, Any], name: str) -> str:
    value = parameters.get(name, "")
    return str(value[0] if isinstance(value, list) and value else value or "")


def save_as_it_changes() -> None:
    """Have MiniStack's state written after each change."""
    try:
        saver = Saver(server._build_persistence_save_dict, server.save_all)
    except AttributeError as error:
        # They are MiniStack's own affair and may go; without them all is well but for a kill -9.
        log.warning("this MiniStack's state is written when it stops, and not before: %s", error)
        return
    logging.getLogger("persistence").setLevel(logging.WARNING)  # else a line for each of dozens of files
    server.save_all = saver.save
    server.app = saver.watching(server.app)
    threading.Thread(target=saver.run, name="saver", daemon=True).start()


if __name__ == "__main__":
    main()
