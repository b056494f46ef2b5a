"""The embedded SageMaker's training jobs: real server, real child processes, MiniStack for S3, IAM and the logs."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.sagemaker import BUCKET, SIGNED, Aws, SageMaker, client, eventually, refused

pytestmark = pytest.mark.slow

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu-py312"

#: Looks at what SageMaker's containers have, and does as its hyperparameters say. It counts to "steps", keeping the
#: count as a checkpoint; SIGTERM has it write one more file there and leave.
SCRIPT = """
import json, os, pathlib, signal, subprocess, sys, time
given = json.loads(pathlib.Path(os.environ["SM_INPUT_CONFIG_DIR"], "hyperparameters.json").read_text())
model = pathlib.Path(os.environ["SM_MODEL_DIR"])
checkpoints = model.parent / "checkpoints"
def asked_to_stop(*_):
    (checkpoints / "saved-at-sigterm").write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, asked_to_stop)
if "child" in given:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "left-behind"], start_new_session=True)
if "fail" in given:
    if given["fail"] == "file":
        (model.parent / "output" / "failure").write_text("the loss is no number")
    print("something went wrong"); sys.exit(3)
count = checkpoints / "count"
first = int(count.read_text()) if count.exists() else 0
steps = int(given.get("steps", "1"))
if "endless" in given:  # until it is interrupted: what goes on from a checkpoint ends soon
    steps = first + 3 if first else 10**6
for step in range(first, steps):
    print("step", step, flush=True)
    draft = count.with_name(".count")  # a kill in the middle of writing leaves the one before
    draft.write_text(str(step + 1))
    draft.replace(count)
    time.sleep(float(given.get("pause", "0")))
