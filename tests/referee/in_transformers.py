"""Loads checkpoints with the transformers of the environment that runs this, and writes down what they compute.

Run as ``python -I in_transformers.py job.json out.json``. The job names folders, texts, and the token ids to score, so
that the tokenizer and the model are judged apart. Only calls that 4.49 and 5.23 share are made. What cannot be loaded
gets an ``error`` instead of results.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers


def main(job_file: str, out_file: str) -> None:
    """Judge every folder of the job."""
    torch.set_num_threads(1)
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    result: dict[str, Any] = {"versions": versions(), "folders": {}}
    for name, folder in job["folders"].items():
        scored = job["scored"][name]
        result["folders"][name] = {
            "tokens": attempt(tokens, transformers.AutoTokenizer, folder, job["texts"]),
            "t5_tokens": attempt(tokens, transformers.T5Tokenizer, folder, job["texts"]),
            "model": attempt(load_and_compute, folder, scored),
        }
    Path(out_file).write_text(json.dumps(result), encoding="utf-8")


def versions() -> dict[str, Any]:
    """Say which libraries these are, and where they lie."""
    import numpy

    names = ("transformers", "tokenizers", "huggingface_hub", "safetensors", "sentencepiece", "torch", "numpy")
    return {
        "version": {name: importlib.metadata.version(name) for name in names},
        "imported": transformers.__version__,
        "file": {"transformers": transformers.__file__, "torch": torch.__file__, "numpy": numpy.__file__},
    }


def attempt(function: Any, *arguments: Any) -> dict[str, Any]:
    """Return what the function returns, or its error."""
    try:
        return dict(function(*arguments))
    except Exception as error:  # noqa: BLE001 - which error a version raises is what is asked
        return {"error": f"{type(error).__name__}: {error}"}


def tokens(kind: Any, folder: str, texts: list[str]) -> dict[str, Any]:
    """Return the ids that a tokenizer class gives each text, and what it makes of them again."""
    tokenizer = kind.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    decoded = [tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in ids]
    return {"class": type(tokenizer).__name__, "ids": ids, "decoded": decoded}


def load_and_compute(folder: str, scored: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Load a model in fp32, say what the library complains of, and :func:`compute`."""
    model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    missing = {name: sorted(report[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return {"rows": compute(model.float().eval(), scored), **missing}


def compute(model: Any, scored: list[dict[str, list[int]]]) -> list[dict[str, Any]]:
    """Return the logits (tokens × vocabulary) of each row's labels, and what greedy and beam search make of its input.

    Without a mask, versions differ in what they take a pad token inside a text for.
    """
    rows = []
    with torch.inference_mode():
        for row in scored:
            ids = torch.tensor([row["input_ids"]])
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            found = {"logits": model(**given, labels=torch.tensor([row["labels"]])).logits[0].tolist()}
            for beams in (1, 3):
                best = model.generate(**given, max_new_tokens=6, num_beams=beams, do_sample=False)
                found[f"beams_{beams}"] = best[0].tolist()
            rows.append(found)
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
