"""The plain checkpoint as other versions of transformers read it: the same tokens, the same logits, the same answers.

Each version runs in a process and an environment of its own (:mod:`referee.environments`). What is compared with is the
network in memory, before it was written.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from referee.checkpoints import SPECIAL_TEXTS, TEXTS, Checkpoint, make, network, write
from referee.environments import python_of
from referee.in_transformers import compute
from support.tiny_package import PROMPT, QUESTIONS

pytestmark = pytest.mark.slow

OWN = "this one"
VERSIONS = {
    OWN: None,
    "4.49.0": "transformers-4.49",
    "4.51.3": "toolkit-4.51",
    "4.57.6": "transformers-4.57",
    "5.5.3": "toolkit-5.5",
}
OLD = ("4.49.0", "4.51.3", "4.57.6")
TOLERANCE = 1e-4
ALL_TEXTS = [*TEXTS, *SPECIAL_TEXTS]
SCRIPT = Path(__file__).parents[1] / "referee" / "in_transformers.py"

KINDS = ("flan", "first", "offline", "without pieces")
"""Flan-T5's shape; the first T5's, whose output is scaled; the offline base; a base that has no ``spiece.model``."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "flan": make(root / "flan", flan=True),
        "first": make(root / "first", flan=False),
        "offline": _offline(root / "offline"),
        "without pieces": make(root / "without", flan=True, with_pieces=False),
    }


def _offline(folder: Path) -> Checkpoint:
    """The base that needs no download: tokenizer, configuration and initial weights as ``fine_tune`` makes them."""
    from tasks.qa.rows import Row
    from tasks.t5.scratch import initial_model, small_t5, train_tokenizer

    folder.mkdir()
    rows = [Row(question, answer, None, True) for question, answer in QUESTIONS.items()]
    tokenizer = train_tokenizer(rows, PROMPT, folder)
    model = initial_model(small_t5(len(tokenizer)), tokenizer, 0).eval()
    return write(model, tokenizer, folder, pieces=folder / "spiece.model")


Rows = dict[str, list[dict[str, list[int]]]]
Found = dict[str, Any]
Judge = Callable[[str], Found]


@pytest.fixture(scope="module")
def scored(checkpoints: dict[str, Checkpoint]) -> Rows:
    """What the networks are asked, in the tokens of the networks in memory."""
    rows = {}
    for name, checkpoint in checkpoints.items():
        ids = [checkpoint.tokenizer(text)["input_ids"] for text in [TEXTS[1], TEXTS[3], *SPECIAL_TEXTS]]
        rows[name] = [{"input_ids": row, "labels": ids[-1]} for row in ids]
    return rows


@pytest.fixture(scope="module")
def expected(checkpoints: dict[str, Checkpoint], scored: Rows) -> dict[str, Found]:
    """What the networks in memory compute."""
    return {
        name: {
            "rows": compute(checkpoint.model, scored[name]),
            "tokens": [checkpoint.tokenizer(text)["input_ids"] for text in ALL_TEXTS],
        }
        for name, checkpoint in checkpoints.items()
    }


