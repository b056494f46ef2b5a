"""What a run is around its steps: where its calls go, and what it is called."""

import os
import uuid
from typing import Any

from askline.config import PipelineConfig
from askline.errors import ConfigError
from askline.records import FanOut, Run
from tasks.running.connect import connect, prepare_environment


def open_run(config: PipelineConfig, *, redo_from: str | None = None) -> Run:
    """Connect to the target and return what every step of this run shares.

    Parameters
    ----------
    redo_from
        Name of the step from which on nothing that an earlier run remembered is taken.

    Raises
    ------
    LocalCloudError
        If the target is local and the embedded cloud does not come up.
    ConfigError
        If there is no Secret block of the name ``hub.token_block``.
    """
    from prefect.runtime import flow_run

    target = connect(config)
    prepare_environment(target)
    _take_token(config.hub.token_block)
    return Run(
        run_id=flow_run.id or str(uuid.uuid4()),
        state_dir=config.state_dir.resolve(),
        target=target,
        artifact_store=config.artifact_store,
        redo_from=redo_from,
        timeouts=config.timeouts.model_dump(),
        fan_out=FanOut(workers=config.evaluation.workers, scheduler=config.evaluation.scheduler),
    )


def _take_token(block: str | None) -> None:
    """Put the Hub's token from a Prefect Secret block where the Hub's client looks for it: into the environment."""
    if block is None:
        return
    from prefect.blocks.system import Secret

    try:
        secret: Any = Secret.load(block)
    except ValueError as error:
        raise ConfigError(
            f"there is no Prefect Secret block {block!r} (hub.token_block): make it in the UI under Blocks, or set "
            "HF_TOKEN instead"
        ) from error
    os.environ["HF_TOKEN"] = str(secret.get())


def container_python(config: PipelineConfig) -> str:
    """Return the Python that the engine's libraries are packed for: the container's.

    Raises
    ------
    ConfigError
        If it cannot be told from the name of ``deploy.image``.
    """
    from tasks.deploy_serverless import image
    from tasks.package.libraries import own_python

    if config.package.python or not config.package.carry_libraries:
        return config.package.python or own_python()
    # The embedded cloud runs the archive with this Python, whatever image it is told.
    return own_python() if config.target == "local" else image.container_python(config.deploy.image)


def run_name() -> str:
    """Name a flow run by its dataset and MLKey, for lists in which many runs stand."""
    from prefect.runtime import flow_run

    config: Any = flow_run.parameters["config"]
    config = config if isinstance(config, PipelineConfig) else PipelineConfig.model_validate(config)
    source = config.dataset.source.rstrip("/").rpartition("/")[2]
    return f"{source} → {config.deploy.mlkey} ({config.target}) {uuid.uuid4().hex[:4]}"
