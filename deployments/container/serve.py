"""A lean server for one unpacked SageMaker Hugging Face archive.

::

    python deployments/container/serve.py --model-dir DIR --port 8080

It needs Starlette, uvicorn and whatever the archive itself imports. ``DIR/code/inference.py`` is imported as a file and
may define what the Hugging Face inference containers look for:

=============================================  =======================================================================
``model_fn(model_dir)``                        needed: loads the model, once
``input_fn(data, content_type)``               default: JSON
``predict_fn(data, model)``                    default: ``model(data["inputs"], **data["parameters"])``
``output_fn(prediction, accept)``              default: JSON
``transform_fn(model, data, content_type, accept)``  instead of the three above
=============================================  =======================================================================

Each may take one more positional argument, ``context``, whose ``system_properties`` hold ``model_dir`` and ``gpu_id``.
Handlers run one call at a time, all in one thread, as in a container with one worker.

``GET /ping`` answers 503 while the model loads, 200 once it is loaded and 500 when it cannot be. ``POST /invocations``
answers 400 with the message of a ``ValueError``, and 500 for any other error, whose traceback goes to the log only.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import inspect
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

log = logging.getLogger("container")

JSON_TYPE = "application/json"


class ModelLoadError(Exception):
    """The archive cannot be served; the message says what is wrong with it."""


def default_input_fn(data: str | bytes, content_type: str) -> Any:
    """Decode a JSON body."""
    if content_type.partition(";")[0].strip().lower() != JSON_TYPE:
        raise ValueError(f"content type {content_type!r} is not supported: send {JSON_TYPE}")
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"the body is not valid JSON: {error}") from None


def default_predict_fn(data: Any, model: Any) -> Any:
    """Call the model with ``inputs`` and ``parameters``, the two keys of the Hugging Face containers."""
    if not isinstance(data, dict) or "inputs" not in data:
        raise ValueError('the body must be a JSON object with "inputs", and "parameters" where wanted')
    return model(data["inputs"], **(data.get("parameters") or {}))


def default_output_fn(prediction: Any, accept: str) -> str:
    """Encode the prediction as JSON."""
    if accept.partition(";")[0].strip().lower() not in (JSON_TYPE, "application/*", "*/*"):
        raise ValueError(f"accept {accept!r} is not supported: ask for {JSON_TYPE}")
    return json.dumps(prediction, ensure_ascii=False)


def import_handlers(model_dir: Path) -> ModuleType:
    """Import ``code/inference.py`` of an unpacked archive.

    Raises
    ------
    ModelLoadError
        If there is none; the message names the folder that it was found in instead, if it was.
    """
    script = model_dir / "code" / "inference.py"
    if not script.is_file():
        message = f"the archive holds no code/inference.py at its root {model_dir}"
        nested = sorted([*model_dir.glob("*/code/inference.py"), *model_dir.glob("*/inference.py")])
        if nested:
            message += f", but {nested[0].relative_to(model_dir)}: pack the files at the root, not in a folder"
        raise ModelLoadError(message)
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location("inference", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["inference"] = module
    spec.loader.exec_module(module)
    return module


class Handler:
    """The archive's functions with defaults for those that it leaves out, and the loaded model.

    Raises
    ------
    ModelLoadError
        If the archive's functions do not fit together.
    """

    def __init__(self, model_dir: Path) -> None:
        module = import_handlers(model_dir)
        self.context = SimpleNamespace(system_properties={"model_dir": str(model_dir), "gpu_id": None})
        steps = [name for name in ("input_fn", "predict_fn", "output_fn") if hasattr(module, name)]
        if hasattr(module, "transform_fn") and steps:
            raise ModelLoadError(f"code/inference.py defines transform_fn and also {', '.join(steps)}: keep one way")
        if not hasattr(module, "model_fn"):
            raise ModelLoadError("code/inference.py defines no model_fn(model_dir): it is needed to load the model")
        transform = getattr(module, "transform_fn", None)
        self._transform = self._with_context(transform, 4) if transform else None
        self._input = self._with_context(getattr(module, "input_fn", default_input_fn), 2)
        self._predict = self._with_context(getattr(module, "predict_fn", default_predict_fn), 2)
        self._output = self._with_context(getattr(module, "output_fn", default_output_fn), 2)
        self.model = self._with_context(module.model_fn, 1)(str(model_dir))

    def _with_context(self, function: Callable[..., Any], arguments: int) -> Callable[..., Any]:
        positional = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if len(positional) <= arguments:
            return function
        return lambda *values: function(*values, self.context)

    def __call__(self, body: bytes, content_type: str, accept: str) -> bytes:
        """Answer one request: bytes in, bytes out."""
        data: str | bytes = body
        if content_type.lower().startswith((JSON_TYPE, "text/")):
            try:
                data = body.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"the body is not valid UTF-8: {error}") from None
        if self._transform:
            result = self._transform(self.model, data, content_type, accept)
        else:
            result = self._output(self._predict(self._input(data, content_type), self.model), accept)
        if isinstance(result, str):
            return result.encode("utf-8")
        if isinstance(result, (bytes, bytearray)):
            return bytes(result)
        raise TypeError(f"the archive's output must be str or bytes, not {type(result).__name__}")


class Service:
    """The two routes over a handler that is loaded in the background."""

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
        self.handler: Handler | None = None
        self.failure: str | None = None
        # One thread: handlers need not be thread-safe, and some libraries tie state to the thread that loaded them.
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="handler")

    def load(self) -> None:
        """Load the model, or keep the reason why it cannot be."""
        try:
            self.handler = Handler(self.model_dir)
            log.info("model loaded from %s", self.model_dir)
        except BaseException as error:
            if not isinstance(error, ModelLoadError):
                log.exception("model_fn or the import of code/inference.py failed")
            self.failure = str(error) if isinstance(error, ModelLoadError) else f"{type(error).__name__}: {error}"
            log.error("the model could not be loaded: %s", self.failure)

    async def ping(self, _request: Request) -> Response:
        """Say whether the model is loaded."""
        if self.failure is not None:
            return _error(500, "the model could not be loaded; the log has the reason")
        return Response(status_code=200) if self.handler else _error(503, "the model is being loaded")

    async def invocations(self, request: Request) -> Response:
        """Hand one request to the archive's functions."""
        if self.handler is None:
            return await self.ping(request)
        body = await request.body()
        content_type = request.headers.get("content-type") or JSON_TYPE
        accept = request.headers.get("accept") or JSON_TYPE
        if accept == "*/*":
            accept = JSON_TYPE
        try:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self.worker, self.handler, body, content_type, accept)
        except ValueError as error:
            log.warning("refused a request: %s", error)
            return _error(400, str(error))
        except Exception as error:
            log.exception("the handler failed")
            return _error(500, f"the handler failed with {type(error).__name__}; the log has the traceback")
        return Response(answer, headers={"content-type": accept})


def _error(status: int, message: str) -> Response:
    return JSONResponse({"code": status, "message": message}, status_code=status)


def create_app(model_dir: Path) -> Starlette:
    """Return the application; the model starts to load when the application starts."""
    service = Service(model_dir)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        service.worker.submit(service.load)
        yield

    routes = [
        Route("/ping", service.ping, methods=["GET"]),
        Route("/invocations", service.invocations, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def main(argv: list[str] | None = None) -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--model-dir", type=Path, default=Path("/opt/ml/model"), help="folder with the unpacked archive"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (0.0.0.0 inside a container)")
    parser.add_argument("--port", type=int, default=int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")))
    parser.add_argument("--fd", type=int, help="file descriptor of a listening socket, instead of --host and --port")
    options = parser.parse_args(argv)
    if not options.model_dir.is_dir():
        parser.error(f"--model-dir {options.model_dir}: there is no such folder")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        create_app(options.model_dir.resolve()),
        host=options.host,
        port=options.port,
        loop="asyncio",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=3,
    )
    sockets = [socket.socket(fileno=options.fd)] if options.fd is not None else None
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=sockets)
    # Not a plain return: a handler that never returns would keep the interpreter from ending.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
