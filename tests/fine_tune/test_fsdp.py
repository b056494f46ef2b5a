"""Training with the model divided over two real processes on the CPU (FSDP2, gloo)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.torchrun import base_in, dataset_in, gone, losses, make_job, once_there, ranks

from askline.config import ClusterConfig, TrainingConfig
from askline.errors import TrainingError
from tasks.fine_tune.checkpoints import MANIFEST, MARKER, SHARDS, newest_whole, seal, thin_out
from tasks.fine_tune.job import TrainingJob, run_job
from tasks.fine_tune.launch.torchrun import launch_options, run_with_torchrun
from tasks.fine_tune.machine import choose
from tasks.fine_tune.recipe import resolve_recipe
from tasks.fine_tune.sharding import ShardingChoice, choose_sharding, memory_of_a_process, shard, state_bytes

REPOSITORY = Path(__file__).parents[2]
STEPS = 12
#: Parameters of flan-t5-base and flan-t5-xl.
BASE, XL = 247_577_856, 2_849_757_184
GB = 10**9
#: Everything that was to be made to work with it.
ADAPTER: dict[str, Any] = {
    "lora": {"rank": 4},
    "early_stopping": {"enabled": True, "steps": 4, "fraction": 0.2},
    "micro_batch": 2,
    "gradient_checkpointing": "on",
    "learning_rate": 1e-2,
}

Make = Callable[..., TrainingJob]


@pytest.fixture(scope="module")
def job_in(tmp_path_factory: pytest.TempPathFactory) -> Make:
    dataset = dataset_in(tmp_path_factory.mktemp("store"))
    base = base_in(tmp_path_factory.mktemp("base"), dataset, tmp_path_factory.mktemp("tokenizer"))

    def make(name: str, *, sharding: str = "full", restarts: int = 0, **options: Any) -> TrainingJob:
        cluster = ClusterConfig.model_validate({"processes": 2, "restarts": restarts, "sharding": sharding})
        folder = tmp_path_factory.mktemp(name)
        return make_job(folder, dataset=dataset, base=base, steps=STEPS, cluster=cluster, **options)

    return make


class Trained(NamedTuple):
    ddp: TrainingJob
    fsdp: TrainingJob
    adapter: TrainingJob
    found: list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(job_in: Make, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three trainings in the same two processes, one after the other; the last is asked to stop, and goes on."""
    folder = tmp_path_factory.mktemp("jobs")
    jobs = [job_in("ddp", sharding="none"), job_in("fsdp"), job_in("adapter", **ADAPTER)]
    paths = [folder / f"job-{number}.json" for number in range(len(jobs))]
    for job, path in zip(jobs, paths, strict=True):
        path.write_text(job.model_dump_json(), encoding="utf-8")
    options = launch_options(jobs[0].config.cluster, 2, run_id="fsdp")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tasks.fine_tune.launch.agent",
            *options,
            "tests/support/fsdp_process.py",
            *map(str, paths),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "FOUND": str(folder), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Trained(*jobs, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)])


def difference(one: TrainingJob, other: TrainingJob) -> float:
    """The largest difference of any weight of the two models."""
    weights, others = (load_file(job.output / "model.safetensors") for job in (one, other))
    assert weights.keys() == others.keys()
    return max((weights[name] - others[name]).abs().max().item() for name in weights)


def norms(job: TrainingJob) -> list[float]:
    lines = (job.output / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["grad_norm"] for line in lines]


@pytest.mark.slow
def test_two_divided_processes_learn_as_ddp_and_as_one_with_the_doubled_batch(job_in: Make, trained: Trained) -> None:
    one = job_in("one", sharding="auto", where="process")
    run_job(one)
    # The sums are the same but for the order in which they are added up.
    for other in (one, trained.ddp):
        assert losses(trained.fsdp)[:6] == pytest.approx(losses(other)[:6], rel=5e-6)
        assert losses(trained.fsdp) == pytest.approx(losses(other), rel=2e-4)
        assert norms(trained.fsdp) == pytest.approx(norms(other), rel=2e-4)
        assert difference(trained.fsdp, other) < 1e-3  # of weights that AdamW has moved by up to 0.012
        assert {path.name for path in trained.fsdp.output.iterdir()} == {path.name for path in other.output.iterdir()}


