"""What the Hugging Face inference containers look for in an archive's ``code/inference.py``, and call.

=============================================  =======================================================================
``model_fn(model_dir)``                        needed: loads the model, once
``input_fn(data, content_type)``               default: JSON
``predict_fn(data, model)``                    default: ``model(data["inputs"], **data["parameters"])``
``output_fn(prediction, accept)``              default: JSON
``transform_fn(model, data, content_type, accept)``  instead of the three above
=============================================  =======================================================================

Each may take one more positional argument, ``context``, whose ``system_properties`` hold ``model_dir`` and ``gpu_id``.
"""

import importlib.util
import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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
        start = time.monotonic()
        module = import_handlers(model_dir)
        self.import_seconds = time.monotonic() - start
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
        start = time.monotonic()
        self.model = self._with_context(module.model_fn, 1)(str(model_dir))
        self.load_seconds = time.monotonic() - start

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
