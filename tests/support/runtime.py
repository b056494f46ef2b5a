"""A SageMaker runtime of a few lines behind the embedded cloud's gateway, for tests of the API itself."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from askline.clients import aws_client
from askline.records import Target
from support.loopback import Reply, replying
from tasks.deploy_serverless import registry


def answering(*answers: str) -> Reply:
    """Return the reply of a package's endpoint."""
    body = {"answers": [{"answer": text, "confidence": 0.5} for text in answers], "model_version": "m-1"}
    return 200, {}, json.dumps(body).encode()


@contextlib.contextmanager
def runtime_behind(
    cloud: Target, *mlkeys: str, bucket: str, reply: Callable[[str, dict[str, Any]], Reply]
) -> Iterator[Target]:
    """Yield the cloud with a bucket and MLKeys whose endpoints reply as ``reply(mlkey, request)`` says."""

    def runtime(path: str, body: bytes) -> Reply:
        mlkey = path.removeprefix("/endpoints/serv-hf-endpoint-").removesuffix("/invocations")
        status, headers, content = reply(mlkey, json.loads(body))
        return status, {**headers, "Content-Type": "application/json"}, content

    with replying(runtime) as url:
        target = cloud.model_copy(update={"endpoints": {**cloud.endpoints, "sagemaker-runtime": url}})
        aws_client(target, "s3").create_bucket(Bucket=bucket)
        for mlkey in mlkeys:
            registry.promote(
                mlkey,
                endpoint=f"serv-hf-endpoint-{mlkey}",
                model_version="m-0",
                archive_sha256="0" * 64,
                dataset="d",
                exact_match=0.5,
                run_id="r",
                target=target,
            )
        yield target
