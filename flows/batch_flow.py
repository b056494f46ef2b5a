"""Answering a file of questions with Dask workers, as a flow run that a person can follow in the Prefect UI."""

import uuid
from pathlib import Path
from typing import Any

from prefect import flow

from askline.config import PipelineConfig
from askline.console import current_progress
from askline.records import FanOut, Run
from tasks.batch_answer.batch_answer import BatchAnswered, answer, job
from tasks.deployed.inventory import running_target
from tasks.running import workers as fanning
from tasks.running.connect import prepare_environment


def _run_name() -> str:
    from prefect.runtime import flow_run

    given: Any = flow_run.parameters
    config = given["config"]
    config = config if isinstance(config, PipelineConfig) else PipelineConfig.model_validate(config)
    return f"{Path(given['questions']).name} → {config.deploy.mlkey} ({config.target}) {uuid.uuid4().hex[:4]}"


@flow(name="askline-batch-answer", flow_run_name=_run_name)
def batch_answer(
    config: PipelineConfig,
    questions: Path,
    out: Path,
    overwrite: bool = False,
    fan_out: FanOut = FanOut(workers=2),  # noqa: B008 - frozen
) -> BatchAnswered:
    """Answer a file of questions; each part is a task run. The server hears paths and counts, never a question."""
    from prefect.runtime import flow_run

    fanning.require(fan_out)
    target = running_target(config)
    prepare_environment(target)
    run = Run(
        run_id=flow_run.id or str(uuid.uuid4()),
        state_dir=config.state_dir.resolve(),
        target=target,
        artifact_store=config.artifact_store,
        fan_out=fan_out,
    )
    with job(config, questions, out, run=run, overwrite=overwrite) as given, fanning.asking_packages(given) as ask:
        return answer(given, ask=ask, progress=current_progress())
