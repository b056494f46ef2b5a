"""Training in a SageMaker job: the SDK's ModelTrainer against the embedded cloud; how a job is found and followed."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.tiny_datasets import UNANSWERABLE, small_rows, write_dataset

from askline.clients import aws_client
from askline.config import ClusterConfig, DeployConfig, PipelineConfig, TrainingConfig
from askline.errors import ConfigError, TrainingError, TrainingStoppedError
from askline.records import Target
from askline.store import ArtifactStore
from tasks.aws.training_role import ensure_local_training_role
from tasks.fine_tune.fine_tune import fine_tune
from tasks.fine_tune.job import TrainingJob
from tasks.fine_tune.launch.sagemaker_job import (
    for_container,
    longest_wait,
    lost_its_model,
    running_or_done,
    training_image,
)
from tasks.fine_tune.launch.sagemaker_log import follow
from tasks.fine_tune.launch.sagemaker_session import sdk_session
from tasks.fine_tune.launch.sagemaker_source import write_source
from tasks.fine_tune.launch.where import train_where
from tasks.fine_tune.recipe import resolve_recipe
from tasks.workplace import Workplace

REPOSITORY = Path(__file__).parents[2]
ROLE = "arn:aws:iam::123456789012:role/trainer"


def job(folder: Path, **options: Any) -> TrainingJob:
    config = TrainingConfig(max_steps=6, batch_size=8, **options)
    return TrainingJob(
        dataset=folder / "dataset",
        base=None,
        config=config,
        recipe=resolve_recipe(config, rows=24, has_out_of_scope=True),
        unanswerable=UNANSWERABLE,
        checkpoints=folder / "key",
        output=folder / "model",
    )


# --- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_outlives_a_killed_run_and_the_next_run_takes_its_model(cloud: Target, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    dataset = write_dataset(store, small_rows())
    config = TrainingConfig(
        max_steps=8,
        batch_size=8,
        checkpoint_steps=3,
        where="sagemaker",
        cluster=ClusterConfig(spot=True, prefix="jobs/of-a-test"),
    )
    arguments = {"config": config, "dataset": dataset, "target": cloud}
    given = {name: value.model_dump_json() for name, value in arguments.items()}
    script = """
import json, sys
from pathlib import Path
from askline.config import TrainingConfig
from askline.records import DatasetRef, Target
from askline.store import ArtifactStore
from tasks.fine_tune.fine_tune import fine_tune
from tasks.workplace import Workplace
given, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
fine_tune(TrainingConfig.model_validate_json(given["config"]), DatasetRef.model_validate_json(given["dataset"]),
          place=Workplace(Target.model_validate_json(given["target"]), folder, store=ArtifactStore(folder / "store")))
