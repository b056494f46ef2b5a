"""Who may call the embedded cloud: not the pages of other origins, not other names, not other users of the machine."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from conftest import REPOSITORY, local_cloud
from support import chromium
from support.clouds import prefect_auth

from askline.clients import LocalKeys, aws_client, hub_client
from askline.errors import LocalCloudError
from askline.records import Target
from local_cloud import keys
from local_cloud.guard import Guard, Refusal, check_host, check_origin
from local_cloud.sandbox import landlock_version
from local_cloud.state import CloudFolder

HERE = {"host": "127.0.0.1:4566"}
GET = {"type": "http", "method": "GET"}


@pytest.mark.parametrize("host", ["127.0.0.1:4566", "localhost:1", "[::1]:4566", "abc.execute-api.localhost:4566"])
def test_the_names_of_this_machine_are_answered(host: str) -> None:
    check_host({"host": host})


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::1"])
def test_other_names_are_not(host: str) -> None:
    with pytest.raises(Refusal, match="not this machine's name"):
        check_host({"host": host})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://127.0.0.1:4566"},
        {"origin": "http://localhost:4566"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ],
)
def test_programs_links_and_the_services_own_pages_are_let_through(headers: dict[str, str]) -> None:
    check_origin({**HERE, **headers}, GET)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},  # same site, another port: another program's page
        {"origin": "https://127.0.0.1:4566"},
        {"origin": "http://[::1"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_pages_of_other_origins_are_not(headers: dict[str, str]) -> None:
    with pytest.raises(Refusal, match="other origins"):
        check_origin({**HERE, **headers}, GET)


def test_a_form_that_is_sent_here_from_elsewhere_is_no_link() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    with pytest.raises(Refusal):
        check_origin({**HERE, **headers}, {"type": "http", "method": "POST"})


def test_a_socket_is_refused_before_it_opens() -> None:
    import asyncio

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def application(*_: Any) -> None:
        raise AssertionError("it was let through")

    scope = {"type": "websocket", "headers": [(b"host", b"127.0.0.1:4200"), (b"origin", b"https://evil.example")]}
    asyncio.run(Guard(application, lambda _headers, _scope: None)(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_keys_are_made_once_and_differ_from_cloud_to_cloud(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mine = keys.of(tmp_path / "a")
    assert keys.of(tmp_path / "a") == mine
    assert not set(mine) & set(keys.of(tmp_path / "b"))


def test_damaged_keys_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"access_key_id":')
    with pytest.raises(LocalCloudError, match=r"keys\.json is damaged: delete it"):
        keys.of(tmp_path)


# --- a cloud that runs ---


class Attacker(BaseHTTPRequestHandler):
    """An empty page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>harmless</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Attacker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def attacks(target: Target) -> dict[str, dict[str, Any]]:
    """Return what a page tries: by what it is after, the arguments of ``fetch``."""
    s3, sagemaker, hub = target.endpoints["s3"], target.endpoints["sagemaker"], target.hub
    plain = {"content-type": "text/plain"}
    function = {
        "FunctionName": "stolen",
        "Runtime": "python3.12",
        "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": "index.handler",
        "Code": {"ZipFile": "UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA=="},
    }
    signed = {"authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sagemaker/aws4_request"}
    return {
        "list buckets": {"url": f"{s3}/"},
        "make a bucket": {"url": f"{s3}/stolen", "method": "PUT"},
        "make a function": {
            "url": f"{s3}/2015-03-31/functions",
            "method": "POST",
            "body": json.dumps(function),
        },
        "make a function blindly": {
            "url": f"{s3}/2015-03-31/functions",
            "method": "POST",
            "mode": "no-cors",
            "headers": plain,
            "body": json.dumps(function),
        },
        "reset everything": {"url": f"{s3}/_ministack/reset", "method": "POST", "mode": "no-cors"},
        "list endpoints": {
            "url": f"{sagemaker}/",
            "method": "POST",
            "headers": {**signed, "x-amz-target": "SageMaker.ListEndpoints"},
            "body": "{}",
        },
        "list models": {"url": f"{hub}/api/models"},
        "make a repository": {
            "url": f"{hub}/api/repos/create",
            "method": "POST",
            "headers": {"authorization": "Bearer hf_any"},
            "body": json.dumps({"name": "stolen", "type": "model"}),
        },
        "read runs": {
            "url": f"{target.prefect_api}/flow_runs/filter",
            "method": "POST",
            "headers": {"content-type": "application/json"},
            "body": "{}",
        },
        "make a flow": {
            "url": f"{target.prefect_api}/flows/",
            "method": "POST",
            "mode": "no-cors",
            "headers": plain,
            "body": json.dumps({"name": "stolen"}),
        },
    }


