"""A training container: a child process with SageMaker's folders, files and variables, in this project's Python.

The folders of ``/opt/ml`` lie in a private folder. What names ``/opt/ml`` in the request's entry point, arguments and
environment, and in the launcher that the SDK puts into the channel ``sm_drivers``, is made to name that folder; a
script finds the folders by the ``SM_`` variables, as it should.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from local_cloud.sagemaker.archive import remove_tree
from local_cloud.sagemaker.state import Record

KEEPER = Path(__file__).with_name("keeper.py")
OPT_ML = "/opt/ml"
HOST = "algo-1"
_DRIVERS = "sm_drivers"
_TEXTS = {".py", ".sh", ".json", ".env"}
#: Programs that images have on their path, as this Python runs them.
_PROGRAMS = {"python": [], "python3": [], "pip": ["-m", "pip"], "pip3": ["-m", "pip"]} | {
    "torchrun": ["-m", "torch.distributed.run"]
}


class TrainingContainer:
    """The process, from its start to its end. Start it from the main thread's event loop."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path, record: Record, *, region: str, log_file: Path) -> "TrainingContainer":
        """Run the request's entry point. ``folder`` holds ``ml``, which :func:`lay_out` has made."""
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", "-S", str(KEEPER), str(os.getpid()), *_command(folder, record)],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder / "home",
                env=_environment(folder, record, region),
                start_new_session=True,
            )
        return cls(process)

    async def wait(self) -> int:
        """Return the exit code; 128 and more for a signal."""
        return await self._process.wait()

    async def stop(self, grace_seconds: float) -> int:
        """Send SIGTERM, after ``grace_seconds`` kill; return the exit code. Does nothing to one that has ended."""
        self._signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._process.wait(), grace_seconds)
        except TimeoutError:
            self._signal(signal.SIGHUP)  # the keeper's word for: kill all
            return await self._process.wait()

    async def kill(self) -> None:
        """End it and everything inside at once."""
        self._signal(signal.SIGHUP)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)


def lay_out(folder: Path, record: Record) -> Path:
    """Make the container's empty folders and its configuration files; return the folder that stands for /opt/ml."""
    remove_tree(folder)
    ml = folder / "ml"
    for name in ("input/config", "input/data", "model", "output/data", "checkpoints", "code"):
        (ml / name).mkdir(parents=True)
    for name in ("home", "tmp", "bin"):
        (folder / name).mkdir()
    for name, arguments in _PROGRAMS.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {" ".join(arguments)} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    instance = record["ResourceConfig"]["InstanceType"]
    files: dict[str, Any] = {
        "hyperparameters.json": record.get("HyperParameters", {}),
        "resourceconfig.json": {
            "current_host": HOST,
            "current_instance_type": instance,
            "current_group_name": "homogeneousCluster",
            "hosts": [HOST],
            "instance_groups": [
                {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": [HOST]}
            ],
            "network_interface_name": "lo",
        },
        "inputdataconfig.json": {
            channel["ChannelName"]: {
                "TrainingInputMode": channel.get("InputMode", "File"),
                "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                    "S3DataDistributionType", "FullyReplicated"
                ),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            }
            for channel in record.get("InputDataConfig", [])
        },
    }
    for name, content in files.items():
        (ml / "input" / "config" / name).write_text(json.dumps(content), encoding="utf-8")
    return ml


def adapt_drivers(ml: Path) -> None:
    """Make the SDK's launcher, if it is there, name the private folder instead of /opt/ml."""
    drivers = ml / "input" / "data" / _DRIVERS
    for path in drivers.rglob("*"):
        if path.is_file() and path.suffix in _TEXTS:
            text = path.read_text(encoding="utf-8")
            if OPT_ML in text:
                path.write_text(text.replace(OPT_ML, str(ml)), encoding="utf-8")


def failure_of(ml: Path) -> str:
    """Return what the script wrote to say why it failed, or nothing."""
    try:
        return (ml / "output" / "failure").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _command(folder: Path, record: Record) -> list[str]:
    algorithm = record["AlgorithmSpecification"]
    entry = algorithm.get("ContainerEntrypoint")
    if entry:
        words = [*entry, *algorithm.get("ContainerArguments", [])]
        return [word.replace(OPT_ML, str(folder / "ml")) for word in words]
    # The older convention of the framework images: a script, its archive unpacked by the toolkit to /opt/ml/code.
    hyperparameters = record.get("HyperParameters", {})
    script = json.loads(hyperparameters.get("sagemaker_program", '"train.py"'))
    words = [str(folder / "bin" / "python"), "-u", str(folder / "ml" / "code" / script)]
    for name, value in hyperparameters.items():
        if not name.startswith("sagemaker_"):
            words += [f"--{name}", value]
    return words


def _environment(folder: Path, record: Record, region: str) -> dict[str, str]:
    ml, temporary = folder / "ml", folder / "tmp"
    hyperparameters = record.get("HyperParameters", {})
    channels = [channel["ChannelName"] for channel in record.get("InputDataConfig", [])]
    asked = {name: value.replace(OPT_ML, str(ml)) for name, value in record.get("Environment", {}).items()}
    return {
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)]),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # The image is a stand-in: nothing is installed into the Python that runs the embedded cloud.
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "TRAINING_JOB_NAME": record["TrainingJobName"],
        "TRAINING_JOB_ARN": record["TrainingJobArn"],
        "SM_MODEL_DIR": str(ml / "model"),
        "SM_INPUT_DIR": str(ml / "input"),
        "SM_INPUT_DATA_DIR": str(ml / "input" / "data"),
        "SM_INPUT_CONFIG_DIR": str(ml / "input" / "config"),
        "SM_OUTPUT_DIR": str(ml / "output"),
        "SM_OUTPUT_DATA_DIR": str(ml / "output" / "data"),
        "SM_HOSTS": json.dumps([HOST]),
        "SM_CURRENT_HOST": HOST,
        "SM_NUM_CPUS": str(os.cpu_count() or 1),
        "SM_NUM_GPUS": str(_gpus()),
        "SM_HPS": json.dumps(hyperparameters),
        "SM_CHANNELS": json.dumps(channels),
        **{f"SM_CHANNEL_{name.upper()}": str(ml / "input" / "data" / name) for name in channels},
        **{f"SM_HP_{name.replace('-', '_').upper()}": value for name, value in hyperparameters.items()},
        **asked,
    }


def _gpus() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if shutil.which("nvidia-smi") else 0
