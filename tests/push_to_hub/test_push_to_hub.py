"""Publishing a model: through the embedded Hub, and against servers that refuse."""

import contextlib
import http.client
import http.server
import json
import socket
import threading

import pytest
from huggingface_hub import HfApi, ModelCard
from support.hub_server import TOKEN, run_client, running_hub
from support.tiny_package import MAX_TARGET, PROMPT, QUESTIONS, UNANSWERABLE, Tiny, tiny  # noqa: F401

from askline.config import HubConfig
from askline.errors import ArtifactError, HubError
from askline.records import DatasetRef, HubRef, SourceRef, SplitScores, Target
from askline.store import ArtifactStore
from local_cloud.hub.cards import check_card
from tasks.push_to_hub.model_card import model_card, source_name
from tasks.push_to_hub.push_to_hub import find_token, push_to_hub, repository_id, version_tag
from tasks.workplace import Workplace

pytestmark = pytest.mark.slow
SECRET = "hf_verysecrettokenthatmustnotbeseen"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_hub(tmp_path_factory.mktemp("hub") / "state", port) as server:
        yield server


@pytest.fixture(scope="module")
def target(hub):
    return Target(kind="local", region="us-east-1", hub=hub.url)


@pytest.fixture(scope="module")
def run(tiny):  # noqa: F811
    """The records of a run up to the evaluation, as the steps write them; the model really answers."""
    lines = []
    for number, (question, answer) in enumerate(QUESTIONS.items()):
        # Two are told wrong on purpose, so that the card has wrong examples to show.
        prediction = "a <b>wild</b> | guess" if number in (1, 10) else answer
        in_scope = answer != UNANSWERABLE
        line = {"split": "test" if in_scope else "out_of_scope", "question": question, "answer": answer}
        line |= {"prediction": prediction, "exact_match": prediction == answer, "token_f1": 1.0, "in_scope": in_scope}
        lines.append(line)
    with tiny.store.new("scores") as draft:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (draft.folder / "predictions.jsonl").write_text(text, encoding="utf-8")
        sha256 = draft.commit()
    test = SplitScores(questions=10, exact_match=0.9, token_f1=0.925, rouge_l=0.91)
    scores = tiny.scores.model_copy(
        update={
            "sha256": sha256,
            "test": test,
            "out_of_scope": SplitScores(questions=2, exact_match=0.5, token_f1=0.5, rouge_l=0.5),
            "baselines": {"nearest question": SplitScores(questions=10, exact_match=0.3, token_f1=0.35, rouge_l=0.3)},
            "false_abstention": 0.05,
        }
    )
    source = SourceRef(kind="hub", location="askline/questions", revision="c" * 40)
    dataset = tiny.dataset.model_copy(update={"source": source, "warnings": ("2 questions have *two* answers",)})
    return Tiny(tiny.store, dataset, tiny.model, scores)


def push(run, target, config=None, **options):
    place = Workplace(target, **{"store": run.store, "run_id": "run-1"} | options)
    return push_to_hub(config or HubConfig(), run.model, run.scores, run.dataset, mlkey="tiny", place=place)


def card_of(run, **options):
    options = {"mlkey": "tiny", "repo_id": "askline/askline-tiny", "tag": "v-1", "store": run.store, **options}
    return model_card(HubConfig(), run.model, run.scores, run.dataset, **options)


# -- publishing ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pushed(run, target):
    seen = []
    ref = push(run, target, progress=lambda share, message="": seen.append(share))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    return ref


def test_the_model_is_one_commit_with_a_tag_in_a_private_repository(run, target, pushed):
    api = HfApi(endpoint=target.hub, token=TOKEN)
    assert pushed.repo_id == "askline/askline-tiny"
    assert pushed.url == f"{target.hub}/askline/askline-tiny"
    assert pushed.tag == version_tag(run.model) == f"v-{run.model.sha256[:12]}"
    assert pushed.skipped is None
    info = api.model_info(pushed.repo_id, revision=pushed.tag)
    assert info.sha == pushed.commit
    assert info.private
    folder = run.store.path("model", run.model.sha256)
    assert {each.rfilename for each in info.siblings} == {path.name for path in folder.iterdir()} | {"README.md"}
    commits = api.list_repo_commits(pushed.repo_id)
    assert [each.title for each in commits] == [f"Publish tiny {pushed.tag}", "initial commit"]
    assert commits[0].message == "askline run run-1"
    assert {"license:apache-2.0", "dataset:askline/questions", "t5"} <= set(info.tags)