FETCH = """
(() => { window.said = null; const {url, ...options} = %s;
fetch(url, options).then(async answer => [answer.type, answer.status, await answer.text()],
                         error => ["error", 0, String(error)]).then(said => { window.said = said }) })()
"""


@pytest.mark.slow
@pytest.mark.skipif(chromium.BINARY is None, reason="there is no chromium, chromium-browser or google-chrome here")
def test_a_page_of_another_origin_reads_and_changes_nothing(
    cloud_with_prefect: Target, elsewhere: int, tmp_path: Path
) -> None:
    target = cloud_with_prefect
    aws_client(target, "s3").create_bucket(Bucket="mine-alone")
    with chromium.browser(tmp_path / "profile") as browser, browser.page() as page:
        for origin in (f"http://127.0.0.1:{elsewhere}", f"http://rebound.example:{elsewhere}"):
            page.open(origin)
            for what, request in attacks(target).items():
                page.value(FETCH % json.dumps(request))
                page.wait_for("window.said", seconds=30)
                kind, status, text = page.value("window.said")
                assert (kind, status, text) in [("error", 0, text), ("opaque", 0, "")], what
        # Rebinding: the attacker's own name points here, so that the browser takes the service for the same origin.
        for address in (target.endpoints["s3"], target.endpoints["sagemaker"], target.hub, str(target.prefect_ui)):
            page.open(address.replace("127.0.0.1", "rebound.example") + "/")
            assert "not this machine's name" in page.value("document.body.innerText")
    assert not [f for f in aws_client(target, "lambda").list_functions()["Functions"] if f["FunctionName"] == "stolen"]
    buckets = {bucket["Name"] for bucket in aws_client(target, "s3").list_buckets()["Buckets"]}
    assert "mine-alone" in buckets, "nothing was reset"
    assert "stolen" not in buckets
    assert not [model for model in hub_client(target).list_models() if "stolen" in model.id]
    flows = httpx.post(f"{target.prefect_api}/flows/filter", json={}, auth=prefect_auth(target)).json()
    assert "stolen" not in {flow["name"] for flow in flows}


@pytest.mark.slow
def test_whoever_has_no_key_of_this_cloud_reads_nothing(cloud_with_prefect: Target) -> None:
    target = cloud_with_prefect
    aws_client(target, "s3").create_bucket(Bucket="not-for-all")
    keyless = target.model_copy(update={"keys_file": None})  # with the keys that every embedded cloud once had
    for service, call in (
        ("s3", "list_buckets"),
        ("iam", "list_roles"),
        ("ssm", "describe_parameters"),
        ("lambda", "list_functions"),
        ("cloudformation", "list_stacks"),
        ("sagemaker", "list_endpoints"),
    ):
        with pytest.raises(ClientError) as refused:
            getattr(aws_client(keyless, service), call)()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert "python -m local_cloud env" in refused.value.response["Error"]["Message"]
    for address, status in {
        f"{target.endpoints['s3']}/not-for-all": 403,
        f"{target.endpoints['s3']}/not-for-all/.well-known/jwks.json": 403,
        f"{target.hub}/": 401,
        f"{target.hub}/api/models": 401,
        f"{target.prefect_api}/admin/version": 401,
    }.items():
        answer = httpx.get(address, trust_env=False)
        assert answer.status_code == status, (address, answer.text)
        assert "access-control-allow-origin" not in answer.headers
    assert httpx.post(f"{target.prefect_api}/flows/count", json={}, trust_env=False).status_code == 401


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_reads_nothing(cloud_with_prefect: Target) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = CloudFolder(Path(place) / "state")
        folder.create()
        keys.of(folder.root)

        def nobody(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, user="nobody", capture_output=True, text=True, cwd="/")

        assert nobody("ls", place).stdout == "state\n"
        for path in (folder.root.parent, folder.root, folder.root / "keys.json"):
            found = nobody("cat" if path.is_file() else "ls", str(path))
            assert (found.returncode != 0, found.stdout) == (True, "")
    for address in (cloud_with_prefect.endpoints["s3"], cloud_with_prefect.hub):
        answer = nobody("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{address}/")
        assert answer.stdout in ("401", "403")


