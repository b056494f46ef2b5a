"""The embedded Hub, through the official clients over HTTP."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.sha import git_hash
from support.hub_server import TOKEN, run_client, running_hub

from askline.errors import LocalCloudError
from local_cloud.hub.commits import Change, apply_change, check_path
from local_cloud.hub.refusal import RefusedError
from local_cloud.hub.repositories import check_ref_name, split_id
from local_cloud.hub.state import open_state
from local_cloud.hub.storage import BlobStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_hub(tmp_path_factory.mktemp("hub") / "state", port) as server:
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=TOKEN)


@pytest.fixture
def repo(api, request):
    """A fresh model repository."""
    return api.create_repo(f"askline/{request.node.name[:80].replace('[', '-').rstrip(']')}").repo_id


def commit(api, repo, files, **options):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(repo, operations, commit_message=options.pop("commit_message", "change"), **options)


def status_of(error):
    return error.value.response.status_code


def raw(hub, method, path, body=None, headers=None):
    """Send a request exactly as written, which the clients would not."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=30)
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


# -- repositories --------------------------------------------------------------------------------------------------


def test_the_token_is_the_local_user(api, hub):
    assert api.whoami()["name"] == "askline"
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(endpoint=hub.url, token=False).create_repo("nobody")
    assert status_of(error) == 401


def test_creating_twice_is_a_conflict_unless_allowed(api):
    assert api.create_repo("twice").repo_id == "askline/twice"
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("twice")
    assert status_of(error) == 409
    assert api.create_repo("twice", exist_ok=True) == api.create_repo("askline/twice", exist_ok=True)
    assert api.create_repo("twice", repo_type="dataset").repo_type == "dataset"  # another kind, another name space