@pytest.mark.slow
def test_each_process_holds_half_of_the_parameters(trained: Trained) -> None:
    for found in trained.found:
        assert found["held"] == pytest.approx(4 * found["parameters"] / 2, rel=0.01)
        assert found["choices"][0][1].startswith("DDP: as configured")
        assert found["choices"][1][1].startswith("FSDP: as configured")
    # In the training itself, each wrote what it had: its half of the weights and of AdamW's two moments.
    checkpoint = newest_whole(trained.fsdp.checkpoints, processes=2, sharded=True)
    assert checkpoint is not None
    for folder, a_parameter in ((SHARDS, 4), ("optimizer_0", 8)):
        for rank in range(2):
            size = (checkpoint / folder / f"__{rank}_0.distcp").stat().st_size
            assert size == pytest.approx(a_parameter * trained.found[0]["parameters"] / 2, rel=0.15)


@pytest.mark.slow
def test_the_first_process_can_gather_the_whole_model(trained: Trained) -> None:
    assert [found["gathered"] for found in trained.found] == [True, False]
    assert [found["tied"] for found in trained.found] == [True, False]


@pytest.mark.slow
def test_an_adapter_stopped_and_resumed_with_all_options_is_as_in_one_process(job_in: Make, trained: Trained) -> None:
    one = job_in("adapter-one", sharding="auto", where="process", **ADAPTER)
    run_job(one)
    assert losses(trained.adapter) == pytest.approx(losses(one), rel=2e-4)
    assert difference(trained.adapter, one) < 1e-4
    for name in ("validation_log.jsonl", "adapter/adapter_config.json"):
        assert (trained.adapter.output / name).read_text() == (one.output / name).read_text()
    adapters = [load_file(job.output / "adapter" / "adapter_model.safetensors") for job in (trained.adapter, one)]
    assert adapters[0].keys() == adapters[1].keys()
    assert "training was asked to stop (SIGTERM) and did so after step" in trained.found[0]["stopped"]
    assert trained.found[0]["stopped"] == trained.found[1]["stopped"]


@pytest.mark.slow
def test_after_the_kill_of_one_process_all_go_on_to_the_same_model(job_in: Make, trained: Trained) -> None:
    job = job_in("killed", restarts=1)
    started: list[psutil.Process] = []

    def find_and_kill() -> None:
        while len(started) < 2:
            time.sleep(0.2)
            started[:] = ranks(job.checkpoints)
        once_there(job.checkpoints / "checkpoint-3" / MANIFEST, started[1].kill)

    once_there(job.checkpoints / "job.json", find_and_kill)
    told: list[str] = []
    run_with_torchrun(job, progress=lambda share, message="": told.append(message))
    assert gone(started)
    starts = [place for place, message in enumerate(told) if message.startswith("loading the base")]
    assert len(starts) == 2
    later = [message for message in told[starts[1] :] if message.startswith("step ")]
    assert all(int(message.split()[1].partition("/")[0]) > 3 for message in later), later
    assert any("; FSDP: as configured" in message for message in told)
    assert losses(job) == losses(trained.fsdp)
    assert difference(job, trained.fsdp) == 0
    assert newest_whole(job.checkpoints, processes=2) is None, "two that hold the whole model cannot read it"


# --- whether to divide ------------------------------------------------------------------------------------------------


def decide(
    parameters: int, memory: float, *, processes: int = 8, trained: int | None = None, **o: Any
) -> ShardingChoice:
    config = TrainingConfig.model_validate({"where": "torchrun", **o})
    trained = parameters if trained is None else trained
    return choose_sharding(config, processes=processes, parameters=parameters, trained=trained, memory=int(memory * GB))


def test_auto_divides_what_takes_more_than_half_of_the_memory() -> None:
    assert decide(BASE, 80).sharding == "none"
    assert "4.0 GB, which fit into half of the 80.0 GB of a process" in decide(BASE, 80).reason
    assert decide(XL, 80).sharding == "full"
    assert "45.6 GB, more than half of the 80.0 GB of a process; divided over 8 it is 5.7 GB" in decide(XL, 80).reason
    assert decide(BASE, 7.9).sharding == "full"
    assert decide(BASE, 8.0).sharding == "none"
    assert decide(XL, 80, trained=5_000_000).sharding == "none", "an adapter needs no gradients of the base"
    assert decide(XL, 80, processes=1).sharding == "none"
    assert state_bytes(100, 10) == 4 * 90 + 16 * 10


