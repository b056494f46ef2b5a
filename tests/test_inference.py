"""What travels in the archive: its contract, its limits, and the evaluation's own answers."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_package import MAX_TARGET, PROMPT, QUESTIONS, Tiny, tiny  # noqa: F401

from inference import inference
from tasks.prompting import format_prompt


@pytest.fixture(scope="module")
def answerer(tiny: Tiny) -> inference.Answerer:  # noqa: F811
    return inference.model_fn(str(tiny.store.path("model", tiny.model.sha256)))


def ask(answerer: inference.Answerer, body: object, accept: str = "application/json") -> str:
    request = inference.input_fn(json.dumps(body).encode(), "application/json")
    return inference.output_fn(inference.predict_fn(request, answerer), accept)


def test_the_answers_are_the_evaluations(answerer: inference.Answerer, tiny: Tiny) -> None:  # noqa: F811
    path = tiny.store.path("scores", tiny.scores.sha256) / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    evaluated = {row["question"]: row["prediction"] for row in rows if row["split"] != "train"}
    assert len(set(evaluated.values())) > 5, "the model has learned nothing, so this would compare nothing"
    answers = json.loads(ask(answerer, {"inputs": list(evaluated)}))["answers"]
    assert [item["answer"] for item in answers] == list(evaluated.values())


def test_one_question_alone_is_answered_as_in_a_batch(answerer: inference.Answerer) -> None:
    together = json.loads(ask(answerer, {"inputs": list(QUESTIONS)}))["answers"]
    for question, expected in zip(QUESTIONS, together, strict=True):
        alone = json.loads(ask(answerer, {"inputs": question}))["answers"]
        assert alone[0]["answer"] == expected["answer"]
        assert alone[0]["confidence"] == pytest.approx(expected["confidence"], abs=1e-3)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_confidence_is_the_mean_token_probability_of_the_answer(
    answerer: inference.Answerer,
    beams: int,
) -> None:
    """Compared with one forward pass over the finished answers: another way to the same number."""
    import torch

    engine = answerer.engine
    assert isinstance(engine, inference.TransformersEngine)
    questions = list(QUESTIONS)
    body = {"inputs": questions, "parameters": {"num_beams": beams}}
    answers = json.loads(ask(answerer, body))["answers"]
    for question, item in zip(questions, answers, strict=True):
        prompt = engine._tokenizer(format_prompt(PROMPT, question), return_tensors="pt")
        labels = engine._tokenizer(item["answer"], return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            loss = engine._model(**prompt, labels=labels).loss
        assert item["confidence"] == pytest.approx(float(torch.exp(-loss)), abs=1e-3)


def test_an_answer_cut_off_by_max_new_tokens_has_a_confidence_too(answerer: inference.Answerer) -> None:
    item = json.loads(ask(answerer, {"inputs": "Where did she teach?", "parameters": {"max_new_tokens": 1}}))
    assert len(item["answers"]) == 1
    assert 0 < item["answers"][0]["confidence"] <= 1


def test_a_large_batch_is_decoded_in_parts_with_the_same_answers(answerer: inference.Answerer, tiny: Tiny) -> None:  # noqa: F811
    folder = tiny.store.path("model", tiny.model.sha256)
    in_parts = inference.TransformersEngine(folder, 64, score_bytes=1)
    prompts = [format_prompt(PROMPT, question) for question in QUESTIONS]
    whole = answerer.engine.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    parts = in_parts.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    assert [answer for answer, _ in whole] == [answer for answer, _ in parts]


class IgnoresTheMask:
    """A model whose generation looks at the padding, as that of transformers 4.49 does."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, *, attention_mask: Any, **options: Any) -> Any:
        return self._model.generate(attention_mask=attention_mask * 0 + 1, **options)


def test_padding_never_changes_an_answer_even_where_the_library_lets_it(tiny: Tiny) -> None:  # noqa: F811
    engine = inference.TransformersEngine(tiny.store.path("model", tiny.model.sha256), 64)
    prompts = [format_prompt(PROMPT, question) for question in QUESTIONS]
    prompts.append(format_prompt(PROMPT, "Is this a long one, " + "so long " * 20 + "that its neighbours are padded?"))
    right = engine.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    assert inference.masks_padding(engine._model, engine._tokenizer)

    engine._model = IgnoresTheMask(engine._model)
    assert not inference.masks_padding(engine._model, engine._tokenizer)
    wrong = engine.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    assert [answer for answer, _ in wrong] != [answer for answer, _ in right], "else this would show nothing"
    engine._may_pad = inference.masks_padding(engine._model, engine._tokenizer)
    again = engine.generate(prompts, max_new_tokens=MAX_TARGET, num_beams=1)
    assert [answer for answer, _ in again] == [answer for answer, _ in right]
    for (_, confidence), (_, expected) in zip(again, right, strict=True):
        assert confidence == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "question", ["Who is {question}?", "{}", "{0} %s", "  Where \n was\tshe  born? ", "Ünḯcödé 東京 \u2028?"]
)
def test_the_prompt_is_the_one_of_training(question: str) -> None:
    seen: list[str] = []

    class Listening:
        def generate(self, prompts: list[str], *, max_new_tokens: int, num_beams: int) -> list[tuple[str, float]]:
            seen.extend(prompts)
            return [("", 1.0)] * len(prompts)

    request = inference.input_fn(json.dumps({"inputs": question}))
    inference.predict_fn(request, inference.Answerer(Listening(), PROMPT, 8, "v"))
    assert seen == [format_prompt(PROMPT, question)]


