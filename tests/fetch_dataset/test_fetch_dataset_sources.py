"""fetch-dataset from the Hub, from https and from S3."""

import contextlib
import gzip
import hashlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from askline.clients import LOCAL_HUB_TOKEN, aws_client
from askline.config import DatasetConfig
from askline.errors import ConfigError, DatasetFormatError, DatasetNotFoundError
from askline.records import DatasetRef, SourceRef, Target
from askline.store import ArtifactStore
from tasks.fetch_dataset import hub as hub_source
from tasks.fetch_dataset import s3 as s3_source
from tasks.fetch_dataset import sources, web
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.qa.rows import read_rows
from tasks.workplace import Workplace

REPOSITORY = Path(__file__).parents[2]
CSV = "question,answer\n" + "".join(f"What is item {n}?,It is {n}\n" for n in range(20))


def make_target(hub: str) -> Target:
    return Target(kind="local", region="us-east-1", hub=hub)


def fetch(state: Path, target: Target, source: str, **options: Any) -> DatasetRef:
    config = DatasetConfig(source=source, **options)
    ref = resolve_source(config, place=Workplace(target, state))
    return fetch_dataset(config, ref, place=Workplace(target, state))


# --- the Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state = tmp_path_factory.mktemp("hub")
    command = [sys.executable, "-m", "local_cloud.hub", "--port", str(port), "--state", str(state / "state")]
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/_askline/health", process, state / "log")
        yield make_target(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def publish(target: Target, repo_id: str, files: dict[str, str], **options: Any) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=target.hub, token=LOCAL_HUB_TOKEN)
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True, **options)
    operations = [CommitOperationAdd(name, text.encode()) for name, text in files.items()]
    return api.create_commit(repo_id, operations, commit_message="Add", repo_type="dataset").oid


@pytest.mark.slow
def test_the_sample_is_published_once_and_fetched_by_commit(hub, tmp_path):
    config = DatasetConfig()
    first = resolve_source(config, place=Workplace(hub, tmp_path))
    again = resolve_source(config, place=Workplace(hub, tmp_path))
    assert first == again
    assert (first.kind, first.location) == ("hub", "askline/biography")
    dataset = fetch_dataset(config, first, place=Workplace(hub, tmp_path))
    assert dataset.split_by == "existing"
    assert dataset.rejected == 0
    assert dataset.warnings == ()
    folder = ArtifactStore(tmp_path / "artifacts").verify("dataset", dataset.sha256)
    train, test = (read_rows(folder, split) for split in ("train", "test"))
    assert len(train) > 900
    assert not {row.question.casefold() for row in train} & {row.question.casefold() for row in test}
    assert {row.group for row in test if row.in_scope} <= {row.group for row in train}
    assert any(not row.in_scope for row in test)


@pytest.mark.slow
def test_the_sample_is_published_again_when_it_differs(hub, tmp_path):
    from huggingface_hub import HfApi

    for name, text in {"README.md": "# x\n", "d/train.csv": CSV, "d/test.csv": "question,answer\nx,y\n"}.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    first = hub_source.publish_sample(tmp_path / "data", target=hub)
    (tmp_path / "data" / "d" / "test.csv").rename(tmp_path / "data" / "d" / "other.csv")
    second = hub_source.publish_sample(tmp_path / "data", target=hub)
    assert first != second
    assert hub_source.publish_sample(tmp_path / "data", target=hub) == second
    files = HfApi(endpoint=hub.hub).list_repo_files("askline/biography", repo_type="dataset")
    assert set(files) - {".gitattributes"} == {"README.md", "d/train.csv", "d/other.csv"}


@pytest.mark.slow
def test_a_hub_dataset_by_branch_tag_and_commit(hub, tmp_path):
    from huggingface_hub import HfApi

    old = publish(hub, "someone/facts", {"data.csv": CSV})
    HfApi(endpoint=hub.hub, token=LOCAL_HUB_TOKEN).create_tag("someone/facts", tag="v1", repo_type="dataset")
    new = publish(hub, "someone/facts", {"data.csv": CSV + "What is more?,It is 99\n"})

    def resolve(source: str = "someone/facts", **options: Any) -> SourceRef:
        return resolve_source(DatasetConfig(source=source, **options), place=Workplace(hub, tmp_path))

    assert resolve().revision == new
    assert resolve(revision="main").revision == new
    assert resolve(revision="v1").revision == resolve(revision=old).revision == old
    assert resolve(f"{hub.hub}/datasets/someone/facts").revision == new
    assert resolve(f"{hub.hub}/datasets/someone/facts/tree/v1").revision == old
    assert resolve("hf://datasets/someone/facts@v1").revision == old
    assert fetch(tmp_path, hub, "someone/facts", revision="v1").splits["train"] == 20
    assert fetch(tmp_path, hub, "someone/facts").splits["train"] == 21