def test_an_id_without_owner_is_the_local_users(api, hub, tmp_path):
    api.create_repo("short", exist_ok=True)
    commit(api, "short", {"a.txt": b"a"})
    assert api.model_info("short").id == "askline/short"
    path = hf_hub_download("short", "a.txt", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == b"a"


def test_a_private_repository_is_not_found_without_a_token(api, hub):
    api.create_repo("secret", private=True)
    assert api.model_info("askline/secret").private
    stranger = HfApi(endpoint=hub.url, token=False)
    with pytest.raises(RepositoryNotFoundError) as error:
        stranger.model_info("askline/secret")
    assert status_of(error) == 401
    with pytest.raises(RepositoryNotFoundError):
        stranger.hf_hub_download("askline/secret", "README.md", cache_dir="/nonexistent")
    with pytest.raises(RepositoryNotFoundError) as error:
        api.model_info("askline/never-made")
    assert status_of(error) == 404
    assert "askline/secret" not in [each.id for each in stranger.list_models()]
    assert "askline/secret" in [each.id for each in api.list_models(author="askline", search="SECRET")]
    api.update_repo_settings("askline/secret", private=False)
    assert stranger.model_info("askline/secret").private is False
    with pytest.raises(HfHubHTTPError) as error:
        stranger.update_repo_settings("askline/secret", private=True)
    assert status_of(error) == 401


def test_delete_and_move(api, repo):
    commit(api, repo, {"a.txt": b"a"})
    api.move_repo(repo, "other/place")
    assert [each.rfilename for each in api.model_info("other/place").siblings] == ["a.txt"]
    assert not api.repo_exists(repo)
    api.delete_repo("other/place")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("other/place")
    api.delete_repo("other/place", missing_ok=True)


# -- commits and files ---------------------------------------------------------------------------------------------


def test_a_folder_with_small_and_large_files_comes_back_the_same(api, hub, repo, tmp_path):
    big = os.urandom(11 * 1024 * 1024)
    card = b"---\nlicense: mit\ntags: [x]\n---\n# Hi\n"
    files = {"big.bin": big, "README.md": card, "sub dir/é#1.txt": "é".encode()}
    for name, content in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    done = api.upload_folder(repo_id=repo, folder_path=tmp_path / "source")
    info = api.model_info(repo, files_metadata=True)
    assert info.sha == done.oid
    assert info.card_data.license == "mit"
    assert {"x", "license:mit"} <= set(info.tags)
    siblings = {each.rfilename: each for each in info.siblings}
    assert siblings.keys() == files.keys()
    assert siblings["big.bin"].lfs.size == len(big)
    assert siblings["README.md"].lfs is None
    assert siblings["README.md"].blob_id == git_hash(files["README.md"])
    folder = snapshot_download(repo, revision=done.oid, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False)
    assert {name: (Path(folder) / name).read_bytes() for name in files} == files
    assert api.upload_folder(repo_id=repo, folder_path=tmp_path / "source").oid == done.oid  # nothing has changed


def test_a_snapshot_is_of_its_revision(api, hub, repo, tmp_path):
    first = commit(api, repo, {"a.txt": b"1", "b.txt": b"b"})
    api.create_tag(repo, tag="v1")
    api.create_commit(
        repo, [CommitOperationAdd("a.txt", b"2"), CommitOperationDelete("b.txt")], commit_message="second"
    )
    for revision in ("v1", first.oid, first.oid[:8]):
        folder = Path(snapshot_download(repo, revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=TOKEN))
        assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt"]
        assert (folder / "a.txt").read_text() == "1"
    folder = Path(snapshot_download(repo, endpoint=hub.url, cache_dir=tmp_path, token=TOKEN))
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_text() == "2"


def test_a_parent_that_is_not_the_head_is_refused(api, repo):
    old = api.model_info(repo).sha
    new = commit(api, repo, {"a": b"1"}, parent_commit=old).oid
    with pytest.raises(HfHubHTTPError) as error:
        commit(api, repo, {"a": b"2"}, parent_commit=old)
    assert status_of(error) == 412
    assert api.model_info(repo).sha == new
    commit(api, repo, {"a": b"2"}, parent_commit=new[:7])  # shortened ids are allowed


def test_concurrent_commits_are_all_kept(api, hub, repo):
    def push(number):
        return commit(HfApi(endpoint=hub.url, token=TOKEN), repo, {f"{number}.txt": str(number).encode()}).oid

    with ThreadPoolExecutor(8) as pool:
        oids = list(pool.map(push, range(16)))
    assert len(set(oids)) == 16
    assert sorted(api.list_repo_files(repo)) == sorted(f"{number}.txt" for number in range(16))
    assert {each.commit_id for each in api.list_repo_commits(repo)} >= set(oids)


def test_of_two_concurrent_commits_on_one_parent_one_wins(api, hub, repo):
    parent = api.model_info(repo).sha
    barrier = threading.Barrier(2)

    def push(number):
        barrier.wait()
        try:
            return commit(HfApi(endpoint=hub.url, token=TOKEN), repo, {"a": bytes([number])}, parent_commit=parent).oid
        except HfHubHTTPError as error:
            return error.response.status_code

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(push, range(2)))
    assert results.count(412) == 1
    assert api.model_info(repo).sha in results


def test_commit_ids_come_from_content_and_parent(api):
    ids = []
    for name in ("same-one", "same-two"):
        api.create_repo(name)
        ids.append(commit(api, f"askline/{name}", {"a": b"1", "b": b"2"}).oid)
    assert ids[0] == ids[1]
    assert len(ids[0]) == 40
    assert commit(api, "askline/same-two", {"a": b"1"}, commit_message="back").oid == ids[0]  # unchanged: no commit
    assert commit(api, "askline/same-two", {"a": b"3"}).oid != ids[0]


def test_history_and_empty_commits(api, repo):
    commit(api, repo, {"a": b"1"}, commit_message="first", commit_description="why")
    empty = api.create_commit(repo, [CommitOperationDelete("a")], commit_message="drop").oid
    history = api.list_repo_commits(repo)
    assert [each.title for each in history] == ["drop", "first", "initial commit"]
    assert history[1].message == "why"
    assert history[0].commit_id == empty
    assert api.list_repo_files(repo) == []
    api.super_squash_history(repo, commit_message="all in one")
    assert [each.title for each in api.list_repo_commits(repo)] == ["all in one"]


