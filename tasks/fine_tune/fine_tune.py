"""The step fine-tune: from a dataset and a base to a checkpoint that answers.

``fine_tune`` writes a ``model`` artifact: ``config.json``, ``generation_config.json``, ``model.safetensors``,
``tokenizer.json``, ``tokenizer_config.json``, ``spiece.model``, ``askline.json`` and ``training_log.jsonl``. The same
configuration, dataset, machine and number of threads give the same bytes.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from askline.config import TrainingConfig
from askline.errors import TrainingError
from askline.records import DatasetRef, ModelRef
from tasks.fine_tune import job
from tasks.fine_tune.checkpoints import run_key
from tasks.fine_tune.job import TrainingJob
from tasks.fine_tune.launch.where import train_where
from tasks.fine_tune.one_at_a_time import turn
from tasks.fine_tune.recipe import Recipe, resolve_recipe
from tasks.fine_tune.remote_checkpoints import CheckpointStore
from tasks.identity import ROOT, code_of
from tasks.qa.rows import read_rows
from tasks.t5.base import find_base
from tasks.t5.scratch import AUTO, SCRATCH
from tasks.workplace import Workplace

#: What the trained weights depend on, beside the options, the dataset and the base. A run that differs in none of it
#: goes on from the checkpoints of the one before, or takes its model.
ROOMS = ("fine_tune", "t5", "qa", "inference.trie")
LIBRARIES = (*job.LIBRARIES, "peft")


def fine_tune(config: TrainingConfig, dataset: DatasetRef, *, place: Workplace) -> ModelRef:
    """Fine-tune a T5 on the training split and store it.

    Parameters
    ----------
    place
        Its ``work`` holds checkpoints and downloaded bases. A run that was killed goes on from its newest whole
        checkpoint there; checkpoints are removed once the artifact is stored. While another run trains the same there,
        this one waits, and takes its model. Its ``progress`` is told
        ``step 120/500 loss 0.42 eta 31 s``.
    config
        A base of "auto" that nobody has decided yet (:func:`tasks.t5.base.choose_base`) is "scratch".

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
    if config.base == AUTO:
        config = config.model_copy(update={"base": SCRATCH})
    dataset_folder = place.store.verify("dataset", dataset.sha256)
    rows = read_rows(dataset_folder, "train")
    if not rows:
        raise TrainingError("the training split is empty; give a dataset with questions to train on")
    recipe = resolve_recipe(config, rows=len(rows), has_out_of_scope=not all(row.in_scope for row in rows))
    base = None
    if config.base != SCRATCH:
        place.progress(0.0, f"looking for the base {config.base}")
        base = find_base(config.base, config.base_revision, place=place)

    identity = {"name": SCRATCH} if base is None else {"name": base.name, "fingerprint": base.fingerprint}
    key = training_key(config, recipe, base=identity, dataset=dataset.sha256)
    folder = place.work / "checkpoints" / key
    checkpoint_store = f"{config.checkpoint_store.rstrip('/')}/{key}" if config.checkpoint_store else None
    with turn(folder, place=place) as mine:
        if (made := mine.others(place.store)) is not None:
            place.progress(1.0, "taken from the run that trained it meanwhile")
            return made.model_copy(update={"seconds": time.monotonic() - started})
        with place.store.new("model") as draft:
            done = train_where(
                TrainingJob(
                    dataset=dataset_folder,
                    base=base.folder if base else None,
                    base_name=base.name if base else SCRATCH,
                    config=config,
                    recipe=recipe,
                    unanswerable=dataset.unanswerable,
                    whole_groups=dataset.split_by in ("group", "answer"),
                    checkpoints=folder,
                    checkpoint_store=checkpoint_store,
                    output=draft.folder,
                    events=place.state_dir / "tensorboard" / f"{time.strftime('%Y%m%d-%H%M%S')}-{key}",
                    about={
                        "dataset": _describe(dataset),
                        "base": identity | ({"revision": base.revision} if base else {}),
                    },
                ),
                place=place,
            )
            sha256 = draft.commit()
        shutil.rmtree(folder, ignore_errors=True)
        if checkpoint_store is not None:
            CheckpointStore(checkpoint_store).remove()
        model = ModelRef(
            sha256=sha256,
            base=config.base,
            base_revision=base.revision if base else None,
            dataset_sha256=dataset.sha256,
            prompt=config.prompt,
            parameters=done.parameters,
            steps=done.steps,
            epochs=done.epochs,
            train_loss=done.train_loss,
            precision=done.precision,
            seconds=time.monotonic() - started,
            max_source_tokens=done.lengths.max_source_tokens,
            max_target_tokens=done.lengths.max_target_tokens,
            cut_questions=done.lengths.cut_questions,
            cut_answers=done.lengths.cut_answers,
            trained_parameters=done.trained_parameters,
            choices=done.choices,
            rates=done.rates,
            best_step=done.best_step,
            best_exact_match=done.best_exact_match,
        )
        mine.end_with(model)
        return model


def training_key(
    config: TrainingConfig, recipe: Recipe, *, base: Mapping[str, str], dataset: str, root: Path = ROOT
) -> str:
    """Return the name under which a training keeps its checkpoints, here and in SageMaker, and finds them again.

    Parameters
    ----------
    base
        Its name and fingerprint.
    dataset
        The sha256 of its artifact.
    root
        Where the project's code lies.
    """
    return run_key(
        settings=config.identity(),
        recipe=recipe.model_dump(),
        base=base,
        dataset=dataset,
        code=code_of(*ROOMS, libraries=LIBRARIES, root=root),
    )


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
