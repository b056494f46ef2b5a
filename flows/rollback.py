"""Let an MLKey answer from an earlier version again.

::

    python -m flows.rollback --mlkey biography                       # to what was promoted before
    python -m flows.rollback --mlkey biography --to 0123456789ab     # a model version, or a package's sha256

The endpoint is asked a question before the registry says so; if it does not answer, what served before is put back.
Exit codes: 0 done, 1 failed, 2 wrong option or no such version, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence

from askline.command_line import load_config
from askline.errors import AsklineError, ConfigError
from flows.terminal import command_parser, refuse, say

PROGRAM = "python -m flows.rollback"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options, others = _parser().parse_known_args(arguments)
    try:
        named = ["--deploy.mlkey", options.mlkey] if options.mlkey is not None else []
        config = load_config([*others, *named], prog=PROGRAM)
    except ConfigError as error:
        return refuse(error, 2)

    from tasks.deployed.inventory import running_target
    from tasks.deployed.rollback import rollback
    from tasks.running.interrupts import interruptible
    from tasks.workplace import Workplace

    try:
        with interruptible():
            done = rollback(
                config.deploy.mlkey,
                to=options.to,
                question=options.question,
                config=config,
                place=Workplace(running_target(config), config.state_dir),
            )
    except KeyboardInterrupt as error:
        stands = "\n".join(getattr(error, "__notes__", ()))
        print(f"Interrupted. {stands}\nThe same command starts anew.", file=sys.stderr)  # noqa: T201
        return 130
    except AsklineError as error:
        return refuse(error, 2 if isinstance(error, ConfigError) else 1)
    say(f"{done.mlkey}: {done.left.model_version} → {done.now.model_version}")
    say(f"endpoint  {done.endpoint.name} {done.endpoint.action}, on {done.endpoint.config_name}")
    say(f"asked     {done.asked.question!r} → {done.asked.answer!r}, {done.asked.seconds:.1f} s")
    say(f"registry  promotion {done.now.version}, by {done.now.run_id}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(PROGRAM, "Let an MLKey answer from an earlier version again.")
    parser.add_argument("--mlkey", metavar="MLKEY", help="which MLKey (default: deploy.mlkey)")
    parser.add_argument(
        "--to",
        metavar="VERSION",
        help="the beginning of a model version or of a package's sha256 (default: what was promoted before)",
    )
    parser.add_argument(
        "--question",
        metavar="TEXT",
        help="what the endpoint is asked (default: a question of that version's smoke test, where its report is at "
        "hand)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
