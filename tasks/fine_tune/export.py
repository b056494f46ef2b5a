"""Writing a checkpoint that this and older versions of transformers, and converters, read alike.

transformers 5 forces ``tie_word_embeddings`` to true in every T5 and keeps what it used to mean, whether the output is
scaled, in ``scale_decoder_outputs``. Version 4 reads the flag in its old sense, so that a Flan-T5 saved as it is loads
there without a word and answers wrongly. Here the flag is written in its old sense, which version 5 reads too, and both
matrices are written, so that nobody needs to tie them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from askline.errors import TrainingError


def export(model: Any, tokenizer: Any, folder: Path, *, pieces: Path | None, max_target_tokens: int) -> None:
    """Write model, tokenizer and ``spiece.model`` (where there is one), and check that a reload gives the same logits.

    Raises
    ------
    TrainingError
        If the reloaded checkpoint does not compute exactly what the trained model does.
    """
    from accelerate.utils import extract_model_from_parallel  # type: ignore[import-untyped]
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    # A training in bf16 leaves autocast around the forward pass, and the reloaded checkpoint computes in fp32.
    model = extract_model_from_parallel(model, keep_fp32_wrapper=False).to("cpu").eval()
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    # The encoder's and the decoder's embeddings are the shared matrix itself in every T5.
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        state.pop(name, None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    config = model.config.to_dict()
    config["tie_word_embeddings"] = bool(model.config.scale_decoder_outputs)
    config["use_cache"] = True  # the trainer turns it off
    config["architectures"] = ["T5ForConditionalGeneration"]
    config["dtype"] = config["torch_dtype"] = "float32"
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)
    _write(folder / "config.json", config)

    generation = GenerationConfig(
        decoder_start_token_id=model.config.decoder_start_token_id,
        pad_token_id=model.config.pad_token_id,
        eos_token_id=model.config.eos_token_id,
        max_new_tokens=max_target_tokens,
        num_beams=1,
        do_sample=False,
    ).to_diff_dict()
    generation.pop("transformers_version", None)
    _write(folder / "generation_config.json", generation)

    tokenizer.save_pretrained(folder)
    _repair_tokenizer(folder / "tokenizer_config.json")
    if pieces is not None:
        shutil.copyfile(pieces, folder / "spiece.model")
    _check_reload(model, tokenizer, folder)


def _repair_tokenizer(path: Path) -> None:
    """Name the sentinels as version 4 does, and drop what says where the tokenizer came from."""
    config = json.loads(path.read_text(encoding="utf-8"))
    sentinels = config.pop("extra_special_tokens", None)
    if isinstance(sentinels, list):
        config["additional_special_tokens"] = sentinels
    for name in ("name_or_path", "is_local", "local_files_only", "backend"):
        config.pop(name, None)
    _write(path, config)


def _check_reload(model: Any, tokenizer: Any, folder: Path) -> None:
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    reloaded = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    text = "question: Who is <extra_id_0>? 1, 2, 3 answer:"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    if T5Tokenizer.from_pretrained(folder)(text)["input_ids"] != ids[0].tolist():
        raise TrainingError("the saved tokenizer does not give the trained one's tokens; please report this")
    with torch.inference_mode():
        same = torch.equal(model(input_ids=ids, labels=ids).logits, reloaded(input_ids=ids, labels=ids).logits)
    if not same:
        raise TrainingError("the saved model does not compute what the trained one does; please report this")


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
