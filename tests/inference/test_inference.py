"""What travels in the archive, over every engine: its contract, its limits, and the evaluation's own answers."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_package import MAX_SOURCE, MAX_TARGET, PROMPT, QUESTIONS, Tiny, package, tiny  # noqa: F401

from askline.config import PackageConfig
from askline.records import PackageRef
from inference import inference
from inference.engine_transformers import TransformersEngine, masks_padding
from tasks.package import archive
from tasks.package.package import ARCHIVE
from tasks.qa.prompt import format_prompt

ROOM = Path(inference.__file__).parent
CHECKPOINT, FP32, INT8 = "transformers fp32", "onnxruntime fp32", "onnxruntime int8"
#: How far a token probability may lie from that of one pass through the checkpoint, on what the model has learned.
TOLERANCE = {CHECKPOINT: 1e-3, FP32: 1e-3, INT8: 0.01}
#: And from that of the same question in another batch: each row is put into bytes by its own range.
BATCH_TOLERANCE = {CHECKPOINT: 1e-3, FP32: 1e-5, INT8: 1e-4}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other make torch many times slower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASKLINE_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def folders(tiny: Tiny, package: PackageRef, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # noqa: F811
    """The plain checkpoint, and the unpacked archives of one model."""
    exact = tiny.build(config=PackageConfig(quantisation="fp32", carry_libraries=False))
    assert (package.quantisation, exact.quantisation) == ("int8", "fp32")
    found = {CHECKPOINT: tiny.store.path("model", tiny.model.sha256)}
    for name, made in ((FP32, exact), (INT8, package)):
        found[name] = tmp_path_factory.mktemp("unpacked") / "model"
        archive.unpack(tiny.store.path("package", made.sha256) / ARCHIVE, found[name])
    return found


@pytest.fixture(scope="module", params=[CHECKPOINT, FP32, INT8])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def answerer(folders: dict[str, Path], kind: str) -> inference.Answerer:
    return inference.model_fn(str(folders[kind]))


def ask(answerer: inference.Answerer, body: object, accept: str = "application/json") -> str:
    request = inference.input_fn(json.dumps(body).encode(), "application/json")
    return inference.output_fn(inference.predict_fn(request, answerer), accept)


def answers(answerer: inference.Answerer, inputs: object, **parameters: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ask(answerer, {"inputs": inputs, "parameters": parameters}))["answers"]
    return found


def test_the_answers_are_the_evaluations(answerer: inference.Answerer, tiny: Tiny) -> None:  # noqa: F811
    path = tiny.store.path("scores", tiny.scores.sha256) / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    evaluated = {row["question"]: row["prediction"] for row in rows if row["split"] != "train"}
    assert len(set(evaluated.values())) > 5, "the model has learned nothing, so this would compare nothing"
    assert [item["answer"] for item in answers(answerer, list(evaluated))] == list(evaluated.values())


def test_an_answer_tells_how_it_came_about(answerer: inference.Answerer) -> None:
    given = json.loads(ask(answerer, {"inputs": "Which city did she move to?"}))
    assert set(given) == {"answers", "model_version", "seconds"}
    assert 0 < given["seconds"] < 60
    (item,) = given["answers"]
    assert set(item) == {"answer", "confidence", "token_probability", "tokens", "finish_reason"}
    assert item["finish_reason"] == "free"
    (cut,) = answers(answerer, "Which city did she move to?", max_new_tokens=1)
    assert cut["finish_reason"] == "length"
    assert 0 < item["token_probability"] <= 1
    assert item["confidence"] == pytest.approx(item["token_probability"], abs=1e-4), "too little to calibrate on"


def test_one_question_alone_is_answered_as_in_a_batch(answerer: inference.Answerer, kind: str) -> None:
    together = answers(answerer, list(QUESTIONS))
    for question, expected in zip(QUESTIONS, together, strict=True):
        (alone,) = answers(answerer, question)
        assert (alone["answer"], alone["tokens"]) == (expected["answer"], expected["tokens"])
        assert alone["token_probability"] == pytest.approx(expected["token_probability"], abs=BATCH_TOLERANCE[kind])


def test_the_answers_come_in_the_order_of_the_questions(answerer: inference.Answerer) -> None:
    """Though those of like length are decoded together."""
    backwards = list(QUESTIONS)[::-1]
    expected = [item["answer"] for item in answers(answerer, list(QUESTIONS))][::-1]
    assert [item["answer"] for item in answers(answerer, backwards)] == expected
    twice = answers(answerer, [backwards[0], backwards[5], backwards[0]])
    assert [item["answer"] for item in twice] == [expected[0], expected[5], expected[0]]


def test_thirty_two_questions_are_answered_at_once(answerer: inference.Answerer) -> None:
    questions = [list(QUESTIONS)[number % len(QUESTIONS)] for number in range(inference.MAX_QUESTIONS)]
    given = [item["answer"] for item in answers(answerer, questions)]
    assert len(given) == 32
    assert given[:12] == given[12:24]
    assert given[:8] == given[24:]


@pytest.mark.parametrize("beams", [1, 3])
def test_the_token_probability_is_that_of_one_pass_over_the_answer(
    answerer: inference.Answerer, folders: dict[str, Path], kind: str, beams: int
) -> None:
    """The whole answer given to the plain checkpoint at once: another way to the same number."""
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    network = T5ForConditionalGeneration.from_pretrained(folders[CHECKPOINT], dtype=torch.float32).eval()
    tokenizer = T5Tokenizer.from_pretrained(folders[CHECKPOINT])
    for question, item in zip(QUESTIONS, answers(answerer, list(QUESTIONS), num_beams=beams), strict=True):
        prompt = tokenizer(format_prompt(PROMPT, question), return_tensors="pt")
        labels = tokenizer(item["answer"], return_tensors="pt")["input_ids"]
        assert item["tokens"] == labels.shape[1]
        with torch.inference_mode():
            loss = network(**prompt, labels=labels).loss
        assert item["token_probability"] == pytest.approx(float(torch.exp(-loss)), abs=TOLERANCE[kind])


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_is_cut_off_by_max_new_tokens(answerer: inference.Answerer, beams: int) -> None:
    whole = answers(answerer, list(QUESTIONS))
    assert min(item["tokens"] for item in whole) >= 2
    assert max(item["tokens"] for item in whole) > 3
    for limit in (1, 2, 3):
        cut = answers(answerer, list(QUESTIONS), max_new_tokens=limit, num_beams=beams)
        for item, full in zip(cut, whole, strict=True):
            assert 1 <= item["tokens"] <= limit
            assert 0 < item["token_probability"] <= 1
            if beams == 1:
                assert item["tokens"] == min(limit, full["tokens"])
                assert full["answer"].startswith(item["answer"])
    assert answers(answerer, list(QUESTIONS), max_new_tokens=MAX_TARGET) == whole, "the default is the model's limit"


def test_what_is_drawn_is_repeatable_by_its_seed(answerer: inference.Answerer) -> None:
    drawn = [answers(answerer, list(QUESTIONS), temperature=2.0, seed=seed) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.parametrize(
    "coldly", [{"temperature": 1e-3}, {"temperature": 5e-324}, {"temperature": 2.0, "top_p": 0.01}]
)
def test_what_is_drawn_coldly_or_narrowly_is_the_most_likely(
    answerer: inference.Answerer, kind: str, coldly: dict[str, float]
) -> None:
    greedy = answers(answerer, list(QUESTIONS))
    drawn = answers(answerer, list(QUESTIONS), seed=5, **coldly)
    assert [item["answer"] for item in drawn] == [item["answer"] for item in greedy]
    for item, expected in zip(drawn, greedy, strict=True):
        # Not the probability of having been drawn, which would be 1.
        assert item["token_probability"] == pytest.approx(expected["token_probability"], abs=BATCH_TOLERANCE[kind])


def test_a_question_that_is_too_long_is_truncated_as_in_training(
    answerer: inference.Answerer, folders: dict[str, Path]
) -> None:
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    question = "Who was her husband, and where did she teach " + "and what did she study first " * 40 + "?"
    network = T5ForConditionalGeneration.from_pretrained(folders[CHECKPOINT], dtype=torch.float32).eval()
    tokenizer = T5Tokenizer.from_pretrained(folders[CHECKPOINT])
    prompt = tokenizer(format_prompt(PROMPT, question), truncation=True, max_length=MAX_SOURCE, return_tensors="pt")
    assert prompt["input_ids"].shape == (1, MAX_SOURCE)
    expected = network.generate(**prompt, max_new_tokens=MAX_TARGET, num_beams=1, do_sample=False)
    (item,) = answers(answerer, question)
    assert item["answer"] == tokenizer.decode(expected[0], skip_special_tokens=True).strip()


def test_the_longest_question_that_is_taken_is_answered(answerer: inference.Answerer) -> None:
    (item,) = answers(answerer, "where did she teach " * 1000)
    assert item["tokens"] >= 1


def test_transformers_decodes_a_large_batch_in_parts_with_the_same_answers(folders: dict[str, Path]) -> None:
    prompts = [format_prompt(PROMPT, question) for question in QUESTIONS]
    whole, parts = (
        TransformersEngine(folders[CHECKPOINT], MAX_SOURCE, **options).generate(prompts, max_new_tokens=MAX_TARGET)
        for options in ({}, {"score_bytes": 1})
    )
    assert [(text, tokens) for text, _, tokens in whole] == [(text, tokens) for text, _, tokens in parts]


class IgnoresTheMask:
    """A model whose generation looks at the padding, as that of transformers 4.49 does."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, *, attention_mask: Any, **options: Any) -> Any:
        return self._model.generate(attention_mask=attention_mask * 0 + 1, **options)


