"""Answer a file of questions with the model that is deployed for an MLKey.

::

    python -m flows.batch_answer --mlkey biography questions.csv answers.csv
    python -m flows.batch_answer --config configs/aws.toml --mlkey biography questions.parquet answers.jsonl --workers 4

The answers come from the package that the endpoint serves, unpacked here: the same answers, without taking capacity
from the endpoint's callers or paying for it. What is finished is kept in ``answers.csv.parts``: the same command again
goes on where it was interrupted. Exit codes: 0 answered, 1 failed, 2 wrong option or file, 130 interrupted.
"""

import argparse
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from askline.command_line import load_config
from askline.config import PipelineConfig
from askline.console import show_steps
from askline.errors import AsklineError, ConfigError, DatasetError
from askline.records import FanOut, Run
from flows.terminal import command_parser, refuse, say

PROGRAM = "python -m flows.batch_answer"
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options, rest = _parser().parse_known_args(arguments)
    try:
        questions, out, others = _files(rest)
        named = {"--deploy.mlkey": options.mlkey, "--dataset.question-column": options.question_column}
        others += [part for name, value in named.items() if value is not None for part in (name, value)]
        config = load_config(others, prog=PROGRAM)
        if options.workers < 1:
            raise ConfigError(f"--workers {options.workers}: at least 1, this process")
        if options.workers > 1 and options.scheduler is not None:
            raise ConfigError("give either --workers, processes of this machine, or --scheduler, which has its own")
    except ConfigError as error:
        return refuse(error, 2)
    fan_out = FanOut(workers=options.workers, scheduler=options.scheduler)
    try:
        return _answer(config, questions, out, overwrite=options.overwrite, fan_out=fan_out)
    except KeyboardInterrupt:
        say("Interrupted. What is finished is kept: the same command goes on from there.")
        return INTERRUPTED
    except AsklineError as error:
        return refuse(error, 2 if isinstance(error, ConfigError | DatasetError) else 1)


def _answer(config: PipelineConfig, questions: Path, out: Path, *, overwrite: bool, fan_out: FanOut) -> int:
    from tasks.batch_answer.batch_answer import answer, here, job
    from tasks.deployed.inventory import running_target
    from tasks.running.connect import prepare_environment

    target = running_target(config)
    prepare_environment(target)
    run = Run(
        run_id=str(uuid.uuid4()),
        state_dir=config.state_dir.resolve(),
        target=target,
        artifact_store=config.artifact_store,
        fan_out=fan_out,
    )
    console = show_steps()
    with job(config, questions, out, run=run, overwrite=overwrite) as given:
        found = f"{len(given.questions.texts)} rows, the column {given.questions.column!r}"
        say(f"{questions}: {found} → {given.deployed.mlkey}, version {given.deployed.model_version}")
        if not fan_out.asked_for:
            with console.step("answer") as line:
                done = answer(given, ask=here(given), progress=lambda share, said="": console.progress(share, said))
                line.done(f"{done.asked} questions, {done.kept} of them answered before")
    if fan_out.asked_for:
        # Everything was in order; the flow looks again, and answers.
        from flows.launch import start

        start(config)
        from flows.batch_flow import batch_answer

        with console.step("answer") as line:
            state = batch_answer(config, questions.resolve(), out.resolve(), overwrite, fan_out, return_state=True)
            done = state.result()
            line.done(f"{done.asked} questions, {done.kept} of them answered before")
    blank = f"; {done.blank} rows ask nothing and have no answer" if done.blank else ""
    say(f"{out}: {done.rows} rows, {done.seconds:.1f} s{blank}")
    return 0


def _files(arguments: Sequence[str]) -> tuple[Path, Path, list[str]]:
    """Return the two files, and the pipeline's options, each of which has one value.

    argparse, which does not know these options, would take the value of the first for a file.
    """
    files: list[Path] = []
    options: list[str] = []
    left = iter(arguments)
    for argument in left:
        if not argument.startswith("--"):
            files.append(Path(argument))
            continue
        options.append(argument)
        if "=" not in argument:
            options += [value for value in (next(left, None),) if value is not None]
    if len(files) != 2:
        found = ", ".join(map(str, files)) or "none"
        raise ConfigError(f"give two files, the questions and where the answers go; found {found}. See --help")
    return files[0], files[1], options


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        PROGRAM,
        "Answer QUESTIONS, a CSV, TSV, JSON, JSON Lines or Parquet file, with the model that is deployed for an MLKey, "
        "and write the answers to OUT, a .csv or a .jsonl.",
    )
    parser.usage = f"{PROGRAM} [--mlkey MLKEY] [--OPTION VALUE] … QUESTIONS OUT"
    parser.add_argument("--mlkey", metavar="MLKEY", help="who answers (default: deploy.mlkey)")
    parser.add_argument(
        "--question-column", metavar="NAME", help="column with the questions (default: the one with a usual name)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes of this machine that answer side by side, as Dask workers (default: 1, this one alone)",
    )
    parser.add_argument(
        "--scheduler", metavar="tcp://HOST:PORT", help="a running Dask scheduler, whose workers answer instead"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
