"""Permissions for training in SageMaker and for a shared bucket: what is called is granted, and nothing is to spare."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from conftest import running_cloud
from support.checkpoints import write_checkpoint
from support.iam import Asked, Deployer, allows, asked_of
from support.tiny_datasets import small_rows, write_dataset
from test_iam import scope

from askline.clients import aws_client
from askline.command_line import load_config
from askline.config import PipelineConfig
from askline.errors import AsklineError
from askline.records import DatasetRef, ModelRef, Run, Target
from deployments.iam.files import policy_files
from tasks.aws.iam import Policy, Scope, Statement, scope_of
from tasks.aws.sharing import shared_places
from tasks.fine_tune.fine_tune import fine_tune
from tasks.fine_tune.launch.permissions import training_role_policy
from tasks.fine_tune.launch.sagemaker_session import sdk_session
from tasks.fine_tune.remote_checkpoints import CheckpointStore
from tasks.preflight.deployer import deployer_policies
from tasks.preflight.execution import execution_policy
from tasks.preflight.permissions import permission_checks
from tasks.workplace import Workplace, checkpoints_of, file_system_options, store_of

SAGEMAKER = ("--training.where", "sagemaker")


def names(found: Scope) -> set[str]:
    return {file.name for file in policy_files(found)}


def conditions(found: Scope) -> dict[str, dict[str, Any]]:
    policies = {policy.name: policy for policy in deployer_policies(found)}
    return {statement.sid: statement.condition for statement in policies["share"].statements}


# --- what is written for which options --------------------------------------------------------------------------------


def test_each_option_has_its_policy_and_without_them_nothing_changes() -> None:
    usual = {file.name: file.document for file in policy_files(scope())}
    own = "arn:aws:iam::123456789012:role/trainer"
    for options, more in {
        (*SAGEMAKER,): {"deployer-train.json"},
        (*SAGEMAKER, "--training.cluster.role-arn", own): {
            *("deployer-train.json", "training-role.json", "training-role-trust.json")
        },
        ("--artifact-store", "s3://shared/askline"): {"deployer-share.json"},
        ("--artifact-store", "/mnt/shared"): set(),
        ("--training.cluster.role-arn", own): set(),
    }.items():
        files = {file.name: file.document for file in policy_files(scope(*options))}
        assert files.keys() - usual.keys() == more, options
        changed = {name for name in usual if files[name] != usual[name]}
        assert changed == ({"execution-role.json"} if options == SAGEMAKER else set()), options


def test_the_endpoints_role_trains_with_what_it_lacks_for_it_and_no_statement_twice() -> None:
    usual, training = execution_policy(scope()), execution_policy(scope(*SAGEMAKER))
    assert training.statements[: len(usual.statements)] == usual.statements
    added = [statement.sid for statement in training.statements[len(usual.statements) :]]
    assert added == ["TrainRead", "TrainWrite", "TrainCheckpoints", "TrainPullImage", "TrainPutMetrics"]
    elsewhere = execution_policy(scope(*SAGEMAKER, "--training.cluster.bucket", "for-training"))
    assert "TrainList" in [statement.sid for statement in elsewhere.statements]


def test_a_place_in_another_is_shared_once_and_a_whole_bucket_without_a_condition() -> None:
    inside = scope("--artifact-store", "s3://shared/askline", "--training.checkpoint-store", "s3://shared/askline/kept")
    assert shared_places(inside) == {"shared": ("askline",)}
    beside = scope("--artifact-store", "s3://shared/askline", "--training.checkpoint-store", "s3://shared/askline-kept")
    assert shared_places(beside) == {"shared": ("askline", "askline-kept")}
    assert conditions(beside)["ShareList"] == {"StringLike": {"s3:prefix": ["askline/*", "askline-kept/*"]}}
    whole = scope("--artifact-store", "s3://shared", "--training.checkpoint-store", "s3://shared/kept")
    assert shared_places(whole) == {"shared": ("",)}
    assert conditions(whole) == {"ShareObjects": {}, "ShareList": {}}
    turned = scope("--artifact-store", "s3://shared/kept", "--training.checkpoint-store", "s3://shared")
    assert shared_places(turned) == {"shared": ("",)}


# --- what is called ---------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """An embedded cloud that enforces permissions, with a user who may train and share, and nothing else."""

    target: Target
    config: PipelineConfig
    scope: Scope
    deployer: Deployer
    folder: Path

    def run(self, machine: str) -> Run:
        """Return a run on a machine, which has a state folder of its own."""
        state, shared = self.folder / machine, self.config.artifact_store
        return Run(run_id="1", state_dir=state, target=self.target, artifact_store=shared)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("iam-training")
    options = ["--without", "prefect", "--without", "hub", "--enforce-iam"]
    with running_cloud(folder, *options) as target, pytest.MonkeyPatch.context() as environment:
        role = "arn:aws:iam::000000000000:role/"
        config = load_config(
            [
                *("--state-dir", str(folder), "--deploy.role-arn", role + "serves", *SAGEMAKER),
                *("--training.cluster.role-arn", role + "trains", "--training.cluster.prefix", "of/a-test"),
                *("--training.cluster.bucket", "iam-training", "--training.max-steps", "3"),
                *("--training.batch-size", "8", "--artifact-store", "s3://iam-shared/askline"),
            ]
        )
        found = scope_of(config)
        s3 = aws_client(target, "s3")
        s3.create_bucket(Bucket="iam-shared")
        s3.put_object(Bucket="iam-shared", Key="secrets.txt", Body=b"of somebody else")
        deployer = Deployer(target, found, only=("train", "share"))
        for name, value in deployer.keys.items():
            environment.setenv(name, value)
            environment.setenv(name.replace("ASKLINE_LOCAL_", "AWS_"), value)
        # So that other machines, too, find the embedded cloud's S3.
        environment.setenv("AWS_ENDPOINT_URL_S3", target.endpoints["s3"])
        yield Place(target, config, found, deployer, folder)


#: Calls that are not granted: what makes them goes on without an answer.
ASKED_IN_VAIN = {
    ("s3:ListAllMyBuckets", "*"): "the SDK looks among all buckets for its own, and then at that one",
    ("iam:SimulatePrincipalPolicy", "arn:aws:iam::000000000000:role/trains"): "the SDK asks whether the role may write "
    "to the bucket, and takes it for granted",
    ("s3:ListBucket", "arn:aws:s3:::iam-shared"): "s3fs looks at the bucket as a whole, and then where it lies",
    ("sts:GetCallerIdentity", "*"): "takes no permission",
}
#: Granted, and not called where nothing goes wrong.
WHEN_SOMETHING_GOES_WRONG = {
    "s3:AbortMultipartUpload": "an upload in parts that fails",
    "sagemaker:StopTrainingJob": "an interrupt, or two runs at the same moment",
}


def train(place: Place, dataset: DatasetRef, **options: Any) -> ModelRef:
    run = place.run("first")
    config = place.config.training.model_copy(update={"checkpoint_store": checkpoints_of(run), **options})
    return fine_tune(config, dataset, place=Workplace(place.target, place.folder / "first", store=store_of(run)))


def write_result(place: Place) -> None:
    """Keep a record as the pipeline's steps do, through Prefect."""
    from prefect.filesystems import RemoteFileSystem

    run = place.run("first")
    results = RemoteFileSystem(basepath=f"{run.artifact_store}/results", settings=file_system_options(run))
    results.write_path("deep/record", b"kept", _sync=True)
    assert results.read_path("deep/record", _sync=True) == b"kept"


