"""The archive in the software that SageMaker's Hugging Face containers run: AWS's toolkit, and its model server.

Nothing of this project is on the path there. Only the container's contract is used.
"""

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from referee.checkpoints import save_plain
from referee.environments import python_of
from referee.model_server import running
from referee.taught import make_flan
from referee.toolkit import Case, Request, Verdict, judge, unpacked
from support.tiny_package import PROMPT, Tiny, tiny  # noqa: F401

from askline.store import sha256_of_folder
from tasks.package.archive import unpack
from tasks.package.package import ARCHIVE
from tasks.qa.prompt import format_prompt

pytestmark = pytest.mark.slow

#: Environment, and the version of transformers in it.
CONTAINERS = {"toolkit-4.51": "4.51.3", "toolkit-5.5": "5.5.3"}

#: Request, and what the answer of the code in the archive tells the caller to mend.
RUBBISH = {
    "no JSON": (Request("{"), "JSON"),
    "a list": (Request("[]"), "inputs"),
    "no inputs": (Request('{"question": "x"}'), "inputs"),
    "no question": (Request('{"inputs": []}'), "question"),
    "blank": (Request('{"inputs": " "}'), "question"),
    "no text": (Request('{"inputs": [null]}'), "question"),
    "too many": (Request(json.dumps({"inputs": ["x"] * 10_000})), "question"),
    "an unknown parameter": (Request('{"inputs": "x", "parameters": {"no_such_thing": 5}}'), "no_such_thing"),
    "too many beams": (Request('{"inputs": "x", "parameters": {"num_beams": 1000000}}'), "num_beams"),
    "not UTF-8": (Request("\udcff\udcfe"), "utf-8"),
    "an image": (Request("x", "image/png"), "image/png"),
    "an image back": (Request('{"inputs": "x"}', accept="image/png"), "image/png"),
}


@pytest.fixture(scope="module")
def flan(tiny: Tiny) -> Tiny:  # noqa: F811
    """A trained model of Flan-T5's shape."""
    return make_flan(tiny)


@pytest.fixture(scope="module")
def archive(flan: Tiny) -> Path:
    return flan.store.verify("package", flan.build().sha256) / ARCHIVE


@pytest.fixture(scope="module")
def evaluated(flan: Tiny) -> dict[str, str]:
    """The evaluation's own answers to held-out questions."""
    path = flan.store.path("scores", flan.scores.sha256) / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {row["question"]: row["prediction"] for row in rows if row["split"] != "train"}
    assert len(set(found.values())) > 5, "the model has learned nothing, so this would compare nothing"
    return found


