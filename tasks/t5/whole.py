"""Whether a base is the model that it says: every tensor of its file loaded as it stands, and its own tokenizer.

``from_pretrained`` is forgiving. It ties an output matrix that is missing to the input's, passes over layers that the
configuration does not name, and makes a tokenizer of 104 pieces where there is none, with a line in a log at most. Each
of these trains without a word and never answers well.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from askline.errors import TrainingError

if TYPE_CHECKING:
    import torch

TOKENIZERS = ("tokenizer.json", "spiece.model")
HEAD = "lm_head.weight"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
#: Embeddings beyond the tokenizer's last token are padding: T5 has 28 of them, mT5 12.
PADDING = 128


def check_tokenizer_is_there(folder: Path, name: str) -> None:
    """Refuse a base without a tokenizer, before a library makes one up.

    Raises
    ------
    TrainingError
        If the folder has neither ``tokenizer.json`` nor ``spiece.model``.
    """
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise TrainingError(
            f"the base {name} comes without its tokenizer: it has neither {' nor '.join(TOKENIZERS)}. Put the "
            "tokenizer that it was trained with beside its weights"
        )


def check_tokenizer_fits(tokenizer: Any, embeddings: int, name: str) -> None:
    """Refuse a tokenizer that is not the one that the embeddings were trained with, as far as their numbers tell.

    Raises
    ------
    TrainingError
        If it has more tokens than there are embeddings, or so few that most of them would never be used.
    """
    tokens = len(tokenizer)
    if tokens > embeddings or embeddings - tokens > max(PADDING, embeddings // 10):
        raise TrainingError(
            f"the base {name} has a tokenizer of {tokens:,} tokens but {embeddings:,} embeddings; the two do not "
            "belong together. Put the tokenizer that it was trained with beside its weights"
        )


def check_reads(tokenizer: Any, questions: Sequence[str], most: float, name: str) -> None:
    """Refuse a base that cannot read the questions, such as Japanese ones with T5's vocabulary.

    Parameters
    ----------
    most
        Share of the questions, 0 to 1, of which a third of the tokens or more may be unknown.

    Raises
    ------
    TrainingError
        With the share, an example and what to do.
    """
    unknown = tokenizer.unk_token_id
    encoded = tokenizer(list(questions), add_special_tokens=False)["input_ids"]
    # A run of unknown characters is one unknown token, so that a third of them is most of the text.
    unread = [q for q, ids in zip(questions, encoded, strict=True) if 3 * ids.count(unknown) >= len(ids) > 0]
    if len(unread) > most * len(questions):
        raise TrainingError(
            f"the base {name} cannot read {len(unread)} of {len(questions)} training questions, such as {unread[0]!r}: "
            "its tokenizer does not know their characters. Take google/mt5-small or scratch (--training.base), or "
            "raise --training.max-unreadable"
        )


def check_weights(folder: Path, model: Any, name: str) -> None:
    """Compare every tensor of a base's files with what was loaded.

    Raises
    ------
    TrainingError
        If the file lacks a weight of the model, holds one that the model has no place for, or one that was not loaded
        as it stands.
    """
    import torch

    loaded = model.state_dict()
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    in_file = set()
    for key, tensor in _tensors(folder):
        in_file.add(key)
        if key in loaded:
            found, wanted = loaded[key], tensor.to(loaded[key].dtype)
            # A weight that is no number is a matter for the training, which says where it meets it.
            if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=0, atol=0, equal_nan=True):
                raise TrainingError(
                    f"the base {name} was not loaded as it stands: {key} differs from the file's, most likely because "
                    "its config.json says otherwise about tie_word_embeddings; it is no whole T5 checkpoint"
                )
        elif not any(pattern.search(key) for pattern in ignored):
            raise TrainingError(
                f"the base {name} holds {key}, which its config.json has no place for; the two do not belong together"
            )
    shared = defaultdict(set)
    for key, tensor in loaded.items():
        shared[tensor.data_ptr()].add(key)
    missing = sorted(min(keys) for keys in shared.values() if not keys & in_file)
    untied = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("tie_word_embeddings") is False
    if untied:
        missing += [HEAD] if HEAD not in in_file else []
        missing += [EMBEDDINGS[0]] if not in_file.intersection(EMBEDDINGS) else []
    if missing:
        raise TrainingError(
            f"the base {name} lacks {len(missing)} weights, such as {missing[0]}; it is no whole T5 checkpoint"
        )


def _tensors(folder: Path) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield the tensors of a checkpoint's files one by one, so that no second copy of the model is held."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        from safetensors import safe_open

        for file in files:
            with safe_open(file, framework="pt") as weights:
                for key in weights.keys():  # noqa: SIM118 - not a dictionary
                    yield key, weights.get_tensor(key)
        return
    import torch

    for file in sorted(folder.glob("pytorch_model*.bin")):
        yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()