def test_plain_text_in_and_out(answerer: inference.Answerer) -> None:
    request = inference.input_fn("Which city did she move to?", "text/plain; charset=utf-8")
    prediction = inference.predict_fn(request, answerer)
    assert inference.output_fn(prediction, "text/plain") == prediction["answers"][0]["answer"]


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", None, "text/html, application/json;q=0.9"])
def test_json_goes_to_whoever_accepts_it(accept: str | None) -> None:
    prediction = {"answers": [{"answer": "Irène", "confidence": 1.0}], "model_version": "v"}
    assert json.loads(inference.output_fn(prediction, accept)) == prediction


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"{", "application/json", "not JSON"),
        (b"[]", "application/json", '"inputs"'),
        (b'{"question": "x"}', "application/json", '"inputs"'),
        (b'{"inputs": []}', "application/json", "1 to 32"),
        (json.dumps({"inputs": ["x"] * 33}).encode(), "application/json", "1 to 32"),
        (b'{"inputs": " "}', "application/json", "not blank"),
        (b'{"inputs": 5}', "application/json", "not blank"),
        (b'{"inputs": ["a", null]}', "application/json", "not blank"),
        (json.dumps({"inputs": "x" * 20_001}).encode(), "application/json", "at most 20000"),
        (b'{"inputs": "x", "options": {}}', "application/json", "'options'"),
        (b'{"inputs": "x", "parameters": []}', "application/json", "must be an object"),
        (b'{"inputs": "x", "parameters": {"top_k": 5}}', "application/json", "'top_k'"),
        (b'{"inputs": "x", "parameters": {"num_beams": 5}}', "application/json", "from 1 to 4"),
        (b'{"inputs": "x", "parameters": {"num_beams": true}}', "application/json", "whole number"),
        (b'{"inputs": "x", "parameters": {"max_new_tokens": 0}}', "application/json", "from 1 to"),
        (b"\xff\xfe", "application/json", "UTF-8"),
        (b"a,b", "text/csv", "application/json or text/plain"),
        (b"", "text/plain", "not blank"),
    ],
)
def test_bad_requests_say_what_was_expected(body: bytes, content_type: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        inference.input_fn(body, content_type)
    assert expected in str(caught.value)


def test_more_tokens_than_the_model_gives_are_refused(answerer: inference.Answerer) -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_TARGET}"):
        ask(answerer, {"inputs": "x", "parameters": {"max_new_tokens": MAX_TARGET + 1}})


def test_an_unknown_answer_format_is_refused() -> None:
    with pytest.raises(ValueError, match="application/json or text/plain"):
        inference.output_fn({"answers": []}, "image/png")


def test_a_nested_archive_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="at its root"):
        inference.model_fn(str(tmp_path))


def test_a_pickled_checkpoint_is_not_loaded(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    import torch

    source = tiny.store.path("model", tiny.model.sha256)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"shared.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        inference.model_fn(str(tmp_path))


def test_the_number_of_threads_is_taken_from_the_environment(tiny: Tiny) -> None:  # noqa: F811
    code = (
        "import sys, torch; from inference import inference; inference.model_fn(sys.argv[1]); "
        "print(torch.get_num_threads())"
    )
    folder = str(tiny.store.path("model", tiny.model.sha256))
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        cwd=Path(inference.__file__).parents[1],
        env={"PATH": "/usr/bin:/bin", "ASKLINE_TORCH_THREADS": "3", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "3"


def test_it_imports_only_what_the_container_has() -> None:
    tree = ast.parse(Path(inference.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert roots <= {"torch", "transformers"} | sys.stdlib_module_names
    assert "pickle" not in roots
    top = {type(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert top, "the check looks at something"
    heavy = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in heavy if "torch" in line or "transformers" in line], "loaded late"
