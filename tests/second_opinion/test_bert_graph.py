"""The encoder's ONNX graph computes what transformers does, and bytes stay near it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_encoder import TEXTS, tiny_encoder

from askline.errors import PackageError
from inference.second_opinion import TOKENIZER, Encoder
from tasks.second_opinion.bert_graph import BertShape, write_bert


def embeddings_of_transformers(checkpoint: Path, texts: list[str]) -> Any:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    network: Any = BertModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    found = []
    with torch.inference_mode():
        for text in texts:
            hidden = network(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state
            found.append(torch.nn.functional.normalize(hidden.mean(dim=1))[0].numpy())
    return np.stack(found)


def embeddings_of_the_graph(checkpoint: Path, folder: Path, texts: list[str], *, int8: bool) -> Any:
    folder.mkdir()
    write_bert(checkpoint, folder, int8=int8)
    (folder / TOKENIZER).write_bytes((checkpoint / "tokenizer.json").read_bytes())
    return Encoder(folder, 64).embed(texts)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_in_fp32_the_graph_computes_what_transformers_does(activation: str, tmp_path: Path) -> None:
    checkpoint = tiny_encoder(tmp_path / "encoder", hidden_act=activation)
    own = embeddings_of_the_graph(checkpoint, tmp_path / "fp32", TEXTS, int8=False)
    assert np.abs(own - embeddings_of_transformers(checkpoint, TEXTS)).max() < 1e-5


def test_in_bytes_every_embedding_points_the_same_way(tmp_path: Path) -> None:
    checkpoint = tiny_encoder(tmp_path / "encoder")
    own = embeddings_of_the_graph(checkpoint, tmp_path / "int8", TEXTS, int8=True)
    cosines = (own * embeddings_of_transformers(checkpoint, TEXTS)).sum(axis=1)
    assert cosines.min() > 0.98


def test_an_embedding_does_not_depend_on_the_texts_beside_it(tmp_path: Path) -> None:
    checkpoint = tiny_encoder(tmp_path / "encoder")
    together = embeddings_of_the_graph(checkpoint, tmp_path / "together", TEXTS, int8=True)
    alone = np.concatenate([Encoder(tmp_path / "together", 64).embed([text]) for text in TEXTS])
    assert (together == alone).all()


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = tiny_encoder(tmp_path / "encoder")
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_bert(checkpoint, tmp_path / name)
        written.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mpnet"}, "of type 'mpnet' has no ONNX graph"),
        ({"hidden_act": "silu"}, "hidden_act 'silu' has no ONNX graph"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
    ],
)
def test_an_encoder_of_another_kind_is_refused_by_name(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    config = json.loads((tiny_encoder(tmp_path / "encoder") / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(PackageError, match=message):
        BertShape.of(config | changes)
