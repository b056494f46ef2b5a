"""A sentence encoder with random weights and a word tokenizer: a public encoder's files in small."""

from pathlib import Path
from typing import Any

TEXTS = ["when is it open", "a card", "how long may I keep a book and what does it cost when I am late", "x"]
_WORDS = sorted({word.lower() for text in TEXTS for word in text.split()})


def tiny_encoder(folder: Path, **changes: Any) -> Path:
    """Write ``config.json``, ``model.safetensors`` and ``tokenizer.json``, and return the folder."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *_WORDS]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    torch.manual_seed(5)
    settings: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    network = BertModel(BertConfig(**(settings | changes))).eval()
    with torch.no_grad():  # a fresh BERT's biases are 0, which would hide one that is lost
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