def test_padding_never_changes_an_answer_even_where_the_library_lets_it(folders: dict[str, Path]) -> None:
    engine = TransformersEngine(folders[CHECKPOINT], MAX_SOURCE)
    prompts = [format_prompt(PROMPT, question) for question in QUESTIONS]
    prompts.append(format_prompt(PROMPT, "Is this a long one, " + "so long " * 20 + "that its neighbours are padded?"))
    right = engine.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    assert masks_padding(engine._model, engine._tokenizer)

    engine._model = IgnoresTheMask(engine._model)
    assert not masks_padding(engine._model, engine._tokenizer)
    wrong = engine.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    assert [text for text, _, _ in wrong] != [text for text, _, _ in right], "else this would show nothing"
    engine._may_pad = masks_padding(engine._model, engine._tokenizer)
    again = engine.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    assert [text for text, _, _ in again] == [text for text, _, _ in right]
    for (_, probability, _), (_, expected, _) in zip(again, right, strict=True):
        assert probability == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "question", ["Who is {question}?", "{}", "{0} %s", "  Where \n was\tshe  born? ", "Ünḯcödé 東京 \u2028?"]
)
def test_the_prompt_is_the_one_of_training(question: str) -> None:
    seen: list[str] = []

    class Listening:
        def generate(self, prompts: list[str], **options: Any) -> list[tuple[str, float, int]]:
            seen.extend(prompts)
            return [("", 1.0, 1)] * len(prompts)

    request = inference.input_fn(json.dumps({"inputs": question}))
    inference.predict_fn(request, inference.Answerer(Listening(), PROMPT, 8, "v"))
    assert seen == [format_prompt(PROMPT, question)]


