"""The embedded cloud's command line: ``python -m local_cloud up | status | env | logs | down``."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from askline.records import Target

PART_NAMES = ("ministack", "sagemaker", "hub", "prefect")

EXIT_UNWELL = 1
EXIT_DOWN = 3


def parser() -> argparse.ArgumentParser:
    """Return the parser; it imports nothing heavy, so that ``--help`` answers at once."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state-dir",
        default=".askline",
        metavar="DIR",
        help="folder of the state; the cloud's own is DIR/cloud (default %(default)s)",
    )
    root = argparse.ArgumentParser(
        prog="python -m local_cloud",
        description="The embedded cloud on this machine: S3, IAM, Lambda and API Gateway (MiniStack), SageMaker, a "
        "model Hub and a Prefect server.",
    )
    commands = root.add_subparsers(dest="command", required=True)

    up = commands.add_parser("up", parents=[common], help="start what is not running, wait until all is healthy")
    up.add_argument("--json", action="store_true", help="print the addresses as one JSON document")
    up.add_argument("--without", action="append", default=[], choices=PART_NAMES, help="leave a part out (repeatable)")
    up.add_argument(
        "--port",
        action="append",
        default=[],
        type=_port,
        metavar="SERVICE=N",
        help="make a part use this port (repeatable)",
    )
    up.add_argument(
        "--idle-minutes",
        type=_minutes,
        metavar="N",
        help="stop the model of a serverless endpoint that nobody has called for so long; the next call starts it "
        "again; 0 never does (default: as last time, at first 10)",
    )
    up.add_argument(
        "--minute-seconds",
        type=_seconds,
        metavar="N",
        help="how long a minute takes for what SageMaker does by the minute: scaling, alarms, baking of an update "
        "(default: as last time, at first 60)",
    )
    up.add_argument(
        "--enforce-iam",
        action=argparse.BooleanOptionalAction,
        help="let callers other than root do only what their IAM policies allow (default: as last time, at first not)",
    )
    up.add_argument("--quiet", action="store_true", help="no progress lines on standard error")

    status = commands.add_parser(
        "status", parents=[common], help=f"exit code 0: all healthy, {EXIT_UNWELL}: something is not, {EXIT_DOWN}: down"
    )
    status.add_argument("--json", action="store_true", help="print one JSON document")

    commands.add_parser(
        "env",
        parents=[common],
        help='print the variables with which aws, hf and prefect find this cloud: eval "$(python -m local_cloud env)"',
    )

    logs = commands.add_parser("logs", parents=[common], help="print the end of the logs")
    logs.add_argument(
        "service",
        nargs="?",
        choices=(*PART_NAMES, "supervisor"),
        metavar="SERVICE",
        help=f"one of {', '.join(PART_NAMES)}, supervisor (default all)",
    )
    logs.add_argument("--follow", "-f", action="store_true", help="go on with what is written next")
    logs.add_argument(
        "--lines", "-n", type=int, default=40, metavar="N", help="lines of each log (default %(default)s)"
    )

    down = commands.add_parser("down", parents=[common], help="stop everything cleanly")
    down.add_argument("--quiet", action="store_true", help="no progress lines on standard error")
    return root


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in PART_NAMES or not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not SERVICE=N with a service of {', '.join(PART_NAMES)} and a port from 1 to 65535"
        )
    return name, int(number)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1
    if not 0 <= minutes < 1e6:  # "nan" neither
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes from 0 on")
    return minutes


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:  # "nan" neither
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = parser().parse_args(argv)
    from askline.errors import LocalCloudError

    try:
        match options.command:
            case "up":
                return _up(options)
            case "status":
                return _status(options)
            case "env":
                return _env(options)
            case "logs":
                return _logs(options)
            case _:
                return _down(options)
    except LocalCloudError as error:
        _say(f"error: {error}")
        return 1
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _up(options: argparse.Namespace) -> int:
    from local_cloud import control
    from local_cloud.state import as_json

    target = control.up(
        options.state_dir,
        without=options.without,
        ports=dict(options.port),
        idle_minutes=options.idle_minutes,
        minute_seconds=options.minute_seconds,
        enforce_iam=options.enforce_iam,
        say=control.silent if options.quiet else _say,
    )
    if options.json:
        _print(as_json(target))
        return 0
    for name, address in _addresses(target).items():
        _print(f"{name:<16}{address}")
    _print(f"{_passwords(target)}")
    return 0


