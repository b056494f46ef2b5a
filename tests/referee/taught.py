"""A small T5 of Flan-T5's shape, with two embedding matrices, that has learned its dozen answers."""

import shutil
from pathlib import Path

from support.tiny_package import QUESTIONS, Tiny, _shape, _teach, model_ref, predict, write_scores

from tasks.fine_tune.export import export
from tasks.t5.scratch import initial_model


def make_flan(tiny: Tiny, *, steps: int = 140) -> Tiny:
    """Train one beside ``tiny``'s, with its tokenizer, and evaluate it; return its artifacts, in the same store.

    ``T5Config(tie_word_embeddings=False)`` alone does not part the two matrices in transformers 5.23.
    """
    import torch
    from transformers import T5Tokenizer

    source = tiny.store.path("model", tiny.model.sha256)
    tokenizer = T5Tokenizer.from_pretrained(source)
    network = initial_model(_shape(len(tokenizer)), tokenizer, 1)
    network.lm_head.weight = torch.nn.Parameter(torch.randn_like(network.shared.weight) * 0.1)
    _teach(network, tokenizer, steps)
    with tiny.store.new("model") as draft:
        pieces: Path = source / "spiece.model"
        export(network, tokenizer, draft.folder, pieces=pieces, max_target_tokens=16)
        for name in ("askline.json", "training_log.jsonl"):
            shutil.copyfile(source / name, draft.folder / name)
        sha256 = draft.commit()
    answers = predict(tiny.store.path("model", sha256), list(QUESTIONS))
    scores = write_scores(tiny.store, sha256, dict(zip(QUESTIONS, answers, strict=True)))
    return tiny._replace(model=model_ref(sha256), scores=scores)
