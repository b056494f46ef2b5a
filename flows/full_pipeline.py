"""From a Q&A dataset to an API that answers, as one flow.

::

    python -m flows.full_pipeline                                 # all defaults, nothing needed
    python -m flows.full_pipeline --dataset.source my.csv         # your own questions and answers
    python -m flows.full_pipeline --config configs/aws.toml       # Flan-T5 and your AWS account
    python -m flows.full_pipeline --plan                          # what would be created and cost; then stop
    python -m flows.full_pipeline --from evaluate                 # nothing remembered from there on; --fresh: nothing

Finished steps are remembered: the same command again goes on where the last run stopped. Exit codes: 0 promoted
or planned, 1 failed, 2 wrong option, 3 finished but not promoted, 4 planned but checks failed, 130 interrupted.
"""

import sys

if __name__ == "__main__":
    # Before Prefect is imported: --help answers at once, and Prefect reads its settings at import.
    from flows.launch import launch

    sys.exit(launch())

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from askline.config import PipelineConfig, Step
from tasks import steps
from tasks.report.report import Findings, report_failure, write_report
from tasks.running import workers
from tasks.running.approval import ask_a_person
from tasks.running.run import container_python, open_run, run_name
from tasks.running.run_step import run_step


@flow(
    name="askline",
    flow_run_name=run_name,
    on_failure=[report_failure],
    on_cancellation=[report_failure],
    on_crashed=[report_failure],
)
def full_pipeline(
    config: PipelineConfig = PipelineConfig(),  # noqa: B008 - frozen
    plan_only: bool = False,
    redo_from: Step | None = None,
) -> State:
    """Take a Q&A dataset and end with an API that answers, or with the plan of one."""
    python = container_python(config)
    run = open_run(config, redo_from=redo_from)
    workers.require(run.fan_out)
    found = Findings(config, run)
    source = run_step(steps.resolve_source, config.dataset, run)
    dataset = found.keep(run_step(steps.fetch_dataset, config.dataset, source, run))
    base = run_step(steps.resolve_base, config.training, dataset, run)
    model = found.keep(run_step(steps.fine_tune, config.training, base, dataset, run))
    answers = config.training.answers
    second = run_step(steps.second_opinion, config.package.second_opinion, answers, model, dataset, run)
    scores = found.keep(run_step(steps.evaluate, config.evaluation, model, dataset, answers, second, run))
    mlkey = config.deploy.mlkey
    gate = found.keep(run_step(steps.check_gate, config.evaluation, model, scores, dataset, mlkey, run))
    if gate.passed and config.evaluation.approval and not plan_only:
        gate = found.keep(ask_a_person(config.evaluation, gate, scores, run))
    if not gate.passed:
        return Completed(name="NotPromoted", message="; ".join(gate.reasons), data=write_report(found, "NotPromoted"))
    if not plan_only:
        found.keep(run_step(steps.push_to_hub, config.hub, model, scores, dataset, mlkey, run))
    licence = config.hub.license
    package = found.keep(run_step(steps.build_package, config.package, model, scores, dataset, licence, python, run))
    plan = found.keep(run_step(steps.plan_deploy, config.deploy, config.package, package, run))
    found.keep(run_step(steps.preflight, config, plan, package, run, plan_only))
    if plan_only:
        return Completed(name="Planned", data=write_report(found, "Planned"))
    upload = found.keep(run_step(steps.upload_package, config.package, package, config.deploy, run))
    with steps.deployment(config.deploy, found, run):
        gate = found.keep(steps.still_better(config.evaluation, gate, model, scores, dataset, mlkey, run))
        if not gate.passed:
            return Completed(
                name="NotPromoted", message="; ".join(gate.reasons), data=write_report(found, "NotPromoted")
            )
        endpoint = found.keep(run_step(steps.deploy[config.deploy.target], config.deploy, plan, upload, run))
        api = None
        if config.api.enabled:
            api = found.keep(run_step(steps.deploy_api, config.api, upload, config.deploy, run))
        smoke = found.keep(run_step(steps.smoke_invoke, config.smoke, endpoint, scores, package, run))
        proved = (endpoint, smoke, api, scores, package, dataset)
        found.keep(run_step(steps.promote, config.deploy, gate, *proved, run))
    return Completed(name="Promoted", data=write_report(found, "Promoted"))
