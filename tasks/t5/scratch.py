"""A tokenizer and a small T5 from the dataset alone: the base that needs no download."""

import io
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from askline.errors import TrainingError
from tasks.qa.prompt import format_prompt
from tasks.qa.rows import Row

if TYPE_CHECKING:
    from transformers import T5Config

#: What ``training.base`` is called where there is none.
SCRATCH = "scratch"
#: Leaves the base to be chosen by what can be had; undecided, it is the one that needs no download.
AUTO = "auto"
#: Pieces of the vocabulary: most words that occur twice get a piece of their own.
VOCABULARY = 2500
#: Share of a piece's initial embedding that comes from its spelling; the rest is noise that tells two pieces apart.
SPELLING = 0.95
#: Lengths of the character n-grams that make up a spelling.
NGRAMS = (2, 3, 4)
#: Tokens <extra_id_0> … at the end of every T5 vocabulary.
SENTINELS = 100


def train_tokenizer(rows: Sequence[Row], prompt: str, folder: Path) -> Any:
    """Train a SentencePiece model on the prompts and answers, and return it as a T5 tokenizer.

    The text holds the prompt template, or else its colons would be unknown to the tokenizer. Every character that
    occurs gets a piece, so that a script with thousands of characters gets a larger vocabulary, and a dataset of ten
    rows a smaller one. ``spiece.model`` is written into ``folder``; it depends on the text alone.

    Raises
    ------
    TrainingError
        If no tokenizer can be trained on the text.
    """
    import sentencepiece

    texts = [text for row in rows for text in (format_prompt(prompt, row.question), row.answer)]
    characters = len(set(unicodedata.normalize("NFKC", "".join(texts))))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts + _doubled_words(texts)),
            model_writer=model,
            vocab_size=max(VOCABULARY, 2 * characters),
            hard_vocab_limit=False,
            character_coverage=1.0,
            max_sentence_length=1 << 20,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TrainingError(
            f"no tokenizer could be trained on the {len(rows)} training rows: {error}. Give the dataset more text, or "
            "fine-tune a pretrained model: --training.base google/flan-t5-base"
        ) from error
    pieces = folder / "spiece.model"
    pieces.write_bytes(model.getvalue())
    return tokenizer_from_pieces(pieces)


def _doubled_words(texts: Sequence[str]) -> list[str]:
    """Return every word that occurs at least twice, written twice without a space.

    SentencePiece takes as candidates only what occurs in two different words, so that a frequent word that stands in no
    other one, such as the prompt's own, would be cut to bits; doubled, it is a candidate like any other.
    """
    counts = Counter(word for text in texts for word in re.findall(r"\w+", text))
    return [word * 2 for word, count in counts.items() if count > 1]


def tokenizer_from_pieces(path: Path, sentinels: int = SENTINELS) -> Any:
    """Return the T5 tokenizer of a SentencePiece model, with T5's sentinels at its end; mT5 has none.

    ``T5Tokenizer.from_pretrained`` does the same with the generated code in the sentencepiece package, which only loads
    beside one generation of protobuf; the copy in transformers loads beside all that are supported.
    """
    from transformers import T5Tokenizer
    from transformers.utils import sentencepiece_model_pb2_new

    model = sentencepiece_model_pb2_new.ModelProto()
    model.ParseFromString(path.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(sentinels))]
    return T5Tokenizer(
        vocab=pieces, extra_ids=sentinels, _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap or None
    )


def small_t5(vocabulary: int) -> "T5Config":
    """Return the configuration of a T5 with 2 + 2 layers of width 128: about a million parameters.

    Deeper and narrower models, and ReLU, were measured to be worse on the sample.
    """
    from transformers import T5Config

    return T5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        dropout_rate=0.0,  # varied wordings regularise better, and dropout costs a fifth of the time
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        # One matrix for reading and writing, with scaled output, as in the first T5: without the scale the first losses
        # are near 70 and 500 steps are far too few.
        tie_word_embeddings=True,
    )


def initial_model(config: "T5Config", tokenizer: Any, seed: int) -> Any:
    """Return a T5 with the initial weights that ``seed`` gives: where training starts, and the untuned base.

    Pieces that are spelt alike (born, birth, birthday) start with embeddings that are alike, as in fastText
    (Bojanowski et al. 2017, https://arxiv.org/abs/1607.04606): a thousand questions are too few to learn that from.
    On the sample this is worth 6 to 9 points of exact match on unseen wordings.
    """
    import torch
    from transformers import T5ForConditionalGeneration, set_seed

    set_seed(seed)
    model = T5ForConditionalGeneration(config)
    weights = model.shared.weight
    spellings = _spellings(tokenizer.convert_ids_to_tokens(range(len(tokenizer) - SENTINELS)), weights.shape[1])
    with torch.no_grad():
        for row, spelling in spellings.items():
            noise = (1 - SPELLING**2) ** 0.5 * weights[row]
            weights[row] = SPELLING * torch.from_numpy(spelling).to(weights.dtype) + noise
    return model


def _spellings(pieces: Sequence[str], width: int) -> dict[int, Any]:
    """Return a vector of unit variance by piece number, shared by two pieces as far as they share n-grams.

    An n-gram counts the more the fewer pieces hold it. Single letters and T5's special pieces have no spelling.
    """
    import numpy as np

    words = [piece.replace("\u2581", "<").lower() for piece in pieces]  # "<" marks where a word begins
    grams = {
        number: [word[start : start + n] for n in NGRAMS for start in range(len(word) - n + 1)]
        for number, word in enumerate(words)
        if len(word) > 2 and number > 2
    }
    holders = Counter(gram for found in grams.values() for gram in set(found))
    spellings = {}
    for number, found in grams.items():
        rarity = np.array([np.log((1 + len(words)) / holders[gram]) for gram in found])
        vectors = np.stack([_vector(gram, width) for gram in found])
        spellings[number] = rarity @ vectors / np.linalg.norm(rarity)
    return spellings


@lru_cache(maxsize=100_000)
def _vector(gram: str, width: int) -> Any:
    """Return the n-gram's own standard normal vector: the same in every run and for every dataset."""
    import numpy as np

    return np.random.default_rng(zlib.crc32(gram.encode())).standard_normal(width)
