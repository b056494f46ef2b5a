"""What happens around the flow when a person starts it in a terminal: options, servers, messages, exit code.

Nothing heavy is imported before the options are known to be right.
"""

import os
import sys
from collections.abc import Sequence

from askline.clients import LocalKeys
from askline.command_line import load_command_line
from askline.config import PipelineConfig, Step
from askline.console import show_steps
from askline.errors import AsklineError, BusyError, ConfigError
from askline.records import PipelineReport, Target

#: A run whose process is killed sends no more of these; see deployments/automations.py.
HEARTBEAT_SECONDS = 30

FAILED, WRONG_OPTION, NOT_PROMOTED, CHECKS_FAILED, INTERRUPTED = 1, 2, 3, 4, 130


def launch(arguments: Sequence[str] | None = None) -> int:
    """Run the pipeline as ``python -m flows.full_pipeline`` does and return the exit code."""
    try:
        config, plan_only, redo_from = load_command_line(arguments)
    except ConfigError as error:
        return _refuse(error, WRONG_OPTION)
    console = show_steps()
    console.say(
        f"askline: {config.dataset.source} → {config.training.base} → MLKey {config.deploy.mlkey} ({config.target})"
    )
    try:
        with console.step("start") as line:
            target = start(config)
            line.done("the embedded cloud is up" if target.kind == "local" else f"AWS {target.region}")
        report = _run(config, plan_only=plan_only, redo_from=redo_from)
    except KeyboardInterrupt:
        console.say("Interrupted. What is finished is kept: the same command goes on from there.")
        return INTERRUPTED
    except AsklineError as error:
        return _refuse(error, FAILED)
    from tasks.report.report import summary

    console.say(summary(report))
    if report.preflight is not None and report.preflight.failed:
        return CHECKS_FAILED  # of a plan; a run that deploys ends at them
    return NOT_PROMOTED if report.state == "NotPromoted" else 0


def _refuse(error: AsklineError, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is the program's one message
    return code


def start(config: PipelineConfig) -> Target:
    """Start what the run needs, and point Prefect at its server; call it before Prefect is imported.

    Raises
    ------
    LocalCloudError
        If the embedded cloud, or the Prefect server in it, does not come up.
    """
    from tasks.running.connect import connect

    own_server = "PREFECT_API_URL" not in os.environ
    target = connect(config, with_prefect=own_server)
    home = config.state_dir.resolve() / "prefect"
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "results"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # one line per step; the whole log is in the UI
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    }
    if own_server and target.prefect_api:
        defaults["PREFECT_API_URL"] = target.prefect_api
        if password := LocalKeys.of(target).prefect_auth:
            os.environ["PREFECT_API_AUTH_STRING"] = password
        defaults["PREFECT_UI_URL"] = target.prefect_ui or ""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return target


def _run(config: PipelineConfig, *, plan_only: bool, redo_from: Step | None) -> PipelineReport:
    from prefect.exceptions import Abort

    from flows.full_pipeline import full_pipeline

    try:
        state = full_pipeline(config, plan_only, redo_from, return_state=True)
    except Abort as ended:
        raise BusyError(str(ended)) from None
    report = state.result()
    if not isinstance(report, PipelineReport):
        raise AsklineError(f"the flow ended as {state.name} without a report")
    return report