def _passwords(target: "Target") -> str:
    """Return the line that says what the pages in the browser ask for."""
    from askline.clients import LocalKeys

    keys = LocalKeys.of(target)
    pages = ["Hub: any name, the password " + keys.hub_token] if target.hub.rpartition(":")[2] != "9" else []
    pages += [f"Prefect: {keys.prefect_auth}"] if target.prefect_ui else []
    return "In a browser    " + ("; ".join(pages) or "nothing to see") + "\nFor a shell     python -m local_cloud env"


def _addresses(target: "Target") -> dict[str, str]:
    found = {
        "AWS (MiniStack)": target.endpoints.get("s3"),
        "SageMaker": target.endpoints.get("sagemaker"),
        "Hub": target.hub,
        "Prefect": target.prefect_ui,
    }
    return {name: address for name, address in found.items() if address}


def _status(options: argparse.Namespace) -> int:
    from local_cloud import control
    from local_cloud.services import PARTS, url

    health = control.health(options.state_dir)
    if options.json:
        document = {
            "running": health.running,
            "healthy": health.healthy,
            "parts": {
                n: {**p.model_dump(mode="json", exclude_none=True), "healthy": n not in health.unwell}
                for n, p in health.parts.items()
            },
            "target": health.target.model_dump(mode="json", exclude_none=True) if health.target else None,
        }
        _print(json.dumps(document))
    elif not health.running:
        _print("the embedded cloud is not running; start it with: python -m local_cloud up")
    else:
        for name, part in health.parts.items():
            word = (
                "healthy" if name not in health.unwell else part.state if part.state != "ready" else "does not answer"
            )
            again = f", {part.restarts} restarts" if part.restarts else ""
            _print(f"{PARTS[name].title:<16}{word:<16}{url(part.port)}  process {part.pid or '-'}{again}")
        if health.target is not None:
            _print(_passwords(health.target))
    return 0 if health.healthy else EXIT_UNWELL if health.running else EXIT_DOWN


def _env(options: argparse.Namespace) -> int:
    import shlex

    from local_cloud import control, keys

    target = control.health(options.state_dir).target
    if target is None:
        _say("error: the embedded cloud is not running; start it with: python -m local_cloud up")
        return EXIT_DOWN
    for name, value in keys.exports(target).items():
        _print(f"export {name}={shlex.quote(value)}")
    return 0


def _down(options: argparse.Namespace) -> int:
    from local_cloud import control

    stopped = control.down(options.state_dir, say=control.silent if options.quiet else _say)
    _print(f"stopped {', '.join(stopped)}" if stopped else "nothing is running")
    return 0


def _logs(options: argparse.Namespace) -> int:
    from askline.errors import LocalCloudError
    from local_cloud.state import CloudFolder, last_lines

    folder = CloudFolder(options.state_dir)
    names = [options.service] if options.service else ["supervisor", *PART_NAMES]
    paths = {name: folder.log(name) for name in names if folder.log(name).exists() or options.service}
    if not any(path.exists() for path in paths.values()):
        raise LocalCloudError(
            f"there are no logs in {folder.logs}; the embedded cloud has not been started from this folder"
        )
    prefix = {name: "" if options.service else f"{name:<10} | " for name in paths}
    ends = {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}
    for name, path in paths.items():
        for line in last_lines(path, options.lines):
            _print(prefix[name] + line)
    while options.follow:
        time.sleep(0.3)
        for name, path in paths.items():
            size = path.stat().st_size if path.exists() else 0
            if size < ends[name]:  # a new file was begun
                ends[name] = 0
            if size > ends[name]:
                with path.open("rb") as stream:
                    stream.seek(ends[name])
                    text = stream.read()
                whole = text[: text.rfind(b"\n") + 1]
                ends[name] += len(whole)
                for line in whole.decode("utf-8", "replace").splitlines():
                    _print(prefix[name] + line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
