"""The archive's own engine beside transformers: searching, drawing, batches, memory, and files that are not whole."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_package import MAX_SOURCE, MAX_TARGET, PROMPT, QUESTIONS, Tiny, tiny  # noqa: F401

from inference import engine_onnx
from inference.engine_onnx import OnnxEngine, _Decoding
from tasks.package.onnx_graph import write_graphs
from tasks.qa.prompt import format_prompt

PROMPTS = [format_prompt(PROMPT, question) for question in QUESTIONS]
#: So hot that the trained network hesitates.
HOT = 6.0


@pytest.fixture(scope="module")
def checkpoint(tiny: Tiny) -> Path:  # noqa: F811
    return tiny.store.path("model", tiny.model.sha256)


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the engine reads of an archive, in fp32."""
    made = tmp_path_factory.mktemp("onnx")
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copyfile(checkpoint / name, made / name)
    write_graphs(checkpoint, made, int8=False, max_source_tokens=MAX_SOURCE, max_target_tokens=MAX_TARGET)
    return made


def load(folder: Path, **options: Any) -> OnnxEngine:
    return OnnxEngine(folder, MAX_SOURCE, MAX_TARGET, **options)


@pytest.fixture(scope="module")
def engine(folder: Path) -> OnnxEngine:
    return load(folder)


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> tuple[Any, Any]:
    """The checkpoint and its tokenizer in transformers."""
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    torch.set_num_threads(1)
    model = T5ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return model, T5Tokenizer.from_pretrained(checkpoint)


def same(first: list[tuple[str, float, int]], second: list[tuple[str, float, int]]) -> None:
    assert [(text, tokens) for text, _, tokens in first] == [(text, tokens) for text, _, tokens in second]
    assert [value for _, value, _ in first] == pytest.approx([value for _, value, _ in second], abs=1e-5)