def share_checkpoints(place: Place, name: str) -> None:
    """Keep three checkpoints where other machines find them, go on from them on another one, and clear up."""
    kept = CheckpointStore(f"{checkpoints_of(place.run('first'))}/{name}")
    for step in (1, 2, 3):
        kept.save_remote(write_checkpoint(place.folder / name, step))
    kept.wait()
    elsewhere = CheckpointStore(f"{checkpoints_of(place.run('second'))}/{name}")
    found = elsewhere.restore_remote(place.folder / f"{name}-elsewhere")
    assert found is not None, "no checkpoint is there"
    kept.remove()


def exchange_artifact(place: Place, name: str) -> None:
    """Keep an artifact on one machine and fetch it on another, where it turns out to be damaged."""
    first, second = store_of(place.run("first")), store_of(place.run("second"))
    with first.new("scores") as draft:
        (draft.folder / "scores.json").write_text(name)
        sha256 = draft.commit()
    assert second.verify("scores", sha256)
    assert second.shared is not None
    second.shared.forget("scores", sha256)
    assert not second.shared.has("scores", sha256)


@pytest.mark.slow
def test_what_training_and_sharing_call_is_granted_and_needed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with asked_of(place.scope) as asked:
        dataset = write_dataset(store_of(place.run("first")), small_rows())
        model = train(place, dataset)
        assert store_of(place.run("second")).verify("model", model.sha256)
        write_result(place)
        share_checkpoints(place, "shared")
        exchange_artifact(place, "shared")
    assert "could not be" not in caplog.text

    policies = place.deployer.policies
    assert {policy.name for policy in policies} == {"train", "share"}
    refused = {(each.action, each.resource) for each in asked if not allows(policies, each)}
    assert refused == ASKED_IN_VAIN.keys()
    granted = {action for policy in policies for statement in policy.statements for action in statement.actions}
    assert granted - {each.action for each in asked} == WHEN_SOMETHING_GOES_WRONG.keys()

    role_has_what_the_job_needs(place)
    no_statement_is_to_spare(place, dataset)
    code_may_go_beside_the_output(place, dataset)