def test_a_commit_without_changes_is_a_commit(api, hub, repo):
    before = commit(api, repo, {"a": b"1"}).oid
    body = json.dumps({"key": "header", "value": {"summary": "nothing new"}})
    status, _, content = raw(hub, "POST", f"/api/models/{repo}/commit/main", body, AUTHORIZED)
    assert status == 200
    assert api.model_info(repo).sha == json.loads(content)["commitOid"] != before
    assert api.list_repo_files(repo) == ["a"]


def test_deletions_of_files_and_folders(api, repo):
    commit(api, repo, {"keep.txt": b"k", "dir/a": b"a", "dir/sub/b": b"b"})
    with pytest.raises(EntryNotFoundError):
        api.delete_file("nothing.txt", repo)
    api.delete_folder("dir", repo)
    assert api.list_repo_files(repo) == ["keep.txt"]
    with pytest.raises(EntryNotFoundError):
        api.delete_folder("dir", repo)


def test_tree_and_paths_info(api, repo):
    first = commit(api, repo, {"a.txt": b"1", "d/b.txt": b"2", "d/e/c.txt": b"3"}, commit_message="one").oid
    second = commit(api, repo, {"d/b.txt": b"22"}, commit_message="two").oid
    top = {each.path: each for each in api.list_repo_tree(repo, expand=True)}
    assert set(top) == {"a.txt", "d"}
    assert top["a.txt"].last_commit.oid == first
    assert top["d"].last_commit.oid == second
    assert {each.path for each in api.list_repo_tree(repo, recursive=True)} == {
        "a.txt",
        "d",
        "d/b.txt",
        "d/e",
        "d/e/c.txt",
    }
    assert {each.path for each in api.list_repo_tree(repo, "d/e")} == {"d/e/c.txt"}
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "nowhere"))
    infos = api.get_paths_info(repo, ["d", "a.txt", "missing"], revision=first)
    assert [each.path for each in infos] == ["d", "a.txt"]
    assert infos[1].blob_id == git_hash(b"1")


def test_branches_and_tags(api, repo):
    first = commit(api, repo, {"a": b"1"}).oid
    api.create_branch(repo, branch="feature/x")
    second = commit(api, repo, {"a": b"2"}, revision="feature/x").oid
    api.create_tag(repo, tag="v1", revision=first[:10], tag_message="first")
    refs = api.list_repo_refs(repo)
    assert {each.name: each.target_commit for each in refs.branches} == {"main": first, "feature/x": second}
    assert [(each.name, each.ref, each.target_commit) for each in refs.tags] == [("v1", "refs/tags/v1", first)]
    assert api.model_info(repo, revision="feature/x").sha == second
    for again in (lambda: api.create_tag(repo, tag="v1"), lambda: api.create_branch(repo, branch="feature/x")):
        with pytest.raises(HfHubHTTPError) as error:
            again()
        assert status_of(error) == 409
    api.create_tag(repo, tag="v1", exist_ok=True)
    with pytest.raises(RevisionNotFoundError):
        commit(api, repo, {"a": b"3"}, revision="v1")  # a tag cannot be committed to
    with pytest.raises(BadRequestError):
        api.create_tag(repo, tag="no spaces")
    api.delete_tag(repo, tag="v1")
    api.delete_branch(repo, branch="feature/x")
    for gone in (lambda: api.delete_tag(repo, tag="v1"), lambda: api.model_info(repo, revision="feature/x")):
        with pytest.raises(RevisionNotFoundError):
            gone()
    with pytest.raises(HfHubHTTPError) as error:
        api.delete_branch(repo, branch="main")
    assert status_of(error) == 403