@pytest.mark.parametrize("limit", [2, 4, MAX_TARGET])
@pytest.mark.parametrize("beams", [1, 2, 3, 4])
def test_searching_is_that_of_transformers(
    engine: OnnxEngine, network: tuple[Any, Any], beams: int, limit: int
) -> None:
    """Texts, probabilities and numbers of tokens, of questions that were learned and of some that were not."""
    import torch

    model, tokenizer = network
    prompts = [*PROMPTS, *(format_prompt(PROMPT, f"Who named the {word}?") for word in ("egg", "year", "city", "dark"))]
    for prompt, (text, probability, tokens) in zip(
        prompts, engine.generate(prompts, max_new_tokens=limit, num_beams=beams), strict=True
    ):
        given = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            expected = model.generate(
                **given,
                max_new_tokens=limit,
                num_beams=beams,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
            if beams > 1:
                score = float(expected.sequences_scores[0])
            else:
                scores = model.compute_transition_scores(expected.sequences, expected.scores, normalize_logits=True)
                score = float(scores[0].mean())
        assert text == tokenizer.decode(expected.sequences[0], skip_special_tokens=True).strip()
        assert probability == pytest.approx(np.exp(score), abs=1e-4)
        assert tokens == expected.sequences.shape[1] - 1


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_batches_that_memory_splits_give_the_same_answers(folder: Path, engine: OnnxEngine, beams: int) -> None:
    whole = engine.generate(PROMPTS, max_new_tokens=MAX_TARGET, num_beams=beams)
    for batch_bytes in (0, 50_000, 100_000):
        split = load(folder, batch_bytes=batch_bytes)
        same(split.generate(PROMPTS, max_new_tokens=MAX_TARGET, num_beams=beams), whole)


def test_memory_is_what_splits_a_batch(folder: Path, engine: OnnxEngine) -> None:
    tokens = [[5] * 20] * 32
    assert engine._rows_together(tokens, list(range(32)), MAX_TARGET, 1) == 32
    assert load(folder, batch_bytes=0)._rows_together(tokens, list(range(32)), MAX_TARGET, 1) == 1
    small = load(folder, batch_bytes=500_000)
    counts = [small._rows_together(tokens, list(range(32)), MAX_TARGET, beams) for beams in (1, 2, 4)]
    assert 32 > counts[0] > counts[1] > counts[2] >= 1
    longer = small._rows_together([[5] * 200] * 32, list(range(32)), MAX_TARGET, 1)
    assert longer < counts[0]


@pytest.mark.parametrize("options", [{}, {"temperature": HOT, "seed": 3}])
def test_rows_that_end_early_are_dropped_without_changing_the_others(
    engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The answers have two to six tokens; dropping at once, by and by, and never must make no difference."""
    found: list[Any] = []
    sizes: list[list[int]] = []
    take = _Decoding._take

    def counted(self: _Decoding, rows: Any, *, with_logits: bool) -> None:
        sizes[-1].append(len(rows))
        take(self, rows, with_logits=with_logits)

    monkeypatch.setattr(_Decoding, "_take", counted)
    for share in (0.0, engine_onnx.DROP_SHARE, 2.0):
        monkeypatch.setattr(engine_onnx, "DROP_SHARE", share)
        sizes.append([])
        found.append(engine.generate(PROMPTS, max_new_tokens=MAX_TARGET, **options))
    assert len({tokens for _, _, tokens in found[0]}) > 2, "else none ends before another"
    assert sizes[0][-1] < sizes[0][0], "rows were dropped"
    assert set(sizes[2]) == {len(PROMPTS)}, "and here none"
    same(found[0], found[2])
    same(found[1], found[2])
    for prompt, expected in zip(PROMPTS[:1], found[0][:1], strict=True):
        same(engine.generate([prompt], max_new_tokens=MAX_TARGET, **options), [expected])


def test_a_long_neighbour_changes_nothing(engine: OnnxEngine) -> None:
    """The padding of the shorter rows is masked, in the encoder and in the decoder."""
    long = format_prompt(PROMPT, "so long " * 60)
    for beams in (1, 3):
        alone = [
            engine.generate([prompt], max_new_tokens=MAX_TARGET, num_beams=beams)[0] for prompt in (*PROMPTS, long)
        ]
        same(engine.generate([*PROMPTS, long], max_new_tokens=MAX_TARGET, num_beams=beams), alone)


@pytest.mark.parametrize("length", [MAX_SOURCE - 3, MAX_SOURCE - 2, MAX_SOURCE - 1, MAX_SOURCE, MAX_SOURCE + 1, 500])
def test_a_prompt_is_truncated_as_transformers_does(engine: OnnxEngine, network: tuple[Any, Any], length: int) -> None:
    _, tokenizer = network
    prompt = " ".join(["physics"] * length)
    expected = tokenizer(prompt, truncation=True, max_length=MAX_SOURCE)["input_ids"]
    found = engine._tokenizer.encode(prompt).ids
    assert found == expected
    assert len(found) <= MAX_SOURCE
    assert found[-1] == engine._end, "the end mark stays"


def test_no_prompts_give_no_answers(engine: OnnxEngine) -> None:
    assert engine.generate([], max_new_tokens=MAX_TARGET) == []


def draws(engine: OnnxEngine, prompt: str, count: int, temperature: float, top_p: float) -> list[tuple[int, float]]:
    """Return first tokens drawn after one prompt, and their log-probabilities."""
    ids = engine._tokenizer.encode(prompt).ids
    chances = [np.random.default_rng([11, number]) for number in range(count)]
    decoding = _Decoding(engine, [ids] * count, 1, 1)
    return [(own[0], log) for own, log in decoding.token_by_token(temperature, top_p, chances)]


@pytest.fixture(scope="module")
def probabilities(network: tuple[Any, Any]) -> Callable[[float], Any]:
    """The network's probabilities of the first token after the first prompt, at a temperature."""
    import torch

    model, tokenizer = network
    with torch.inference_mode():
        logits = model(**tokenizer(PROMPTS[0], return_tensors="pt"), decoder_input_ids=torch.tensor([[0]])).logits
    return lambda temperature: torch.softmax(logits[0, 0].double() / temperature, dim=0).numpy()


@pytest.mark.parametrize("temperature", [1.0, 2.0, HOT])
def test_tokens_are_drawn_as_often_as_they_are_likely(
    engine: OnnxEngine, probabilities: Callable[[float], Any], temperature: float
) -> None:
    count, expected = 3000, probabilities(temperature)
    drawn = draws(engine, PROMPTS[0], count, temperature, 1.0)
    often = Counter(token for token, _ in drawn)
    # Five standard deviations of a share: one token in two million strays further.
    for token, share in enumerate(expected):
        assert abs(often[token] / count - share) <= 5 * np.sqrt(share * (1 - share) / count) + 1 / count
    if temperature == HOT:
        assert len(often) > 20
    for token, log_probability in drawn:
        assert log_probability == pytest.approx(np.log(probabilities(1.0)[token]), abs=1e-3), "as the model saw it"


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.8])
def test_only_the_most_likely_tokens_are_drawn(
    engine: OnnxEngine, probabilities: Callable[[float], Any], top_p: float
) -> None:
    """The fewest whose probabilities reach ``top_p`` together, and all of them in their own proportion."""
    expected = probabilities(HOT)
    order = np.argsort(-expected)
    kept = order[: int(np.searchsorted(np.cumsum(expected[order]), top_p)) + 1]
    assert expected[kept].sum() >= top_p > expected[kept[:-1]].sum()
    often = Counter(token for token, _ in draws(engine, PROMPTS[0], 3000, HOT, top_p))
    assert set(often) <= set(kept.tolist())
    share = expected[kept[0]] / expected[kept].sum()
    assert often[int(kept[0])] / 3000 == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 3000) + 1e-9)


