"""A lean server for one unpacked SageMaker archive.

::

    python deployments/container/serve.py --model-dir DIR --port 8080

It is ``lean_server`` beside this file, started as a script, without installing anything: it needs uvicorn and whatever
the archive itself imports. ``GET /ping`` answers 503 while the model loads and 200 once it is loaded; when it cannot
be, the process logs the reason as its last line and ends with status 1. ``POST /invocations`` hands the request to the
archive's functions (``lean_server/handlers.py``) and answers 400 with the message of a ``ValueError``, 500 for any
other error, whose traceback goes to the log only, 413 for a body over 6 MB, 408 for one that does not arrive, and 503
when too much is waiting. SIGTERM lets what has been taken be answered; the process then ends with status 0.

The archive's functions run one call at a time, all in the thread that loaded the model, as in a container with one
worker; ``ASKLINE_WORKERS`` lets that many run side by side, for archives that bear it.
"""

from importlib import import_module

if __name__ == "__main__":
    import_module("lean_server.__main__").main()