@pytest.fixture(scope="module")
def plain(flan: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as ``save_pretrained`` writes it: the unrepaired export."""
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    source = flan.store.path("model", flan.model.sha256)
    folder = tmp_path_factory.mktemp("plain")
    save_plain(T5ForConditionalGeneration.from_pretrained(source), T5Tokenizer.from_pretrained(source), folder)
    return folder


@pytest.fixture(scope="module")
def verdict_of(
    archive: Path,
    evaluated: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Verdict]:
    """Return what a container's toolkit makes of the archive and of spoiled ones; each runs once."""
    judged: dict[str, Verdict] = {}

    def ask(container: str) -> Verdict:
        python = python_of(container)
        if container not in judged:
            root = tmp_path_factory.mktemp(container)
            judged[container] = judge(python, _cases(archive, evaluated, root), root / "judge")
        return judged[container]

    return ask


def _cases(archive: Path, evaluated: dict[str, str], root: Path) -> dict[str, Case]:
    questions = list(evaluated)
    one = (Request(json.dumps({"inputs": questions[0]})),)
    nested = root / "nested"
    unpack(archive, nested / "model")
    code_at_root = root / "code-at-root"
    shutil.copytree(nested, code_at_root)
    (code_at_root / "model" / "code").rename(code_at_root / "code")
    without = unpacked(archive, root / "without")
    (without / "askline.json").unlink()
    damaged = unpacked(archive, root / "damaged")
    (damaged / "askline.json").write_text("{}")
    asked = (
        Request(json.dumps({"inputs": questions})),
        *(Request(json.dumps({"inputs": question})) for question in questions),
        Request(questions[0], "text/plain", "text/plain"),
        Request(one[0].body, "application/json; charset=utf-8", "*/*"),
        *(request for request, _ in RUBBISH.values()),
        one[0],
    )
    return {
        "whole": Case(unpacked(archive, root / "whole"), asked),
        "nested": Case(nested, one),
        "code at the root": Case(code_at_root, one),
        "no manifest": Case(without, one),
        "damaged manifest": Case(damaged, one),
    }


@pytest.mark.parametrize("container", CONTAINERS)
class TestToolkit:
    """The official handler service, once with each version of transformers."""

    def test_it_is_what_it_says(self, verdict_of: Callable[[str], Verdict], container: str) -> None:
        facts = verdict_of(container).versions
        assert facts["version"]["transformers"] == CONTAINERS[container]
        assert facts["version"]["sagemaker-huggingface-inference-toolkit"] == "2.6.0"
        assert facts["version"]["multi-model-server"] == "1.1.11"
        root = python_of(container).parents[1]
        for name in ("transformers", "toolkit"):
            assert Path(facts["file"][name]).is_relative_to(root)

    def test_it_gives_the_evaluations_answers(
        self, verdict_of: Callable[[str], Verdict], evaluated: dict[str, str], container: str
    ) -> None:
        together, *rest = verdict_of(container).cases["whole"]
        assert together.answers == list(evaluated.values())
        assert together.content_type == "application/json"
        alone = rest[: len(evaluated)]
        assert [answer.answers for answer in alone] == [[text] for text in evaluated.values()]

    def test_it_speaks_plain_text_and_a_charset(
        self, verdict_of: Callable[[str], Verdict], evaluated: dict[str, str], container: str
    ) -> None:
        text, charset = verdict_of(container).cases["whole"][1 + len(evaluated) :][:2]
        first = next(iter(evaluated.values()))
        assert (text.status, text.content_type, text.body) == (200, "text/plain", first)
        assert charset.answers == [first]

    def test_rubbish_is_a_400_that_says_what_was_expected(
        self, verdict_of: Callable[[str], Verdict], evaluated: dict[str, str], container: str
    ) -> None:
        *refused, after = verdict_of(container).cases["whole"][-1 - len(RUBBISH) :]
        for (name, (_, expected)), answer in zip(RUBBISH.items(), refused, strict=True):
            assert answer.status == 400, name
            assert expected.lower() in answer.body.lower(), name
            assert "Traceback" not in answer.body
        assert after.answers == [next(iter(evaluated.values()))], "it goes on answering"

    def test_a_spoiled_archive_is_a_400_and_no_answer(
        self, verdict_of: Callable[[str], Verdict], container: str
    ) -> None:
        cases = verdict_of(container).cases
        (nested,) = cases["nested"]
        assert nested.status == 400
        assert "HF_TASK" in nested.body, "the toolkit sees no code and no checkpoint, and says that in its own words"
        for name in ("code at the root", "no manifest"):
            (answer,) = cases[name]
            assert answer.status == 400, name
            assert "askline.json" in answer.body, name
            assert "root" in answer.body, name
        (damaged,) = cases["damaged manifest"]
        assert damaged.status == 400
        assert "askline.json" in damaged.body


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_model_server_serves_the_archive(
    archive: Path, evaluated: dict[str, str], container: str, tmp_path: Path
) -> None:
    """Java, its worker, the toolkit and the archive: all that a container runs but its image and its entry point."""
    model = unpacked(archive, tmp_path / "opt" / "ml" / "model")
    before = sha256_of_folder(model)
    questions = list(evaluated)
    with running(python_of(container), model, tmp_path / "server") as server:
        assert server.ping() == 200
        together = server.ask(Request(json.dumps({"inputs": questions})))
        assert together.answers == list(evaluated.values())
        assert together.content_type == "application/json"
        text = server.ask(Request(questions[0], "text/plain", "text/plain"))
        assert (text.status, text.body) == (200, evaluated[questions[0]])
        refused = server.ask(Request("{"))
        assert refused.status == 400
        assert "JSON" in json.loads(refused.body)["message"]
        assert server.ask(Request(json.dumps({"inputs": questions[1]}))).answers == [evaluated[questions[1]]]
        processes = [process for process in psutil.process_iter() if _group(process) == server.process.pid]
        assert any("java" in process.name() for process in processes)
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    psutil.wait_procs(processes, timeout=60)
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert sha256_of_folder(model) == before, "a container's model folder may be read-only"


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def test_the_unrepaired_export_would_have_failed(
    flan: Tiny,
    evaluated: dict[str, str],
    plain: Path,
    tmp_path: Path,
) -> None:
    """A checkpoint alone, and the toolkit's own code for ``HF_TASK``: what most endpoints are.

    As exported it answers like the evaluation. As ``save_pretrained`` writes it, its tokenizer does not load; with that
    mended, it answers without an error, and wrongly.
    """
    python = python_of("toolkit-4.51")
    exported = flan.store.path("model", flan.model.sha256)
    half = tmp_path / "half"
    shutil.copytree(plain, half)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(exported / name, half / name)
    asked = tuple(Request(json.dumps({"inputs": format_prompt(PROMPT, question)})) for question in evaluated)
    task = {"HF_TASK": "text2text-generation"}
    folders = {"exported": exported, "plain": plain, "half": half}
    cases = judge(
        python, {name: Case(folder, asked, task) for name, folder in folders.items()}, tmp_path / "judge"
    ).cases

    def texts(name: str) -> list[str]:
        assert {answer.status for answer in cases[name]} == {200}, cases[name]
        return [json.loads(answer.body)[0]["generated_text"] for answer in cases[name]]

    assert texts("exported") == list(evaluated.values())
    assert {answer.status for answer in cases["plain"]} == {400}
    right = sum(given == wanted for given, wanted in zip(texts("half"), evaluated.values(), strict=True))
    assert right <= len(evaluated) // 4, "loads without an error and answers wrongly"


def test_the_archive_is_what_was_judged(archive: Path) -> None:
    """Else the environments would have been asked about something else."""
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert {"askline.json", "code/inference.py"} <= set(names)