"""
    command = [sys.executable, "-c", script, json.dumps(given), str(tmp_path)]
    first = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ})
    client = aws_client(cloud, "sagemaker")
    try:
        deadline = time.monotonic() + 240
        while not (listed := client.list_training_jobs(NameContains="askline-")["TrainingJobSummaries"]):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        first.kill()
        first.wait()
    told: list[str] = []

    model = fine_tune(
        config,
        dataset,
        place=Workplace(cloud, tmp_path, store=store, progress=lambda share, message="": told.append(message)),
    )

    after = client.list_training_jobs(NameContains="askline-")["TrainingJobSummaries"]
    assert [found["TrainingJobName"] for found in after] == [listed[0]["TrainingJobName"]]
    assert any("is there already" in message for message in told)
    assert any(message.startswith("step 8/8") for message in told), told
    assert model.steps == 8
    files = {path.name for path in store.verify("model", model.sha256).iterdir()}
    assert {"model.safetensors", "askline.json", "spiece.model"} <= files
    assert "result.json" not in files

    asked = client.describe_training_job(TrainingJobName=listed[0]["TrainingJobName"])
    assert asked["EnableManagedSpotTraining"] is True
    assert asked["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert {channel["ChannelName"] for channel in asked["InputDataConfig"]} == {"dataset", "code", "sm_drivers"}
    assert asked["AlgorithmSpecification"]["TrainingImage"] == training_image("us-east-1", ClusterConfig())
    tags = client.list_tags(ResourceArn=asked["TrainingJobArn"])["Tags"]
    assert {"Key": "askline:managed", "Value": "true"} in tags
    # The code that travelled is the project's own, and no key is in it.
    s3, address = aws_client(cloud, "s3"), asked["InputDataConfig"]
    code = next(c for c in address if c["ChannelName"] == "code")["DataSource"]["S3DataSource"]["S3Uri"]
    bucket, _, prefix = code.removeprefix("s3://").partition("/")
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
    assert {key.removeprefix(prefix + "/").partition("/")[0] for key in keys} == {
        *("askline", "inference", "tasks", "train.py", "job.json")
    }


# --- following --------------------------------------------------------------------------------------------------------


def create(cloud: Target, name: str, command: str) -> None:
    """Create a job that runs a shell command, without torch."""
    s3 = aws_client(cloud, "s3")
    s3.create_bucket(Bucket="training-follow")
    s3.put_object(Bucket="training-follow", Key="in/rows.txt", Body=b"rows")
    role = ensure_local_training_role("training-follow", target=cloud, tags={})
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://training-follow/in"}
    aws_client(cloud, "sagemaker").create_training_job(
        TrainingJobName=name,
        RoleArn=role,
        AlgorithmSpecification={
            "TrainingImage": training_image("us-east-1", ClusterConfig()),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/bash"],
            "ContainerArguments": ["-c", command],
        },
        InputDataConfig=[{"ChannelName": "dataset", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": "s3://training-follow/out"},
        ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10},
        StoppingCondition={"MaxRuntimeInSeconds": 300},
    )


def said(**event: object) -> str:
    return "echo '" + json.dumps({"askline_training": event}) + "'"


@pytest.mark.slow
def test_progress_comes_out_of_the_log_and_an_interrupt_stops_the_job(cloud: Target) -> None:
    create(
        cloud, "interrupted", f"{said(share=0.5, message='step 1/2')}; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    )

    def progress(share: float, message: str = "") -> None:
        if message == "step 1/2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow("interrupted", target=cloud, progress=progress)
    with pytest.raises(TrainingStoppedError, match=r"interrupted was stopped \(Stopped\)"):
        follow("interrupted", target=cloud, progress=lambda share, message="": None)


@pytest.mark.slow
def test_a_failed_job_gives_the_message_of_its_process_or_sagemakers_reason(cloud: Target) -> None:
    create(cloud, "with-words", f"{said(error='the loss is nan at step 3', expected=True)}; exit 1")
    create(cloud, "without-words", "echo 'no such module' > /opt/ml/output/failure; exit 7")
    with pytest.raises(TrainingError, match=r"^the loss is nan at step 3$"):
        follow("with-words", target=cloud, progress=lambda share, message="": None)
    with pytest.raises(TrainingError, match=r"without-words failed: AlgorithmError: no such module, exit code: 7"):
        follow("without-words", target=cloud, progress=lambda share, message="": None)


# --- finding ----------------------------------------------------------------------------------------------------------


class Listed:
    """Answers list_training_jobs as boto3's paginator does."""

    def __init__(self, *jobs: tuple[str, str]) -> None:
        self._jobs = jobs

    def get_paginator(self, operation: str) -> "Listed":
        assert operation == "list_training_jobs"
        return self

    def paginate(self, **_asked: object) -> list[dict[str, Any]]:
        now = datetime.now(UTC)
        return [
            {"TrainingJobSummaries": [{"TrainingJobName": name, "TrainingJobStatus": status, "CreationTime": now}]}
            for name, status in self._jobs
        ]


def test_a_running_job_goes_before_a_completed_one_and_a_failed_one_is_left() -> None:
    jobs = [("askline-a-1", "Failed"), ("askline-a-2", "Completed"), ("askline-a-3", "InProgress")]
    assert running_or_done(Listed(*jobs), "askline-a") == "askline-a-3"
    assert running_or_done(Listed(*jobs[:2]), "askline-a") == "askline-a-2"
    assert running_or_done(Listed(jobs[0], ("askline-a-4", "Stopped")), "askline-a") is None
    assert running_or_done(Listed(("other-askline-a-5", "Completed")), "askline-a") is None