def role_has_what_the_job_needs(place: Place) -> None:
    """Hold what SageMaker does with the role, by what the job was asked for and left in S3, against its policy."""
    sagemaker, s3 = (aws_client(place.target, name) for name in ("sagemaker", "s3"))
    name = sagemaker.list_training_jobs()["TrainingJobSummaries"][0]["TrainingJobName"]
    job = sagemaker.describe_training_job(TrainingJobName=name)
    assert job["RoleArn"].endswith("role/trains")
    sources = [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in job["InputDataConfig"]]
    kept, model = job["CheckpointConfig"]["S3Uri"], job["ModelArtifacts"]["S3ModelArtifacts"]
    listed = s3.list_objects_v2(Bucket="iam-training")["Contents"]
    policy = [training_role_policy(place.scope)]

    def may(action: str, uri: str) -> bool:
        return allows(policy, Asked(action, place.scope.s3(uri.removeprefix("s3://")), {}))

    keys = {f"s3://iam-training/{each['Key']}" for each in listed}
    read = {key for key in keys if key.startswith(tuple(f"{source}/" for source in sources))}
    assert len(read) > 3
    saved = {key for key in keys if key.startswith(f"{kept}/")}
    assert saved
    assert keys - read - saved == {model}
    assert all(may("s3:GetObject", key) for key in read)
    assert not any(may("s3:PutObject", key) or may("s3:DeleteObject", key) for key in read)
    assert may("s3:PutObject", model)
    assert all(may(f"s3:{verb}Object", key) for verb in ("Get", "Put", "Delete") for key in saved)
    assert may("s3:ListBucket", "s3://iam-training")
    assert not may("s3:GetObject", "s3://iam-training/elsewhere")
    log = place.scope.arn("logs", f"log-group:/aws/sagemaker/TrainingJobs:log-stream:{name}/algo-1")
    assert allows(policy, Asked("logs:PutLogEvents", log, {}))


def without(place: Place, sid: str, step: Callable[[], Any]) -> str:
    """Take a statement away, and return what the step says that fails for it."""
    place.deployer.allow(without=[sid])
    try:
        with pytest.raises((AsklineError, AssertionError, PermissionError)) as refused:
            step()
    finally:
        place.deployer.allow()
    return str(refused.value)


def statements_of(policies: Iterable[Policy], name: str) -> dict[str, Statement]:
    return {each.sid: each for policy in policies if policy.name == name for each in policy.statements}


def no_statement_is_to_spare(place: Place, dataset: DatasetRef) -> None:
    """Take each statement for training away, and see the step fail in words that name an action of it."""
    known = statements_of(place.deployer.policies, "train")
    # The same training is found again, and its model fetched; another one begins anew.
    needed: dict[str, dict[str, Any]] = {sid: {} for sid in ("TrainLook", "TrainJobs", "TrainModel")}
    needed |= {sid: {"seed": 7} for sid in ("TrainUpload", "TrainPassRole", "TrainJob")}
    for sid, options in needed.items():
        said = without(place, sid, lambda options=options: train(place, dataset, **options))
        assert any(action in said for action in known[sid].actions), f"{sid}: {said}"
    optional = {sid for sid, statement in known.items() if statement.without_it}
    assert optional == known.keys() - needed.keys() == {"TrainBucket", "TrainFollow"}