def test_the_same_model_is_not_uploaded_again(run, target, pushed, hub):
    again = push(run, target, run_id="run-2")
    assert again == pushed.model_copy(update={"skipped": f"the same model is there already as {pushed.tag}"})
    assert len(HfApi(endpoint=target.hub, token=TOKEN).list_repo_commits(pushed.repo_id)) == 2


def test_a_run_that_stopped_before_the_tag_is_completed(run, target):
    config = HubConfig(repo_id="askline/stopped")
    first = push(run, target, config)
    api = HfApi(endpoint=target.hub, token=TOKEN)
    api.delete_tag("askline/stopped", tag=first.tag)
    second = push(run, target, config)
    assert second == first
    assert len(api.list_repo_commits("askline/stopped")) == 2


def test_a_new_model_replaces_the_old_files_and_keeps_what_people_added(run, target, tmp_path):
    config = HubConfig(repo_id="askline/replaced")
    api = HfApi(endpoint=target.hub, token=TOKEN)
    api.create_repo("askline/replaced", private=True)
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "NOTES.md"):
        api.upload_file(repo_id="askline/replaced", path_in_repo=name, path_or_fileobj=b"old")
    ref = push(run, target, config)
    files = set(api.list_repo_files("askline/replaced"))
    assert "NOTES.md" in files
    assert not {name for name in files if "00001" in name or "index" in name}
    assert api.list_repo_commits("askline/replaced")[0].title == f"Publish tiny {ref.tag}"


def test_two_versions_stand_side_by_side(run, target, tmp_path):
    config = HubConfig(repo_id="askline/versions")
    first = push(run, target, config)
    with run.store.new("model") as draft:
        for path in run.store.path("model", run.model.sha256).iterdir():
            (draft.folder / path.name).write_bytes(path.read_bytes())
        (draft.folder / "training_log.jsonl").write_text('{"loss": 1}\n')
        sha256 = draft.commit()
    newer = run._replace(model=run.model.model_copy(update={"sha256": sha256}))
    second = push(newer, target, config)
    assert second.tag != first.tag
    assert second.commit != first.commit
    api = HfApi(endpoint=target.hub, token=TOKEN)
    tags = {each.name: each.target_commit for each in api.list_repo_refs("askline/versions").tags}
    assert tags == {first.tag: first.commit, second.tag: second.commit}
    assert push(run, target, config).commit == first.commit


