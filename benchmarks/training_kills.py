"""What a training loses when its process is killed, its disk fills up, its memory runs out or its files are damaged.

``python -m benchmarks.training_kills [--times 10] [--steps 60] [--seed 0]`` trains the small T5 once without any
trouble, and then again and again in processes of their own: killed with SIGKILL at random moments, stopped with
SIGTERM, with a limit on the size of files (as a full disk), with a limit on memory, with a row whose loss is no number,
with the newest checkpoint cut off or changed, and on another machine, which has nothing but the checkpoint store. Each
is then run to its end, and the table says whether its loss curve and weights are, bit for bit, those of the first.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from askline.config import TrainingConfig
from tasks.fine_tune.checkpoints import checkpoints_in, newest_whole, step_of
from tasks.fine_tune.job import TrainingJob, run_job
from tasks.fine_tune.recipe import resolve_recipe
from tasks.qa.rows import read_rows

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tasks.fine_tune.loop", "tasks.fine_tune.job", "sentencepiece"])
_WORDS = ("born", "working", "finding polonium", "winning a prize", "driving", "teaching", "writing", "travelling")
_FRAMES = ("Where was she {}?", "Tell me about her {}.", "Do you know of {}?", "She was {}, wasn't she?")


@dataclass
class Ended:
    """How a training in a process of its own ended."""

    exit_code: int | None
    error: str | None
    """Class and message, where it raised."""
    seconds: float
    said: list[str] = field(default_factory=list)
    choices: tuple[str, ...] = ()

    @property
    def last_step(self) -> int:
        """Return the last step that was told."""
        steps = [int(line.split()[1].split("/")[0]) for line in self.said if line.startswith("step ")]
        return steps[-1] if steps else 0

    @property
    def first_step(self) -> int:
        """Return the first step that was told."""
        steps = [int(line.split()[1].split("/")[0]) for line in self.said if line.startswith("step ")]
        return steps[0] if steps else 0


@dataclass
class Row:
    """One line of the table."""

    what: str
    happened: str
    went_on_from: str
    same_curve: bool
    same_weights: bool


Interrupt = Callable[[BaseProcess, Ended], bool]
"""Given the process and what it has said: do something to it now, and return whether that was all."""


def write_data(folder: Path, *, long_words: int = 0) -> Path:
    """Write a small training split; with ``long_words``, questions of so many words."""
    folder.mkdir(parents=True)
    padding = " ".join(f"word{number % 7}" for number in range(long_words))
    rows = [
        {"question": f"{frame.format(what)} {padding}".strip(), "answer": what, "group": what, "in_scope": True}
        for what in _WORDS
        for frame in _FRAMES
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def make_job(data: Path, folder: Path, **options: Any) -> TrainingJob:
    """Return the job of training on ``data`` in ``folder``."""
    base = options.pop("base", None)
    config = TrainingConfig(**{"batch_size": 16, "checkpoint_steps": 4} | options)
    rows = read_rows(data, "train")
    return TrainingJob(
        dataset=data,
        base=base,
        base_name="base" if base else "scratch",
        config=config,
        recipe=resolve_recipe(config, rows=len(rows), has_out_of_scope=False),
        unanswerable="I don't know",
        checkpoints=folder / "checkpoints",
        output=folder / "model",
    )


def run(
    job: TrainingJob,
    *,
    interrupt: Interrupt | None = None,
    file_bytes: int | None = None,
    memory_bytes: int | None = None,
    timeout: float = 300,
) -> Ended:
    """Train in a process of its own, under limits, and do to it what ``interrupt`` does."""
    shutil.rmtree(job.output, ignore_errors=True)
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_train, args=(job.model_dump_json(), sender, file_bytes, memory_bytes))
    started = time.monotonic()
    process.start()
    sender.close()
    ended = Ended(None, None, 0.0)
    pending = interrupt
    while time.monotonic() - started < timeout:
        if receiver.poll(0.002):
            try:
                kind, value = receiver.recv()
            except (EOFError, OSError):
                break
            if kind == "said":
                ended.said.append(value)
            elif kind == "error":
                ended.error = value
            else:
                ended.choices = tuple(value)
        if pending is not None and ended.said and pending(process, ended):
            pending = None
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join()
    ended.exit_code = process.exitcode
    ended.seconds = time.monotonic() - started
    return ended


def _train(text: str, sender: Any, file_bytes: int | None, memory_bytes: int | None) -> None:
    import torch

    torch.set_num_threads(1)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if memory_bytes is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # A thread reserves its whole stack, 8 MB unless told otherwise: the batch is what must not fit.
        threading.stack_size(1 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))
    try:
        done = run_job(
            TrainingJob.model_validate_json(text), progress=lambda share, message="": sender.send(("said", message))
        )
        sender.send(("choices", done.choices))
    except Exception as error:  # noqa: BLE001 - told to the parent
        sender.send(("error", f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from None


def after_step(step: int, seconds: float) -> Interrupt:
    """Send SIGKILL so many seconds after a step was told: into a step, a checkpoint or what lies between."""
    told: list[float] = []

    def interrupt(process: BaseProcess, ended: Ended) -> bool:
        if ended.last_step >= step:
            told.append(time.monotonic())
        if not told or time.monotonic() - told[0] < seconds or process.pid is None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        return True

    return interrupt


def at_checkpoint(folder: Path, step: int, number: int = signal.SIGKILL) -> Interrupt:
    """Send a signal as soon as the checkpoint of this step is there."""

    def interrupt(process: BaseProcess, ended: Ended) -> bool:
        if process.pid is None or not (folder / f"checkpoint-{step}").is_dir():
            return False
        os.kill(process.pid, number)
        return True

    return interrupt


def fingerprint(job: TrainingJob) -> tuple[str, str]:
    """Return the sha256 of the loss curve and of the weights."""
    curve, weights = (
        hashlib.sha256((job.output / name).read_bytes()).hexdigest()
        for name in ("training_log.jsonl", "model.safetensors")
    )
    return curve, weights


class Troubles:
    """The troubles, each against one training without any."""

    def __init__(self, folder: Path, *, steps: int) -> None:
        self._folder = folder
        self._steps = steps
        self._data = write_data(folder / "data")
        self._job = make_job(self._data, folder / "straight", max_steps=steps)
        self.straight = run(self._job)
        assert self.straight.error is None, self.straight.error
        self._expected = fingerprint(self._job)

    def killed(self, number: int, rng: random.Random) -> Row:
        """Send SIGKILL at a random moment of the training, then run to the end."""
        job = self._another(f"kill-{number}")
        # Words come a few times a second at most, so that a kill may fall some steps later than the step it waits for.
        step, seconds = rng.randint(0, self._steps - 10), rng.uniform(0, 0.3)
        first = run(job, interrupt=after_step(step, seconds))
        happened = f"{1000 * seconds:.0f} ms after step {first.last_step} was told"
        if first.exit_code == 0:
            happened += " (it had ended)"
        return self._run_on(f"kill -9, {number}", job, happened)

    def asked_to_stop(self) -> Row:
        """SIGTERM: a checkpoint of the step in hand, and an error that says so."""
        job = self._another("term")
        first = run(job, interrupt=at_checkpoint(job.checkpoints, 4, signal.SIGTERM))
        return self._run_on("SIGTERM", job, first.error or f"exit {first.exit_code}")

    def full_disk(self) -> Row:
        """No file may grow beyond a few MB: the first checkpoint cannot be written, and nothing half-written stays."""
        job = self._another("full")
        first = run(job, file_bytes=3_000_000)
        assert not checkpoints_in(job.checkpoints)
        return self._run_on("full disk", job, first.error or f"exit {first.exit_code}")

    def damaged(self, how: str) -> Row:
        """The newest checkpoint is cut off, or one of its bits changed; the one before is taken."""
        job = self._another(how)
        run(job, interrupt=at_checkpoint(job.checkpoints, 12))
        newest = newest_whole(job.checkpoints)
        assert newest is not None
        weights = newest / ("model.safetensors" if how == "cut off" else "optimizer.pt")
        data = bytearray(weights.read_bytes())
        if how == "cut off":
            data = data[: len(data) // 2]
        else:
            data[len(data) // 2] ^= 1
        weights.write_bytes(data)
        return self._run_on(f"{weights.name} {how}", job, f"checkpoint-{step_of(newest)} is no longer whole")

    def another_machine(self) -> Row:
        """The machine is gone; another one has nothing but the checkpoint store."""
        store = self._folder / "store"
        place = {"checkpoint_store": f"file://{store}"}
        job = self._another("first-machine").model_copy(update=place)
        run(job, interrupt=at_checkpoint(store, 12))
        shutil.rmtree(job.checkpoints)
        job = self._another("second-machine").model_copy(update=place)
        return self._run_on("another machine", job, "only the checkpoint store is left")

    def out_of_memory(self, megabytes: Sequence[int] = (160, 140, 120, 100, 90, 80)) -> Row:
        """Too little memory for the batch at once: fewer rows at once, the same curve to the rounding of fp32 or bf16.

        How much is too little depends on the libraries; the first limit that the batch does not fit counts.
        """
        data = write_data(self._folder / "long", long_words=120)
        options = {"max_steps": 3, "batch_size": 32, "augment": False}
        straight = make_job(data, self._folder / "long-straight", **options)
        assert run(straight).error is None
        for limit in megabytes:
            job = make_job(data, self._folder / f"long-{limit}", **options)
            limited = run(job, memory_bytes=limit << 20)
            if limited.error is not None:
                if "thread" in limited.error:  # something else than the batch did not fit
                    continue
                return Row("out of memory", limited.error, "-", False, False)
            notes = [note for note in limited.choices if note.startswith("micro-batch")]
            if notes:
                losses = [[entry["loss"] for entry in _curve(each)] for each in (straight, job)]
                apart = max(abs(a - b) / a for a, b in zip(*losses, strict=True))
                rounding = 2e-2 if limited.choices[0].startswith("precision bf16") else 1e-3
                return Row("out of memory", "; ".join(notes), f"curves {apart:.0e} apart", apart < rounding, False)
        return Row("out of memory", "it never ran out", "-", False, False)

    def not_a_number(self) -> Row:
        """One piece of the vocabulary has no number in its embedding: the question with it is named."""
        from safetensors.torch import load_file, save_file
        from transformers import T5Tokenizer

        base = self._folder / "broken"
        shutil.copytree(self._job.output, base)
        weights = load_file(base / "model.safetensors")
        piece = T5Tokenizer.from_pretrained(base)("polonium", add_special_tokens=False)["input_ids"][-1]
        weights["shared.weight"][piece] = float("nan")
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        job = make_job(self._data, self._folder / "nan", base=base, max_steps=8, batch_size=2, augment=False)
        ended = run(job)
        named = ended.error is not None and "polonium" in ended.error
        return Row("not a number", ended.error or "no error", "-", named, named)

    def _another(self, name: str, **options: Any) -> TrainingJob:
        return make_job(self._data, self._folder / name, max_steps=self._steps, **options)

    def _run_on(self, what: str, job: TrainingJob, happened: str) -> Row:
        before = newest_whole(job.checkpoints)
        second = run(job)
        if second.error is not None:
            return Row(what, f"{happened}; then {second.error}", "-", False, False)
        curve, weights = fingerprint(job)
        went_on = before.name if before else (f"step {second.first_step}" if second.first_step > 1 else "the start")
        return Row(what, happened, went_on, curve == self._expected[0], weights == self._expected[1])


def _curve(job: TrainingJob) -> list[dict[str, float]]:
    lines = (job.output / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    lines = ["| what | what happened | went on from | same curve | same weights |", "|---|---|---|---|---|"]
    for row in rows:
        happened = row.happened if len(row.happened) <= 140 else row.happened[:139] + "…"
        same = [("yes" if same else "no") for same in (row.same_curve, row.same_weights)]
        if row.what == "out of memory":
            same = ["to rounding" if row.same_curve else "no", "to rounding" if row.same_curve else "no"]
        elif row.what == "not a number":
            same = ["named" if row.same_curve else "not named", "-"]
        lines.append(f"| {row.what} | {happened} | {row.went_on_from} | {same[0]} | {same[1]} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table; exit with 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_kills", description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="random moments for SIGKILL")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311 - not a secret
    with tempfile.TemporaryDirectory() as folder:
        troubles = Troubles(Path(folder), steps=options.steps)
        print(f"one training of {options.steps} steps takes {troubles.straight.seconds:.1f} s", flush=True)
        rows = [troubles.killed(number, rng) for number in range(1, options.times + 1)]
        rows += [
            troubles.asked_to_stop(),
            troubles.full_disk(),
            troubles.damaged("cut off"),
            troubles.damaged("changed"),
        ]
        rows += [troubles.another_machine(), troubles.out_of_memory(), troubles.not_a_number()]
        print(table(rows))
    kept = [row.same_curve and (row.same_weights or row.what == "out of memory") for row in rows]
    print(f"{sum(kept)} of {len(rows)} lost nothing")
    raise SystemExit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