def code_may_go_beside_the_output(place: Place, dataset: DatasetRef) -> None:
    """Let the SDK ask whether the role may write to all of the bucket: it may not, and the code goes elsewhere."""
    ask = {"Effect": "Allow", "Action": "iam:SimulatePrincipalPolicy", "Resource": "arn:aws:iam::000000000000:role/*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [ask]})
    place.deployer.iam.put_user_policy(UserName=place.scope.user, PolicyName="ask", PolicyDocument=document)
    try:
        assert "sagemaker:CreateTrainingJob" in without(place, "TrainJob", lambda: train(place, dataset, seed=8))
    finally:
        place.deployer.iam.delete_user_policy(UserName=place.scope.user, PolicyName="ask")
    listed = aws_client(place.target, "s3").list_objects_v2(Bucket="iam-training")["Contents"]
    code = [each["Key"] for each in listed if each["Key"].endswith("/input/code/train.py")]
    moved = [key for key in code if "/output/of/a-test/" in key]
    assert moved
    assert moved != code
    role = [training_role_policy(place.scope)]
    assert all(allows(role, Asked("s3:GetObject", place.scope.s3(f"iam-training/{key}"), {})) for key in moved)


@pytest.mark.slow
def test_a_machine_that_lacks_a_statement_for_sharing_says_where_it_is_refused(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {
        "ShareObjects": (exchange_artifact, r"not allowed to look for scores \w+ in s3://iam-shared/askline"),
        "ShareList": (share_checkpoints, "s3:ListBucket"),
        "ShareBucket": (share_checkpoints, "no checkpoint is there"),
    }
    assert expected.keys() == statements_of(place.deployer.policies, "share").keys()
    for sid, (step, words) in expected.items():
        assert re.search(words, without(place, sid, lambda step=step, sid=sid: step(place, sid))), sid
    assert re.search(r"checkpoint could not be kept in s3://iam-shared/askline/checkpoints/ShareBucket", caplog.text)
    share_checkpoints(place, "again")


@pytest.mark.slow
def test_preflight_names_what_is_missing_for_training_and_sharing(place: Place) -> None:
    ask = {"Effect": "Allow", "Action": "iam:SimulatePrincipalPolicy", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [ask]})
    place.deployer.iam.put_user_policy(UserName=place.scope.user, PolicyName="ask", PolicyDocument=document)
    plan: Any = SimpleNamespace(serving=SimpleNamespace(role_arn=place.scope.role))  # all that is read of it
    asked = ("TrainJob", "TrainPassRole", "ShareList", "ShareObjects")

    def missing() -> set[str]:
        checks = list(permission_checks(place.config, plan, target=place.target))
        assert {check.passed for check in checks if check.name == "own permissions"} == {False}
        return set(re.findall(r"the statement ((?:Train|Share)\w+) of", " ".join(map(str, checks))))

    assert missing() == set()
    place.deployer.allow(without=asked)
    try:
        assert missing() == set(asked)
    finally:
        place.deployer.allow()
        place.deployer.iam.delete_user_policy(UserName=place.scope.user, PolicyName="ask")


@pytest.mark.slow
def test_nothing_beside_the_shared_folder_is_within_reach(place: Place) -> None:
    s3 = aws_client(place.target, "s3")
    assert s3.list_objects_v2(Bucket="iam-shared", Prefix="askline/")["ResponseMetadata"]["HTTPStatusCode"] == 200
    for call, arguments in (
        (s3.get_object, {"Bucket": "iam-shared", "Key": "secrets.txt"}),
        (s3.list_objects_v2, {"Bucket": "iam-shared"}),
        (s3.list_objects_v2, {"Bucket": "iam-shared", "Prefix": "ask"}),
        (s3.delete_object, {"Bucket": "iam-shared", "Key": "secrets.txt"}),
        (aws_client(place.target, "sagemaker").stop_training_job, {"TrainingJobName": "somebody-elses"}),
        (sdk_session(place.target, "iam-training").boto_session.client("iam").list_users, {}),
    ):
        with pytest.raises(Exception, match="AccessDenied"):
            call(**arguments)
