"""Known answers in every engine: the same posterior as scoring every answer, in batches as alone, in little memory."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_package import MAX_SOURCE, MAX_TARGET, PROMPT, QUESTIONS, UNANSWERABLE, Tiny, tiny  # noqa: F401

from inference.engine_onnx import OnnxEngine
from inference.engine_transformers import TransformersEngine
from inference.trie import DECLINING, FLOOR, Posterior, Trie
from tasks.package.onnx_graph import write_graphs
from tasks.qa.answers import answer_trie, known_answers
from tasks.qa.prompt import format_prompt
from tasks.qa.rows import Row
from tasks.t5.decoding import answer_known

ROWS = [Row(question, answer, None, answer != UNANSWERABLE) for question, answer in QUESTIONS.items()]
#: The questions as trained, and others of other lengths, over which the tiny network hesitates.
ASKED = [
    *QUESTIONS,
    "Where?",
    "Which city did her husband move to, and in which year was that?",
    "daughter",
    "1867 two",
]
PROMPTS = [format_prompt(PROMPT, question) for question in ASKED]


@pytest.fixture(scope="module")
def checkpoint(tiny: Tiny) -> Path:  # noqa: F811
    return tiny.store.path("model", tiny.model.sha256)


@pytest.fixture(scope="module")
def trie(checkpoint: Path) -> Trie:
    answers = known_answers(ROWS)
    return answer_trie(answers, checkpoint / "tokenizer.json", max_target_tokens=MAX_TARGET, declining=UNANSWERABLE)


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the engine reads of an archive, in fp32."""
    made = tmp_path_factory.mktemp("onnx")
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copyfile(checkpoint / name, made / name)
    write_graphs(checkpoint, made, int8=False, max_source_tokens=MAX_SOURCE, max_target_tokens=MAX_TARGET)
    return made


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> tuple[Any, Any]:
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    torch.set_num_threads(1)
    model = T5ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return model, T5Tokenizer.from_pretrained(checkpoint)


def same(first: list[Posterior], second: list[Posterior], *, tolerance: float) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.indices[0] == other.indices[0]
        by_index = dict(zip(other.indices.tolist(), other.log_probabilities.tolist(), strict=True))
        for index, log_probability in zip(one.indices.tolist(), one.log_probabilities.tolist(), strict=True):
            assert np.exp(log_probability) == pytest.approx(np.exp(by_index[index]), abs=tolerance)
        assert (one.rest, one.mass) == (
            pytest.approx(other.rest, abs=tolerance),
            pytest.approx(other.mass, abs=tolerance),
        )
        assert one.steps == other.steps


def scored(network: tuple[Any, Any], prompt: str, trie: Trie, paths: list[list[int]]) -> "np.ndarray[Any, Any]":
    """The probability of every answer by running the decoder over its whole text, as training does."""
    import torch

    model, tokenizer = network
    logs = np.zeros(len(paths))
    for number, path in enumerate(paths):
        with torch.inference_mode():
            logits = model(**tokenizer(prompt, return_tensors="pt"), labels=torch.tensor([path])).logits[0].double()
        for depth, token in enumerate(path):
            going_on = sorted({other[depth] for other in paths if other[:depth] == path[:depth]})
            logs[number] += float(logits[depth, token] - logits[depth, going_on].logsumexp(dim=0))
    return np.exp(logs)


def test_the_posterior_is_that_of_scoring_every_answer_in_full(
    checkpoint: Path, folder: Path, trie: Trie, network: tuple[Any, Any]
) -> None:
    texts = [*(answer.text for answer in known_answers(ROWS)), UNANSWERABLE]
    paths = network[1](texts)["input_ids"]
    engine = OnnxEngine(folder, MAX_SOURCE, MAX_TARGET)
    for prompt, found in zip(PROMPTS, engine.known(PROMPTS, trie), strict=True):
        expected = scored(network, prompt, trie, paths)
        assert found.indices[0] in (int(expected.argmax()), DECLINING if expected.argmax() == len(texts) - 1 else -2)
        for index, log_probability in zip(found.indices, found.log_probabilities, strict=True):
            # What is not looked into is known together, not one by one.
            assert np.exp(log_probability) == pytest.approx(expected[index], abs=max(found.rest, 1e-4))
    assert FLOOR <= 0.01


def test_every_engine_finds_the_same_answers_and_the_evaluation_does_too(
    checkpoint: Path, folder: Path, trie: Trie, network: tuple[Any, Any]
) -> None:
    onnx = OnnxEngine(folder, MAX_SOURCE, MAX_TARGET).known(PROMPTS, trie)
    plain = TransformersEngine(checkpoint, MAX_SOURCE).known(PROMPTS, trie)
    evaluated = answer_known(
        *network, ASKED, trie, prompt=PROMPT, max_source_tokens=MAX_SOURCE, batch_size=4, precision="fp32"
    )
    same(onnx, plain, tolerance=1e-4)
    same(onnx, evaluated, tolerance=1e-4)
    answers = known_answers(ROWS)
    said = [UNANSWERABLE if each.indices[0] == DECLINING else answers[each.indices[0]].text for each in onnx]
    assert said[: len(QUESTIONS)] == list(QUESTIONS.values())


def test_evaluating_in_bf16_gives_the_answers_of_fp32(trie: Trie, network: tuple[Any, Any]) -> None:
    options: dict[str, Any] = {"prompt": PROMPT, "max_source_tokens": MAX_SOURCE, "batch_size": 4}
    rough = answer_known(*network, ASKED, trie, precision="bf16", k=3, **options)
    exact = answer_known(*network, ASKED, trie, precision="fp32", k=3, **options)
    assert [int(each.indices[0]) for each in rough] == [int(each.indices[0]) for each in exact]
    assert {len(each.indices) for each in rough} == {3}


def test_a_question_is_answered_among_others_as_alone_also_where_memory_is_short(folder: Path, trie: Trie) -> None:
    engine = OnnxEngine(folder, MAX_SOURCE, MAX_TARGET)
    alone = [engine.known([prompt], trie)[0] for prompt in PROMPTS]
    for size in (2, 3, 8, len(PROMPTS)):
        together = [
            each for start in range(0, len(PROMPTS), size) for each in engine.known(PROMPTS[start : start + size], trie)
        ]
        same(together, alone, tolerance=1e-5)
    short = OnnxEngine(folder, MAX_SOURCE, MAX_TARGET, batch_bytes=30_000)
    same(short.known(PROMPTS, trie), alone, tolerance=1e-5)


def test_most_questions_take_as_many_steps_as_tokens_tell_answers_apart(folder: Path, trie: Trie) -> None:
    found = OnnxEngine(folder, MAX_SOURCE, MAX_TARGET).known(PROMPTS[: len(QUESTIONS)], trie, k=4)
    assert np.mean([each.steps for each in found]) <= 3
    assert {len(each.indices) for each in found} == {4}


def test_a_trie_deeper_than_the_graphs_is_refused(folder: Path) -> None:
    deep = Trie.build([[5] * 20 + [6, 1], [5] * 20 + [7, 1]])
    with pytest.raises(ValueError, match="differ only after 21 tokens"):
        OnnxEngine(folder, MAX_SOURCE, MAX_TARGET).known(PROMPTS, deep)