@pytest.mark.slow
def test_a_hub_dataset_with_configs_in_its_card(hub, tmp_path):
    card = "---\nconfigs:\n- config_name: a\n  data_files:\n  - {split: train, path: x/l.jsonl}\n"
    card += "  - {split: test, path: x/e.jsonl}\n- config_name: b\n  data_files: y.csv\n---\n"
    lines = [json.dumps({"instruction": f"Tell {n}", "response": f"{n}."}) for n in range(10)]
    files = {"README.md": card, "x/l.jsonl": "\n".join(lines[:7]), "x/e.jsonl": "\n".join(lines[7:]), "y.csv": CSV}
    publish(hub, "someone/subsets", files)
    assert fetch(tmp_path, hub, "someone/subsets", subset="a").splits == {"train": 7, "test": 3}
    with pytest.raises(ConfigError, match="has several subsets"):
        fetch(tmp_path, hub, "someone/subsets")


@pytest.mark.slow
def test_what_the_hub_lacks_is_named(hub, tmp_path):
    publish(hub, "someone/scripted", {"scripted.py": "raise SystemExit", "README.md": "# x"})
    publish(hub, "someone/known", {"data.csv": CSV})
    with pytest.raises(DatasetNotFoundError, match="someone/known has no revision 'v9'"):
        fetch(tmp_path, hub, "someone/known", revision="v9")
    with pytest.raises(DatasetFormatError, match="holds no data file"):
        fetch(tmp_path, hub, "someone/scripted")


@pytest.mark.slow
def test_a_private_dataset_without_a_token(hub, tmp_path):
    publish(hub, "someone/private", {"data.csv": CSV}, private=True)
    assert fetch(tmp_path, hub, "someone/private").splits["train"] == 20
    nobody = Target(kind="aws", region="us-east-1", hub=hub.hub)  # with this target the person's own token is used
    with pytest.raises(DatasetNotFoundError, match=r"no dataset someone/private.*or it is private.*HF_TOKEN"):
        fetch(tmp_path, nobody, "someone/private")


