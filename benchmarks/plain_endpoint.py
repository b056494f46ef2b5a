"""A serverless endpoint of the embedded cloud from a few lines of Python, and an API whose limits can be changed.

For load runs and failure tests: no training, no torch; the archive holds one ``code/inference.py``, is fetched from S3
and served by a real container, and the endpoint is reached through the registry like any other.
"""

import io
import json
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from askline.clients import aws_client
from askline.config import ApiConfig
from askline.records import ApiRef, Target
from local_cloud import control
from tasks.deploy_api import cloudformation
from tasks.deploy_api.deploy_api import deploy_api
from tasks.deploy_serverless import registry
from tasks.workplace import Workplace

#: An answer in the form of the packages that the pipeline builds, after as much work as a small model's.
ANSWERS = """
import hashlib
import json

def model_fn(model_dir):
    return "plain-1"

def predict_fn(data, model):
    text = data["inputs"]
    digest = hashlib.pbkdf2_hmac("sha256", text.encode(), b"askline", 4000).hex()
    return {"answers": [{"answer": f"{digest[:8]}: {text}", "confidence": 1.0}], "model_version": model}

def output_fn(prediction, accept):
    return json.dumps(prediction, ensure_ascii=False)
"""

#: What SageMaker asks of the name; the embedded one serves the archive itself.
IMAGE = "763104330519.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers4.49.0-cpu-py312"
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


@contextmanager
def embedded_cloud(state_dir: Path, **options: Any) -> Iterator[Target]:
    """Run an embedded cloud, without the Prefect server and the Hub, for as long as the block lasts."""
    try:
        yield control.up(state_dir, without=("prefect", "hub"), **options)
    finally:
        control.down(state_dir)


def archive(code: str) -> bytes:
    """Return a ``model.tar.gz`` with this ``code/inference.py`` and nothing else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(code.encode())
        tar.addfile(member, io.BytesIO(code.encode()))
    return buffer.getvalue()


class Bench:
    """Endpoints and APIs on one embedded cloud, made with the calls that AWS takes."""

    def __init__(self, target: Target, bucket: str = "askline-bench") -> None:
        self.target = target
        self.bucket = bucket
        self.sagemaker = aws_client(target, "sagemaker")
        self.made = 0
        aws_client(target, "s3").create_bucket(Bucket=bucket)
        role = aws_client(target, "iam").create_role(
            RoleName=f"{bucket}-serving", AssumeRolePolicyDocument=json.dumps(_TRUST)
        )
        self.role: str = role["Role"]["Arn"]

    def serve(
        self,
        mlkey: str,
        content: bytes,
        *,
        memory_mb: int = 1024,
        max_concurrency: int = 5,
        environment: dict[str, str] | None = None,
    ) -> str:
        """Create the MLKey's endpoint from an archive, or update it in place; return its name once it serves."""
        self.made += 1
        name, part = f"serv-hf-endpoint-{mlkey}", f"bench-{mlkey}-{self.made}"
        aws_client(self.target, "s3").put_object(Bucket=self.bucket, Key=f"{part}/model.tar.gz", Body=content)
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://{self.bucket}/{part}/model.tar.gz"}
        self.sagemaker.create_model(
            ModelName=part,
            ExecutionRoleArn=self.role,
            PrimaryContainer={**container, "Environment": environment or {}},
        )
        size = {"MemorySizeInMB": memory_mb, "MaxConcurrency": max_concurrency}
        variant = {"VariantName": "AllTraffic", "ModelName": part, "ServerlessConfig": size}
        self.sagemaker.create_endpoint_config(EndpointConfigName=part, ProductionVariants=[variant])
        there = self.sagemaker.list_endpoints(NameContains=name)["Endpoints"]
        if any(endpoint["EndpointName"] == name for endpoint in there):
            self.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=part)
        else:
            self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=part)
        self._wait_until_served(name, part)
        registry.promote(
            mlkey,
            endpoint=name,
            model_version=part,
            archive_sha256="0" * 64,
            dataset="none",
            exact_match=0.0,
            run_id="bench",
            target=self.target,
        )
        return name

    def invoke(self, mlkey: str, question: str) -> Any:
        """Ask the endpoint without the API and return what its container answered."""
        reply = aws_client(self.target, "sagemaker-runtime").invoke_endpoint(
            EndpointName=f"serv-hf-endpoint-{mlkey}",
            ContentType="application/json",
            Body=json.dumps({"inputs": question}),
        )
        return json.loads(reply["Body"].read())

    def _wait_until_served(self, name: str, config: str) -> None:
        deadline = time.monotonic() + 120
        while True:
            endpoint = self.sagemaker.describe_endpoint(EndpointName=name)
            if endpoint["EndpointStatus"] not in ("Creating", "Updating"):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} is still {endpoint['EndpointStatus']} after two minutes")
            time.sleep(0.1)
        if endpoint["EndpointStatus"] != "InService" or endpoint["EndpointConfigName"] != config:
            raise RuntimeError(f"{name} was not deployed: {endpoint.get('FailureReason', endpoint['EndpointStatus'])}")

    def api(self, stack_name: str, **parameters: str) -> ApiRef:
        """Deploy the API as the pipeline does, then set these of its template's parameters."""
        api = deploy_api(
            ApiConfig(stack_name=stack_name), bucket=self.bucket, prefix="api", tags={}, place=Workplace(self.target)
        )
        if parameters:
            self._set(stack_name, parameters)
        return api

    def _set(self, stack_name: str, parameters: dict[str, str]) -> None:
        client = aws_client(self.target, "cloudformation")
        stack = cloudformation.describe(client, stack_name)
        assert stack is not None
        kept = [item["ParameterKey"] for item in stack["Parameters"] if item["ParameterKey"] not in parameters]
        client.update_stack(
            StackName=stack_name,
            UsePreviousTemplate=True,
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                *({"ParameterKey": key, "UsePreviousValue": True} for key in kept),
                *({"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()),
            ],
        )
        client.get_waiter("stack_update_complete").wait(
            StackName=stack_name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
