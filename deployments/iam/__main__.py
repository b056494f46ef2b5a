"""Writes the policies for a configuration, and says how to install them.

::

    python -m deployments.iam --config aws.toml --out policies
    python -m deployments.iam --config aws.toml --all-mlkeys          # one deployer for every MLKey

Any option of the pipeline can be given too. Nothing is called: installing is up to whoever may change IAM.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from askline.command_line import load_config
from askline.errors import AsklineError
from deployments.iam.files import install_commands, policy_files, write
from tasks.aws.iam import USER, scope_of

PROGRAM = "python -m deployments.iam"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options, others = _parser().parse_known_args(arguments)
    try:
        scope = scope_of(
            load_config(others, prog=PROGRAM),
            account=options.account,
            all_mlkeys=options.all_mlkeys,
            user=options.user,
        )
        files = policy_files(scope)
        write(files, options.out)
    except AsklineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is the program's one message
        return 2
    say = sys.stdout.write
    for file in files:
        say(f"{options.out / file.name}\n    {file.purpose}\n")
    say("\nTo install them, as somebody who may change IAM:\n\n")
    for command in install_commands(scope, options.out):
        say(f"{command}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Write the IAM policies that a configuration needs, and say how to install them.",
        epilog="Every option of the pipeline can be given too: python -m flows.full_pipeline --help",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=Path("iam"), metavar="DIR", help="folder for them (default: iam)")
    parser.add_argument("--account", metavar="ID", help="twelve digits (default: the account of deploy.role_arn)")
    parser.add_argument("--user", default=USER, metavar="NAME", help="the user that deploys (default: %(default)s)")
    parser.add_argument("--all-mlkeys", action="store_true", help="for every MLKey, not only deploy.mlkey")
    return parser


if __name__ == "__main__":
    sys.exit(main())