@pytest.mark.slow
def test_what_the_embedded_hub_lacks_is_looked_up_on_the_public_one(hub, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    path = "/api/datasets/someone/elsewhere"
    server.answers[path] = (401, {"X-Error-Code": "RepoNotFound"}, b"")
    with pytest.raises(DatasetNotFoundError, match=r"no dataset someone/elsewhere: the embedded Hub does not hold it"):
        fetch(tmp_path, hub, "someone/elsewhere")
    sha = "5" * 40
    server.answers[path] = (200, {}, json.dumps({"id": "someone/elsewhere", "sha": sha, "siblings": []}).encode())
    ref = resolve_source(DatasetConfig(source="someone/elsewhere"), place=Workplace(hub, tmp_path))
    assert (ref.public, ref.revision) == (True, sha)
    assert all(LOCAL_HUB_TOKEN not in str(headers) for _, headers in server.requests)


@pytest.mark.slow
def test_no_network_for_a_public_hub_id(hub, free_port, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port}")
    with pytest.raises(DatasetNotFoundError, match=r"embedded Hub does not hold it, the Hub .* cannot be reached"):
        fetch(tmp_path, hub, "bsaurav/biography")


def test_no_network_for_a_hub_id_can_be_tried_again(free_port, tmp_path):
    with pytest.raises(
        DatasetNotFoundError, match=r"owner/name: the embedded Hub .* cannot be reached.*local file"
    ) as caught:
        fetch(tmp_path, make_target(f"http://127.0.0.1:{free_port}"), "owner/name")
    assert caught.value.retryable


# --- servers that refuse


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from ``server.answers``: path to (status, headers, body); keeps the requests."""

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        answers = self.server.answers  # type: ignore[attr-defined]
        status, headers, body = answers.get(self.path.partition("?")[0], (404, {}, b"no"))
        if headers.get("ETag") and self.headers.get("If-None-Match") == headers["ETag"]:
            status, body = 304, b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.answers, running.requests = {}, []  # type: ignore[attr-defined]
    running.url = f"http://127.0.0.1:{running.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "message", "retryable"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "owner/name is gated: ask for access.*HF_TOKEN", False),
        (401, {"X-Error-Code": "RepoNotFound"}, "no dataset owner/name.*or it is private.*HF_TOKEN", False),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'x'", False),
        (503, {}, "answered 503", True),
        (429, {}, "answered 429", True),
        (403, {}, "answered 403.*HF_TOKEN", False),
    ],
)
def test_what_the_hub_refuses_is_explained(server, tmp_path, status, headers, message, retryable):
    server.answers["/api/datasets/owner/name/revision/x"] = (status, headers, b"")
    target = Target(kind="aws", region="us-east-1", hub=server.url)
    with pytest.raises(DatasetNotFoundError, match=message) as caught:
        resolve_source(DatasetConfig(source="owner/name", revision="x"), place=Workplace(target, tmp_path))
    assert caught.value.retryable == retryable


def test_an_aws_target_reads_the_sample_from_its_folder(tmp_path):
    target = Target(kind="aws", region="us-east-1")
    ref = resolve_source(DatasetConfig(), place=Workplace(target, tmp_path))
    assert (ref.kind, Path(ref.location)) == ("file", sources.SAMPLE_FOLDER)
    dataset = fetch_dataset(DatasetConfig(), ref, place=Workplace(target, tmp_path))
    assert dataset.split_by == "existing"


# --- https


def test_only_the_hubs_own_pages_stand_for_a_hub_id():
    hub = "http://127.0.0.1:8900"
    assert sources.classify(f"{hub}/datasets/a/b", hub) == sources.Place("hub", "a/b")
    assert sources.classify("https://huggingface.co/datasets/a/b/tree/v1", hub) == sources.Place("hub", "a/b", "v1")
    for url in ("https://example.com/datasets/a/b", "https://huggingface.co/datasets/a/b/resolve/main/x.csv"):
        assert sources.classify(url, hub) == sources.Place("https", url)


def test_https_is_downloaded_once_and_pinned_by_content(server, tmp_path):
    server.answers["/sub/my%20data.csv"] = (200, {"ETag": '"1"'}, CSV.encode())
    url = f"{server.url}/sub/my%20data.csv"
    config = DatasetConfig(source=url)
    ref = resolve_source(config, place=Workplace(make_target(""), tmp_path))
    assert ref == SourceRef(kind="https", location=url, revision=hashlib.sha256(CSV.encode()).hexdigest())
    assert resolve_source(config, place=Workplace(make_target(""), tmp_path)) == ref
    assert server.requests[1][1]["If-None-Match"] == '"1"'
    store = ArtifactStore(tmp_path / "artifacts")
    dataset = fetch_dataset(config, ref, place=Workplace(make_target(""), store=store))
    profile = json.loads((store.path("dataset", dataset.sha256) / "profile.json").read_text())
    assert profile["files"][0]["file"] == "my data.csv"
    assert len(server.requests) == 2
    server.answers["/sub/my%20data.csv"] = (200, {"ETag": '"2"'}, CSV.encode() + b"a,b\n")
    assert resolve_source(config, place=Workplace(make_target(""), tmp_path)).revision != ref.revision
    assert fetch_dataset(config, ref, place=Workplace(make_target(""), store=store)) == dataset  # still in the cache
    (tmp_path / "cache" / "https" / ref.revision).write_bytes(b"damaged")
    with pytest.raises(DatasetNotFoundError, match="has changed"):
        fetch_dataset(config, ref, place=Workplace(make_target(""), store=store))


def test_https_with_a_compressed_transfer(server, tmp_path):
    server.answers["/d.csv"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(CSV.encode()))
    assert fetch(tmp_path, make_target(""), f"{server.url}/d.csv").splits["train"] == 20


def test_https_errors(server, free_port, tmp_path):
    server.answers["/busy.csv"] = (503, {}, b"")
    server.answers["/login.csv"] = (401, {}, b"")
    server.answers["/away.csv"] = (302, {"Location": "http://192.0.2.1/x.csv"}, b"")
    server.answers["/round.csv"] = (302, {"Location": "/round.csv"}, b"")
    server.answers["/cut.csv"] = (200, {"Content-Length": "500", "Connection": "close"}, b"question,answer\n")
    target = make_target("")
    for source, message, retryable in [
        (f"{server.url}/none.csv", "answered 404", False),
        (f"{server.url}/busy.csv", "answered 503", True),
        (f"{server.url}/login.csv", "answered 401.*login", False),
        (f"{server.url}/away.csv", "plain http is taken from this machine only", False),
        (f"{server.url}/round.csv", "cannot be fetched", False),
        (f"{server.url}/cut.csv", "cannot fetch", True),
        (f"http://127.0.0.1:{free_port}/d.csv", "cannot fetch.*Check the address", True),
        ("http://example.com/d.csv", "use https://", False),
        ("https:///d.csv", "names no host", False),
        ("https://127.0.0.1:99999/d.csv", "cannot|not an address", None),
    ]:
        with pytest.raises(DatasetNotFoundError, match=message) as caught:
            fetch(tmp_path, target, source)
        assert retryable is None or caught.value.retryable == retryable, source
    folder = tmp_path / "cache" / "https"
    assert not folder.exists() or not list(folder.glob(".part-*"))


def test_https_has_a_size_limit(server, tmp_path):
    server.answers["/d.csv"] = (200, {}, CSV.encode())
    server.answers["/z.csv"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(b"a" * 100_000))
    for name in ("d.csv", "z.csv"):
        with pytest.raises(DatasetFormatError, match="larger than 300 bytes"):
            web.resolve_https(f"{server.url}/{name}", cache=tmp_path, max_bytes=300)
    assert not list((tmp_path / "https").iterdir())


# --- S3


@pytest.mark.slow
def test_s3_object_and_prefix(cloud, tmp_path):
    s3 = aws_client(cloud, "s3")
    s3.create_bucket(Bucket="fetch-dataset")
    s3.put_object(Bucket="fetch-dataset", Key="one/data.csv", Body=CSV.encode())
    s3.put_object(Bucket="fetch-dataset", Key="two/train.csv", Body=CSV.encode())
    s3.put_object(Bucket="fetch-dataset", Key="two/test.csv", Body=b"question,answer\nx?,y\nz?,w\n")
    s3.put_object(Bucket="fetch-dataset", Key="two/notes.bin", Body=b"\x00")
    assert fetch(tmp_path, cloud, "s3://fetch-dataset/one/data.csv").splits["train"] == 20
    for prefix in ("s3://fetch-dataset/two", "s3://fetch-dataset/two/"):
        assert fetch(tmp_path, cloud, prefix).splits == {"train": 20, "test": 2}
    config = DatasetConfig(source="s3://fetch-dataset/one/data.csv")
    ref = resolve_source(config, place=Workplace(cloud, tmp_path))
    s3.put_object(Bucket="fetch-dataset", Key="one/data.csv", Body=CSV.encode() + b"more?,yes\n")
    assert resolve_source(config, place=Workplace(cloud, tmp_path)) != ref
    with pytest.raises(DatasetNotFoundError, match="has changed"):
        fetch_dataset(config, ref, place=Workplace(cloud, tmp_path))
    with pytest.raises(DatasetNotFoundError, match=r"one/none\.csv: nothing there"):
        fetch(tmp_path, cloud, "s3://fetch-dataset/one/none.csv")
    with pytest.raises(DatasetNotFoundError, match="there is no such bucket"):
        fetch(tmp_path, cloud, "s3://fetch-dataset-none/x/")


@pytest.fixture
def s3() -> Iterator[tuple[Any, Any]]:
    from botocore.stub import Stubber

    client = aws_client(Target(kind="local", region="us-east-1", endpoints={"s3": "http://127.0.0.1:9"}), "s3")
    with Stubber(client) as stubber:
        yield client, stubber


def test_a_versioned_s3_object_is_pinned_and_fetched_by_its_version(s3, tmp_path):
    import io

    from botocore.response import StreamingBody

    client, stubber = s3
    where = {"Bucket": "b", "Key": "k/d.csv"}
    head = {"ETag": '"e"', "VersionId": "v7", "ContentLength": len(CSV)}
    stubber.add_response("head_object", head, where)
    ref = s3_source.resolve_s3("s3://b/k/d.csv", None, target=make_target(""), client=client)
    assert ref.revision == "v7"
    stubber.add_response("head_object", {**head, "VersionId": "v8"}, where)  # a newer one has come since
    body = StreamingBody(io.BytesIO(CSV.encode()), len(CSV))
    stubber.add_response("get_object", {"Body": body, "ContentLength": len(CSV)}, {**where, "VersionId": "v7"})
    path = s3_source.download_s3(ref, target=make_target(""), cache=tmp_path, client=client)
    assert path.read_text() == CSV


@pytest.mark.parametrize(
    ("code", "status", "message", "retryable"),
    [
        ("403", 403, "may not be read with these credentials", False),
        ("SlowDown", 503, "S3 answered SlowDown", True),
        ("InternalError", 500, "S3 answered InternalError", True),
        ("PermanentRedirect", 301, "S3 answered PermanentRedirect", False),
    ],
)
def test_s3_errors_are_explained(s3, code, status, message, retryable):
    client, stubber = s3
    stubber.add_client_error("head_object", code, http_status_code=status)
    with pytest.raises(DatasetNotFoundError, match=message) as caught:
        s3_source.resolve_s3("s3://b/d.csv", None, target=make_target(""), client=client)
    assert caught.value.retryable == retryable


def test_s3_keys_cannot_leave_the_folder(s3, tmp_path):
    client, stubber = s3
    listing = {"Contents": [{"Key": "p/../../evil.csv", "ETag": '"e"', "Size": 3}]}
    for _ in range(2):
        stubber.add_response("list_objects_v2", listing)
    ref = s3_source.resolve_s3("s3://b/p/", None, target=make_target(""), client=client)
    with pytest.raises(DatasetFormatError, match="would leave the folder"):
        s3_source.download_s3(ref, target=make_target(""), cache=tmp_path, client=client)
    with pytest.raises(DatasetNotFoundError, match="names no bucket"):
        s3_source.resolve_s3("s3:///x", None, target=make_target(""), client=client)
