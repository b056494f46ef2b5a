"""Find out where the calls of a run go, and start the embedded cloud when it is needed.

The embedded cloud is started as a program, never imported: what runs against it here runs against AWS unchanged.
"""

import os
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path

from askline.clients import LocalKeys
from askline.config import PipelineConfig
from askline.errors import LocalCloudError
from askline.records import Target

_START_SECONDS = 240

#: Targets that this process has connected to: the flow's terminal and the flow itself ask for the same one.
_connected: dict[tuple[str, str, Path], Target] = {}


def connect(config: PipelineConfig, *, with_prefect: bool = False, show: bool = False) -> Target:
    """Return the target of a run; with a local one, start what is not up yet and wait until it is healthy.

    Parameters
    ----------
    config
        ``target``, ``region`` and ``state_dir`` are used.
    with_prefect
        Whether a Prefect server is wanted too, because none is set by ``PREFECT_API_URL``.
    show
        Whether the embedded cloud's own progress lines go to the terminal.

    Raises
    ------
    LocalCloudError
        With what the embedded cloud said, when it does not come up.
    """
    if config.target == "aws" and not with_prefect:
        return Target(kind="aws", region=config.region)
    place = (config.target, config.region, config.state_dir.resolve())
    if place not in _connected or (with_prefect and _connected[place].prefect_api is None):
        _connected[place] = _start(config, with_prefect=with_prefect, show=show)
    return _connected[place]


def _start(config: PipelineConfig, *, with_prefect: bool, show: bool) -> Target:
    leave_out = [] if config.target == "local" else ["ministack", "sagemaker", "hub"]
    if not with_prefect:
        leave_out.append("prefect")
    started = _up(config.state_dir, leave_out, show=show)
    if config.target == "aws":
        only_prefect = started.model_dump(include={"prefect_api", "prefect_ui", "keys_file"})
        return Target(kind="aws", region=config.region, **only_prefect)
    return started.model_copy(update={"region": config.region})


def _up(state_dir: Path, leave_out: list[str], *, show: bool) -> Target:
    command = [sys.executable, "-m", "local_cloud", "up", "--json", "--state-dir", str(state_dir)]
    for service in leave_out:
        command += ["--without", service]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            text=True,
            timeout=_START_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocalCloudError(
            f"the embedded cloud was not up after {_START_SECONDS} s; see `python -m local_cloud logs`", retryable=True
        ) from None
    if done.returncode != 0:
        said = (done.stderr or "").strip().splitlines()
        raise LocalCloudError(
            "the embedded cloud did not start" + (": " + "\n".join(said[-12:]) if said else "; see above")
        )
    return Target.model_validate_json(done.stdout)


def prepare_environment(target: Target, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that libraries read at import: quiet, offline-friendly, and never the person's own AWS keys
    against the embedded cloud.

    Call it before transformers, datasets, huggingface_hub or sagemaker are imported.
    """
    defaults = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads that spin make training many times slower on a busy machine
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }
    for name, value in defaults.items():
        environment.setdefault(name, value)
    if target.kind == "local":
        environment["HF_HUB_DISABLE_XET"] = (
            "1"  # the embedded Hub stores files plainly, and the client does not fall back
        )
        environment["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
        keys = LocalKeys.of(target)
        environment["AWS_ACCESS_KEY_ID"] = keys.access_key_id
        environment["AWS_SECRET_ACCESS_KEY"] = keys.secret_access_key
        environment.pop("AWS_SESSION_TOKEN", None)
        environment.pop("AWS_PROFILE", None)
        environment["AWS_EC2_METADATA_DISABLED"] = "true"
