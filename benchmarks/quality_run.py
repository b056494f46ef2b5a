"""One training of the quality benchmark, in a process of its own: from a dataset, a variant and a seed to figures."""

import gc
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality_average import averaged
from benchmarks.quality_data import UNANSWERABLE, split_by_wording
from benchmarks.quality_measures import BASELINE, VARIANTS, Variant
from tasks.qa.rows import Row

#: Training questions that are asked again.
ASKED_AGAIN = 200
BATCH = 128
#: Thresholds of the calibrated probability at which the curve of precision over coverage is read.
THRESHOLDS = tuple(percent / 100 for percent in (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95))


def prepare(devices: Any) -> None:
    """Give this process one thread, and a device from the queue; called once, before torch is imported."""
    device = devices.get()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()


def run(dataset: str, names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Train once and return a row of every variant of ``names``, which differ in how they are asked alone."""
    train, test = split_by_wording(dataset, seed)
    found = train_and_ask(train, test, names, seed)
    gc.collect()
    return [{"dataset": dataset} | row for row in found]


def train_and_ask(train: Sequence[Row], test: Sequence[Row], names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Train on some rows, ask the others, and return the figures of every variant of ``names``."""
    from askline.config import EarlyStoppingConfig, TrainingConfig
    from tasks.fine_tune.job import TrainingJob, run_job
    from tasks.fine_tune.recipe import resolve_recipe

    started = time.monotonic()
    variant = VARIANTS[names[0]]
    config = TrainingConfig(
        max_source_tokens=128,
        max_target_tokens=64,
        seed=seed,
        checkpoint_steps=1_000_000,
        early_stopping=EarlyStoppingConfig(enabled=variant.early_stopping),
    )
    recipe = resolve_recipe(config, rows=len(train), has_out_of_scope=True)
    recipe = type(recipe).model_validate(recipe.model_dump() | BASELINE | dict(variant.recipe))
    with tempfile.TemporaryDirectory(prefix="quality-") as scratch:
        folder = Path(scratch)
        write_rows(folder / "dataset", train)
        job = TrainingJob(
            dataset=folder / "dataset",
            base=None,
            config=config,
            recipe=recipe,
            unanswerable=UNANSWERABLE,
            checkpoints=folder / "checkpoints",
            output=folder / "model",
        )
        with averaged(variant.ema, recipe.steps):
            run_job(job)
        network, tokenizer = load(folder / "model")
        trained = time.monotonic() - started
        found = []
        for name in names:
            figures = ask(network, tokenizer, config, train, test, VARIANTS[name])
            about = {"variant": name, "seed": seed, "where": where(), "seconds": round(trained)}
            found.append(about | figures)
    return found


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Write the training split as a dataset artifact has it."""
    folder.mkdir()
    text = "".join(json.dumps(line_of(row), ensure_ascii=False) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")


def line_of(row: Row) -> dict[str, Any]:
    """Return a row as a line of a dataset artifact."""
    return {"question": row.question, "answer": row.answer, "group": row.group, "in_scope": row.in_scope}


def load(folder: Path) -> tuple[Any, Any]:
    """Return the trained network and its tokenizer, as the evaluation loads them."""
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    network: Any = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), T5Tokenizer.from_pretrained(folder)


def ask_options(config: Any) -> dict[str, Any]:
    """Return how questions are asked."""
    return {
        "prompt": config.prompt,
        "max_source_tokens": config.max_source_tokens,
        "max_target_tokens": config.max_target_tokens,
        "batch_size": BATCH,
    }


def ask(
    network: Any, tokenizer: Any, config: Any, train: Sequence[Row], test: Sequence[Row], variant: Variant
) -> dict[str, Any]:
    """Return the figures of a trained model; shares from 0 to 1."""
    from tasks.qa.held_out import HeldOut
    from tasks.qa.same_answer import exact_match, normalise, token_f1
    from tasks.t5.decoding import answer_with_confidence

    again = [row for row in train if row.in_scope][:: max(1, len(train) // ASKED_AGAIN)]
    rows = [*again, *test]
    questions = [row.question for row in rows]
    confidences: list[float] | None = None
    if variant.beams > 1:
        texts = answer_with_beams(network, tokenizer, questions, beams=variant.beams, **ask_options(config))
    else:
        answers = answer_with_confidence(network, tokenizer, questions, **ask_options(config))
        texts = [answer.text for answer in answers]
        confidences = [answer.confidence for answer in answers][len(again) :]
    hits = [exact_match(text, row.answer) for text, row in zip(texts, rows, strict=True)]
    seen, texts = hits[: len(again)], texts[len(again) :]
    inside = [(text, row) for text, row in zip(texts, test, strict=True) if row.in_scope]
    outside = [(text, row) for text, row in zip(texts, test, strict=True) if not row.in_scope]
    figures: dict[str, Any] = {
        "train_em": mean(seen),
        "em": mean([exact_match(text, row.answer) for text, row in inside]),
        "f1": mean([token_f1(text, row.answer) for text, row in inside]),
        "out_of_scope": mean([exact_match(text, row.answer) for text, row in outside]),
        "false_abstention": mean([float(normalise(text) == normalise(UNANSWERABLE)) for text, _ in inside]),
    }
    if confidences is not None:
        held_out = [
            HeldOut(row.question, row.answer, text, row.in_scope, confidence)
            for row, text, confidence in zip(test, texts, confidences, strict=True)
        ]
        figures |= abstention(held_out)
    return figures


def abstention(rows: Sequence[Any]) -> dict[str, Any]:
    """Return the curve of precision over coverage as the confidence threshold rises, and the area under the ROC curve.

    The probabilities are those of the package's calibration, each from fits that have not seen its question.
    """
    from sklearn.metrics import roc_auc_score

    from tasks.package.calibration import cross_validated, trade, why_not

    if why_not(rows) is not None:
        return {}
    probabilities = cross_validated(rows)
    curve = [trade(probabilities, rows, threshold) for threshold in THRESHOLDS]
    right = [row.right for row in rows]
    return {
        "auroc": round(float(roc_auc_score(right, probabilities)), 4),
        "curve": [[round(value or 0.0, 4) for value in point] for point in curve],
    }


def answer_with_beams(
    network: Any,
    tokenizer: Any,
    questions: Sequence[str],
    *,
    beams: int,
    prompt: str,
    max_source_tokens: int,
    max_target_tokens: int,
    batch_size: int,
) -> list[str]:
    """Return the answers of a beam search, in the order of the questions."""
    import torch

    from tasks.qa.prompt import format_prompt

    texts: list[str] = []
    for start in range(0, len(questions), batch_size):
        prompts = [format_prompt(prompt, question) for question in questions[start : start + batch_size]]
        inputs = tokenizer(prompts, truncation=True, max_length=max_source_tokens, padding=True, return_tensors="pt")
        with torch.inference_mode():
            generated = network.generate(
                **inputs.to(network.device), max_new_tokens=max_target_tokens, do_sample=False, num_beams=beams
            )
        texts += [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
    return texts


def where() -> str:
    """Say what this process trains on."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def mean(values: Sequence[float]) -> float:
    """Return the mean, to four decimals."""
    return round(sum(values) / len(values), 4)
