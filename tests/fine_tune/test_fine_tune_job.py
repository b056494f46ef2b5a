"""The training over plain folders: pieces of a batch, adapters, early stopping, and what goes wrong."""

import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint

from askline.config import EarlyStoppingConfig, LoraTuningConfig
from askline.errors import TrainingError
from benchmarks import training_kills
from benchmarks.training_kills import Troubles, write_data
from tasks.fine_tune.checkpoints import (
    MANIFEST,
    WRITING,
    checkpoints_in,
    is_whole,
    newest_whole,
    thin_out,
)
from tasks.fine_tune.early_stopping import hold_out
from tasks.fine_tune.job import TrainingJob, run_job
from tasks.qa.rows import Row


def make_job(data: Path, folder: Path, **options: Any) -> TrainingJob:
    """A job in fp32 unless told otherwise, so that its figures are the same on every processor."""
    return training_kills.make_job(data, folder, **{"precision": "fp32"} | options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A short training that has been done, and can be the base of others."""
    job = make_job(data, tmp_path_factory.mktemp("plain"), max_steps=6, augment=False)
    run_job(job)
    return job


def losses(job: TrainingJob) -> list[float]:
    lines = (job.output / "training_log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_only_a_sealed_checkpoint_is_whole(tmp_path: Path) -> None:
    first, second = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    assert newest_whole(tmp_path) == second
    assert newest_whole(tmp_path, processes=2) is None, "two processes need the random state of each"
    for damage in (lambda data: data[:-1], lambda data: data[:100] + b"?" + data[101:], lambda data: b""):
        before = (second / "deeper" / "weights").read_bytes()
        (second / "deeper" / "weights").write_bytes(damage(before))
        assert not is_whole(second)
        assert newest_whole(tmp_path) == first
        (second / "deeper" / "weights").write_bytes(before)
    assert is_whole(second)
    for manifest in ("", "[]", "{}", '{"files": {}}', '{"files": 1}'):
        (second / MANIFEST).write_text(manifest)
        assert not is_whole(second)


def test_the_two_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        write_checkpoint(tmp_path, step)
    (tmp_path / WRITING / "checkpoint-101").mkdir(parents=True)
    thin_out(tmp_path)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-100", "checkpoint-10"]
    assert not (tmp_path / WRITING).exists()


def test_checkpoints_go_to_another_place_and_come_back(tmp_path: Path) -> None:
    from tasks.fine_tune.remote_checkpoints import CheckpointStore

    here, there = tmp_path / "here", tmp_path / "there"
    store = CheckpointStore(f"file://{tmp_path}/store/run")
    assert store.restore_remote(there) is None
    for step in (1, 2, 3):
        store.save_remote(write_checkpoint(here, step))
    store.wait()
    assert {path.name for path in (tmp_path / "store" / "run").iterdir()} == {"checkpoint-2", "checkpoint-3"}
    assert store.restore_remote(there, newer_than=3) is None
    (tmp_path / "store" / "run" / "checkpoint-3" / "rng_state.pth").write_bytes(b"cut off")
    restored = store.restore_remote(there)
    assert restored == there / "checkpoint-2"
    assert newest_whole(there) == restored
    store.remove()
    assert not (tmp_path / "store" / "run").exists()


@pytest.mark.parametrize("left", ["", "[]", "{}", '{"files": {"gone.bin": "0"}}', '{"files": {"../../evil": "0"}}'])
def test_a_checkpoint_whose_copying_was_cut_off_is_passed_over(tmp_path: Path, left: str) -> None:
    from tasks.fine_tune.remote_checkpoints import CheckpointStore

    store = CheckpointStore(str(tmp_path / "store" / "run"))
    store.save_remote(write_checkpoint(tmp_path / "here", 1))
    store.wait()
    cut_off = tmp_path / "store" / "run" / "checkpoint-2"
    cut_off.mkdir()
    (cut_off / "manifest.json").write_text(left)
    assert store.restore_remote(tmp_path / "there") == tmp_path / "there" / "checkpoint-1"


def test_a_place_that_cannot_be_reached_does_not_stop_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tasks.fine_tune.remote_checkpoints import CheckpointStore

    (tmp_path / "store").write_text("a file")
    store = CheckpointStore(str(tmp_path / "store" / "run"))
    store.save_remote(write_checkpoint(tmp_path, 1))
    store.wait()
    assert "could not be kept" in caplog.text


# --- validation rows --------------------------------------------------------------------------------------------------


def test_one_wording_of_a_fact_is_held_out_and_another_kept() -> None:
    rows = [Row(f"{fact} {number}", fact, fact, True) for fact in "abcde" for number in range(4)]
    rows.append(Row("alone", "x", "alone", True))
    train, validation = hold_out(rows, share=0.25, seed=1, whole_groups=False)
    assert len(validation) == 5
    assert sorted(train + validation) == sorted(rows)
    assert {row.group for row in train} == {row.group for row in rows}
    assert hold_out(rows, share=0.25, seed=1, whole_groups=False) == (train, validation)
    train, validation = hold_out(rows, share=0.25, seed=1, whole_groups=True)
    assert not {row.group for row in train} & {row.group for row in validation}
    assert validation


# --- pieces of a batch ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"micro_batch": 5}, {"micro_batch": 1}, {"gradient_checkpointing": "on"}, {"micro_batch": 100}]
)
def test_a_batch_in_pieces_gives_the_same_losses(
    options: dict[str, Any], plain: TrainingJob, data: Path, tmp_path: Path
) -> None:
    job = make_job(data, tmp_path, max_steps=6, augment=False, **options)
    run_job(job)
    assert losses(job) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.slow
def test_a_batch_in_pieces_gives_the_same_losses_to_the_digits_of_bf16(
    plain: TrainingJob, data: Path, tmp_path: Path
) -> None:
    whole, pieces = (
        make_job(data, tmp_path / name, max_steps=3, augment=False, precision="bf16", **options)
        for name, options in (("whole", {}), ("pieces", {"micro_batch": 5}))
    )
    for job in (whole, pieces):
        assert run_job(job).choices[0] == "precision bf16: as configured"
    assert losses(pieces) == pytest.approx(losses(whole), rel=2e-2)
    assert losses(whole) == pytest.approx(losses(plain)[:3], rel=2e-2)
    assert losses(whole) != pytest.approx(losses(plain)[:3], rel=1e-6), "it was trained in bf16"


def test_pieces_become_smaller_until_nothing_is_left() -> None:
    import torch

    from tasks.fine_tune.micro_batch import MicroBatch, is_out_of_memory

    class Model:
        asked = 0

        def gradient_checkpointing_enable(self, **options: Any) -> None:
            self.asked += 1

    micro, model, seen = MicroBatch(None, checkpointing=False), Model(), []
    for _ in range(4):
        micro.shrink(model, 7)
        seen.append((micro.rows, micro.checkpointing))
    assert seen == [(4, False), (2, False), (1, False), (1, True)]
    assert model.asked == 1
    with pytest.raises(TrainingError, match="a single row at once"):
        micro.shrink(model, 7)

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    lacking = "could not create a primitive descriptor for the matmul primitive. Run workload with environment variable"
    assert not is_out_of_memory(RuntimeError(lacking)), "oneDNN lacks the operation; memory has nothing to do with it"


def without_primitives(monkeypatch: pytest.MonkeyPatch, *, above: int) -> list[int]:
    """Have the network fail with more than so many rows, as oneDNN does in bf16 where it gets no memory."""
    from transformers import T5ForConditionalGeneration

    forward, seen = T5ForConditionalGeneration.forward, []

    def scarce(self: Any, input_ids: Any = None, **rest: Any) -> Any:
        seen.append(len(input_ids))
        if len(input_ids) > above:
            raise RuntimeError("could not create a primitive")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(T5ForConditionalGeneration, "forward", scarce)
    return seen


@pytest.mark.slow
def test_memory_that_onednn_does_not_get_makes_smaller_pieces(
    plain: TrainingJob, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = without_primitives(monkeypatch, above=4)
    job = make_job(data, tmp_path, max_steps=6, augment=False)
    done = run_job(job)
    assert seen[:3] == [16, 8, 4]
    assert max(seen[3:]) == 4
    assert [note for note in done.choices if note.startswith("micro-batch 4: 8 rows at once ran out of memory")]
    assert losses(job) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.slow
def test_onednn_failing_for_another_reason_ends_the_training_and_is_quoted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = without_primitives(monkeypatch, above=0)
    with pytest.raises(TrainingError, match=r"a single row at once.*What was said is: could not create a primitive"):
        run_job(make_job(data, tmp_path, max_steps=6, augment=False))
    assert seen == [16, 8, 4, 2, 1, 1]


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_adapter_is_trained_merged_and_kept(plain: TrainingJob, data: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import T5ForConditionalGeneration

    job = make_job(
        data, tmp_path / "lora", base=plain.output, max_steps=6, learning_rate=0.01, lora=LoraTuningConfig(rank=4)
    )
    done = run_job(job)
    assert done.trained_parameters < done.parameters / 20
    assert losses(job)[-1] < losses(job)[0]
    adapter = json.loads((job.output / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "base"
    assert {path.name for path in (job.output / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    base = T5ForConditionalGeneration.from_pretrained(plain.output).eval()
    merged = T5ForConditionalGeneration.from_pretrained(job.output).eval()
    ids = torch.arange(3, 20).unsqueeze(0)
    with torch.inference_mode():
        untuned = base(input_ids=ids, labels=ids).logits
        tuned = PeftModel.from_pretrained(base, job.output / "adapter")(input_ids=ids, labels=ids).logits
        served = merged(input_ids=ids, labels=ids).logits
    assert torch.allclose(tuned, served, atol=1e-4)
    assert not torch.allclose(untuned, served, atol=1e-2)
    # An adapter that was interrupted goes on like everything else.
    again = make_job(
        data, tmp_path / "again", base=plain.output, max_steps=6, learning_rate=0.01, lora=LoraTuningConfig(rank=4)
    )
    with pytest.raises(KeyboardInterrupt):
        run_job(again, progress=interrupt_after(again.checkpoints, 4))
    run_job(again)
    name = "adapter/adapter_model.safetensors"
    assert (again.output / name).read_bytes() == (job.output / name).read_bytes()


def interrupt_after(folder: Path, step: int) -> Any:
    def progress(share: float, message: str = "") -> None:
        if (folder / f"checkpoint-{step}").is_dir():
            raise KeyboardInterrupt

    return progress


@pytest.mark.slow
def test_an_adapter_for_layers_that_are_not_there(plain: TrainingJob, data: Path, tmp_path: Path) -> None:
    lora = LoraTuningConfig(rank=2, target_modules=("query",))
    with pytest.raises(TrainingError, match=r"no layer of the base is named query; .* some of .*q, .*v"):
        run_job(make_job(data, tmp_path, base=plain.output, max_steps=1, lora=lora))


# --- stopping early ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_weights_are_kept_and_training_stops(data: Path, tmp_path: Path) -> None:
    from tasks.qa.rows import read_rows
    from tasks.qa.same_answer import exact_match
    from tasks.t5.decoding import answer_questions

    early = EarlyStoppingConfig(enabled=True, steps=4, patience=2, fraction=0.25)
    # So large a rate that what was learnt is soon lost again.
    job = make_job(data, tmp_path, max_steps=60, learning_rate=0.004, augment=False, early_stopping=early)
    done = run_job(job)
    log = [json.loads(line) for line in (job.output / "validation_log.jsonl").read_text().splitlines()]
    scores = {entry["step"]: entry["exact_match"] for entry in log}
    assert done.best_exact_match == max(scores.values())
    assert done.best_step == min(step for step, score in scores.items() if score == done.best_exact_match)
    assert done.steps == max(scores) <= 60
    assert sum(step > done.best_step for step in scores) == 2 or done.steps == 60

    from transformers import T5ForConditionalGeneration, T5Tokenizer

    _, validation = hold_out(read_rows(data, "train"), share=0.25, seed=42, whole_groups=False)
    answers = answer_questions(
        T5ForConditionalGeneration.from_pretrained(job.output),
        T5Tokenizer.from_pretrained(job.output),
        [row.question for row in validation],
        prompt=job.config.prompt,
        max_source_tokens=128,
        max_target_tokens=64,
        batch_size=64,
    )
    right = [exact_match(answer, row.answer) for answer, row in zip(answers, validation, strict=True)]
    assert sum(right) / len(right) == done.best_exact_match


# --- what a person sees -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_told_and_kept_of_a_training(data: Path, tmp_path: Path) -> None:
    job = make_job(data, tmp_path, max_steps=3, precision="auto").model_copy(update={"events": tmp_path / "events"})
    said: list[str] = []
    done = run_job(job, progress=lambda share, message="": said.append(message))
    assert "precision fp32: the processor has no bf16" in " ".join(said) or "bf16" in " ".join(said)
    assert all(part in said[-1] for part in ("step 3/3 loss ", "eta 0 s", "tokens/s", "questions/s", "GB", "MFU"))
    assert done.choices[0].startswith("precision ")
    assert done.rates.keys() == {"tokens_per_second", "samples_per_second", "memory_mb", "mfu"}
    assert all(value > 0 for value in done.rates.values())
    assert 0 < done.rates["mfu"] < 1

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(job.events))
    events.Reload()
    assert {"train/loss", "train/tokens_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")][-1] == 3
    assert "tokens_per_second" in (tmp_path / "events" / "speed.jsonl").read_text()
    assert not list(job.output.rglob("*tfevents*"))


def test_floating_point_operations_are_counted_as_in_the_papers() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    from tasks.fine_tune.throughput import forward_backward_flops

    config = T5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, feed_forward_proj="relu")
    model = T5ForConditionalGeneration(config)
    weights = {name: value.numel() for name, value in model.named_parameters() if value.dim() == 2}
    encoder = sum(n for name, n in weights.items() if name.startswith("encoder") and "embed" not in name)
    encoder -= sum(n for name, n in weights.items() if name.startswith("encoder") and "relative" in name)
    across = sum(n for name, n in weights.items() if "EncDecAttention.k" in name or "EncDecAttention.v" in name)
    one_source_token = forward_backward_flops(config, 1, 0, 1)
    assert one_source_token == 6 * (encoder + across) + 12 * 2 * 16 * 1


# --- when things go wrong ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def troubles(tmp_path_factory: pytest.TempPathFactory) -> Troubles:
    return Troubles(tmp_path_factory.mktemp("troubles"), steps=24)


@pytest.mark.slow
def test_a_training_that_is_killed_loses_nothing(troubles: Troubles) -> None:
    row = troubles.killed(1, random.Random(5))
    assert (row.same_curve, row.same_weights) == (True, True), row


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_of_the_step_in_hand(troubles: Troubles) -> None:
    row = troubles.asked_to_stop()
    assert row.happened.startswith("TrainingStoppedError: training was asked to stop (SIGTERM)")
    assert row.went_on_from != "the start"
    assert (row.same_curve, row.same_weights) == (True, True), row


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(troubles: Troubles) -> None:
    row = troubles.full_disk()
    assert row.happened.startswith("TrainingError: cannot write a checkpoint to ")
    assert "File too large" in row.happened
    assert (row.same_curve, row.same_weights) == (True, True), row


@pytest.mark.slow
def test_a_changed_bit_makes_the_checkpoint_before_count(troubles: Troubles) -> None:
    row = troubles.damaged("changed")
    assert row.went_on_from == "checkpoint-8"
    assert (row.same_curve, row.same_weights) == (True, True), row


@pytest.mark.slow
def test_another_machine_goes_on_from_the_store(troubles: Troubles) -> None:
    row = troubles.another_machine()
    assert row.went_on_from.startswith("step ")
    assert (row.same_curve, row.same_weights) == (True, True), row


@pytest.mark.slow
def test_too_little_memory_makes_smaller_pieces(troubles: Troubles) -> None:
    row = troubles.out_of_memory()
    assert row.happened.startswith("micro-batch 16: 32 rows at once ran out of memory"), row
    assert row.same_curve, row


@pytest.mark.slow
def test_the_question_whose_loss_is_no_number_is_named(troubles: Troubles) -> None:
    row = troubles.not_a_number()
    assert row.happened.startswith("TrainingError: the loss is nan at step ")
    assert "She was finding polonium" in row.happened or "finding polonium?" in row.happened


def test_half_precision_that_overflows_again_and_again_is_given_up() -> None:
    from tasks.fine_tune.fp16 import OVERFLOWS, HalfOverflowError, Overflows

    overflows = Overflows()
    for step in range(OVERFLOWS - 1):
        overflows.see(step, finite=False)
    overflows.see(OVERFLOWS, finite=True)
    for step in range(OVERFLOWS - 1):
        overflows.see(step, finite=False)
    with pytest.raises(HalfOverflowError, match="up to step 99"):
        overflows.see(99, finite=False)


def test_a_signal_goes_on_to_whoever_waited_for_it_before() -> None:
    from tasks.fine_tune.stop import StopSignal

    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked
            assert not heard
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    thread = threading.Thread(target=lambda: StopSignal().__enter__().__exit__(None, None, None))
    thread.start()
    thread.join()
