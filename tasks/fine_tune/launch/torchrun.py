"""Training in several processes, which torch's own launcher starts, on this machine or on several."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from askline.config import ClusterConfig
from askline.errors import TrainingError
from askline.progress import Progress, quiet
from tasks.fine_tune.job import JobResult, TrainingJob
from tasks.fine_tune.launch.events import Listener

#: The folder that holds ``askline`` and ``tasks``: ``python -m`` finds the processes' code from there.
ROOT = Path(__file__).resolve().parents[3]
JOB = "job.json"

# torchrun itself gives its processes 30 s between SIGTERM and SIGKILL; a large checkpoint is written within that.
_STOP_SECONDS = 40.0


def run_with_torchrun(job: TrainingJob, *, progress: Progress = quiet) -> JobResult:
    """Run the job in ``job.config.cluster.processes`` processes on each of its ``nodes`` machines.

    The batch is divided over the processes. When this process is interrupted, they are told to stop (which saves a
    checkpoint); when it is killed, the kernel tells them.

    Parameters
    ----------
    progress
        Told what the first process tells.

    Raises
    ------
    TrainingError
        With the message of the process that failed, or if the batch cannot be divided.
    """
    cluster = job.config.cluster
    count = processes_per_node(cluster, without_gpu=2)
    check_divides(job.recipe.batch_size, count * cluster.nodes)
    try:
        job.checkpoints.mkdir(parents=True, exist_ok=True)
        path = job.checkpoints / JOB
        path.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot write to {job.checkpoints}: {error.strerror}") from error
    options = [*launch_options(cluster, count, run_id=job.checkpoints.name), "-m", "tasks.fine_tune.launch.entry"]
    progress(0.0, f"starting {count * cluster.nodes} processes")
    if cluster.nodes > 1:
        progress(0.0, f"on the other machines run: torchrun {' '.join(options)} --job {path}")
    listener = Listener(progress)
    with _running([sys.executable, "-m", "tasks.fine_tune.launch.agent", *options, "--job", str(path)]) as agent:
        assert agent.stdout is not None
        for line in agent.stdout:
            listener.hear(line)
        code = agent.wait()
    if code != 0 or (listener.result is None and not listener.errors):
        raise listener.failure(f"torchrun ended with exit code {code}")
    if listener.result is None:
        raise listener.failure("torchrun ended without a result")
    return listener.result


def processes_per_node(cluster: ClusterConfig, *, without_gpu: int) -> int:
    """Return how many processes each machine runs: as configured, else one for each GPU, else ``without_gpu``."""
    if cluster.processes is not None:
        return cluster.processes
    import torch

    return torch.cuda.device_count() or without_gpu


def check_divides(batch_size: int, processes: int) -> None:
    """Raise TrainingError where a batch cannot be divided evenly: a smaller one would train another model."""
    if batch_size % processes:
        raise TrainingError(
            f"a batch of {batch_size} questions cannot be divided over {processes} processes; choose "
            f"--training.batch-size {max(1, round(batch_size / processes)) * processes}, or other "
            "--training.cluster.processes"
        )


def launch_options(cluster: ClusterConfig, processes: int, *, run_id: str) -> list[str]:
    """Return torchrun's options."""
    options = ["--nnodes", str(cluster.nodes), "--nproc-per-node", str(processes)]
    options += ["--max-restarts", str(cluster.restarts), "--rdzv-backend", "c10d", "--rdzv-id", run_id]
    # Port 0: the one machine takes whichever is free.
    return [*options, "--rdzv-endpoint", cluster.rendezvous or "localhost:0"]


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run torchrun for the length of the block, and end it with all its processes where the block is left early."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    # The shared store keeps the addresses of processes that have failed; those started again would call these.
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    if sys.platform == "linux" and "--nnodes 1 " in " ".join(command):
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing of the training need leave this machine
    agent = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Not in the terminal's group: an interrupt comes to us alone, and we stop them in order.
        start_new_session=True,
    )
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.terminate()
            try:
                agent.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                agent.kill()  # its processes are told by the kernel
                agent.wait()
        assert agent.stdout is not None
        agent.stdout.close()