@pytest.mark.parametrize(
    "question", ["\x00", "\u202e?", "🜍" * 300, "</s>", "<pad> <extra_id_0>", "a" * 19_999, "\ufffe"]
)
def test_odd_characters_are_answered(answerer: inference.Answerer, question: str) -> None:
    (item,) = answers(answerer, question)
    assert isinstance(item["answer"], str)
    assert 0 < item["token_probability"] <= 1


def test_plain_text_in_and_out(answerer: inference.Answerer) -> None:
    request = inference.input_fn("Which city did she move to?", "text/plain; charset=utf-8")
    prediction = inference.predict_fn(request, answerer)
    assert inference.output_fn(prediction, "text/plain") == prediction["answers"][0]["answer"] == "Paris"


def test_csv_in_and_out(answerer: inference.Answerer) -> None:
    request = inference.input_fn(b"question\nWhich city did she move to?\nWho was her husband?\n", "text/csv")
    lines = inference.output_fn(inference.predict_fn(request, answerer), "text/csv").splitlines()
    assert lines[0] == "answer,confidence"
    assert [line.rpartition(",")[0] for line in lines[1:]] == ["Paris", "Pierre"]
    assert all(0 < float(line.rpartition(",")[2]) <= 1 for line in lines[1:])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Who?", ["Who?"]),
        ("Who?\nWhere?\n", ["Who?", "Where?"]),
        ("Who?\r\nWhere?\r\n\r\n", ["Who?", "Where?"]),
        ("question\nWho?\n", ["Who?"]),
        (" Inputs \nWho?\n", ["Who?"]),
        ('"In Paris, who taught?"\n', ["In Paris, who taught?"]),
        ('"Who said ""no""?"\n', ['Who said "no"?']),
        ('"Who,\nand where?"\n', ["Who,\nand where?"]),
        ("id,question,note\n1,Who?,a\n2,Where?,b\n", ["Who?", "Where?"]),
        ('"question","context"\n"Who, then?","x, y"\n', ["Who, then?"]),
        ("\ufeffquestion\nWho?\n", ["Who?"]),
        ("question?\n", ["question?"]),
    ],
)
def test_csv_is_read_with_and_without_a_header(body: str, expected: list[str]) -> None:
    assert list(inference.input_fn(body.encode(), "text/csv").questions) == expected


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", None, "text/html, application/json;q=0.9"])
def test_json_goes_to_whoever_accepts_it(accept: str | None) -> None:
    prediction = {"answers": [{"answer": "Irène", "confidence": 1.0}], "model_version": "v", "seconds": 0.1}
    assert json.loads(inference.output_fn(prediction, accept)) == prediction


