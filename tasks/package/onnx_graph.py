"""T5 as two ONNX graphs for ONNX Runtime: the encoder once, and the decoder one token at a time.

The graphs are written node by node from the checkpoint's weights, with the operators that ONNX Runtime's own
optimiser would put there (attention with a cache, normalisation with the residual sum, quantised products): so nothing
is left to optimise while loading, nothing depends on an exporter's version, and both graphs read one file of weights,
mapped into memory, with one embedding.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from askline.errors import PackageError
from tasks.graphs.writer import MICROSOFT, Graph, State, Weights, declared, write_graph

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

ENCODER, DECODER, WEIGHTS = "encoder.onnx", "decoder.onnx", "weights.bin"


@dataclass(frozen=True)
class Shape:
    """What of a T5's configuration shapes its graphs."""

    layers: int
    decoder_layers: int
    heads: int
    head_size: int
    width: int
    vocabulary: int
    epsilon: float
    buckets: int
    max_distance: int
    gated: bool
    activation: str
    scaled_output: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """Read a checkpoint's ``config.json``.

        Raises
        ------
        PackageError
            If it is no T5, or one of a kind that has no graph here.
        """
        kind, feed_forward = config.get("model_type"), str(config.get("feed_forward_proj", "relu"))
        if kind not in ("t5", "mt5"):
            raise PackageError(f"a model of type {kind!r} has no ONNX graph here, only t5 and mt5 have one")
        gated, activation = feed_forward.startswith("gated-"), feed_forward.removeprefix("gated-")
        if activation not in ("relu", "gelu", "gelu_new"):
            raise PackageError(f"feed_forward_proj {feed_forward!r} has no ONNX graph here")
        return cls(
            layers=config["num_layers"],
            decoder_layers=config.get("num_decoder_layers") or config["num_layers"],
            heads=config["num_heads"],
            head_size=config["d_kv"],
            width=config["d_model"],
            vocabulary=config["vocab_size"],
            epsilon=config.get("layer_norm_epsilon", 1e-6),
            buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
            gated=gated,
            # transformers makes "gated-gelu" the tanh form and keeps the exact one for "gelu".
            activation="gelu_new" if (gated and activation == "gelu") else activation,
            # The flag stands in its sense of transformers 4 in every checkpoint of this project.
            scaled_output=bool(config.get("tie_word_embeddings", True)),
        )


