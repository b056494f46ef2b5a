"""The ONNX graphs compute what transformers does, for every kind of T5; and bytes keep what they promise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from askline.errors import PackageError
from inference.engine_onnx import OnnxEngine, _Decoding
from tasks.graphs.quantise import quantise_columns, quantise_rows
from tasks.package.onnx_graph import DECODER, ENCODER, WEIGHTS, Shape, relative_buckets, write_graphs

#: Answers that are compared step by step.
STEPS = 24
VOCABULARY = 64

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 3,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
FLAN = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
#: What is not said here is the default of transformers.
KINDS: dict[str, dict[str, Any]] = {
    "the first T5: relu, one matrix, scaled output": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "T5 1.1 and Flan-T5: gated gelu, two matrices": FLAN,
    "relu, two matrices": {"feed_forward_proj": "relu", "tie_word_embeddings": False},
    "gated relu": {**FLAN, "feed_forward_proj": "gated-relu"},
    "gelu without a gate": {**FLAN, "feed_forward_proj": "gelu"},
    "heads narrower than the model": {**FLAN, "d_kv": 8},
    "heads wider than the model": {**FLAN, "num_heads": 5, "d_kv": 32},
    "a shorter decoder": {**FLAN, "num_decoder_layers": 1},
    # transformers 5.23 counts the layers of its cache by the encoder.
    "a longer decoder": {**FLAN, "num_layers": 1, "num_decoder_layers": 3, "use_cache": False},
    "other buckets": {**FLAN, "relative_attention_num_buckets": 10, "relative_attention_max_distance": 11},
    "another epsilon": {**FLAN, "layer_norm_epsilon": 1e-2},
    "mT5": {**FLAN, "model_type": "mt5"},
}


def random_model(folder: Path, **changes: Any) -> Any:
    """Write a random checkpoint as this project does, its flag in the sense of transformers 4, and return the model."""
    import torch
    from safetensors.torch import save_file
    from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

    torch.manual_seed(3)
    settings = {**SMALL, **changes}
    kind = settings.pop("model_type", "t5")
    config = (MT5Config if kind == "mt5" else T5Config)(**settings)
    model = (MT5ForConditionalGeneration if kind == "mt5" else T5ForConditionalGeneration)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # As they are made, norms are all 1, and positions hardly matter.
            if "layer_norm" in name:
                weight.uniform_(0.5, 1.5)
            if "relative_attention_bias" in name:
                weight.normal_(0, 1)
    if not settings["tie_word_embeddings"]:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if "embed_tokens" not in name}
    save_file(state, folder / "model.safetensors")
    flag = {"tie_word_embeddings": settings["tie_word_embeddings"]}
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), **flag}), encoding="utf-8")
    return model


def graphs(checkpoint: Path, folder: Path, *, int8: bool = False, source: int = 300, target: int = STEPS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_graphs(checkpoint, folder, int8=int8, max_source_tokens=source, max_target_tokens=target)
    return folder


def engine(folder: Path, *, source: int = 300, target: int = STEPS) -> OnnxEngine:
    """Load graphs whose tokenizer is nothing but the numbers of the pieces."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    names = {str(number): number for number in range(VOCABULARY)}
    Tokenizer(WordLevel(names, unk_token="2")).save(str(folder / "tokenizer.json"))
    generation = {"decoder_start_token_id": 0, "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return OnnxEngine(folder, source, target)


def sources(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(5)
    return [[*random.integers(3, VOCABULARY, length - 1).tolist(), 1] for length in lengths]


def padded(rows: list[list[int]]) -> dict[str, Any]:
    import torch

    width = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def step_by_step(engine: OnnxEngine, rows: list[list[int]], given: Any) -> Any:
    """Return the logits (rows, steps, vocabulary) where the decoder is given these tokens one at a time."""
    decoding = _Decoding(engine, rows, given.shape[1], 1)
    decoding._take(np.arange(len(rows)), with_logits=True)
    found = []
    for number in range(given.shape[1]):
        decoding._token[:] = given[:, number : number + 1]
        decoding._step(number)
        found.append(decoding._logits.copy())
    return np.stack(found, axis=1)


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flan")
    random_model(folder, **FLAN)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_graphs_compute_what_transformers_does(kind: str, tmp_path: Path) -> None:
    """Rows of several lengths side by side, one far beyond the greatest distance that has a bucket of its own."""
    import torch

    model = random_model(tmp_path / "checkpoint", **KINDS[kind])
    own = engine(graphs(tmp_path / "checkpoint", tmp_path / "graphs"))
    rows = sources(3, 40, 11, 290)
    batch = padded(rows)
    given = torch.randint(2, VOCABULARY, (len(rows), STEPS), generator=torch.Generator().manual_seed(1))
    given[:, 0] = 0
    with torch.inference_mode():
        expected = model(**batch, decoder_input_ids=given).logits.numpy()
        greedy = model.generate(
            **batch,
            max_new_tokens=STEPS,
            num_beams=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    found = step_by_step(own, rows, given.numpy())
    assert np.abs(expected).max() > 1, "the logits say something"
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)

    answers = _Decoding(own, rows, STEPS, 1).token_by_token(0.0, 1.0, [])
    logs = torch.log_softmax(torch.stack(greedy.logits, dim=1), dim=-1)
    for row, (ids, mean) in enumerate(answers):
        theirs = greedy.sequences[row, 1 : len(ids) + 1]
        assert ids == theirs.tolist()
        assert ids[-1] == 1 or len(ids) == STEPS
        assert mean == pytest.approx(float(logs[row, torch.arange(len(ids)), theirs].mean()), abs=1e-4)


def test_another_order_of_the_same_rows_changes_nothing(flan: Path, tmp_path: Path) -> None:
    own = engine(graphs(flan, tmp_path))
    rows = sources(*range(3, 20))
    together = _Decoding(own, rows, STEPS, 1).token_by_token(0.0, 1.0, [])
    backwards = _Decoding(own, rows[::-1], STEPS, 1).token_by_token(0.0, 1.0, [])[::-1]
    alone = [_Decoding(own, [row], STEPS, 1).token_by_token(0.0, 1.0, [])[0] for row in rows]
    for first, second, third in zip(together, backwards, alone, strict=True):
        assert first[0] == second[0] == third[0]
        assert first[1] == pytest.approx(second[1], abs=1e-5)
        assert first[1] == pytest.approx(third[1], abs=1e-5)


@pytest.mark.parametrize("beams", [2, 3, 4])
def test_beam_search_is_that_of_transformers(beams: int, tmp_path: Path) -> None:
    """Sequences and scores, where some searches end early and others are cut off."""
    import torch

    def end_more_often(state: dict[str, Any]) -> None:
        state["lm_head.weight"][1] *= 2.5

    model = random_model(tmp_path / "random", **FLAN)
    with torch.no_grad():
        end_more_often(model.state_dict())
    checkpoint = change_state(tmp_path / "random", tmp_path / "checkpoint", end_more_often)
    own = engine(graphs(checkpoint, tmp_path / "graphs"))
    lengths = set()
    rows = sources(*range(3, 27))
    for steps in (3, 9, STEPS):
        with torch.inference_mode():
            expected = model.generate(
                **padded(rows),
                max_new_tokens=steps,
                num_beams=beams,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        found = _Decoding(own, rows, steps, beams).beam_search(beams)
        for row, (ids, score) in enumerate(found):
            theirs = expected.sequences[row, 1:].tolist()
            assert ids == theirs[: len(ids)]
            assert ids[-1] == 1 or len(ids) == len(theirs)
            assert set(theirs[len(ids) :]) <= {0, 1}, "shorter ones are filled up, with either mark"
            assert score == pytest.approx(float(expected.sequences_scores[row]), abs=1e-4)
            lengths.add((len(ids), ids[-1] == 1))
    assert len({length for length, ended in lengths if ended}) > 3, "searches end at several lengths"
    assert not all(ended for _, ended in lengths), "and some are cut off"


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (16, 20), (64, 512), (8, 9), (32, 1000), (10, 37), (4, 128)])
def test_buckets_are_those_of_transformers(buckets: int, far: int, both_ways: bool) -> None:
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    shape = Shape.of(
        {**SMALL, "model_type": "t5", "relative_attention_num_buckets": buckets, "relative_attention_max_distance": far}
    )
    distances = np.arange(-2000, 2001)
    expected = T5Attention._relative_position_bucket(
        torch.tensor(distances), bidirectional=both_ways, num_buckets=buckets, max_distance=far
    )
    found = relative_buckets(distances, shape, both_ways=both_ways)
    assert found.tolist() == expected.tolist()
    assert len(set(found.tolist())) > buckets // 4


@pytest.mark.parametrize("int8", [True, False])
def test_the_same_checkpoint_gives_the_same_bytes(flan: Path, tmp_path: Path, int8: bool) -> None:
    first, second = (graphs(flan, tmp_path / name, int8=int8) for name in ("one", "two"))
    for name in (ENCODER, DECODER, WEIGHTS):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_bytes_take_a_quarter_of_the_room(tmp_path: Path) -> None:
    """And both graphs share what both need: the file is hardly larger than all weights once."""
    model = random_model(tmp_path / "checkpoint", **{**FLAN, "d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 1024})
    size = {
        int8: (graphs(tmp_path / "checkpoint", tmp_path / str(int8), int8=int8) / WEIGHTS).stat().st_size
        for int8 in (True, False)
    }
    parameters = sum(weight.numel() for weight in model.parameters())
    assert 4 * parameters <= size[False] * 1.01
    assert size[False] < 4 * parameters * 1.05
    assert size[True] < 0.28 * size[False]


def test_int8_is_near_to_fp32(flan: Path, tmp_path: Path) -> None:
    rows = sources(5, 17, 60)
    given = np.random.default_rng(2).integers(2, VOCABULARY, (3, STEPS))
    exact, bytes_ = (
        step_by_step(engine(graphs(flan, tmp_path / str(int8), int8=int8)), rows, given) for int8 in (False, True)
    )
    error = np.sqrt(np.mean((exact - bytes_) ** 2)) / exact.std()
    assert 0 < error < 0.05, "and not by chance the same: these are bytes"


#: What a trained network could hold, and far more; beyond this, the sum of two weights is no float32.
WEIGHT = st.floats(-(2.0**126), 2.0**126, width=32)
MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=WEIGHT)


def no_pair_saturates(matrix: Any) -> None:
    """Two products of an unsigned and a signed byte must fit into 16 bits together, whatever the activations."""
    wide = matrix.astype(np.int64)
    assert np.abs(wide).max() <= 127
    highest, lowest = np.maximum(wide, 0) * 255, np.minimum(wide, 0) * 255
    assert (highest[:-1] + highest[1:]).max(initial=0) <= np.iinfo(np.int16).max
    assert (lowest[:-1] + lowest[1:]).min(initial=0) >= np.iinfo(np.int16).min


@settings(max_examples=400, deadline=None)
@given(MATRICES)
def test_no_weights_overflow_sixteen_bits(matrix: Any) -> None:
    quantised, scales = quantise_columns(matrix)
    assert quantised.dtype == np.int8
    assert scales.shape == (matrix.shape[1],)
    no_pair_saturates(quantised)


@pytest.mark.parametrize(
    "column",
    [
        [1.0, 1.0],
        [1.0, 0.9999],
        [-1.0, -1.0],
        [1.0, -1.0],
        [0.5, 0.5, 1.0],
        [127.0, 1.5],
        [1e-30, 1e-30],
        [3e38, -3e38],
    ],
)
def test_the_columns_that_would_overflow_at_once_do_not(column: list[float]) -> None:
    quantised, _ = quantise_columns(np.array([column], np.float32).T)
    no_pair_saturates(quantised)


@settings(max_examples=300, deadline=None)
@given(MATRICES)
def test_a_rounded_weight_is_at_most_half_a_step_away(matrix: Any) -> None:
    for quantise in (quantise_columns, quantise_rows):
        quantised, scales = quantise(matrix)
        error = np.abs(quantised.astype(np.float64) * scales - matrix.astype(np.float64))
        assert (error <= scales.astype(np.float64) * (0.5 + 1e-4)).all()


@settings(max_examples=200, deadline=None)
@given(MATRICES)
def test_a_step_is_at_most_twice_what_the_largest_weight_asks_for(matrix: Any) -> None:
    """The limit for pairs costs no more than a bit, and nothing where neighbours do not add up."""
    _, scales = quantise_columns(matrix)
    plain = np.maximum(np.abs(matrix.astype(np.float64)).max(axis=0) / 127, 1e-12)
    assert (scales <= plain * 2.001).all()
    alone = np.zeros((2 * len(matrix), matrix.shape[1]), np.float32)
    alone[::2] = matrix
    np.testing.assert_allclose(quantise_columns(alone)[1], plain, rtol=1e-5)


def test_a_column_of_nothing_stays_nothing() -> None:
    matrix = np.zeros((4, 3), np.float32)
    matrix[:, 1] = [1, -2, 3, -4]
    quantised, scales = quantise_columns(matrix)
    assert not quantised[:, [0, 2]].any()
    assert quantised[:, 1].any()
    assert (scales > 0).all()
    quantised, scales = quantise_rows(np.zeros((2, 5), np.float32))
    assert not quantised.any()
    assert (scales > 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quantise", [quantise_columns, quantise_rows])
def test_weights_that_are_no_numbers_are_refused(quantise: Callable[[Any], Any], value: float) -> None:
    matrix = np.ones((4, 4), np.float32)
    matrix[2, 1] = value
    with pytest.raises(PackageError, match="not finite"):
        quantise(matrix)


def test_weights_whose_sum_is_no_number_are_refused() -> None:
    with pytest.raises(PackageError, match="too large"):
        quantise_columns(np.full((2, 2), 3e38, np.float32))


def change_state(source: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    state = load_file(source / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("int8", [True, False])
def test_a_diverged_checkpoint_is_refused_by_name(flan: Path, tmp_path: Path, int8: bool) -> None:
    name = "decoder.block.1.layer.1.EncDecAttention.k.weight"

    def diverge(state: dict[str, Any]) -> None:
        state[name][0, 0] = float("nan")

    with pytest.raises(PackageError, match=f"{name}.*not finite"):
        graphs(change_state(flan, tmp_path / "bad", diverge), tmp_path / "graphs", int8=int8)


def test_a_checkpoint_without_a_weight_is_refused_by_name(flan: Path, tmp_path: Path) -> None:
    bad = change_state(flan, tmp_path / "bad", lambda state: state.pop("lm_head.weight"))
    with pytest.raises(PackageError, match=r"no tensor 'lm_head\.weight'"):
        graphs(bad, tmp_path / "graphs")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "bart"}, "'bart' has no ONNX graph"),
        ({"model_type": None}, "None has no ONNX graph"),
        ({"feed_forward_proj": "gated-silu"}, "'gated-silu' has no ONNX graph"),
    ],
)
def test_another_kind_of_model_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(PackageError) as caught:
        Shape.of({**SMALL, "model_type": "t5", **change})
    assert expected in str(caught.value)


def test_both_graphs_are_valid_onnx(flan: Path, tmp_path: Path) -> None:
    """Those nodes that ONNX itself defines, and the places of the weights in their file."""
    import onnx

    folder = graphs(flan, tmp_path, int8=True)
    size = (folder / WEIGHTS).stat().st_size
    for name in (ENCODER, DECODER):
        model = onnx.load(folder / name, load_external_data=False)
        assert {opset.domain for opset in model.opset_import} == {"", "com.microsoft"}
        assert model.producer_name == "askline"
        for tensor in model.graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place:
                assert place["location"] == WEIGHTS
                assert int(place["offset"]) % 4096 == 0, "mapped by the page"
                assert int(place["offset"]) + int(place["length"]) <= size
        known = {item.name for item in (*model.graph.input, *model.graph.initializer)} | {""}
        for node in model.graph.node:
            assert set(node.input) <= known, "every value is made before it is used"
            known |= set(node.output)
        assert {item.name for item in model.graph.output} <= known