seen = {name: value for name, value in os.environ.items() if name.startswith(("SM_", "AWS_", "TRAINING_"))}
config = pathlib.Path(os.environ["SM_INPUT_CONFIG_DIR"])
seen["files"] = {path.name: json.loads(path.read_text()) for path in config.glob("*.json")}
seen["data"] = pathlib.Path(os.environ["SM_CHANNEL_DATASET"], "deep", "rows.txt").read_text()
seen["first"], seen["arguments"] = first, sys.argv[1:]
(model / "seen.json").write_text(json.dumps(seen))
print("done")
"""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    aws = Aws(tmp_path_factory.mktemp("aws"))
    aws.s3.put_object(Bucket=BUCKET, Key="code/train.py", Body=SCRIPT)
    aws.s3.put_object(Bucket=BUCKET, Key="dataset/deep/rows.txt", Body=b"rows")
    yield aws
    aws.stop()


@pytest.fixture(scope="module")
def sagemaker(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SageMaker]:
    sagemaker = SageMaker(aws, tmp_path_factory.mktemp("sagemaker"))
    yield sagemaker
    sagemaker.stop()


def channel(name: str, prefix: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{prefix}", "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def request(aws: Aws, name: str, *, spot: bool = False, runtime: int = 300, **hyperparameters: str) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/bash"],
            "ContainerArguments": ["-c", "python3 /opt/ml/input/data/code/train.py --hello && echo ended"],
        },
        "RoleArn": aws.role,
        "InputDataConfig": [channel("dataset", "dataset"), channel("code", "code")],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": runtime},
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints/{name}"},
        "HyperParameters": hyperparameters,
        "Tags": [{"Key": "askline:managed", "Value": "true"}],
    }
    if spot:
        asked["EnableManagedSpotTraining"] = True
        asked["StoppingCondition"]["MaxWaitTimeInSeconds"] = runtime
    return asked


def ended(sagemaker: SageMaker, name: str, seconds: float = 120) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = sagemaker.api.describe_training_job(TrainingJobName=name)
        return found if found["TrainingJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return dict(eventually(look, seconds))


def training(sagemaker: SageMaker, aws: Aws, name: str) -> None:
    """Wait until a job has put its first checkpoint into S3."""
    eventually(lambda: aws.keys(f"checkpoints/{name}/count"))


def history(job: dict[str, Any]) -> list[str]:
    return [entry["Status"] for entry in job["SecondaryStatusTransitions"]]


def model(aws: Aws, job: dict[str, Any]) -> dict[str, Any]:
    key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/")
    with tarfile.open(fileobj=io.BytesIO(aws.read(key))) as tar:
        file = tar.extractfile("seen.json")
        assert file is not None
        return dict(json.load(file))


def log_of(aws: Aws, name: str) -> list[str]:
    logs = client("logs", aws.url)
    streams = logs.describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{name}/algo-1-"
    )
    return [
        event["message"]
        for stream in streams["logStreams"]
        for event in logs.get_log_events(
            logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=stream["logStreamName"], startFromHead=True
        )["events"]
    ]


def left_behind() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "left-behind" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_job_runs_with_the_containers_conventions_and_leaves_its_model(aws: Aws, sagemaker: SageMaker) -> None:
    arn = sagemaker.api.create_training_job(**request(aws, "whole", steps="2", rate="0.1"))["TrainingJobArn"]
    with refused("ResourceInUse", "already exists"):
        sagemaker.api.create_training_job(**request(aws, "whole"))

    job = ended(sagemaker, "whole")

    assert job["TrainingJobStatus"] == job["SecondaryStatus"] == "Completed", job
    assert history(job) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert all("EndTime" in entry for entry in job["SecondaryStatusTransitions"])
    assert job["TrainingStartTime"] <= job["TrainingEndTime"]
    seen = model(aws, job)
    folder = str(sagemaker.state / "training" / "whole" / "ml")
    assert (seen["SM_MODEL_DIR"], seen["SM_CHANNEL_DATASET"]) == (f"{folder}/model", f"{folder}/input/data/dataset")
    assert (seen["TRAINING_JOB_NAME"], seen["TRAINING_JOB_ARN"], seen["SM_CURRENT_HOST"]) == ("whole", arn, "algo-1")
    assert (seen["data"], seen["arguments"], seen["SM_HP_RATE"]) == ("rows", ["--hello"], "0.1")
    assert seen["files"]["hyperparameters.json"] == {"steps": "2", "rate": "0.1"}
    assert seen["files"]["resourceconfig.json"]["hosts"] == ["algo-1"]
    assert set(seen["files"]["inputdataconfig.json"]) == {"dataset", "code"}
    # The container has the keys of nobody, and its folder is gone.
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(seen)
    assert not Path(folder).exists()
    assert log_of(aws, "whole") == ["step 0", "step 1", "done", "ended"]
    assert aws.read("checkpoints/whole/count") == b"2"
    tags = sagemaker.api.list_tags(ResourceArn=arn)["Tags"]
    assert tags == [{"Key": "askline:managed", "Value": "true"}]


def test_a_failing_script_says_why(aws: Aws, sagemaker: SageMaker) -> None:
    for name, how in (("with-file", "file"), ("with-log", "log")):
        sagemaker.api.create_training_job(**request(aws, name, fail=how))
    said, logged = ended(sagemaker, "with-file"), ended(sagemaker, "with-log")
    assert said["TrainingJobStatus"] == logged["TrainingJobStatus"] == "Failed"
    assert said["FailureReason"] == "AlgorithmError: the loss is no number, exit code: 3"
    assert logged["FailureReason"] == "AlgorithmError: something went wrong, exit code: 3"
    assert "ModelArtifacts" not in said
    listed = sagemaker.api.list_training_jobs(NameContains="with-", StatusEquals="Failed", SortBy="Name")
    names = [found["TrainingJobName"] for found in listed["TrainingJobSummaries"]]
    assert names == ["with-log", "with-file"]
    first = sagemaker.api.list_training_jobs(NameContains="with-", MaxResults=1)
    second = sagemaker.api.list_training_jobs(NameContains="with-", MaxResults=1, NextToken=first["NextToken"])
    assert [len(page["TrainingJobSummaries"]) for page in (first, second)] == [1, 1]
    assert "NextToken" not in second


def test_stopping_lets_the_script_save(aws: Aws, sagemaker: SageMaker) -> None:
    sagemaker.api.create_training_job(**request(aws, "stopped", endless="1", pause="0.1", child="1"))
    training(sagemaker, aws, "stopped")
    assert len(left_behind()) == 1
    sagemaker.api.stop_training_job(TrainingJobName="stopped")
    assert sagemaker.api.describe_training_job(TrainingJobName="stopped")["TrainingJobStatus"] == "Stopping"
    job = ended(sagemaker, "stopped")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert aws.read("checkpoints/stopped/saved-at-sigterm") == b"saved"
    assert not left_behind()
    with refused("ValidationException", "in status Stopped"):
        sagemaker.api.stop_training_job(TrainingJobName="stopped")


def test_a_job_that_takes_too_long_is_stopped_with_the_reason(aws: Aws, sagemaker: SageMaker) -> None:
    sagemaker.api.create_training_job(**request(aws, "slow", runtime=1, endless="1", pause="0.1"))
    job = ended(sagemaker, "slow")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_a_spot_job_goes_on_after_an_interruption(aws: Aws, sagemaker: SageMaker) -> None:
    knob = f"{sagemaker.url}/_askline/training-jobs/{{}}/interrupt"
    sagemaker.api.create_training_job(**request(aws, "spot", spot=True, endless="1", pause="0.1"))
    training(sagemaker, aws, "spot")
    assert httpx.post(knob.format("spot"), headers=SIGNED, trust_env=False).status_code == 200
    job = ended(sagemaker, "spot")
    assert job["TrainingJobStatus"] == "Completed", job
    assert [s for s in history(job) if s != "Downloading"] == [
        *("Starting", "Training", "Interrupted", "Restarting", "Starting", "Training", "Uploading", "Completed")
    ]
    assert model(aws, job)["first"] > 0
    assert sum(line == "step 0" for line in log_of(aws, "spot")) == 1
    sagemaker.api.create_training_job(**request(aws, "not-on-spot"))
    ended(sagemaker, "not-on-spot")
    assert "not on a spot instance" in httpx.post(knob.format("not-on-spot"), headers=SIGNED, trust_env=False).text


def test_jobs_survive_a_killed_server_and_nothing_of_them_does(aws: Aws, tmp_path: Path) -> None:
    server = SageMaker(aws, tmp_path)
    try:
        server.api.create_training_job(**request(aws, "survivor", endless="1", pause="0.1", child="1"))
        training(server, aws, "survivor")
        assert len(left_behind()) == 1
        inside = server.containers()
        server.kill()
        _gone, alive = psutil.wait_procs(inside, timeout=60)
        assert not alive
        eventually(lambda: not left_behind())
        server.start()
        job = ended(server, "survivor")
        assert job["TrainingJobStatus"] == "Completed", job
        assert "Interrupted" in history(job)
        assert model(aws, job)["first"] > 0
        server.stop()
    finally:
        server.process.kill()
    assert not left_behind()


def test_wrong_requests_are_refused(aws: Aws, sagemaker: SageMaker) -> None:
    create = sagemaker.api.create_training_job
    good = request(aws, "wrong")
    with refused("ValidationException", "Could not access model data"):
        create(**good | {"RoleArn": aws.untrusted})
    with refused("ValidationException", "No S3 objects found"):
        create(**good | {"InputDataConfig": [channel("dataset", "nothing-here")]})
    with refused("ValidationException", "InstanceCount must be 1"):
        create(**good | {"ResourceConfig": good["ResourceConfig"] | {"InstanceCount": 2}})
    with refused("ValidationException", "MaxWaitTimeInSeconds"):
        create(**good | {"EnableManagedSpotTraining": True})
    with refused("ValidationException", "enum value set"):
        create(**good | {"ResourceConfig": good["ResourceConfig"] | {"InstanceType": "ml.abacus.large"}})
    with refused("ValidationException", "Channel names must be unique"):
        create(**good | {"InputDataConfig": [channel("dataset", "dataset"), channel("dataset", "code")]})
    with refused("ValidationException", "Requested resource not found"):
        sagemaker.api.describe_training_job(TrainingJobName="wrong")