def test_an_adapter_is_published_beside_the_model_and_goes_with_it(run, target):
    config = HubConfig(repo_id="askline/adapted")
    with run.store.new("model") as draft:
        for path in run.store.path("model", run.model.sha256).iterdir():
            (draft.folder / path.name).write_bytes(path.read_bytes())
        (draft.folder / "adapter").mkdir()
        (draft.folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        sha256 = draft.commit()
    push(run._replace(model=run.model.model_copy(update={"sha256": sha256})), target, config)
    api = HfApi(endpoint=target.hub, token=TOKEN)
    assert "adapter/adapter_model.safetensors" in api.list_repo_files("askline/adapted")
    push(run, target, config)
    assert not [name for name in api.list_repo_files("askline/adapted") if name.startswith("adapter/")]


def test_a_tag_that_holds_something_else_is_an_error(run, target):
    config = HubConfig(repo_id="askline/mistaken")
    push(run, target, config)
    api = HfApi(endpoint=target.hub, token=TOKEN)
    tag = version_tag(run.model)
    other = api.upload_file(repo_id="askline/mistaken", path_in_repo="model.safetensors", path_or_fileobj=b"other").oid
    api.delete_tag("askline/mistaken", tag=tag)
    api.create_tag("askline/mistaken", tag=tag, revision=other)
    with pytest.raises(HubError, match=r"its model\.safetensors is another"):
        push(run, target, config)


def test_nothing_private_goes_to_a_public_repository(run, target):
    api = HfApi(endpoint=target.hub, token=TOKEN)
    api.create_repo("askline/open", private=False)
    with pytest.raises(HubError, match=r"is public, but hub\.private is on"):
        push(run, target, HubConfig(repo_id="askline/open"))
    assert api.list_repo_files("askline/open") == []
    assert push(run, target, HubConfig(repo_id="askline/open", private=False)).commit
    assert api.model_info("askline/open").private is False


def test_xet_is_put_aside_for_the_embedded_hub_alone(run, target):
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = False
    try:
        ref = push(run, target, HubConfig(repo_id="askline/with-xet"))
        assert constants.HF_HUB_DISABLE_XET is False
    finally:
        constants.HF_HUB_DISABLE_XET = before
    assert ref.commit


def test_a_damaged_model_is_not_published(run, target, tmp_path):
    with pytest.raises(ArtifactError):
        push(run, target, store=ArtifactStore(tmp_path))


# -- not publishing ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))


AWS = Target(kind="aws", region="us-east-1")


def test_without_a_token_auto_skips_and_always_fails(run, no_token):
    skipped = push(run, AWS)
    assert isinstance(skipped, HubRef)
    assert "no Hub token" in skipped.skipped
    assert (skipped.repo_id, skipped.commit) == (None, None)
    with pytest.raises(HubError, match="HF_TOKEN"):
        push(run, AWS, HubConfig(push="always"))
    assert push(run, AWS, HubConfig(push="never")).skipped == "hub.push is never"


def test_each_hub_gets_its_own_token(monkeypatch, target):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert find_token(target) == TOKEN
    assert find_token(AWS) == SECRET
    with pytest.raises(HubError, match="not on this machine"):
        find_token(Target(kind="local", region="us-east-1"))  # whose default Hub is the real one


@pytest.mark.parametrize("wanted", ["a b/c", "x--y", "a/b/c", "a/b.git", ""])
def test_a_wrong_repository_id_is_named(run, target, wanted):
    with pytest.raises(HubError) as error:
        push(run, target, HubConfig(repo_id=wanted))
    assert repr(wanted) in str(error.value)
    assert not error.value.retryable


def test_default_ids_are_ones_that_the_hub_takes():
    assert repository_id(None, "my--key-1", account=lambda: "me") == "me/askline-my-key-1"
    assert repository_id("mine", "key", account=lambda: "me") == "me/mine"
    assert repository_id("you/mine", "key", account=lambda: pytest.fail("not needed")) == "you/mine"


# -- a Hub that refuses --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def refusing(hub, at, status, message=""):
    """The embedded Hub behind a server that answers one route with a status, and passes all else on."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if at in self.path:
                code, headers, content = status, [], json.dumps({"error": message}).encode()
            else:
                connection = http.client.HTTPConnection("127.0.0.1", hub.port)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                code, headers, content = answer.status, answer.getheaders(), answer.read()
                connection.close()
            self.send_response(code)
            for name, value in headers:
                if name.lower() != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Target(kind="aws", region="us-east-1", hub=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("at", "status", "message", "expected", "retryable"),
    [
        ("whoami", 401, "Invalid credentials", "wrong or expired", False),
        ("repos/create", 403, "Forbidden", "may not write", False),
        ("repos/create", 403, "Private storage limit reached", "no room left", False),
        ("repos/create", 402, "Payment required", "no room left", False),
        ("preupload", 404, "Not found", "is not there", False),
        ("repos/create", 500, "Internal", "try again later", True),
        ("commit/main", 412, "A commit has happened since", "try again", True),
        ("repos/create", 429, "Too many", "try again later", True),
        ("validate-yaml", 400, "bad license", "model card's license", False),
    ],
)
def test_each_refusal_says_what_to_do(run, hub, monkeypatch, at, status, message, expected, retryable):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with refusing(hub, at, status, message) as target, pytest.raises(HubError) as error:
        push(run, target, HubConfig(repo_id=f"me/x{status}") if at != "whoami" else HubConfig())
    assert expected in str(error.value)
    assert error.value.retryable is retryable
    assert SECRET not in str(error.value)
    assert target.hub in str(error.value)


def test_a_hub_that_echoes_the_token_does_not_make_it_public(run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with refusing(hub, "repos/create", 403, f"the token {SECRET} is weak") as target, pytest.raises(HubError) as error:
        push(run, target, HubConfig(repo_id="me/x"))
    assert SECRET not in str(error.value)
    assert "***" in str(error.value)


def test_the_same_push_goes_through_where_nothing_refuses(run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with refusing(hub, "no such route", 500) as target:
        assert push(run, target, HubConfig(repo_id="me/fine")).commit


def test_no_connection_can_be_tried_again(run, free_port):
    target = Target(kind="local", region="us-east-1", hub=f"http://127.0.0.1:{free_port}")
    with pytest.raises(HubError, match="Check the network") as error:
        push(run, target)
    assert error.value.retryable


# -- the card ------------------------------------------------------------------------------------------------------


def test_the_card_reads_back_with_what_the_records_say(run, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(card_of(run, language=["en"]), encoding="utf-8")
    card = ModelCard.load(path)
    data = card.data
    assert (data.license, data.datasets, data.library_name) == ("apache-2.0", ["askline/questions"], "transformers")
    assert data.language == ["en"]
    assert data.base_model is None
    measured = {(each.dataset_name, each.metric_type): each.metric_value for each in data.eval_results}
    assert measured["askline/questions, questions not seen in training", "exact_match"] == 90.0
    assert measured["askline/questions, questions not seen in training", "f1"] == 92.5
    assert measured["askline/questions, out-of-scope questions", "exact_match"] == 50.0
    assert measured["askline/questions, out-of-scope questions", "rouge"] == 50.0
    assert {each.dataset_revision for each in data.eval_results} == {"c" * 40}
    for text in ("90.0 %", "nearest question | 10 | 30.0 %", "Where was she born?", UNANSWERABLE, PROMPT, "5.0 %"):
        assert text in card.text, text
    assert r"a &lt;b&gt;wild&lt;/b&gt; \| guess" in card.text
    assert r"2 questions have \*two\* answers" in card.text
    for heading in ("How to call it", "Data", "Scores", "Examples", "Intended use", "Limits", "Training"):
        assert f"\n## {heading}\n" in card.text


def test_the_hub_knows_the_cards_task_and_has_nothing_against_the_rest(run):
    card = card_of(run, language=["en"])
    assert check_card(card) == ([], [])
    _, warnings = check_card(card.replace("pipeline_tag: question-answering", "pipeline_tag: text2text-generation"))
    assert ['the pipeline tag "text2text-generation" is not in the official list' in each for each in warnings] == [
        True
    ]


def test_the_card_is_the_same_for_the_same_records(run):
    assert card_of(run) == card_of(run)


def test_the_card_tells_no_secret_of_the_machine(run):
    def dataset(kind, location):
        source = SourceRef(kind=kind, location=location, revision="r")
        return DatasetRef.model_validate(run.dataset.model_dump() | {"source": source})

    assert source_name(dataset("file", "/home/jane/private/q.csv")) == "q.csv"
    signed = "https://user:pw@host.example/q.csv?X-Amz-Signature=abc#x"
    assert source_name(dataset("https", signed)) == "https://host.example/q.csv"
    model = run.model.model_copy(update={"base": "/home/jane/t5", "dataset_sha256": "d" * 64})
    text = card_of(run._replace(model=model, dataset=dataset("file", "/home/jane/private/q.csv")))
    assert "/home/jane" not in text
    assert "datasets:" not in text
    assert "base_model" not in text


def test_a_base_of_the_hub_is_linked(run):
    model = run.model.model_copy(update={"base": "google/flan-t5-base", "base_revision": "7" * 40})
    text = card_of(run._replace(model=model))
    assert ModelCard(text).data.base_model == "google/flan-t5-base"
    assert "fine-tuned from [google/flan-t5-base]" in text


def test_the_cards_own_code_gives_the_models_own_answer(run, target, pushed, hub, tmp_path):
    card = ModelCard.load(HfApi(endpoint=target.hub, token=TOKEN).hf_hub_download(pushed.repo_id, "README.md"))
    code = card.text.split("```python\n")[1].split("\n```")[0]
    assert pushed.repo_id in code
    assert pushed.tag in code
    question = next(iter(QUESTIONS))
    assert question in code
    assert f"max_new_tokens={MAX_TARGET}" in code
    assert run_client(code, hub, tmp_path / "home").strip() == QUESTIONS[question]


def test_the_cards_curl_is_the_apis(run):
    text = card_of(run, mlkey="my-key")
    body = text.split("--data '")[1].split("'\n")[0]
    assert json.loads(body.replace("'\\''", "'")) == {"MLKey": "my-key", "question": "Where was she born?"}
