"""What is looked at before a deployment: each failure named with its remedy, all at once, and nothing touched."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import running_cloud
from support.clouds import deployed
from support.loopback import replying
from support.toy_archive import code, write_archive

from askline.clients import aws_client
from askline.command_line import load_config
from askline.config import PipelineConfig
from askline.errors import DeployError, PreflightError
from askline.records import DeployPlan, PackageRef, Preflight, PreflightCheck, Target
from askline.store import ArtifactStore, sha256_of_file
from tasks.aws.execution_role import TRUST
from tasks.deploy_serverless.plan import plan_deploy
from tasks.package.upload import upload_package
from tasks.preflight.account import trusts_sagemaker
from tasks.preflight.archive import archive_checks
from tasks.preflight.names import name_checks
from tasks.preflight.preflight import preflight, require
from tasks.preflight.quotas import other_names, quota_checks
from tasks.report import preflight as report
from tasks.workplace import Workplace

ROLE = "arn:aws:iam::000000000000:role/preflight-role"


def store_package(store: ArtifactStore, write: Callable[[Path], None], **facts: Any) -> PackageRef:
    """Keep an archive, good or bad."""
    with store.new("package") as draft:
        path = draft.folder / "model.tar.gz"
        write(path)
        about = {"archive_sha256": sha256_of_file(path), "size": path.stat().st_size, "unpacked_size": 1000, **facts}
        return PackageRef(sha256=draft.commit(), model_sha256="m" * 64, members=(), **about)


def write_good(path: Path) -> None:
    write_archive(path, code("good"))


class Place(NamedTuple):
    """An embedded cloud with an endpoint that answers."""

    target: Target
    folder: Path
    store: ArtifactStore
    package: PackageRef

    def config(self, *options: str) -> PipelineConfig:
        named = ["--state-dir", str(self.folder), "--deploy.mlkey", "preflight", "--deploy.role-arn", ROLE]
        return load_config([*named, *options])

    def plan(self, config: PipelineConfig) -> DeployPlan:
        return plan_deploy(config.deploy, config.package, self.package, target=self.target)

    def check(self, *options: str, package: PackageRef | None = None) -> Preflight:
        config = self.config(*options)
        return preflight(
            config,
            self.plan(config),
            package or self.package,
            place=Workplace(self.target, store=self.store),
        )

    def quotas(self, **values: float) -> None:
        (self.folder / "cloud" / "sagemaker" / "quotas.json").write_text(json.dumps(values))

    def answers(self) -> bool:
        runtime = aws_client(self.target, "sagemaker-runtime")
        reply = runtime.invoke_endpoint(
            EndpointName="serv-hf-endpoint-preflight", ContentType="application/json", Body=b'{"inputs": "you there"}'
        )
        return "good heard you there" in reply["Body"].read().decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("preflight")
    with running_cloud(folder, "--without", "prefect", "--without", "hub") as target:
        aws_client(target, "iam").create_role(RoleName="preflight-role", AssumeRolePolicyDocument=json.dumps(TRUST))
        store = ArtifactStore(folder / "artifacts")
        place = Place(target, folder, store, store_package(store, write_good))
        config = place.config()
        sent = upload_package(
            config.package,
            place.package,
            mlkey="preflight",
            tags={},
            place=Workplace(target, store=store),
        )
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        aws_client(target, "iam").put_role_policy(
            RoleName="preflight-role", PolicyName="all", PolicyDocument=json.dumps(policy)
        )
        deployed(config.deploy, sent, place.package, target)
        yield place


def failed(found: Preflight, name: str) -> PreflightCheck:
    """Return the one check that failed."""
    assert [check.name for check in found.failed] == [name], found.failed
    assert found.failed[0].remedy
    return found.failed[0]


@pytest.mark.slow
def test_all_is_well_with_what_is_deployed(place: Place) -> None:
    found = place.check()
    assert found.failed == ()
    require(found)
    names = {check.name for check in found.checks if check.passed}
    assert names >= {"region", "names", "archive", "archive size", "role", "bucket", "quota: memory", "own permissions"}
    assert report.text(found).count("✓") == len(names) + len(found.checks) - len({c.name for c in found.checks})
    assert found.summary in report.markdown(found)


@pytest.mark.slow
def test_a_role_without_trust_is_named(place: Place) -> None:
    trust = {**TRUST, "Statement": [{**TRUST["Statement"][0], "Principal": {"Service": "lambda.amazonaws.com"}}]}
    aws_client(place.target, "iam").create_role(RoleName="untrusting", AssumeRolePolicyDocument=json.dumps(trust))
    aws_client(place.target, "iam").put_role_policy(
        RoleName="untrusting",
        PolicyName="all",
        PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}',
    )
    check = failed(place.check("--deploy.role-arn", "arn:aws:iam::000000000000:role/untrusting"), "role")
    assert "does not let sagemaker.amazonaws.com take it on" in check.found
    assert "aws iam update-assume-role-policy --role-name untrusting" in check.remedy
    assert place.answers()


@pytest.mark.slow
def test_a_role_that_is_not_there_is_named(place: Place) -> None:
    found = place.check("--deploy.role-arn", "arn:aws:iam::000000000000:role/nobody")
    assert "there is no role arn:aws:iam::000000000000:role/nobody" in failed(found, "role").found
    assert [c.passed for c in found.checks if c.name == "role's permissions"] == [None]


@pytest.mark.slow
def test_a_role_that_may_not_read_the_archive_is_named_with_the_action(place: Place) -> None:
    aws_client(place.target, "iam").create_role(RoleName="powerless", AssumeRolePolicyDocument=json.dumps(TRUST))
    found = place.check("--deploy.role-arn", "arn:aws:iam::000000000000:role/powerless")
    assert {check.name for check in found.failed} == {"role's permissions"}
    assert any("may not read the archive: s3:GetObject is missing" in check.found for check in found.failed)
    assert any("the statement ReadArchive" in check.remedy for check in found.failed)


@pytest.mark.slow
def test_a_bucket_in_another_region_is_named(place: Place) -> None:
    s3 = aws_client(place.target.model_copy(update={"region": "eu-west-1"}), "s3")
    s3.create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    check = failed(place.check("--package.bucket", "far-away"), "bucket")
    assert "far-away is in eu-west-1, and SageMaker in us-east-1 cannot use it" in check.found
    assert "region to eu-west-1" in check.remedy
    assert place.answers()


@pytest.mark.slow
def test_a_quota_that_is_too_small_is_named_with_what_is_in_use(place: Place) -> None:
    try:
        place.quotas(**{"Memory size in MB per serverless endpoint": 1024})
        check = failed(place.check("--deploy.memory-mb", "2048"), "quota: memory")
        assert "2048 wanted, 0 in use, 1024 allowed" in check.found
        concurrency = "Maximum total concurrency that can be allocated across all serverless endpoints"
        place.quotas(**{concurrency: 8})
        assert place.check("--deploy.max-concurrency", "8").failed == (), "its own endpoint is replaced"
        other = place.check("--deploy.max-concurrency", "8", "--deploy.mlkey", "other")
        assert "8 wanted, 5 in use, 8 allowed" in failed(other, "quota: concurrency").found
    finally:
        place.quotas()
    assert place.answers()


@pytest.mark.slow
def test_instances_are_held_against_their_quota_with_those_that_run(place: Place) -> None:
    kind = ["--deploy.target", "real-time", "--deploy.instance-type", "ml.m5.large", "--deploy.mlkey", "other"]
    try:
        place.quotas(**{"ml.m5.large for endpoint usage": 1})
        assert place.check(*kind).failed == ()
        check = failed(place.check(*kind, "--deploy.instance-count", "2"), "quota: instances")
        assert "2 wanted, 0 in use, 1 allowed: instances of ml.m5.large" in check.found
    finally:
        place.quotas()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["real-time", "async"])
def test_an_instance_that_the_plan_chose_is_held_against_its_quota(place: Place, kind: str) -> None:
    options = ["--deploy.target", kind, "--deploy.mlkey", "other", "--api.enabled", "false"]
    chosen = place.plan(place.config(*options)).serving.instance_type
    assert chosen is not None
    before = aws_client(place.target, "sagemaker").list_models()["Models"]
    try:
        place.quotas(**{f"{chosen} for endpoint usage": 1})
        assert place.check(*options).failed == ()
        found = place.check(*options, "--deploy.instance-count", "2")
        assert f"2 wanted, 0 in use, 1 allowed: instances of {chosen}" in failed(found, "quota: instances").found
        with pytest.raises(PreflightError, match="nothing was created"):
            require(found)
    finally:
        place.quotas()
    assert aws_client(place.target, "sagemaker").list_models()["Models"] == before


@pytest.mark.slow
def test_an_mlkey_that_differs_in_capital_letters_only_is_named(place: Place) -> None:
    found = failed(place.check("--deploy.mlkey", "PreFlight"), "endpoint's name")
    assert "serv-hf-endpoint-preflight is there" in found.found
    assert found.remedy == "set deploy.mlkey to preflight, or to a name that differs in more"


@pytest.mark.slow
def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_made(place: Place) -> None:
    before = aws_client(place.target, "sagemaker").list_models()["Models"]
    bad = store_package(place.store, lambda path: path.write_bytes(b"no archive"))
    found = place.check(
        *("--deploy.role-arn", "arn:aws:iam::000000000000:role/nobody", "--package.bucket", "Far_Away"), package=bad
    )
    with pytest.raises(PreflightError) as refused:
        require(found)
    said = str(refused.value)
    assert said.startswith("nothing was created: ")
    for part in ("there is no role", "is damaged", "the bucket name 'Far_Away'"):
        assert part in said
    assert said.count("→") == len(found.failed)
    assert not isinstance(refused.value, DeployError)
    assert aws_client(place.target, "sagemaker").list_models()["Models"] == before
    assert place.answers()


# -- without any cloud ------------------------------------------------------------------------------------------------

AWS = Target(kind="aws", region="us-east-1")
REAL_TIME = ("--deploy.target", "real-time", "--deploy.volume-size-gb", "2", "--deploy.instance-type", "ml.m5.large")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def planned(config: PipelineConfig, package: PackageRef) -> DeployPlan:
    return plan_deploy(config.deploy, config.package, package, target=AWS)


def config_of(*options: str) -> PipelineConfig:
    role = "arn:aws:iam::123456789012:role/askline-sagemaker-execution"
    return load_config(["--target", "aws", "--deploy.role-arn", role, "--package.bucket", "somewhere", *options])


def checked_archive(
    store: ArtifactStore, write: Callable[[Path], None], *options: str, **facts: Any
) -> dict[str, PreflightCheck]:
    package, config = store_package(store, write, **facts), config_of(*options)
    found = archive_checks(config, planned(config, package), package, store=store, target=AWS)
    return {check.name: check for check in found}


def pack(path: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def test_an_archive_in_a_folder_is_the_classic_mistake(store: ArtifactStore) -> None:
    found = checked_archive(
        store, lambda path: pack(path, ("model/code/inference.py", b""), ("model/config.json", b""))
    )
    assert "everything lies in the folder model" in found["archive"].found
    assert found["archive"].remedy.endswith("tar -C model -czf model.tar.gz .")


def test_an_archive_without_code_is_named(store: ArtifactStore) -> None:
    assert "no code/inference.py" in checked_archive(store, lambda path: pack(path, ("a", b"")))["archive"].found


@pytest.mark.parametrize("damage", [lambda whole: whole[:-20], lambda whole: whole[:-6] + b"\0\0" + whole[-4:]])
def test_a_damaged_archive_is_named(store: ArtifactStore, damage: Callable[[bytes], bytes]) -> None:
    def write(path: Path) -> None:
        pack(path, ("code/inference.py", bytes(range(256)) * 64))
        path.write_bytes(damage(path.read_bytes()))

    check = checked_archive(store, write)["archive"]
    assert (check.passed, "is damaged" in check.found) == (False, True)


def test_more_than_the_disk_is_refused(store: ArtifactStore) -> None:
    def write(path: Path) -> None:
        member = tarfile.TarInfo("weights.bin")
        member.size = 6 * 1024**3
        path.write_bytes(gzip.compress(member.tobuf() + bytes(1 << 20)))

    check = checked_archive(store, write)["archive size"]
    assert (check.passed, check.remedy != "") == (False, True)
    assert "6.00 GB or more unpacked; a serverless endpoint holds 5.00 GB" in check.found
    assert "a volume of 2 GB holds 2.00 GB" in checked_archive(store, write, *REAL_TIME)["archive size"].found


def test_libraries_for_another_python_are_refused(store: ArtifactStore) -> None:
    check = checked_archive(store, write_good, python="3.11")["python"]
    assert check.found == "the archive carries libraries for Python 3.11, and the image has 3.12"
    assert 'package.python to "3.12"' in check.remedy
    assert checked_archive(store, write_good, python="3.12")["python"].passed


def test_a_model_saved_by_a_newer_transformers_than_the_images_is_refused(store: ArtifactStore) -> None:
    def write(path: Path) -> None:
        about = json.dumps({"versions": {"transformers": "5.23.0"}}).encode()
        pack(path, ("askline.json", about), ("code/inference.py", b""))

    old = "123456789012.dkr.ecr.us-east-1.amazonaws.com/hf:2.1.0-transformers4.37.0-cpu-py310-ubuntu22.04"
    assert "which reads it wrongly" in checked_archive(store, write, "--deploy.image", old)["transformers"].found
    assert checked_archive(store, write)["transformers"].passed


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--package.bucket", "Nope_"), "the bucket name 'Nope_'"),
        (("--deploy.tags", json.dumps({"aws:mine": "x"})), "begins with aws:"),
        (("--deploy.tags", json.dumps({"k": "v" * 300})), "has 300 characters, and AWS takes 256"),
        (("--deploy.image", "an image"), "Image 'an image' does not match"),
    ],
)
def test_a_bad_name_is_named(store: ArtifactStore, options: tuple[str, str], found: str) -> None:
    config = config_of(*options)
    plan = planned(config, store_package(store, write_good))
    refused = [check for check in name_checks(config, plan) if check.passed is False]
    assert any(found in check.found for check in refused), refused
    assert all(check.remedy for check in refused)


def test_a_region_without_the_service_is_named(store: ArtifactStore) -> None:
    config = config_of()
    plan = planned(config, store_package(store, write_good)).model_copy(update={"region": "xx-nowhere-1"})
    (check,) = [check for check in name_checks(config, plan) if check.name == "region"]
    assert (check.passed, check.found) == (False, "AWS has no region xx-nowhere-1")
    near = planned(config, store_package(store, write_good)).model_copy(update={"region": "us-east-9"})
    (check,) = [check for check in name_checks(config, near) if check.name == "region"]
    assert check.passed is None, "one that is newer than botocore"


def test_a_service_that_does_not_answer_is_told_and_holds_nothing_up(store: ArtifactStore, free_port: int) -> None:
    config = config_of()
    plan = planned(config, store_package(store, write_good))
    with replying(lambda path, body: (500, {"Content-Type": "text/html"}, b"<html>not XML, not JSON")) as broken:
        nobody = f"http://127.0.0.1:{free_port}"
        target = Target(kind="local", region="us-east-1", endpoints={"service-quotas": broken, "sagemaker": nobody})
        found = [*quota_checks(config, plan, target=target), *other_names(plan, target=target)]
    assert [(check.name, check.passed) for check in found] == [("quota", None), ("endpoint's name", None)]
    assert all(check.found.startswith("not looked at: the service ") for check in found), found


def test_trust_is_read_as_IAM_reads_it() -> None:  # noqa: N802
    allow = TRUST["Statement"][0]
    assert trusts_sagemaker(TRUST)
    assert trusts_sagemaker({"Statement": {**allow, "Principal": {"Service": ["a", "sagemaker.amazonaws.com"]}}})
    assert not trusts_sagemaker({"Statement": [allow, {**allow, "Effect": "Deny"}]})
    assert not trusts_sagemaker({"Statement": [{**allow, "Principal": "*"}]})