def test_what_is_missing_has_the_clients_own_errors(api, hub, repo, tmp_path):
    commit(api, repo, {"a": b"1"})
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(repo, "a", revision="nope", cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(repo, "b", cache_dir=tmp_path)
    assert not api.file_exists(repo, "b")
    assert api.file_exists(repo, "a")
    with pytest.raises(HfHubHTTPError) as error:
        commit(api, repo, {"a": b"2"}, create_pr=True)
    assert "no pull requests" in str(error.value)
    assert raw(hub, "GET", "/api/spaces/a/b")[0] == 404


def test_a_card_with_broken_metadata_is_refused(api, repo):
    for text in (
        "---\na: [\n---\n",
        "---\nmodel-index:\n- name: x\n  results:\n  - task: 3\n---\n",
        "---\ntags: 3\n---\n",
    ):
        with pytest.raises(ValueError, match="Invalid metadata"):
            commit(api, repo, {"README.md": text.encode()})
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        commit(api, repo, {"README.md": b"no metadata"})


# -- bytes on the wire ---------------------------------------------------------------------------------------------


def test_parts_of_a_file_and_its_headers(api, hub, repo):
    oid = commit(api, repo, {"a.txt": b"0123456789"}).oid
    status, headers, content = raw(hub, "GET", f"/{repo}/resolve/main/a.txt", headers={"Range": "bytes=2-4"})
    assert (status, content, headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    status, headers, content = raw(hub, "HEAD", f"/{repo}/resolve/main/a.txt")
    assert (status, content, headers["content-length"]) == (200, b"", "10")
    assert headers["x-repo-commit"] == oid
    assert headers["x-linked-size"] == "10"
    assert headers["etag"] == f'"{git_hash(b"0123456789")}"'
    assert raw(hub, "GET", f"/{repo}/resolve/main/a.txt", headers={"If-None-Match": headers["etag"]})[0] == 304
    assert raw(hub, "GET", f"/{repo}/resolve/main/a.txt", headers={"Range": "bytes=20-"})[0] == 416
    status, headers, _ = raw(hub, "HEAD", f"/{repo}/resolve/main/no.txt", headers=AUTHORIZED)
    assert (status, headers["x-error-code"], headers["x-repo-commit"]) == (404, "EntryNotFound", oid)


def test_an_upload_that_is_not_what_was_announced_is_dropped(hub, repo):
    def batch(sha256, size):
        body = json.dumps({"operation": "upload", "objects": [{"oid": sha256, "size": size}]})
        return json.loads(raw(hub, "POST", f"/{repo}.git/info/lfs/objects/batch", body, AUTHORIZED)[2])["objects"][0]

    announced = "0" * 64
    where = batch(announced, 3)["actions"]["upload"]["href"].removeprefix(hub.url)
    status, _, content = raw(hub, "PUT", where, b"abc")
    assert status == 400
    assert b"hash to sha256 ba7816bf" in content
    assert raw(hub, "PUT", where, b"abcd")[0] == 400
    assert raw(hub, "PUT", where.split("&signature")[0], b"abc")[0] == 403
    assert "actions" in batch(announced, 3)
    line = {"key": "lfsFile", "value": {"path": "x", "algo": "sha256", "oid": announced, "size": 3}}
    body = "\n".join(json.dumps(each) for each in ({"key": "header", "value": {"summary": "x"}}, line))
    status, _, content = raw(hub, "POST", f"/api/models/{repo}/commit/main", body, AUTHORIZED)
    assert status == 400
    assert b"was not uploaded" in content
    assert not list((hub.state / "scratch").iterdir())


def test_an_upload_that_breaks_off_leaves_nothing(hub, repo):
    body = json.dumps({"operation": "upload", "objects": [{"oid": "1" * 64, "size": 1000}]})
    answer = json.loads(raw(hub, "POST", f"/{repo}.git/info/lfs/objects/batch", body, AUTHORIZED)[2])
    where = answer["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.url)
    with socket.create_connection(("127.0.0.1", hub.port)) as connection:
        head = f"PUT {where} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"half")
        deadline = time.monotonic() + 60
        while not list((hub.state / "scratch").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    deadline = time.monotonic() + 60
    while list((hub.state / "scratch").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "Traceback" not in hub.log.read_text()


def test_paths_that_would_leave_the_repository_are_refused(hub, repo):
    for path in ("../x", "a/../../x", "/x", "a//b", ".git/config", "a\nb", ""):
        line = {"key": "file", "value": {"path": path, "content": "", "encoding": "base64"}}
        body = "\n".join(json.dumps(each) for each in ({"key": "header", "value": {"summary": "x"}}, line))
        status, _, content = raw(hub, "POST", f"/api/models/{repo}/commit/main", body, AUTHORIZED)
        assert status == 400, path
        assert b"error" in content
    for path in (f"/{repo}/resolve/main/..%2f..%2fhub.json", f"/{repo}/resolve/..%2f..%2f/x", "/..%2f..%2fetc/passwd"):
        assert raw(hub, "GET", path, headers=AUTHORIZED)[0] == 404
    assert raw(hub, "POST", f"/api/models/{repo}/commit/main", "no json", AUTHORIZED)[0] == 400
    assert raw(hub, "POST", "/api/repos/create", json.dumps({"name": "../x"}), AUTHORIZED)[0] == 400


def test_only_loopback_names_are_answered(hub):
    assert raw(hub, "GET", "/", headers={"Host": "evil.example"})[0] == 421
    assert raw(hub, "GET", "/", headers={"Host": f"localhost:{hub.port}"})[0] == 200


# -- in the browser ------------------------------------------------------------------------------------------------


def test_a_person_sees_repositories_files_card_and_commits(api, hub):
    api.create_repo("for-people", private=True)
    card = b"---\nlicense: mit\n---\n# Title <script>alert(1)</script>\n"
    oid = commit(api, "askline/for-people", {"README.md": card, "a<b>.bin": b"\0"}, commit_message="<b>bold</b>").oid
    status, headers, page = raw(hub, "GET", "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert b'<a href="/askline/for-people">' in page
    for path in ("/askline/for-people", f"/askline/for-people/commit/{oid}", "/askline/for-people/tree/main"):
        status, headers, page = raw(hub, "GET", path)
        assert status == 200
        assert b"# Title &lt;script&gt;" in page
        assert b"license: mit" not in page
        assert b"&lt;b&gt;bold&lt;/b&gt;" in page
        assert b"<script" not in page
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b'<html lang="en">' in page
    assert b"license: mit" in raw(hub, "GET", "/askline/for-people/blob/main/README.md")[2]
    assert b"not text" in raw(hub, "GET", "/askline/for-people/blob/main/a%3Cb%3E.bin")[2]
    assert raw(hub, "GET", "/askline/for-people/")[0] in (301, 307, 308)
    status, headers, _ = raw(hub, "GET", "/no/such", headers={"Accept": "text/html"})
    assert (status, headers["content-type"].split(";")[0]) == (404, "text/html")
    # The page is for the person at this machine; the bytes still need the token.
    assert raw(hub, "GET", "/askline/for-people/resolve/main/README.md")[0] == 401


# -- datasets and transformers -------------------------------------------------------------------------------------

DATASETS = """
import sys
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfApi

api = HfApi()
api.create_repo("bsaurav/biography", repo_type="dataset")
api.upload_folder(repo_id="bsaurav/biography", repo_type="dataset", folder_path=sys.argv[1])
sha = api.dataset_info("bsaurav/biography").sha
new = b"question,answer\\nnew?,n\\n"
api.upload_file(repo_id="bsaurav/biography", repo_type="dataset", path_in_repo="train.csv", path_or_fileobj=new)
assert load_dataset("bsaurav/biography", split="train")["question"][:] == ["new?"]
old = load_dataset("bsaurav/biography", revision=sha)
assert {name: rows["question"][:] for name, rows in old.items()} == {"train": ["a?", "c?"], "test": ["e?"]}
streamed = load_dataset("bsaurav/biography", revision=sha, split="train", streaming=True)
assert list(streamed) == [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]

for rows in (["x"], ["x", "y", "z"]):
    DatasetDict(train=Dataset.from_dict({"q": rows})).push_to_hub("pushed", private=True)
    assert [row["q"] for row in load_dataset("askline/pushed", split="train", streaming=True)] == rows
assert load_dataset("askline/pushed")["train"]["q"][:] == ["x", "y", "z"]
assert api.dataset_info("askline/pushed").private
files = api.list_repo_files("askline/pushed", repo_type="dataset")
assert [name for name in files if name.endswith(".parquet")] == ["data/train-00000-of-00001.parquet"]
print("done")
"""

TRANSFORMERS = """
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration
import torch

config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
model = T5ForConditionalGeneration(config).eval()
pushed = model.push_to_hub("askline/tiny-t5", private=True)
again = AutoModelForSeq2SeqLM.from_pretrained("askline/tiny-t5", revision=pushed.oid).eval()
ids = torch.tensor([[5, 6, 1]])
assert torch.equal(model(input_ids=ids, labels=ids).logits, again(input_ids=ids, labels=ids).logits)
print("done")
"""


def test_datasets_are_loaded_streamed_and_pushed(hub, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("question,answer\na?,b\nc?,d\n")
    (folder / "test.csv").write_text("question,answer\ne?,f\n")
    assert run_client(DATASETS, hub, tmp_path / "home", str(folder)).strip() == "done"


def test_a_model_is_pushed_and_loaded_by_transformers(hub, tmp_path):
    assert run_client(TRANSFORMERS, hub, tmp_path / "home").strip() == "done"


def test_small_files_go_up_with_xet_on_and_large_ones_are_refused(api, hub, tmp_path):
    code = """
import sys
from huggingface_hub import HfApi, constants
constants.HF_HUB_DISABLE_XET = False
api = HfApi()
api.create_repo("xet")
api.upload_folder(repo_id="xet", folder_path=sys.argv[1])
try:
    api.upload_file(repo_id="xet", path_in_repo="big.bin", path_or_fileobj=sys.argv[2])
except Exception as error:
    print(error)
"""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "a.bin").write_bytes(os.urandom(1000))
    (tmp_path / "big.bin").write_bytes(os.urandom(11 * 1024 * 1024))
    said = run_client(code, hub, tmp_path / "home", str(tmp_path / "small"), str(tmp_path / "big.bin"))
    assert "501" in said
    assert api.list_repo_files("askline/xet") == ["a.bin"]
    assert "HF_HUB_DISABLE_XET=1" in hub.log.read_text()


# -- the state folder ----------------------------------------------------------------------------------------------


def test_kill_9_loses_nothing_that_was_acknowledged(free_port, tmp_path):
    with running_hub(tmp_path / "state", free_port) as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        api.create_repo("kept")
        big = os.urandom(11 * 1024 * 1024)
        commit(api, "askline/kept", {"big.bin": big})
        acknowledged, stop = [], threading.Event()

        def push_on():
            for number in range(1000):
                if stop.is_set():
                    return
                try:
                    oid = commit(api, "askline/kept", {f"{number}.txt": os.urandom(100)}).oid
                    api.create_tag("askline/kept", tag=f"t{number}", revision=oid)
                except (HTTPError, OSError):  # the server is gone
                    return
                acknowledged.append((number, oid))

        worker = threading.Thread(target=push_on)
        worker.start()
        while len(acknowledged) < 10:
            assert worker.is_alive()
            stop.wait(0.02)
        hub.stop(signal.SIGKILL)
        stop.set()
        known = list(acknowledged)
        hub.start()
        worker.join(timeout=60)
        files = api.list_repo_files("askline/kept")
        history = {each.commit_id for each in api.list_repo_commits("askline/kept")}
        tags = {each.name: each.target_commit for each in api.list_repo_refs("askline/kept").tags}
        for number, oid in known:
            assert f"{number}.txt" in files
            assert oid in history
            assert tags[f"t{number}"] == oid
        path = hf_hub_download("askline/kept", "big.bin", endpoint=hub.url, cache_dir=tmp_path / "cache", token=TOKEN)
        assert Path(path).read_bytes() == big
        commit(api, "askline/kept", {"after.txt": b"on it goes"})
        assert hub.stop() in (0, -signal.SIGTERM)


@pytest.fixture
def filled(tmp_path):
    """A state folder with one repository, not served."""
    repositories, lock = open_state(tmp_path / "state")
    repo, _ = repositories.create("models", "owner/name", private=False)
    value = {"path": "a.txt", "content": "YQ==", "encoding": "base64"}
    repositories.apply(repo, "main", Change("add", "", None, [("file", value)]))
    lock.close()
    return tmp_path / "state"


def damage_of(state, pattern):
    """Return the one file of the state that a pattern names."""
    return next(path for path in sorted(state.glob(pattern)) if path.is_file())


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        ("hub.json", b"{"),
        ("hub.json", b'{"format": 99}'),
        ("repos/models/owner/name/repo.json", b'{"private": fal'),
        ("repos/models/owner/name/commits/*.json", b"{}"),
        ("repos/models/owner/name/refs/heads/main", b""),
        ("repos/models/owner/name/refs/heads/main", b"0" * 40),
        ("repos/models/owner/name/refs/heads/main", None),
        ("repos/models/owner/name/repo.json", None),
        ("blobs/*/*", b""),
        ("blobs/*/*", None),
    ],
)
def test_a_damaged_state_is_named_at_the_start(filled, pattern, content):
    path = damage_of(filled, pattern)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(LocalCloudError) as error:
        open_state(filled)
    assert str(path) in str(error.value)


def test_a_changed_commit_is_found_by_its_id(filled):
    path = next(each for each in filled.glob("repos/*/*/*/commits/*.json") if b"a.txt" in each.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"a.txt", b"b.txt"))
    with pytest.raises(LocalCloudError, match=r"does not belong to its id"):
        open_state(filled)


def test_what_was_half_written_is_cleared_away(filled):
    (filled / "scratch" / "tmpabc").write_bytes(b"half")
    (filled / "scratch" / "new-models-x-y").mkdir()
    repositories, lock = open_state(filled)
    with lock:
        assert not list((filled / "scratch").iterdir())
        assert repositories.find("models", "owner/name") is not None


def test_a_folder_of_something_else_and_a_second_server_are_refused(tmp_path, filled):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(LocalCloudError, match="not the state of an embedded Hub"):
        open_state(tmp_path / "other")
    _, lock = open_state(filled)
    with lock, pytest.raises(LocalCloudError, match="another Hub"):
        open_state(filled)
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalCloudError, match="cannot be used"):
        open_state(tmp_path / "file")


def test_a_taken_port_and_a_damaged_state_stop_the_server_with_one_line(tmp_path, filled, free_port):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "local_cloud.hub", *map(str, arguments)], capture_output=True, text=True, timeout=60
        )

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--port", taken.getsockname()[1], "--state", tmp_path / "s")
    assert done.returncode == 1
    assert "Stop what uses the port" in done.stderr
    assert "Traceback" not in done.stderr
    damage_of(filled, "blobs/*/*").unlink()
    done = run("--port", free_port, "--state", filled)
    assert done.returncode == 1
    assert str(filled / "blobs") in done.stderr
    assert "Traceback" not in done.stderr