def inputs(**parameters: object) -> bytes:
    return json.dumps({"inputs": "x", "parameters": parameters}).encode()


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"{", "application/json", "not JSON"),
        (b"", "application/json", "not JSON"),
        (b"[]", "application/json", '"inputs"'),
        (b"null", "application/json", '"inputs"'),
        (b'{"question": "x"}', "application/json", '"inputs"'),
        (b'{"inputs": []}', "application/json", "1 to 32"),
        (json.dumps({"inputs": ["x"] * 33}).encode(), "application/json", "1 to 32"),
        (b'{"inputs": " "}', "application/json", "not blank"),
        (b'{"inputs": 5}', "application/json", "not blank"),
        (b'{"inputs": {"question": "x"}}', "application/json", "not blank"),
        (b'{"inputs": ["a", null]}', "application/json", "not blank"),
        (b'{"inputs": [["a"]]}', "application/json", "not blank"),
        (b'{"inputs": "a \\ud800 b"}', "application/json", "surrogate"),
        (json.dumps({"inputs": "x" * 20_001}).encode(), "application/json", "at most 20000"),
        (b'{"inputs": "x", "options": {}}', "application/json", "'options'"),
        (b'{"inputs": "x", "parameters": []}', "application/json", "must be an object"),
        (inputs(top_k=5), "application/json", "'top_k'"),
        (inputs(num_beams=5), "application/json", "from 1 to 4"),
        (inputs(num_beams=0), "application/json", "from 1 to 4"),
        (inputs(num_beams=True), "application/json", "whole number"),
        (inputs(num_beams=2.0), "application/json", "whole number"),
        (inputs(num_beams="2"), "application/json", "whole number"),
        (inputs(max_new_tokens=0), "application/json", "from 1 to 1024"),
        (inputs(max_new_tokens=1025), "application/json", "from 1 to 1024"),
        (inputs(max_new_tokens=10**400), "application/json", "from 1 to 1024"),
        (inputs(temperature=-0.1), "application/json", "from 0.0 to 2.0"),
        (inputs(temperature=2.01), "application/json", "from 0.0 to 2.0"),
        (inputs(temperature=float("nan")), "application/json", "from 0.0 to 2.0"),
        (inputs(temperature=float("inf")), "application/json", "from 0.0 to 2.0"),
        (inputs(temperature=False), "application/json", "number from 0.0"),
        (inputs(temperature=None), "application/json", "number from 0.0"),
        (inputs(top_p=0.009), "application/json", "from 0.01 to 1.0"),
        (inputs(top_p=1.1), "application/json", "from 0.01 to 1.0"),
        (inputs(seed=-1), "application/json", "from 0 to 2147483647"),
        (inputs(seed=2**31), "application/json", "from 0 to 2147483647"),
        (inputs(seed=1.5), "application/json", "whole number"),
        (inputs(num_beams=2, temperature=0.5), "application/json", "exclude each other"),
        (b"\xff\xfe", "application/json", "UTF-8"),
        (b"\xff\xfe", "text/csv", "UTF-8"),
        (b"x", "application/x-npy", "application/json, text/csv or text/plain"),
        (b"x", "application/octet-stream", "application/json, text/csv or text/plain"),
        (b"", "text/plain", "not blank"),
        (b"x" * 20_001, "text/plain", "at most 20000"),
        (b"", "text/csv", "1 to 32"),
        (b"\n\n", "text/csv", "1 to 32"),
        (b"question\n", "text/csv", "1 to 32"),
        (b"x\n" * 33, "text/csv", "1 to 32"),
        (b"In Paris, who taught?", "text/csv", "double quotes"),
        (b"Who?\nIn Paris, who taught?", "text/csv", "question 2 of the CSV stands in a line of 2 columns"),
        (b"question\nIn Paris, who taught?", "text/csv", "double quotes"),
        (b"id,question\n1,Who?\n2\n", "text/csv", "question 2 of the CSV stands in a line of 1 columns"),
        (b"question,note\n,x\n", "text/csv", "not blank"),
        (b'"Who?', "text/csv", "not CSV"),
        (b'"Who?" then\n', "text/csv", "not CSV"),
        (b"x" * 200_000, "text/csv", "not CSV"),
    ],
)
def test_bad_requests_say_what_was_expected(body: bytes, content_type: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        inference.input_fn(body, content_type)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 400, "what was sent is not sent back"


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 1, "num_beams": 1, "temperature": 0, "top_p": 0.01, "seed": 0},
        {"max_new_tokens": 1024, "num_beams": 4},
        {"temperature": 2, "top_p": 1, "seed": 2**31 - 1},
        {"temperature": 0, "num_beams": 4},
        {},
        None,
    ],
)
def test_the_bounds_themselves_are_within(parameters: dict[str, Any] | None) -> None:
    body = json.dumps({"inputs": "x", "parameters": parameters})
    assert inference.input_fn(body).parameters == (parameters or {})