@pytest.mark.slow
def test_the_ordinary_tools_find_the_cloud_by_what_env_prints(cloud_with_prefect: Target) -> None:
    state_dir = str(Path(cloud_with_prefect.keys_file or "").parents[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    asked = "aws s3 ls && aws sagemaker list-endpoints && hf auth whoami && prefect flow-run ls"
    script = f'set -e; eval "$({sys.executable} -m local_cloud env --state-dir {state_dir})"; {asked}'
    bare = {"PATH": path, "HOME": state_dir, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["bash", "-c", script], env=bare, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"Endpoints": []' in done.stdout or '"Endpoints": [' in done.stdout
    assert "askline" in done.stdout


def test_env_says_when_no_cloud_runs(tmp_path: Path) -> None:
    done = local_cloud("env", "--state-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert "python -m local_cloud up" in done.stderr


FUNCTION = """
import os, tempfile

def attempt(act):
    try:
        return ["did", str(act())[:200]]
    except OSError as error:
        return [type(error).__name__, ""]

def handler(event, context):
    import boto3
    return {
        "keys": attempt(lambda: open(event["keys"]).read()),
        "listing": attempt(lambda: os.listdir(event["folder"])),
        "home": attempt(lambda: os.listdir(os.path.dirname(event["folder"]))),
        "signal": attempt(lambda: os.kill(event["pid"], 0)),
        "scratch": attempt(lambda: open(os.path.join(tempfile.gettempdir(), "a"), "w").write("a")),
        "s3": attempt(lambda: len(boto3.client("s3").list_buckets()["Buckets"])),
        "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")],
    }
"""


@pytest.mark.slow
@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
def test_a_function_sees_its_own_folder_and_no_other_file(cloud: Target) -> None:
    import io
    import zipfile

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("index.py", FUNCTION)
    client = aws_client(cloud, "lambda")
    client.create_function(
        FunctionName="curious",
        Runtime="python3.12",
        Role="arn:aws:iam::000000000000:role/r",
        Handler="index.handler",
        Code={"ZipFile": archive.getvalue()},
        Timeout=60,
    )
    folder = Path(cloud.keys_file or "").parent
    event = {"keys": str(cloud.keys_file), "folder": str(folder), "pid": os.getpid()}
    answer = json.loads(client.invoke(FunctionName="curious", Payload=json.dumps(event))["Payload"].read())
    for what in ("keys", "listing", "home"):
        assert answer[what] == ["PermissionError", ""], answer
    if landlock_version() >= 6:
        assert answer["signal"] == ["PermissionError", ""]
    assert answer["scratch"] == ["did", "1"]
    assert answer["s3"][0] == "did"
    assert [int(each, 16) for each in answer["capabilities"]] == [0]


def test_the_keys_file_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    folder = CloudFolder(tmp_path / "state")
    folder.create()
    made = keys.of(folder.root)
    assert LocalKeys.read(folder.root / "keys.json") == made
    for path in (folder.root.parent, folder.root, folder.root / "keys.json"):
        assert path.stat().st_mode & 0o077 == 0, path