# -- rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a--b", "a..b", "-a", "a.", "a.git", "a/b/c", "ä", "", "a b", "x" * 97, "api/x", "a/refs"]
)
def test_ids_that_the_hub_refuses(name):
    with pytest.raises(RefusedError) as error:
        split_id(name)
    assert error.value.status == 400


@pytest.mark.parametrize(
    "name", ["", "a b", "a..b", "/a", "a/", ".a", "-a", "a.lock", "a~1", "refs/x", "HEAD", "0" * 40]
)
def test_ref_names_that_git_refuses(name):
    with pytest.raises(RefusedError):
        check_ref_name(name)


def test_names_that_are_fine():
    assert split_id("gpt2") == ("askline", "gpt2")
    assert split_id("google/flan-t5-base") == ("google", "flan-t5-base")
    assert check_ref_name("feature/x-1.2") == "feature/x-1.2"
    assert check_path("a/b c/ü.txt") == "a/b c/ü.txt"


def test_a_file_cannot_be_a_folder_too(tmp_path):
    (tmp_path / "scratch").mkdir()
    blobs = BlobStore(tmp_path / "blobs", tmp_path / "scratch")
    operations = [("file", {"path": path, "content": "x"}) for path in ("a", "a/b")]
    with pytest.raises(RefusedError, match="a file and a folder at once"):
        apply_change(Change("x", "", None, operations), {}, blobs)