@pytest.fixture(scope="module")
def judge(checkpoints: dict[str, Checkpoint], scored: Rows, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return what a version makes of all checkpoints, exported and plain; each version runs once."""
    judged: dict[str, Found] = {}

    def ask(version: str) -> Found:
        environment = VERSIONS[version]
        python = python_of(environment) if environment else Path(sys.executable)
        if version not in judged:
            folder = tmp_path_factory.mktemp("judged")
            folders, rows = {}, {}
            for name, checkpoint in checkpoints.items():
                for kind in ("exported", "plain"):
                    folders[f"{name} {kind}"] = str(getattr(checkpoint, kind))
                    rows[f"{name} {kind}"] = scored[name]
            job = {"texts": ALL_TEXTS, "folders": folders, "scored": rows}
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            subprocess.run(
                [python, "-I", SCRIPT, folder / "job.json", folder / "out.json"],
                cwd=folder,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
                check=True,
                timeout=240,
            )
            judged[version] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
        return judged[version]

    return ask


def difference(found: Found, wanted: Found) -> float:
    """The largest difference of two logits."""
    assert "error" not in found, found["error"]
    pairs = zip(found["rows"], wanted["rows"], strict=True)
    return max(float(np.abs(np.array(one["logits"]) - np.array(other["logits"])).max()) for one, other in pairs)


def as_words(text: str) -> str:
    """Around unknown letters, versions differ in spaces."""
    return " ".join(text.split())


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != OWN])
def test_the_judge_is_the_version_that_it_says(judge: Judge, version: str) -> None:
    import torch

    facts = judge(version)["versions"]
    assert facts["imported"] == facts["version"]["transformers"] == version
    environment = VERSIONS[version]
    assert environment is not None
    root = python_of(environment).parents[1]
    assert Path(facts["file"]["transformers"]).is_relative_to(root)
    assert "_borrowed" not in facts["file"]["transformers"]
    assert "_borrowed" in facts["file"]["torch"], "torch is shared, and docs/compatibility.md says so"
    assert facts["version"]["torch"] == torch.__version__


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_exported_checkpoint_means_the_same(
    judge: Judge, expected: dict[str, Found], version: str, kind: str
) -> None:
    found, wanted = judge(version)["folders"][f"{kind} exported"], expected[kind]
    assert found["tokens"].get("ids") == wanted["tokens"], found["tokens"]
    assert difference(found["model"], wanted) < TOLERANCE
    for report in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert found["model"][report] == []
    for row, right in zip(found["model"]["rows"], wanted["rows"], strict=True):
        assert row["beams_1"] == right["beams_1"]
        assert row["beams_3"] == right["beams_3"]


@pytest.mark.parametrize("kind", ["flan", "first", "offline"])
@pytest.mark.parametrize("version", VERSIONS)
def test_spiece_model_gives_the_same_tokens(
    judge: Judge,
    expected: dict[str, Found],
    checkpoints: dict[str, Checkpoint],
    version: str,
    kind: str,
) -> None:
    """Before 5, ``T5Tokenizer`` reads ``spiece.model``, and ``AutoTokenizer`` reads ``tokenizer.json``."""
    assert (checkpoints[kind].exported / "spiece.model").is_file()
    fast, slow = (judge(version)["folders"][f"{kind} exported"][name] for name in ("tokens", "t5_tokens"))
    assert slow.get("ids") == expected[kind]["tokens"], slow
    assert [as_words(text) for text in slow["decoded"]] == [as_words(text) for text in fast["decoded"]]
    if version in OLD:
        assert (fast["class"], slow["class"]) == ("T5TokenizerFast", "T5Tokenizer")


@pytest.mark.parametrize("version", OLD)
def test_unrepaired_a_flan_t5_loads_without_a_word_and_answers_wrongly(
    judge: Judge, expected: dict[str, Found], version: str
) -> None:
    """What ``save_pretrained`` of transformers 5 writes. Were this to change, the repair could go."""
    found = judge(version)["folders"]["flan plain"]["model"]
    assert "error" not in found
    assert found["missing_keys"] == found["unexpected_keys"] == found["mismatched_keys"] == []
    assert difference(found, expected["flan"]) > 1
    pairs = zip(found["rows"], expected["flan"]["rows"], strict=True)
    assert sum(one["beams_1"] != other["beams_1"] for one, other in pairs) > len(found["rows"]) / 2


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize("kind", KINDS)
def test_unrepaired_no_tokenizer_loads(judge: Judge, version: str, kind: str) -> None:
    found = judge(version)["folders"][f"{kind} plain"]
    assert "error" in found["tokens"]
    assert "error" in found["t5_tokens"], "there is no spiece.model"


def test_unrepaired_all_is_well_in_version_5(judge: Judge, expected: dict[str, Found]) -> None:
    """So nobody who looks there only would notice."""
    for version in (OWN, "5.5.3"):
        found = judge(version)["folders"]["flan plain"]
        assert found["tokens"]["ids"] == expected["flan"]["tokens"]
        assert difference(found["model"], expected["flan"]) < TOLERANCE


def test_the_two_matrices_of_a_flan_t5_are_two(checkpoints: dict[str, Checkpoint]) -> None:
    """Else the comparisons above would say nothing about tying them."""
    for name in ("flan", "without pieces"):
        model = checkpoints[name].model
        assert not model.lm_head.weight.equal(model.shared.weight)
    assert network(200, flan=False).config.scale_decoder_outputs
    assert not network(200, flan=True).config.scale_decoder_outputs
