"""What the tests of training in several processes share: a base, jobs, and a look at the processes."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from askline.config import ClusterConfig, TrainingConfig
from askline.store import ArtifactStore
from support.tiny_datasets import UNANSWERABLE, small_rows, write_dataset
from tasks.fine_tune.job import TrainingJob
from tasks.fine_tune.recipe import resolve_recipe
from tasks.qa.rows import read_rows


def dataset_in(folder: Path) -> Path:
    """24 rows: three whole batches of eight, so that no step has fewer."""
    store = ArtifactStore(folder)
    return store.path("dataset", write_dataset(store, small_rows()).sha256)


def base_in(folder: Path, dataset: Path, scratch: Path) -> Path:
    """A small T5 without dropout, whose random numbers differ from process to process."""
    from tasks.fine_tune.export import export
    from tasks.t5.scratch import initial_model, small_t5, train_tokenizer

    tokenizer = train_tokenizer(read_rows(dataset, "train"), TrainingConfig().prompt, scratch)
    config = small_t5(len(tokenizer))
    config.dropout_rate = 0.0
    export(
        initial_model(config, tokenizer, 1), tokenizer, folder, pieces=scratch / "spiece.model", max_target_tokens=16
    )
    return folder


def make_job(
    folder: Path, *, dataset: Path, base: Path, steps: int, cluster: ClusterConfig, **options: Any
) -> TrainingJob:
    chosen = {"learning_rate": 1e-3, "checkpoint_steps": 3, "precision": "fp32", "where": "torchrun"} | options
    config = TrainingConfig(base=str(base), batch_size=8, max_steps=steps, cluster=cluster, **chosen)
    return TrainingJob(
        dataset=dataset,
        base=base,
        base_name="tiny",
        config=config,
        recipe=resolve_recipe(config, rows=24, has_out_of_scope=True),
        unanswerable=UNANSWERABLE,
        checkpoints=folder / "checkpoints",
        output=folder / "model",
    )


def losses(job: TrainingJob) -> list[float]:
    lines = (job.output / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def ranks(checkpoints: Path) -> list[psutil.Process]:
    """The processes that train into this folder, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if "tasks.fine_tune.launch.entry" not in words or str(checkpoints) not in words:
                continue
            if "RANK" in (environment := process.environ()) and process.status() != psutil.STATUS_ZOMBIE:
                found[int(environment["RANK"])] = process
        except psutil.Error:
            continue
    return [found[rank] for rank in sorted(found)]


def gone(processes: list[psutil.Process], seconds: float = 30) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def once_there(path: Path, act: Callable[[], None], seconds: float = 120) -> threading.Thread:
    """Do ``act`` in a thread as soon as a file is there."""

    def wait() -> None:
        deadline = time.monotonic() + seconds
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread
