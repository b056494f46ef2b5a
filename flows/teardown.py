"""Take down an MLKey, or what nothing refers to any more.

::

    python -m flows.teardown --mlkey biography            # lists, asks, deletes
    python -m flows.teardown --mlkey biography --archives --api --yes
    python -m flows.teardown --orphans

Only what carries the pipeline's tags is deleted, and never a bucket. Exit codes: 0 done or nothing to do, 1 failed,
2 wrong option or nobody to ask, 3 answered no, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from askline.command_line import load_config
from askline.errors import AsklineError, ConfigError
from flows.terminal import command_parser, refuse, say

if TYPE_CHECKING:
    from askline.config import PipelineConfig
    from askline.records import Target
    from tasks.deployed.inventory import Inventory
    from tasks.deployed.teardown import Teardown

PROGRAM = "python -m flows.teardown"
FAILED, WRONG_OPTION, DECLINED, INTERRUPTED = 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    options, others = _parser().parse_known_args(arguments)
    try:
        named = ["--deploy.mlkey", options.mlkey] if options.mlkey is not None else []
        config = load_config([*others, *named], prog=PROGRAM)
        _check(options)
    except ConfigError as error:
        return refuse(error, WRONG_OPTION)
    try:
        return _run(config, options)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from there.", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except AsklineError as error:
        return refuse(error, FAILED)


def _run(config: "PipelineConfig", options: argparse.Namespace) -> int:
    from tasks.deployed.inventory import running_target, take_inventory
    from tasks.deployed.orphans import GRACE, KEEP, find_orphans
    from tasks.deployed.teardown import carry_out, plan_teardown

    target = running_target(config)
    inventory = take_inventory(config, target=target)
    if options.orphans:
        grace = GRACE if options.older_than is None else timedelta(minutes=options.older_than)
        found = find_orphans(inventory, keep=options.keep or KEEP, grace=grace)
        plan = plan_teardown(inventory, orphans=found, archives=options.archives)
    else:
        plan = plan_teardown(inventory, mlkey=config.deploy.mlkey, archives=options.archives)
    what = "the orphans" if options.orphans else f"the MLKey {config.deploy.mlkey}"
    plan, about_api = _with_stack(plan, inventory, config, target, wanted=options.api)
    _show(plan, inventory, what)
    if plan.empty:
        say(f"nothing to take down of {what}" + _known(inventory, options))
        _say_if(about_api)
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            return refuse(ConfigError("nobody can be asked here: nothing was deleted; add --yes to delete"), 2)
        if input(f"Delete these {len(plan.going) + (plan.stack is not None)}? [y/N] ").strip().lower() not in (
            "y",
            "yes",
        ):
            say("nothing was deleted")
            return DECLINED
    done = carry_out(
        plan, target=target, wait_seconds=config.deploy.wait_seconds, progress=lambda share, message="": say(message)
    )
    say(f"{len(done)} deleted, {what} is taken down" if not options.orphans else f"{len(done)} deleted")
    _say_if(about_api)
    return 0


def _with_stack(
    plan: "Teardown", inventory: "Inventory", config: "PipelineConfig", target: "Target", *, wanted: bool
) -> tuple["Teardown", str]:
    """Add the API's stack where it is to go, and return what there is to say about it."""
    from tasks.deployed.teardown import LeftAlone, find_stack

    stack = find_stack(config.api.stack_name, target=target)
    if stack is None:
        return plan, ""
    entries = {found.mlkey for found in plan.going if found.kind == "registry entry"}
    others = [mlkey for mlkey in inventory.history if mlkey not in entries]
    if wanted and stack.managed:
        left = ", ".join(others)
        return plan.model_copy(update={"stack": stack}), f"it answered for {left} too" if others else ""
    if wanted:
        alone = LeftAlone(what=f"stack {stack.name}", why="it does not carry the tag askline:stack")
        return plan.model_copy(update={"left": (*plan.left, alone)}), ""
    if others or not stack.managed:
        return plan, ""
    return plan, f"no MLKey is left, and the API's stack {stack.name} is still there; --api takes it down too"


def _show(plan: "Teardown", inventory: "Inventory", what: str) -> None:
    if not plan.empty:
        say(f"To take down {what} ({inventory.region}):")
    for found in plan.going:
        say(f"  {found}")
    if plan.stack is not None:
        say(f"  stack {plan.stack.name} ({plan.stack.status})")
    if plan.left:
        say("Left alone:")
    for left in plan.left:
        say(f"  {left.what}: {left.why}")
    for note in inventory.notes:
        say(f"Not seen: {note}")


def _known(inventory: "Inventory", options: argparse.Namespace) -> str:
    if options.orphans:
        return ""
    return f"; MLKeys here: {', '.join(inventory.mlkeys) or 'none'}"


def _check(options: argparse.Namespace) -> None:
    if options.mlkey is not None and options.orphans:
        raise ConfigError("give either --mlkey or --orphans, not both")
    if not options.orphans and (options.keep is not None or options.older_than is not None):
        raise ConfigError("--keep and --older-than say what an orphan is: they need --orphans")
    if options.keep is not None and options.keep < 1:
        raise ConfigError(f"--keep {options.keep}: at least 1, the version that answers now")
    if options.older_than is not None and not 0 <= options.older_than < 1e6:
        raise ConfigError(f"--older-than {options.older_than:g}: a number of minutes from 0 on")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(PROGRAM, "Take down an MLKey, or what nothing refers to any more: lists it, asks, deletes.")
    parser.add_argument("--mlkey", metavar="MLKEY", help="which MLKey (default: deploy.mlkey)")
    parser.add_argument("--orphans", action="store_true", help="only what nothing refers to any more")
    parser.add_argument("--archives", action="store_true", help="delete the archives in S3 too; never a bucket")
    parser.add_argument("--api", action="store_true", help="delete the API's stack too")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--keep", type=int, metavar="N", help="with --orphans: versions that stay ready (default: 5)")
    parser.add_argument(
        "--older-than",
        type=float,
        metavar="MINUTES",
        help="with --orphans: leave alone what is younger, a deployment may be under way (default: 60)",
    )
    return parser


def _say_if(text: str) -> None:
    if text:
        say(text)


if __name__ == "__main__":
    sys.exit(main())