def test_a_seed_repeats_what_was_drawn_and_others_do_not(engine: OnnxEngine) -> None:
    first, again, other = (
        engine.generate(PROMPTS, max_new_tokens=MAX_TARGET, temperature=HOT, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_what_is_drawn_does_not_depend_on_the_neighbours_or_on_memory(folder: Path, engine: OnnxEngine) -> None:
    options: dict[str, Any] = {"max_new_tokens": MAX_TARGET, "temperature": HOT, "seed": 9}
    together = engine.generate(PROMPTS, **options)
    same(engine.generate(PROMPTS[:5], **options), together[:5])
    same(load(folder, batch_bytes=0).generate(PROMPTS, **options), together)


def test_the_same_question_twice_in_a_request_may_draw_two_answers(engine: OnnxEngine) -> None:
    drawn = engine.generate([PROMPTS[0]] * 16, max_new_tokens=MAX_TARGET, temperature=HOT, seed=9)
    assert len({text for text, _, _ in drawn}) > 4


@pytest.mark.parametrize(
    "options", [{"temperature": 1e-6}, {"temperature": 5e-324}, {"temperature": HOT, "top_p": 0.01, "seed": 4}]
)
def test_cold_or_narrow_draws_are_the_most_likely(engine: OnnxEngine, options: dict[str, Any]) -> None:
    prompts = PROMPTS[:10]
    with np.errstate(all="raise", under="ignore"):
        drawn = engine.generate(prompts, max_new_tokens=MAX_TARGET, **options)
    same(drawn, engine.generate(prompts, max_new_tokens=MAX_TARGET))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_sessions_use_as_many_threads_as_they_are_told(folder: Path, threads: int) -> None:
    engine = load(folder, threads=threads)
    for session in (engine._encoder, engine._decoder):
        assert session.get_session_options().intra_op_num_threads == threads
        assert session.get_providers() == ["CPUExecutionProvider"]
    assert engine.generate(PROMPTS[:2], max_new_tokens=MAX_TARGET)[0][2] > 1


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill_with_rubbish(path: Path) -> None:
    path.write_bytes(b"\x07rubbish" * 100)


@pytest.mark.parametrize("harm", [remove, empty, halve, fill_with_rubbish])
@pytest.mark.parametrize(
    "name", ["weights.bin", "encoder.onnx", "decoder.onnx", "tokenizer.json", "generation_config.json"]
)
def test_files_that_are_not_whole_are_refused(
    folder: Path, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    """By the engine itself, which does not see the manifest with the hashes."""
    shutil.copytree(folder, tmp_path / "model")
    harm(tmp_path / "model" / name)
    with pytest.raises(RuntimeError, match="does not hold a whole ONNX package"):
        load(tmp_path / "model")


def test_an_encoder_in_the_decoders_place_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    shutil.copyfile(folder / "encoder.onnx", tmp_path / "model" / "decoder.onnx")
    with pytest.raises(RuntimeError, match="does not hold a whole ONNX package"):
        load(tmp_path / "model")


def test_a_tokenizer_with_pieces_that_the_graphs_do_not_know_is_refused(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    shutil.copytree(folder, tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"<piece {number}>" for number in range(10_000)])
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    with pytest.raises(RuntimeError, match="the tokenizer of another model: it has 1"):
        load(tmp_path / "model")


@pytest.mark.parametrize("wrong", [{"eos_token_id": [1]}, {"eos_token_id": None}, {"decoder_start_token_id": "x"}])
def test_marks_that_are_no_tokens_are_refused(folder: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    """With a list as its end mark, no answer would ever end."""
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | wrong), encoding="utf-8")
    with pytest.raises(RuntimeError, match="does not hold a whole ONNX package"):
        load(tmp_path / "model")