@pytest.mark.slow
def test_a_completed_job_whose_model_was_deleted_is_not_taken(cloud: Target) -> None:
    create(cloud, "completed", "echo weights > /opt/ml/model/weights && echo 'done'")
    done = follow("completed", target=cloud, progress=lambda share, message="": None)
    client, s3 = aws_client(cloud, "sagemaker"), aws_client(cloud, "s3")
    assert not lost_its_model("completed", client, s3)
    bucket, _, key = done["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    s3.delete_object(Bucket=bucket, Key=key)
    assert lost_its_model("completed", client, s3)


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_exactly_the_modules_that_train_travel(tmp_path: Path) -> None:
    write_source(job(tmp_path), tmp_path, install=True)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "train.py",
        "job.json",
        "requirements.txt",
        "tasks/fine_tune/launch/entry.py",
        "tasks/fine_tune/loop.py",
    } <= names
    assert not [name for name in names if "sagemaker" in name or name.startswith(("flows", "local_cloud", "tests"))]
    requirements = (tmp_path / "requirements.txt").read_text().splitlines()
    assert {"transformers", "accelerate", "pydantic"} <= {line.partition("==")[0] for line in requirements}
    assert not [line for line in requirements if line.startswith(("torch==", "boto3", "askline"))]
    # It runs from that folder alone, with nothing of ours on the path.
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import sys; sys.path[0:0] = ['.']; import tasks.fine_tune.launch.entry as e; print(e.__file__)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).resolve() == (tmp_path / "tasks/fine_tune/launch/entry.py").resolve()


def test_the_container_is_told_of_no_place_but_its_own(tmp_path: Path) -> None:
    elsewhere = "s3://shared/checkpoints"
    asked = job(tmp_path, checkpoint_store=elsewhere).model_copy(
        update={"checkpoint_store": f"{elsewhere}/key", "events": tmp_path / "tensorboard"}
    )
    travels = for_container(asked).model_dump_json()
    assert elsewhere not in travels, "SageMaker keeps the job's checkpoints, with the role's rights"
    assert str(tmp_path) not in travels


def test_the_sdk_calls_the_embedded_cloud_and_nobody_else() -> None:
    here = Target(kind="local", region="us-east-1", endpoints={"s3": "http://127.0.0.1:1", "sts": "http://127.0.0.1:2"})
    session = sdk_session(here, "bucket")
    assert (
        session.s3_client.meta.endpoint_url == session.s3_resource.meta.client.meta.endpoint_url == "http://127.0.0.1:1"
    )
    # The address of STS stands in the SDK; the session gives ours all the same.
    client = session.boto_session.client("sts", endpoint_url="https://sts.us-east-1.amazonaws.com")
    assert client.meta.endpoint_url == "http://127.0.0.1:2"
    assert session.sagemaker_client.meta.endpoint_url == "http://127.0.0.1:9"
    assert session.sagemaker_config["SageMaker"]["PythonSDK"]["Modules"]["TelemetryOptOut"] is True


def test_what_cannot_work_is_refused_early(tmp_path: Path) -> None:
    aws = Target(kind="aws", region="us-east-1")
    with pytest.raises(ConfigError, match=r"training\.cluster\.role_arn"):
        train_where(job(tmp_path, where="sagemaker"), place=Workplace(aws))
    with pytest.raises(ConfigError, match=r"no Hugging Face training image for ml\.g5\.xlarge in xx-nowhere-1"):
        training_image("xx-nowhere-1", ClusterConfig())
    with pytest.raises(ValueError, match="max_wait_seconds includes the training"):
        ClusterConfig(max_runtime_seconds=3600, max_wait_seconds=600)
    assert longest_wait(ClusterConfig(max_runtime_seconds=3600)) == 7200
    assert longest_wait(ClusterConfig(max_runtime_seconds=2_000_000)) == 2_419_200


def test_the_endpoints_role_trains_too_where_no_other_is_given() -> None:
    deploy = DeployConfig(role_arn=ROLE)
    filled = PipelineConfig(training=TrainingConfig(where="sagemaker"), deploy=deploy)
    assert filled.training.cluster.role_arn == ROLE
    own = TrainingConfig(where="sagemaker", cluster=ClusterConfig(role_arn=ROLE + "-of-its-own"))
    assert PipelineConfig(training=own, deploy=deploy).training.cluster.role_arn == ROLE + "-of-its-own"
    assert PipelineConfig(deploy=deploy).training.cluster.role_arn is None