@pytest.mark.parametrize("where", ['{"inputs": %s}', '{"inputs": "x", "parameters": {"seed": %s}}', "%s"])
def test_nesting_of_any_depth_is_refused_like_anything_else(where: str) -> None:
    """Whether JSON can just be read, or not any more."""
    for depth in (*range(850, 1010), 100_000):
        with pytest.raises(ValueError, match=r"expected|not blank"):
            inference.input_fn(where % ("[" * depth + "]" * depth))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
BODIES = (
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"inputs": JSON},
        optional={"parameters": st.dictionaries(st.sampled_from([*inference.BOUNDS, "x"]), JSON, max_size=3) | JSON},
    ).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=400, deadline=None)
@given(body=BODIES, content_type=st.sampled_from(["application/json", "text/csv", "text/plain", "image/png", "", None]))
def test_rubbish_is_a_request_or_a_value_error(body: bytes, content_type: str | None) -> None:
    try:
        request = inference.input_fn(body, content_type)
    except ValueError:
        return
    assert 1 <= len(request.questions) <= 32
    assert all(question.strip() for question in request.questions)
    assert set(request.parameters) <= set(inference.BOUNDS)


def test_more_tokens_than_the_model_gives_are_refused(answerer: inference.Answerer) -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_TARGET}"):
        ask(answerer, {"inputs": "x", "parameters": {"max_new_tokens": MAX_TARGET + 1}})