@pytest.mark.parametrize(
    ("name", "width", "inner", "layers", "heads"),
    [("base", 768, 2048, 12, 12), ("large", 1024, 2816, 24, 16), ("xl", 2048, 5120, 24, 32)],
)
def test_the_page_says_what_each_process_holds(name: str, width: int, inner: int, layers: int, heads: int) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    shape = T5Config(
        d_model=width, d_ff=inner, num_layers=layers, num_heads=heads, feed_forward_proj="gated-gelu", vocab_size=32128
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(shape)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())  # Flan-T5 does not tie it
    parameters = sum(parameter.numel() for parameter in model.parameters())
    whole = 2 * model.lm_head.weight.numel()
    page = (REPOSITORY / "docs" / "training-elsewhere.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| flan-t5-{name} |"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        f"{parameters:,}",
        *(f"{state_bytes(parameters, parameters) / processes / GB:.1f}" for processes in (1, 2, 4, 8)),
        f"{8 * whole / GB:.1f}",
    ]


def test_what_is_configured_is_done() -> None:
    assert decide(BASE, 80, cluster={"sharding": "full"}).sharding == "full"
    assert decide(XL, 80, cluster={"sharding": "none"}).sharding == "none"
    with pytest.raises(TrainingError, match=r"several processes, and there is one: set --training\.cluster\.processes"):
        decide(BASE, 80, processes=1, cluster={"sharding": "full"})


@pytest.mark.parametrize(("option", "value"), [("compile", "on"), ("precision", "fp16")])
def test_what_excludes_it_is_refused_or_said(option: str, value: str) -> None:
    with pytest.raises(ValidationError, match=f'{option} "{value}" is not offered with cluster.sharding "full"'):
        TrainingConfig.model_validate({"where": "torchrun", "cluster": {"sharding": "full"}, option: value})
    left = decide(XL, 80, **{option: value})
    assert left.sharding == "none"
    assert f"training.{option} '{value}' is not offered with FSDP" in left.reason


def test_a_single_process_is_refused_at_once() -> None:
    with pytest.raises(ValidationError, match='set where to "torchrun" or "sagemaker"'):
        TrainingConfig.model_validate({"cluster": {"sharding": "full"}})


def test_the_choice_is_told_among_the_others() -> None:
    config = TrainingConfig(where="torchrun")
    recipe = resolve_recipe(config, rows=24, has_out_of_scope=True)
    chosen = choose(config, recipe, total_flops=1e30, varies=False, divided=ShardingChoice("full", "because"))
    assert chosen.sharding == "full"
    assert not chosen.compile
    assert "FSDP: because" in chosen.reasons
    alone = choose(config, recipe, total_flops=1.0, varies=False)
    assert alone.sharding == "none"
    assert not any("DDP" in reason or "FSDP" in reason for reason in alone.reasons)


def test_processes_share_the_memory_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_of_a_process(torch.device("cpu")) == psutil.virtual_memory().total // 4


def test_a_matrix_with_fewer_rows_than_processes_is_refused() -> None:
    model = torch.nn.Linear(8, 2, bias=False)
    with pytest.raises(TrainingError, match=r"weight has 2 rows, too few for 4 processes: .* --training\.lora\.rank"):
        shard(model, bf16=False, device=torch.device("cpu"), processes=4)


# --- checkpoints of the two kinds -------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, step: int, *, processes: int, sharded: bool) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / SHARDS).mkdir(parents=True)
    (checkpoint / MARKER).write_text("{}")
    for rank in range(processes):
        (checkpoint / f"rng_state_{rank}.pth").write_bytes(b"random")
    if sharded:
        (checkpoint / SHARDS / ".metadata").write_bytes(b"where each part is")
    seal(checkpoint)
    return checkpoint


def test_a_divided_checkpoint_serves_other_numbers_of_divided_processes(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path, 3, processes=2, sharded=False)
    divided = write_checkpoint(tmp_path, 6, processes=2, sharded=True)
    assert newest_whole(tmp_path, processes=2) == whole
    assert newest_whole(tmp_path, processes=4) is None
    assert newest_whole(tmp_path, processes=2, sharded=True) == divided
    assert newest_whole(tmp_path, processes=8, sharded=True) == divided
    (divided / SHARDS / ".metadata").write_bytes(b"where each part was")
    assert newest_whole(tmp_path, processes=2, sharded=True) is None


def test_later_checkpoints_of_the_other_kind_do_not_push_out_those_of_this_run(tmp_path: Path) -> None:
    for step in (60, 90):
        write_checkpoint(tmp_path, step, processes=2, sharded=False)
    for step in (3, 6, 9):
        write_checkpoint(tmp_path, step, processes=2, sharded=True)
        thin_out(tmp_path, up_to=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in (6, 60, 9, 90)]
