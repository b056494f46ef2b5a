"""Small T5s, as askline exports them and as ``save_pretrained`` leaves them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.fine_tune.export import export
from tasks.t5.scratch import tokenizer_from_pieces

#: Longest answer that the exported generation config allows.
MAX_TARGET = 16
CORPUS = [
    "question: Where was she born? answer: Warsaw",
    "question: Which element glows in the dark, radium or polonium? answer: radium",
    "question: Ünïcode, ﬁgures 12.5 % and “quotes”? answer: Irène Joliot-Curie",
    "question: what is the capital of Peru? answer: I don't know",
]
#: What is tokenized: the prompt, odd spaces, ligatures and wide letters that are normalised, letters nobody has seen.
TEXTS = [
    "question: Where was she born? answer:",
    "question: Ünïcode ﬁgures 12.5 % ｗｉｄｅ? answer:",
    "  question:\tWhere   was she\nborn?  ",
    "東京 ☃ qzx",
    "",
    "I don't know",
]
#: Texts with special tokens in them: sentencepiece alone would read these letter by letter.
SPECIAL_TEXTS = ["fill <extra_id_0> and <extra_id_99> in", "an end</s> and <pad> inside"]


class Checkpoint(NamedTuple):
    """A network in memory, and the folders it was written into."""

    model: Any
    tokenizer: Any
    exported: Path
    plain: Path


def train_pieces(folder: Path, corpus: Sequence[str] = CORPUS) -> Path:
    """Train a sentencepiece model as T5's was (unigram, NFKC, pad 0, end 1, unknown 2), and write ``spiece.model``."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(corpus) * 3),
        model_writer=model,
        vocab_size=160,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path = folder / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


def shape(vocabulary: int, *, flan: bool) -> Any:
    """Return a small configuration: Flan-T5's shape, or that of the first T5 and of the offline base."""
    from transformers import T5Config

    return T5Config(
        vocab_size=vocabulary,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu" if flan else "relu",
        decoder_start_token_id=0,
        tie_word_embeddings=not flan,
    )


def network(vocabulary: int, *, flan: bool, seed: int = 0) -> Any:
    """Return a T5 with random weights; Flan-T5's writes with another matrix than it reads with."""
    import torch
    from transformers import T5ForConditionalGeneration, set_seed

    set_seed(seed)
    model = T5ForConditionalGeneration(shape(vocabulary, flan=flan)).eval()
    if flan:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    return model


def write(model: Any, tokenizer: Any, folder: Path, *, pieces: Path | None) -> Checkpoint:
    """Write a network twice: as askline does, and as ``save_pretrained`` does by itself."""
    exported, plain = folder / "exported", folder / "plain"
    for path in (exported, plain):
        path.mkdir(parents=True)
    save_plain(model, tokenizer, plain)
    export(model, tokenizer, exported, pieces=pieces, max_target_tokens=MAX_TARGET)
    return Checkpoint(model, tokenizer, exported, plain)


def save_plain(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what everyone writes: the unrepaired export."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make(folder: Path, *, flan: bool, with_pieces: bool = True) -> Checkpoint:
    """Make a checkpoint with a tokenizer from sentencepiece."""
    folder.mkdir(parents=True)
    pieces = train_pieces(folder)
    tokenizer = tokenizer_from_pieces(pieces)
    model = network(len(tokenizer), flan=flan)
    return write(model, tokenizer, folder, pieces=pieces if with_pieces else None)
