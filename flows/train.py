"""The pipeline's first half alone, for a machine with a GPU: from a Q&A dataset to a fine-tuned model.

With the same ``artifact_store`` the whole pipeline, on another machine, takes the model from there and goes on with
evaluating it. See docs/more-machines.md.
"""

from prefect import flow

from askline.config import PipelineConfig, Step
from askline.records import ModelRef
from tasks import steps
from tasks.running.run import open_run, run_name
from tasks.running.run_step import run_step


@flow(name="askline-train", flow_run_name=run_name)
def train(config: PipelineConfig = PipelineConfig(), redo_from: Step | None = None) -> ModelRef:  # noqa: B008 - frozen
    """Fetch the dataset and fine-tune the base on it."""
    run = open_run(config, redo_from=redo_from)
    source = run_step(steps.resolve_source, config.dataset, run)
    dataset = run_step(steps.fetch_dataset, config.dataset, source, run)
    base = run_step(steps.resolve_base, config.training, dataset, run)
    return run_step(steps.fine_tune, config.training, base, dataset, run)
