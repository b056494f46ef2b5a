"""The step fine-tune: from a dataset and a base to a checkpoint that answers.

``fine_tune`` writes a ``model`` artifact: ``config.json``, ``generation_config.json``, ``model.safetensors``,
``tokenizer.json``, ``tokenizer_config.json``, ``spiece.model``, ``askline.json`` and ``training_log.jsonl``. The same
configuration, dataset, machine and number of threads give the same bytes.
"""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from askline.config import TrainingConfig
from askline.errors import TrainingError
from askline.progress import Progress, quiet
from askline.records import DatasetRef, ModelRef, Target
from askline.store import ArtifactStore
from tasks.rows import read_rows
from tasks.training.base import find_base, load_base
from tasks.training.checkpoints import run_key
from tasks.training.recipe import SCRATCH, resolve_recipe
from tasks.training.scratch import initial_model, small_t5, train_tokenizer

#: ``training_log.jsonl`` holds at most about this many steps, evenly spaced.
LOGGED_STEPS = 2000
LIBRARIES = ("torch", "transformers", "accelerate", "sentencepiece", "tokenizers")


def fine_tune(
    config: TrainingConfig,
    dataset: DatasetRef,
    *,
    store: ArtifactStore,
    target: Target,
    work_dir: Path,
    progress: Progress = quiet,
) -> ModelRef:
    """Fine-tune a T5 on the training split and store it.

    Parameters
    ----------
    work_dir
        Folder for checkpoints and downloaded bases. A run that was killed goes on from its newest whole checkpoint
        there; checkpoints are removed once the artifact is stored.
    progress
        Told ``step 120/500 loss 0.42 eta 31 s``.

    Raises
    ------
    TrainingError
        If the base is no T5, the dataset is too small, the loss diverges, or a checkpoint cannot be written.
    HubError
        If the base cannot be had from the Hub.
    ArtifactError
        If the dataset is missing or damaged, or the artifact cannot be written.
    """
    started = time.monotonic()
    rows = read_rows(store.verify("dataset", dataset.sha256), "train")
    if not rows:
        raise TrainingError("the training split is empty; give a dataset with questions to train on")
    recipe = resolve_recipe(config, rows=len(rows), has_out_of_scope=not all(row.in_scope for row in rows))
    base = None
    if config.base != SCRATCH:
        progress(0.0, f"looking for the base {config.base}")
        base = find_base(config.base, config.base_revision, target=target, work_dir=work_dir)

    settings = config.model_dump(mode="json", exclude={"base", "base_revision", "checkpoint_steps"})
    identity = {"name": SCRATCH} if base is None else {"name": base.name, "fingerprint": base.fingerprint}
    versions = library_versions()
    key = run_key(
        settings=settings, recipe=recipe.model_dump(), base=identity, dataset=dataset.sha256, versions=versions
    )
    folder = work_dir / "checkpoints" / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"cannot write to {folder}: {error.strerror}. Choose another folder with --state-dir"
        ) from error

    progress(0.0, "loading the base" if base else "training a tokenizer")
    if base is not None:
        model, tokenizer = load_base(base)
        pieces = base.folder / "spiece.model"
    else:
        tokenizer = train_tokenizer(rows, config.prompt, folder)
        pieces = folder / "spiece.model"
        model = initial_model(small_t5(len(tokenizer)), tokenizer, recipe.seed)

    # The trainer is imported here, so that wrong input is refused before torch is loaded.
    from tasks.training.examples import Examples
    from tasks.training.loop import train

    examples = Examples(
        rows,
        tokenizer,
        recipe,
        prompt=config.prompt,
        max_source_tokens=config.max_source_tokens,
        max_target_tokens=config.max_target_tokens,
        unanswerable=dataset.unanswerable,
        subwords=_subwords(pieces) if base is None else None,
    )
    curve, epochs = train(
        model, examples, recipe, folder=folder, checkpoint_steps=config.checkpoint_steps, progress=progress
    )

    from tasks.training.export import export

    with store.new("model") as draft:
        export(
            model,
            tokenizer,
            draft.folder,
            pieces=pieces if pieces.is_file() else None,
            max_target_tokens=config.max_target_tokens,
        )
        about = {
            "format": 1,
            "prompt": config.prompt,
            "max_source_tokens": config.max_source_tokens,
            "max_target_tokens": config.max_target_tokens,
            "unanswerable": dataset.unanswerable,
            "dataset": _describe(dataset),
            "base": identity | ({"revision": base.revision} if base else {}),
            "recipe": recipe.model_dump(),
            "versions": versions,
        }
        _write_json(draft.folder / "askline.json", about)
        every = math.ceil(len(curve) / LOGGED_STEPS)
        kept = [entry for number, entry in enumerate(curve, start=1) if number % every == 0 or number == len(curve)]
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        (draft.folder / "training_log.jsonl").write_text(text, encoding="utf-8")
        sha256 = draft.commit()
    shutil.rmtree(folder, ignore_errors=True)

    last = curve[-max(1, len(curve) // 20) :]
    return ModelRef(
        sha256=sha256,
        base=config.base,
        base_revision=base.revision if base else None,
        dataset_sha256=dataset.sha256,
        prompt=config.prompt,
        parameters=model.num_parameters(),
        steps=recipe.steps,
        epochs=epochs,
        train_loss=sum(entry["loss"] for entry in last) / len(last),
        precision=recipe.precision,
        seconds=time.monotonic() - started,
        max_source_tokens=config.max_source_tokens,
        max_target_tokens=config.max_target_tokens,
    )


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that shape the weights, without importing them."""
    from importlib.metadata import version

    return {name: version(name) for name in LIBRARIES}


def _subwords(pieces: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(pieces))


def _describe(dataset: DatasetRef) -> dict[str, Any]:
    """Say which dataset it was, without the path of a file on this machine."""
    source = dataset.source
    location = Path(source.location).name if source.kind == "file" else source.location
    return {
        "sha256": dataset.sha256,
        "kind": source.kind,
        "location": location,
        "revision": source.revision,
        "subset": source.subset,
        "splits": dataset.splits,
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