def write_graphs(checkpoint: Path, folder: Path, *, int8: bool, max_source_tokens: int, max_target_tokens: int) -> None:
    """Write ``encoder.onnx``, ``decoder.onnx`` and ``weights.bin`` for a T5 checkpoint.

    Encoder: ``input_ids`` (int64, batch × source) and ``attention_mask`` (int32, the same) to ``cross_key_<layer>`` and
    ``cross_value_<layer>`` (float32, batch × heads × source × head size), which the decoder takes as they are. Decoder:
    ``token`` (int64, batch × 1), ``attention_mask``, the cross attention's and ``past_key_<layer>``,
    ``past_value_<layer>`` (batch × heads × past × head size) to ``logits`` (float32, batch × vocabulary), the most
    likely ``next_token`` (int64, batch), its ``log_probability`` (float32, batch) and ``present_…`` for ``past_…``.

    Parameters
    ----------
    checkpoint
        Folder with ``config.json`` and ``model.safetensors``.
    int8
        Weights as signed bytes, one scale to an output, and activations quantised as they come; else float32.
    max_source_tokens, max_target_tokens
        How far the tables of relative positions reach.

    Raises
    ------
    PackageError
        If the checkpoint is not a T5 of a kind known here, lacks a weight, or has one that is not finite.
    """
    from safetensors import safe_open

    shape = Shape.of(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    weights = Weights(folder / WEIGHTS)
    try:
        with safe_open(checkpoint / "model.safetensors", framework="numpy") as tensors:
            state = State(tensors)
            encoder = _encoder(state, shape, Graph(weights, int8), max_source_tokens)
            write_graph(folder / ENCODER, encoder, *_encoder_signature(shape))
            decoder = _decoder(state, shape, Graph(weights, int8), max_target_tokens)
            write_graph(folder / DECODER, decoder, *_decoder_signature(shape))
    finally:
        weights.close()


def write_pooled(checkpoint: Path, graph_file: Path, weights_file: Path, *, max_tokens: int) -> None:
    """Write a T5's encoder alone, pooled by the mean of its tokens: one text at a time, weights in bytes.

    The graph takes ``input_ids`` (int64, 1 × tokens) and gives ``sentence`` (float32, 1 × width), of length 1.

    Raises
    ------
    PackageError
        As :func:`write_graphs`.
    """
    from onnx import TensorProto as Type
    from safetensors import safe_open

    shape = Shape.of(json.loads((checkpoint / "config.json").read_text(encoding="utf-8")))
    weights = Weights(weights_file)
    try:
        with safe_open(checkpoint / "model.safetensors", framework="numpy") as tensors:
            graph = Graph(weights, True)
            mean = graph.add(
                "ReduceMean", [_encoded(State(tensors), shape, graph, max_tokens, "")], axes=[1], keepdims=0
            )
            graph.add("LpNormalization", [mean], axis=1, p=2, outputs=["sentence"])
            inputs = [declared("input_ids", Type.INT64, [1, "tokens"])]
            write_graph(graph_file, graph, inputs, [declared("sentence", Type.FLOAT, [1, shape.width])])
    finally:
        weights.close()


def _encoded(state: State, shape: Shape, graph: Graph, max_tokens: int, mask: str) -> str:
    """Return the encoder's output; ``mask`` is the input that says which tokens count, "" where all do."""
    distances = np.arange(-max_tokens + 1, max_tokens)
    table = state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    by_distance = table[relative_buckets(distances, shape, both_ways=True)]
    length = graph.add("Squeeze", [graph.add("Shape", ["input_ids"], start=1, end=2)])
    positions = graph.add("Range", [graph.constant("zero", 0), length, graph.constant("one", 1)])
    columns = graph.add("Unsqueeze", [positions, graph.constant("first", [0])])
    rows = graph.add("Unsqueeze", [positions, graph.constant("last", [1])])
    shift = graph.constant("shift", max_tokens - 1)
    distance = graph.add("Add", [graph.add("Sub", [columns, rows]), shift])
    bias = graph.add("Gather", [graph.weight("encoder.bias", by_distance), distance])
    bias = graph.add("Transpose", [bias], perm=[2, 0, 1])
    bias = graph.add("Unsqueeze", [bias, "first"])

    hidden = graph.embed("input_ids", state["shared.weight"])
    normed = _first_norm(graph, hidden, state["encoder.block.0.layer.0.layer_norm.weight"], "encoder.norm", shape)
    for layer in range(shape.layers):
        block, name = f"encoder.block.{layer}.layer", f"encoder.{layer}"
        attention = f"{block}.0.SelfAttention"
        query, key, value = _split(
            graph, graph.linear(normed, f"{name}.qkv", *(state[f"{attention}.{part}.weight"] for part in "qkv")), 3
        )
        found = _attend(graph, shape, [query, key, value, "", mask, bias])
        added = graph.linear(found, f"{name}.o", state[f"{attention}.o.weight"])
        normed, hidden = _norm(graph, added, hidden, state[f"{block}.1.layer_norm.weight"], f"{name}.norm", shape)
        added = _feed_forward(graph, normed, state, f"{block}.1.DenseReluDense", name, shape)
        last = layer + 1 == shape.layers
        following = "encoder.final_layer_norm" if last else f"encoder.block.{layer + 1}.layer.0.layer_norm"
        normed, hidden = _norm(graph, added, hidden, state[f"{following}.weight"], f"{name}.next", shape)
    return normed


def _encoder(state: State, shape: Shape, graph: Graph, max_tokens: int) -> Graph:
    normed = _encoded(state, shape, graph, max_tokens, "attention_mask")
    # Keys and values of all the decoder's layers are one product: the encoder's output is quantised once.
    parts = [
        state[f"decoder.block.{layer}.layer.1.EncDecAttention.{part}.weight"]
        for layer in range(shape.decoder_layers)
        for part in ("k", "v")
    ]
    flat = graph.linear(normed, "cross", *parts)
    sizes = graph.constant("sizes", [0, 0, len(parts), shape.heads, shape.head_size])
    by_part = graph.add("Transpose", [graph.add("Reshape", [flat, sizes])], perm=[2, 0, 3, 1, 4])
    outputs = [f"cross_{kind}_{layer}" for layer in range(shape.decoder_layers) for kind in ("key", "value")]
    each = graph.add("Split", [by_part], outputs=len(parts), axis=0)
    for whole, output in zip(each, outputs, strict=True):
        graph.add("Squeeze", [whole, "first"], outputs=[output])
    return graph


def _decoder(state: State, shape: Shape, graph: Graph, max_tokens: int) -> Graph:
    # The newest token looks back over 0 … past tokens: the last past + 1 columns of a table that ends with distance 0.
    distances = np.arange(-max_tokens + 1, 1)
    table = state["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    by_distance = table[relative_buckets(distances, shape, both_ways=False)].T[None, :, None, :]
    past = graph.add("Cast", ["past_length"], to=7)
    start = graph.add("Sub", [graph.constant("last_column", [max_tokens - 1]), past])
    bias = graph.add(
        "Slice",
        [
            graph.weight("decoder.bias", by_distance),
            start,
            graph.constant("end", [max_tokens]),
            graph.constant("axis", [3]),
        ],
    )
    hidden = graph.embed("token", state["shared.weight"])
    normed = _first_norm(graph, hidden, state["decoder.block.0.layer.0.layer_norm.weight"], "decoder.norm", shape)
    for layer in range(shape.decoder_layers):
        block, name = f"decoder.block.{layer}.layer", f"decoder.{layer}"
        attention = f"{block}.0.SelfAttention"
        query, key, value = _split(
            graph, graph.linear(normed, f"{name}.qkv", *(state[f"{attention}.{part}.weight"] for part in "qkv")), 3
        )
        present = [f"present_key_{layer}", f"present_value_{layer}"]
        cache = [f"past_key_{layer}", f"past_value_{layer}"]
        found = _attend_one(graph, shape, [query, key, value, "", bias, *cache, "past_length"], present)
        added = graph.linear(found, f"{name}.o", state[f"{attention}.o.weight"])
        normed, hidden = _norm(graph, added, hidden, state[f"{block}.1.layer_norm.weight"], f"{name}.cross", shape)

        attention = f"{block}.1.EncDecAttention"
        query = graph.linear(normed, f"{name}.cross.q", state[f"{attention}.q.weight"])
        source = [f"cross_key_{layer}", f"cross_value_{layer}"]
        found = _attend_one(graph, shape, [query, *source, "attention_mask"])
        added = graph.linear(found, f"{name}.cross.o", state[f"{attention}.o.weight"])
        normed, hidden = _norm(graph, added, hidden, state[f"{block}.2.layer_norm.weight"], f"{name}.ff", shape)

        added = _feed_forward(graph, normed, state, f"{block}.2.DenseReluDense", name, shape)
        last = layer + 1 == shape.decoder_layers
        following = "decoder.final_layer_norm" if last else f"decoder.block.{layer + 1}.layer.0.layer_norm"
        normed, hidden = _norm(graph, added, hidden, state[f"{following}.weight"], f"{name}.next", shape)

    if shape.scaled_output:
        normed = graph.add("Mul", [normed, graph.constant("scale", shape.width**-0.5, np.float32)])
    normed = graph.add("Reshape", [normed, graph.constant("flat", [-1, shape.width])])
    graph.linear(normed, "output", state["lm_head.weight"])
    graph.nodes[-1].output[0] = "logits"
    graph.add("ArgMax", ["logits"], axis=1, keepdims=0, outputs=["next_token"])
    logs = graph.add("LogSoftmax", ["logits"], axis=1)  # one vectorised pass; ReduceLogSumExp takes ten times as long
    graph.add("ReduceMax", [logs], axes=[1], keepdims=0, outputs=["log_probability"])
    return graph


def relative_buckets(distance: "Array", shape: Shape, *, both_ways: bool) -> "Array":
    """Return T5's bucket for each distance (key's position less the query's).

    Half of the buckets are exact, the others grow with the logarithm up to ``max_distance``: Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683, section 2.1. In float32, so that the borders fall where PyTorch's do.
    """
    buckets, base = shape.buckets, np.zeros_like(distance)
    if both_ways:
        buckets //= 2
        base = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    with np.errstate(divide="ignore"):
        share = np.log(distance.astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(shape.max_distance / exact)
        )
    far = exact + (np.maximum(share, 0) * (buckets - exact)).astype(np.int64)
    return np.asarray(base + np.where(distance < exact, distance, np.minimum(far, buckets - 1)))


def _split(graph: Graph, values: str, parts: int) -> list[str]:
    names: list[str] = graph.add("Split", [values], outputs=parts, axis=2)
    return names


def _attend(graph: Graph, shape: Shape, inputs: list[str]) -> str:
    """T5 does not scale the products of queries and keys; ``scale=1`` says so."""
    return str(graph.add("MultiHeadAttention", inputs, domain=MICROSOFT, num_heads=shape.heads, scale=1.0))


def _attend_one(graph: Graph, shape: Shape, inputs: list[str], present: list[str] | None = None) -> str:
    """Attention of one new token; with ``present``, its key and value are written into the caller's own buffers."""
    outputs = [f"attended_{len(graph.nodes)}", *(present or [])]
    graph.add(
        "DecoderMaskedMultiHeadAttention",
        inputs,
        outputs=outputs,
        domain=MICROSOFT,
        num_heads=shape.heads,
        scale=1.0,
        past_present_share_buffer=int(present is not None),
    )
    return outputs[0]


def _first_norm(graph: Graph, values: str, gamma: "Array", name: str, shape: Shape) -> str:
    inputs = [values, graph.weight(name, gamma)]
    return str(graph.add("SimplifiedLayerNormalization", inputs, axis=-1, epsilon=shape.epsilon, stash_type=1))


def _norm(graph: Graph, added: str, hidden: str, gamma: "Array", name: str, shape: Shape) -> tuple[str, str]:
    """Return the norm of the residual sum, and the sum."""
    number = len(graph.nodes)
    outputs = [f"normed_{number}", "", "", f"hidden_{number}"]
    inputs = [added, hidden, graph.weight(name, gamma)]
    graph.add("SkipSimplifiedLayerNormalization", inputs, outputs=outputs, domain=MICROSOFT, epsilon=shape.epsilon)
    return outputs[0], outputs[3]


def _feed_forward(graph: Graph, values: str, state: State, block: str, name: str, shape: Shape) -> str:
    if shape.gated:
        both = graph.linear(values, f"{name}.wi", state[f"{block}.wi_0.weight"], state[f"{block}.wi_1.weight"])
        gate, linear = _split(graph, both, 2)
        inner = graph.add("Mul", [_activate(graph, gate, shape), linear])
    else:
        inner = _activate(graph, graph.linear(values, f"{name}.wi", state[f"{block}.wi.weight"]), shape)
    return graph.linear(inner, f"{name}.wo", state[f"{block}.wo.weight"])


def _activate(graph: Graph, values: str, shape: Shape) -> str:
    if shape.activation == "relu":
        return str(graph.add("Relu", [values]))
    return str(graph.add("FastGelu" if shape.activation == "gelu_new" else "Gelu", [values], domain=MICROSOFT))


def _encoder_signature(shape: Shape) -> tuple[list[Any], list[Any]]:
    from onnx import TensorProto as Type

    inputs = [declared("input_ids", Type.INT64, ["batch", "source"]), _mask()]
    return inputs, _cache("cross", shape, "source")


def _decoder_signature(shape: Shape) -> tuple[list[Any], list[Any]]:
    from onnx import TensorProto as Type

    inputs = [
        declared("token", Type.INT64, ["batch", 1]),
        _mask(),
        *_cache("cross", shape, "source"),
        declared("past_length", Type.INT32, [1]),
        *_cache("past", shape, "capacity"),
    ]
    outputs = [
        declared("logits", Type.FLOAT, ["batch", shape.vocabulary]),
        declared("next_token", Type.INT64, ["batch"]),
        declared("log_probability", Type.FLOAT, ["batch"]),
        *_cache("present", shape, "capacity"),
    ]
    return inputs, outputs


def _mask() -> Any:
    from onnx import TensorProto as Type

    return declared("attention_mask", Type.INT32, ["batch", "source"])


def _cache(kind: str, shape: Shape, length: str) -> list[Any]:
    from onnx import TensorProto as Type

    size = ["batch", shape.heads, length, shape.head_size]
    return [
        declared(f"{kind}_{part}_{layer}", Type.FLOAT, size)
        for layer in range(shape.decoder_layers)
        for part in ("key", "value")
    ]
