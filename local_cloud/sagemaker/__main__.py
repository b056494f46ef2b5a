"""Runs the embedded SageMaker.

::

python -m local_cloud.sagemaker --port 9001 --state DIR --s3 http://127.0.0.1:4566 --iam http://127.0.0.1:4566
"""

import argparse
import contextlib
import fcntl
import logging
import socket
import sys
from pathlib import Path

import uvicorn

from local_cloud.sagemaker.app import create_app
from local_cloud.sagemaker.errors import StateError
from local_cloud.sagemaker.settings import Settings


def main(argv: list[str] | None = None) -> None:
    """Serve until a signal ends it."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    state_dir: Path = options.state.resolve()
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = (state_dir / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"--state {state_dir}: another embedded SageMaker uses this folder; end it, or name another")
    except OSError as error:
        sys.exit(f"--state {state_dir}: the folder cannot be used: {error}")
    try:
        listener = socket.create_server((options.host, options.port))
    except OSError as error:
        sys.exit(f"--port {options.port}: cannot listen on {options.host}: {error.strerror}; name another port")
    settings = Settings(
        state_dir=state_dir,
        s3_url=options.s3,
        iam_url=options.iam,
        sns_url=options.sns or options.iam,
        cloudwatch_url=options.cloudwatch or options.iam,
        region=options.region,
        account=options.account,
        startup_seconds=options.startup_seconds,
        invocation_seconds=options.invocation_seconds,
        cold_seconds=options.cold_seconds,
        idle_seconds=options.idle_seconds,
        minute_seconds=options.minute_seconds,
        authorize_url=options.authorize,
    )
    try:
        app = create_app(settings)
    except StateError as error:
        sys.exit(str(error))
    # asyncio's own loop, in this thread: containers are tied to the thread that starts them.
    config = uvicorn.Config(app, loop="asyncio", access_log=False, log_config=None, timeout_graceful_shutdown=3)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_cloud.sagemaker", description="The embedded SageMaker.")
    parser.add_argument("--port", type=int, required=True, help="port of both planes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--state", type=Path, required=True, help="folder for its state, containers and logs")
    parser.add_argument("--s3", required=True, metavar="URL", help="address of S3, where archives come from")
    parser.add_argument("--iam", required=True, metavar="URL", help="address of IAM, where roles are looked up")
    parser.add_argument("--sns", metavar="URL", help="address of SNS, for notifications (default: that of IAM)")
    parser.add_argument("--cloudwatch", metavar="URL", help="address of CloudWatch, for alarms (default: that of IAM)")
    parser.add_argument("--authorize", metavar="URL", help="where to ask whether a caller may do what it asks")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--account", default="000000000000", help="twelve digits, for ARNs")
    parser.add_argument("--idle-seconds", type=float, default=0, help="stop idle serverless containers; 0 means never")
    parser.add_argument(
        "--minute-seconds",
        type=_seconds,
        default=60,
        help="how long a minute of metrics, alarms, cool-downs and baking takes; less makes scaling quick to watch",
    )
    parser.add_argument("--cold-seconds", type=float, default=60, help="how long a call waits for a cold start")
    parser.add_argument("--startup-seconds", type=float, default=180, help="time to answer /ping")
    parser.add_argument("--invocation-seconds", type=float, default=60, help="time to answer a call")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:  # "nan" neither
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


if __name__ == "__main__":
    main()
