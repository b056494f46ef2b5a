"""Puts questions to the official handler service, as the model server's worker does.

Run as ``python -I in_toolkit.py job.json out.json`` in a folder outside the project. Each case of the job names a model
folder, environment variables and requests, and gets a process of its own, forked once the toolkit is loaded.
"""

import importlib.metadata
import json
import os
import sys
import traceback
import uuid
from pathlib import Path
from typing import Any

import mms
import torch
import transformers
from mms.context import Context, RequestProcessor
from mms.metrics.metrics_store import MetricsStore
from mms.service import PredictionException
from sagemaker_huggingface_inference_toolkit import handler_service


def main(job_file: str, out_file: str) -> None:
    """Run every case, one after another."""
    torch.set_num_threads(1)
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    result = {"versions": versions(), "cases": {name: in_child(case) for name, case in job.items()}}
    Path(out_file).write_text(json.dumps(result), encoding="utf-8")


def versions() -> dict[str, Any]:
    """Say which libraries these are, and where they lie."""
    names = ["transformers", "tokenizers", "huggingface_hub", "torch", "numpy", "multi-model-server"]
    names += ["sagemaker-huggingface-inference-toolkit", "sagemaker-inference"]
    files = {"transformers": transformers.__file__, "torch": torch.__file__, "toolkit": handler_service.__file__}
    return {"version": {name: importlib.metadata.version(name) for name in names}, "file": files}


def in_child(case: dict[str, Any]) -> Any:
    """Run one case in a forked process, and return what it wrote."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            answer = ask(case)
        except BaseException:  # noqa: BLE001 - the parent shows it
            answer = [{"crash": traceback.format_exc()}]
        with os.fdopen(writing, "w") as stream:
            json.dump(answer, stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else [{"crash": f"the process ended with status {status}"}]


def ask(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Load a model and put its requests; the answers have a status, a content type and a body."""
    os.environ.update(case["environment"])
    context = Context("model", case["folder"], None, 1, None, mms.__version__)
    context.metrics = MetricsStore([uuid.uuid4()], "model")
    handler = handler_service.HuggingFaceHandlerService()
    try:
        handler.initialize(context)
    except Exception:  # noqa: BLE001 - the model server logs it, and the first request tries again
        traceback.print_exc()
    answers = []
    for request in case["requests"]:
        headers = {"Content-Type": request["content_type"], "Accept": request["accept"]}
        context.request_processor = [RequestProcessor(headers)]
        try:
            (body,) = handler.handle([{"body": request["body"].encode("utf-8", "surrogateescape")}], context)
        except PredictionException as error:
            answers.append({"status": error.error_code, "body": error.message})
        else:
            kind = context.get_response_headers(0).get("content-type")
            answers.append({"status": 200, "content_type": kind, "body": body})
    return answers


if __name__ == "__main__":
    main(*sys.argv[1:])
