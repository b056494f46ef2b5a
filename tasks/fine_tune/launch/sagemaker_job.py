"""Training in a SageMaker training job: the same entry point, in a container.

The job is made by the SDK's ``ModelTrainer``, with its torchrun launcher. Its name starts with the key of the training
(configuration, base, dataset, code), so that the same training is found again: one that runs is followed, one that has
completed is taken as it is.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from askline.clients import aws_client
from askline.config import ClusterConfig
from askline.errors import ConfigError, PackageError, TrainingError
from askline.progress import part
from askline.records import Target
from askline.store import sha256_of_file
from tasks.aws.errors import code_of, explained, is_missing
from tasks.fine_tune.job import JobResult, TrainingJob
from tasks.fine_tune.launch.entry import RESULT
from tasks.fine_tune.launch.sagemaker_log import follow
from tasks.fine_tune.launch.sagemaker_session import sdk_session
from tasks.fine_tune.launch.sagemaker_source import ENTRY_SCRIPT, REQUIREMENTS, write_source
from tasks.fine_tune.launch.torchrun import JOB, check_divides
from tasks.package.archive import unpack
from tasks.workplace import Workplace

#: The newest Hugging Face training image in the SDK's table.
IMAGE = {"version": "5.3.0", "base_framework_version": "pytorch2.9.0", "py_version": "py312"}


def run_on_sagemaker(
    job: TrainingJob, *, place: Workplace, bucket: str, role_arn: str, tags: dict[str, str]
) -> JobResult:
    """Run the job on ``job.config.cluster``'s instances, and bring the model into ``job.output``.

    Parameters
    ----------
    job
        The name of its folder of checkpoints is the key of the training.
    bucket
        Takes the code, the input, the checkpoints and the output.
    role_arn
        Role that the job takes on.

    Raises
    ------
    TrainingError
        If training fails, or what comes back is not what the container wrote.
    TrainingStoppedError
        If the job was stopped.
    ConfigError
        If there is no image for the region.
    CloudError
        If AWS refuses or cannot be reached.
    """
    cluster, key = job.config.cluster, job.checkpoints.name
    target, progress = place.target, place.progress
    if cluster.processes is not None:
        check_divides(job.recipe.batch_size, cluster.processes * cluster.instance_count)
    client = aws_client(target, "sagemaker")
    base_name = f"askline-{key}"
    name = running_or_done(client, base_name)
    if name is not None and lost_its_model(name, client, aws_client(target, "s3")):
        name = None
    if name is None:
        progress(0.0, "uploading the dataset and the base")
        prefix = f"{cluster.prefix}/{key}"
        channels = _upload_inputs(job, target=target, bucket=bucket, prefix=f"{prefix}/input")
        progress(0.0, f"creating a training job on {cluster.instance_count} × {cluster.instance_type}")
        with explained("create the training job", advice=_ADVICE):
            _create(job, base_name, channels, target=target, bucket=bucket, prefix=prefix, role_arn=role_arn, tags=tags)
        name = _settle(client, base_name)
    else:
        progress(0.0, f"the training job {name} is there already")
    done = follow(name, target=target, progress=part(progress, 0.0, 0.98))
    return _fetch(done, job, target=target)


_ADVICE = {
    "ResourceLimitExceeded": "raise the quota of this instance for training jobs (Service Quotas; spot has one of its "
    "own), or choose another --training.cluster.instance-type"
}


def running_or_done(client: Any, base_name: str) -> str | None:
    """Return the name of the job of this training that runs, the oldest of several, or else of one that completed."""
    with explained(f"look for training jobs named {base_name}-…"):
        pages = client.get_paginator("list_training_jobs").paginate(
            NameContains=base_name, SortBy="CreationTime", SortOrder="Ascending"
        )
        found = [summary for page in pages for summary in page["TrainingJobSummaries"]]
    for status in ("InProgress", "Completed"):
        for summary in found:
            if summary["TrainingJobStatus"] == status and summary["TrainingJobName"].startswith(base_name):
                return str(summary["TrainingJobName"])
    return None


def lost_its_model(name: str, client: Any, s3: Any) -> bool:
    """Say whether a job has completed and its model has been deleted from S3 since."""
    from botocore.exceptions import ClientError

    with explained(f"look at the training job {name}"):
        job = client.describe_training_job(TrainingJobName=name)
        if job["TrainingJobStatus"] != "Completed":
            return False
        bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if not is_missing(error):
                raise
            return True
    return False


def _settle(client: Any, base_name: str) -> str:
    """Return the job to follow: where two runs made one each at the same moment, the older; the other is stopped."""
    from botocore.exceptions import ClientError

    with explained(f"look for training jobs named {base_name}-…"):
        found = client.list_training_jobs(
            NameContains=base_name, StatusEquals="InProgress", SortBy="CreationTime", SortOrder="Ascending"
        )["TrainingJobSummaries"]
    running = sorted(found, key=lambda job: (job["CreationTime"], job["TrainingJobName"]))
    for later in running[1:]:
        try:
            client.stop_training_job(TrainingJobName=later["TrainingJobName"])
        except ClientError as error:
            if code_of(error) != "ValidationException":  # it has ended
                raise
    if running:
        return str(running[0]["TrainingJobName"])
    done = running_or_done(client, base_name)
    if done is not None:
        return done
    newest = client.list_training_jobs(NameContains=base_name, SortBy="CreationTime", MaxResults=1)
    return str(newest["TrainingJobSummaries"][0]["TrainingJobName"])  # it failed at once: following it says why


def _upload_inputs(job: TrainingJob, *, target: Target, bucket: str, prefix: str) -> dict[str, str]:
    """Upload the dataset and the base, file by file, where they are not there; return address by channel."""
    s3 = aws_client(target, "s3")
    folders = {"dataset": job.dataset} | ({"base": job.base} if job.base is not None else {})
    for channel, folder in folders.items():
        with explained(f"upload the {channel} to s3://{bucket}/{prefix}/{channel}"):
            listed = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/{channel}/")
            there = {found["Key"]: found["Size"] for page in listed for found in page.get("Contents", [])}
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                key = f"{prefix}/{channel}/{path.relative_to(folder).as_posix()}"
                # The prefix stands for the content, and an object is there whole or not at all.
                if there.get(key) != path.stat().st_size:
                    s3.upload_file(str(path), bucket, key)
    return {channel: f"s3://{bucket}/{prefix}/{channel}" for channel in folders}


def _create(
    job: TrainingJob,
    base_name: str,
    channels: dict[str, str],
    *,
    target: Target,
    bucket: str,
    prefix: str,
    role_arn: str,
    tags: dict[str, str],
) -> None:
    cluster = job.config.cluster
    # SageMaker checks the role itself; the SDK's own check asks for more permissions than training takes.
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    from sagemaker.core.shapes import CheckpointConfig, OutputDataConfig, StoppingCondition, Tag
    from sagemaker.core.training.configs import Compute, InputData, SourceCode
    from sagemaker.train import ModelTrainer
    from sagemaker.train.distributed import Torchrun

    # The embedded cloud's containers are this Python: there is nothing to install.
    install = cluster.install and target.kind == "aws"
    checkpoints = cluster.checkpoint_uri or f"s3://{bucket}/{cluster.prefix}/checkpoints"
    with tempfile.TemporaryDirectory(prefix="askline-source-") as folder:
        write_source(for_container(job), Path(folder), install=install)
        trainer = ModelTrainer(
            sagemaker_session=sdk_session(target, bucket),
            role=role_arn,
            base_job_name=base_name,
            input_s3_key_prefix=prefix,
            training_image=cluster.image or training_image(target.region, cluster),
            source_code=SourceCode(
                source_dir=folder, entry_script=ENTRY_SCRIPT, requirements=REQUIREMENTS if install else None
            ),
            distributed=Torchrun(process_count_per_node=cluster.processes),
            compute=Compute(
                instance_type=cluster.instance_type,
                instance_count=cluster.instance_count,
                volume_size_in_gb=cluster.volume_gb,
                enable_managed_spot_training=cluster.spot or None,
            ),
            stopping_condition=StoppingCondition(
                max_runtime_in_seconds=cluster.max_runtime_seconds,
                **({"max_wait_time_in_seconds": longest_wait(cluster)} if cluster.spot else {}),
            ),
            output_data_config=OutputDataConfig(
                s3_output_path=f"s3://{bucket}/{prefix}/output", compression_type="GZIP"
            ),
            checkpoint_config=CheckpointConfig(
                s3_uri=f"{checkpoints.rstrip('/')}/{job.checkpoints.name}", local_path="/opt/ml/checkpoints"
            ),
            # "job" is read; the others are for whoever looks at the job in the console.
            hyperparameters={"job": JOB, "base": job.base_name, **job.recipe.model_dump(include=_SHOWN, mode="json")},
            environment={"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
            tags=[Tag(key=name, value=value) for name, value in tags.items()],
        )
        inputs = [InputData(channel_name=name, data_source=address) for name, address in channels.items()]
        trainer.train(input_data_config=inputs, wait=False, logs=False)


_SHOWN = {"steps", "batch_size", "learning_rate", "seed"}


def for_container(job: TrainingJob) -> TrainingJob:
    """Return the job without what belongs to this machine: its folders, and where it keeps checkpoints elsewhere."""
    config = job.config.model_copy(update={"checkpoint_store": None, "report_to": ()})
    nowhere = Path("container")
    return job.model_copy(
        update={
            "config": config,
            "dataset": nowhere,
            "base": nowhere if job.base is not None else None,
            "checkpoints": nowhere,
            "checkpoint_store": None,
            "output": nowhere,
            "events": None,
        }
    )


def longest_wait(cluster: ClusterConfig) -> int:
    """Return the longest time for waiting and training together, in seconds."""
    return cluster.max_wait_seconds or min(2 * cluster.max_runtime_seconds, 2_419_200)


def training_image(region: str, cluster: ClusterConfig) -> str:
    """Return the address of the Hugging Face training image in a region; the table travels with the SDK.

    Raises
    ------
    ConfigError
        If there is none for the region or the instance.
    """
    from sagemaker.core import image_uris

    try:
        return str(
            image_uris.retrieve(
                "huggingface",
                region=region,
                instance_type=cluster.instance_type,
                image_scope="training",
                **IMAGE,
            )
        )
    except ValueError as error:
        raise ConfigError(
            f"there is no Hugging Face training image for {cluster.instance_type} in {region}: choose an "
            "--training.cluster.instance-type with a GPU, or give --training.cluster.image"
        ) from error


def _fetch(done: dict[str, Any], job: TrainingJob, *, target: Target) -> JobResult:
    """Download the model, check each file against what the container wrote down, and unpack it into ``job.output``."""
    url = done["ModelArtifacts"]["S3ModelArtifacts"]
    bucket, _, key = url.removeprefix("s3://").partition("/")
    most = job.config.cluster.volume_gb * 10**9
    job.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="askline-model-", dir=job.output.parent) as scratch:
        archive, folder = Path(scratch, "model.tar.gz"), Path(scratch, "model")
        with explained(f"download {url}"):
            aws_client(target, "s3").download_file(bucket, key, str(archive))
        try:
            unpack(archive, folder, max_unpacked=most)
            facts = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            result = JobResult.model_validate(facts["result"])
            expected: dict[str, str] = facts["files"]
        except (PackageError, OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{url} is not a model that the training job wrote: {error}") from error
        (folder / RESULT).unlink()
        found = {
            path.relative_to(folder).as_posix(): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()
        }
        if found != expected:
            differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            raise TrainingError(f"{url} is damaged or was changed: {', '.join(differing)} differ from what was trained")
        for name in found:
            place = job.output / name
            place.parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(place)
    return result
