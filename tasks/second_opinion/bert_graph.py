"""A BERT sentence encoder as one ONNX graph: from the tokens of one text to its embedding, of length 1.

Written node by node as the model's own graphs are (``tasks/package/onnx_graph.py``): attention and normalisation in
ONNX Runtime's fused operators, weights as bytes in a file that is mapped. The graph takes one text at a time:
activations are put into bytes by the range of the whole input, so that a text's embedding would otherwise depend on
the texts that share its batch; and alone a question needs no padding, which costs what batches of short texts save.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from askline.errors import PackageError
from tasks.graphs.writer import MICROSOFT, Graph, State, Weights, declared, write_graph

GRAPH, WEIGHTS = "second_opinion.onnx", "second_opinion.bin"


@dataclass(frozen=True)
class BertShape:
    """What of a BERT's configuration shapes its graph."""

    layers: int
    heads: int
    width: int
    positions: int
    epsilon: float
    activation: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BertShape":
        """Read a checkpoint's ``config.json``.

        Raises
        ------
        PackageError
            If it is no BERT, or one of a kind that has no graph here.
        """
        kind, activation = config.get("model_type"), str(config.get("hidden_act", "gelu"))
        if kind != "bert":
            raise PackageError(f"a sentence encoder of type {kind!r} has no ONNX graph here, only bert has one")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise PackageError("a BERT with relative positions has no ONNX graph here")
        if activation not in ("gelu", "gelu_new", "relu"):
            raise PackageError(f"hidden_act {activation!r} has no ONNX graph here")
        return cls(
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            width=config["hidden_size"],
            positions=config["max_position_embeddings"],
            epsilon=config.get("layer_norm_eps", 1e-12),
            activation=activation,
        )


def write_bert(checkpoint: Path, folder: Path, *, int8: bool = True) -> None:
    """Write ``second_opinion.onnx`` and ``second_opinion.bin`` for a BERT that is pooled by the mean of its tokens.

    The graph takes ``input_ids`` (int64, 1 × tokens) and gives ``sentence`` (float32, 1 × width), of length 1.

    Parameters
    ----------
    checkpoint
        Folder with ``config.json`` and ``model.safetensors``.
    int8
        Weights as signed bytes, one scale to an output, and activations quantised as they come; else float32.

    Raises
    ------
    PackageError
        If the checkpoint is not a BERT of a kind known here, lacks a weight, or has one that is not finite.
    """
    from onnx import TensorProto
    from safetensors import safe_open

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    shape = BertShape.of(config)
    weights = Weights(folder / WEIGHTS)
    try:
        with safe_open(checkpoint / "model.safetensors", framework="numpy") as tensors:
            graph = _encoder(State(tensors, "BERT"), shape, Graph(weights, int8))
            inputs = [declared("input_ids", TensorProto.INT64, [1, "tokens"])]
            write_graph(folder / GRAPH, graph, inputs, [declared("sentence", TensorProto.FLOAT, [1, shape.width])])
    finally:
        weights.close()


def _encoder(state: State, shape: BertShape, graph: Graph) -> Graph:
    words = graph.embed("input_ids", state["embeddings.word_embeddings.weight"])
    # Every token is of the first type, so that its row is part of every position's.
    places = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    length = graph.add("Shape", ["input_ids"], start=1, end=2)
    start, axis = graph.constant("start", [0]), graph.constant("axis", [1])
    table = graph.weight("positions", places[None])
    hidden = _norm(graph, words, graph.add("Slice", [table, start, length, axis]), state, "embeddings", shape)
    for layer in range(shape.layers):
        block = f"encoder.layer.{layer}"
        parts = [f"{block}.attention.self.{part}" for part in ("query", "key", "value")]
        bias = np.concatenate([state[f"{part}.bias"] for part in parts])
        qkv = graph.linear(hidden, f"{layer}.qkv", *(state[f"{part}.weight"] for part in parts), bias=bias)
        split = graph.add("Split", [qkv], outputs=3, axis=2)
        attended = graph.add("MultiHeadAttention", split, domain=MICROSOFT, num_heads=shape.heads)
        added = _linear(graph, attended, state, f"{block}.attention.output.dense")
        hidden = _norm(graph, added, hidden, state, f"{block}.attention.output", shape)
        inner = _activate(graph, _linear(graph, hidden, state, f"{block}.intermediate.dense"), shape)
        added = _linear(graph, inner, state, f"{block}.output.dense")
        hidden = _norm(graph, added, hidden, state, f"{block}.output", shape)
    mean = graph.add("ReduceMean", [hidden], axes=[1], keepdims=0)
    graph.add("LpNormalization", [mean], axis=1, p=2, outputs=["sentence"])
    return graph


def _linear(graph: Graph, values: str, state: State, name: str) -> str:
    return graph.linear(values, name, state[f"{name}.weight"], bias=state[f"{name}.bias"])


def _norm(graph: Graph, added: str, hidden: str, state: State, name: str, shape: BertShape) -> str:
    """Normalise the sum of both; one fused operator."""
    gamma, beta = (graph.weight(f"{name}.{part}", state[f"{name}.LayerNorm.{part}"]) for part in ("weight", "bias"))
    inputs = [added, hidden, gamma, beta]
    return str(graph.add("SkipLayerNormalization", inputs, domain=MICROSOFT, epsilon=shape.epsilon))


def _activate(graph: Graph, values: str, shape: BertShape) -> str:
    if shape.activation == "relu":
        return str(graph.add("Relu", [values]))
    return str(graph.add("FastGelu" if shape.activation == "gelu_new" else "Gelu", [values], domain=MICROSOFT))
