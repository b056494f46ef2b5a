"""Runs the Prefect server behind the guard: ``python -m local_cloud.prefect_server --host 127.0.0.1 --port 4200``.

Prefect checks the password of its API itself (``PREFECT_SERVER_API_AUTH_STRING``); what it lacks is a look at the Host
and at the Origin of a request.
"""

import sys
from typing import Any

from local_cloud.guard import Guard, Scope


def main() -> None:
    """Run ``prefect server start`` with the guard in front of its application."""
    import uvicorn
    from prefect.cli import app

    run = uvicorn.run

    def guarded(app: Any, **options: Any) -> None:
        run(Guard(app, prefect_checks), **options)

    uvicorn.run = guarded  # what the command serves its application with
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    app()


def prefect_checks(_headers: dict[str, str], _scope: Scope) -> None:
    """Leave the key to Prefect's own check."""


if __name__ == "__main__":
    main()