@pytest.mark.parametrize("accept", ["image/png", "text/html", "application/x-npy, image/*"])
def test_an_unknown_answer_format_is_refused(accept: str) -> None:
    with pytest.raises(ValueError, match="application/json, text/csv or text/plain"):
        inference.output_fn({"answers": []}, accept)


def test_a_nested_archive_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="at its root"):
        inference.model_fn(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"prompt": "x"}', "\udcff"]
    + [
        json.dumps({"prompt": "x", "max_source_tokens": 8, "max_target_tokens": 8, **wrong})
        for wrong in ({"engine": "magic"}, {"engine": []}, {"parameters": "many"}, {"files": ["a"]})
    ],
)
def test_a_damaged_manifest_is_named_as_such(tmp_path: Path, text: str) -> None:
    (tmp_path / "askline.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RuntimeError, match=r"askline\.json is damaged or of another version"):
        inference.model_fn(str(tmp_path))


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [remove, cut, flip])
@pytest.mark.parametrize(
    "name", ["weights.bin", "encoder.onnx", "decoder.onnx", "tokenizer.json", "generation_config.json"]
)
def test_a_package_that_is_not_whole_is_not_loaded(
    folders: dict[str, Path], tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    shutil.copytree(folders[FP32], tmp_path / "model")
    harm(tmp_path / "model" / name)
    with pytest.raises(RuntimeError, match=f"{name} is (missing|not the one that was packed)"):
        inference.model_fn(str(tmp_path / "model"))


def test_a_pickled_checkpoint_is_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch

    for path in folders[CHECKPOINT].iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"shared.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        inference.model_fn(str(tmp_path))


LOADS = """
import json, sys
folder, forbidden = sys.argv[1], sys.argv[2].split()

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Forbid())
sys.path.insert(0, folder + "/code")
import inference
model = inference.model_fn(folder)
request = inference.input_fn(json.dumps({"inputs": ["Which city did she move to?", "Who was her husband?"]}))
found = json.loads(inference.output_fn(inference.predict_fn(request, model)))
names = ("torch", "onnxruntime", "tokenizers")
loaded = {name: str(getattr(sys.modules.get(name), "__file__", None)) for name in names}
threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else (
    model.engine._decoder.get_session_options().intra_op_num_threads)
print(json.dumps({"answers": [item["answer"] for item in found["answers"]], "loaded": loaded, "threads": threads}))
"""


def served_apart(folder: Path, *forbidden: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Serve an unpacked archive with its own code, in a process that knows nothing of this project."""
    return subprocess.run(
        [sys.executable, "-I", "-c", LOADS, str(folder), " ".join(forbidden)],
        cwd=folder.parent,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


TRAINING = ("torch", "transformers", "safetensors", "sentencepiece", "huggingface_hub", "datasets", "onnx", "askline")


def test_the_archives_engine_needs_nothing_but_numpy_and_its_own_libraries(folders: dict[str, Path]) -> None:
    done = served_apart(folders[INT8], *TRAINING, "pickle5", "protobuf", "flatbuffers", "packaging")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["answers"] == ["Paris", "Pierre"]
    assert said["loaded"]["torch"] == "None"
    for name in ("onnxruntime", "tokenizers"):
        assert said["loaded"][name].startswith(str(folders[INT8] / "code" / "lib")), "not the machine's"


def test_the_check_would_notice(folders: dict[str, Path]) -> None:
    done = served_apart(folders[INT8], "tokenizers")
    assert done.returncode != 0
    assert "tokenizers is not to be imported" in done.stderr
    assert "the engine's libraries cannot be imported" in done.stderr


@pytest.mark.parametrize(
    ("kind", "name"),
    [(INT8, "ASKLINE_THREADS"), (INT8, "ASKLINE_TORCH_THREADS"), (CHECKPOINT, "ASKLINE_TORCH_THREADS")],
)
def test_the_number_of_threads_is_taken_from_the_environment(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str
) -> None:
    folder = folders[kind]
    if kind == CHECKPOINT:  # the checkpoint of the model artifact has no code beside it
        folder = tmp_path / "model"
        shutil.copytree(folders[kind], folder)
        shutil.copytree(ROOM, folder / "code", ignore=shutil.ignore_patterns("__*"))
    done = served_apart(folder, **{name: "3"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["threads"] == 3


def test_which_number_of_threads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in inference.THREADS:
        monkeypatch.delenv(name, raising=False)
    assert inference._threads(100_000) == 1, "so small a network is slower on two"
    assert 1 <= inference._threads(250_000_000) <= inference.MAX_THREADS
    assert inference._threads(0) == inference._threads(250_000_000), "unknown counts as large"
    monkeypatch.setenv("ASKLINE_TORCH_THREADS", " 2 ")
    assert inference._threads(100_000) == 2
    monkeypatch.setenv("ASKLINE_THREADS", "4")
    assert inference._threads(100_000) == 4
    monkeypatch.setenv("ASKLINE_THREADS", "")
    assert inference._threads(100_000) == 2
    for wrong in ("many", "0", "-1", "1.5", "1000"):
        monkeypatch.setenv("ASKLINE_THREADS", wrong)
        with pytest.raises(RuntimeError, match=f"ASKLINE_THREADS is '{wrong}': expected a whole number from 1"):
            inference._threads(100_000)


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Return the packages that a module imports at all, and those that it imports at once.

    What is imported for the sake of types alone is not imported when it runs.
    """

    def roots(nodes: Any) -> set[str]:
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        return {name.partition(".")[0] for name in names}

    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return roots(list(ast.walk(tree))), roots(tree.body)


@pytest.mark.parametrize(
    ("module", "late", "at_once"),
    [
        ("inference", set(), set()),
        ("engine_onnx", set(), {"numpy", "onnxruntime", "tokenizers"}),
        ("engine_transformers", {"torch", "transformers"}, set()),
        ("known_answers", set(), {"numpy"}),
        ("trie", set(), {"numpy"}),
    ],
)
def test_it_imports_only_what_the_container_has(module: str, late: set[str], at_once: set[str]) -> None:
    everything, top = imports_of(ROOM / f"{module}.py")
    assert top, "the check looks at something"
    assert top - sys.stdlib_module_names == at_once
    assert everything - sys.stdlib_module_names == late | at_once


def test_nothing_that_travels_reads_a_pickle_or_runs_remote_code() -> None:
    for path in ROOM.glob("*.py"):
        everything, _ = imports_of(path)
        assert not everything & {"pickle", "marshal", "shelve", "joblib", "dill"}
        assert not everything & {"urllib", "http", "socket", "subprocess"}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"eval", "exec", "compile", "torch.load", "np.load", "__import__"}
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
                assert ast.unparse(node.value) == "False"
    source = (ROOM / "engine_transformers.py").read_text(encoding="utf-8")
    assert '"trust_remote_code": False' in source
    assert "use_safetensors=True" in source
