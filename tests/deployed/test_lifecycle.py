"""Status, rollback and teardown over the embedded cloud, with archives of a few lines of code."""

import importlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import REPOSITORY, running_cloud
from support.clouds import deployed, names
from support.toy_archive import code, write_archive

from askline.clients import aws_client
from askline.command_line import load_config
from askline.config import ApiConfig, DeployConfig, PackageConfig, PipelineConfig
from askline.errors import ConfigError, DeployError
from askline.records import EndpointRef, PackageRef, Serving, Target, UploadRef
from askline.store import ArtifactStore, sha256_of_file
from tasks.deploy_api.deploy_api import deploy_api
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.registry import RegistryEntry
from tasks.deployed.inventory import Inventory, Resource, take_inventory
from tasks.deployed.orphans import find_orphans
from tasks.deployed.rollback import rollback
from tasks.deployed.status import status
from tasks.deployed.teardown import plan_teardown
from tasks.deployed.versions import choose
from tasks.package.upload import upload_package
from tasks.workplace import Workplace


class Version(NamedTuple):
    """What one deployment left behind."""

    entry: RegistryEntry
    upload: UploadRef
    endpoint: EndpointRef


class Done(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


class Place(NamedTuple):
    """An embedded cloud of this module's own, since taking down orphans takes everybody's."""

    target: Target
    state_dir: Path

    @property
    def config(self) -> PipelineConfig:
        return load_config(["--state-dir", str(self.state_dir)])

    def upload(self, mlkey: str, text: str) -> tuple[PackageRef, UploadRef]:
        store = ArtifactStore(self.state_dir / "packages")
        with store.new("package") as draft:
            path = draft.folder / "model.tar.gz"
            write_archive(path, text)
            facts = {"archive_sha256": sha256_of_file(path), "size": path.stat().st_size, "unpacked_size": 1000}
            package = PackageRef(sha256=draft.commit(), model_sha256="m", members=(), **facts)
        sent = upload_package(PackageConfig(), package, mlkey=mlkey, tags={}, place=Workplace(self.target, store=store))
        return package, sent

    def deploy(self, mlkey: str, version: str, *, memory_mb: Any = 1024, said: str = "", **broken: str) -> Version:
        """Deploy and promote; ``said`` is the version that the container claims to be."""
        package, sent = self.upload(mlkey, code(said or version, **broken))
        endpoint = deployed(DeployConfig(mlkey=mlkey, memory_mb=memory_mb), sent, package, self.target)
        entry = registry.promote(
            mlkey,
            endpoint=endpoint.name,
            model_version=version,
            archive_sha256=package.archive_sha256,
            dataset=f"questions.csv@{version}",
            exact_match=0.75,
            run_id=f"run-{version}",
            target=self.target,
        )
        return Version(entry, sent, endpoint)

    def overwrite(self, version: Version, text: str, scratch: Path) -> None:
        """Damage an archive in S3 in a way that its metadata does not show."""
        write_archive(scratch / "broken.tar.gz", text)
        aws_client(self.target, "s3").put_object(
            Bucket=version.upload.bucket,
            Key=version.upload.key,
            Body=(scratch / "broken.tar.gz").read_bytes(),
            Metadata={"sha256": version.entry.archive_sha256},
        )

    def answer(self, mlkey: str) -> str:
        runtime = aws_client(self.target, "sagemaker-runtime", read_timeout=70)
        reply = runtime.invoke_endpoint(
            EndpointName=f"serv-hf-endpoint-{mlkey}", ContentType="application/json", Body=b'{"inputs": "x"}'
        )
        return str(json.loads(reply["Body"].read())["answers"][0]["answer"])

    def active(self, mlkey: str) -> str:
        client = aws_client(self.target, "sagemaker")
        return str(client.describe_endpoint(EndpointName=f"serv-hf-endpoint-{mlkey}")["EndpointConfigName"])

    def run(self, command: str, *arguments: str) -> "Done":
        """Run a command as a person would, without a terminal; in this process, which saves its start."""
        out, err = io.StringIO(), io.StringIO()
        main = importlib.import_module(f"flows.{command}").main
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["--state-dir", str(self.state_dir), *arguments])
        return Done(code, out.getvalue(), err.getvalue())

    def command(self, command: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", f"flows.{command}", "--state-dir", str(self.state_dir), *arguments]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    state_dir = tmp_path_factory.mktemp("lifecycle")
    with running_cloud(state_dir, "--without", "prefect", "--without", "hub") as target:
        yield Place(target, state_dir)


# -- what needs no cloud ---------------------------------------------------------------------------------------------


def promotion(number: int, archive: str, *, config: str | None = None, restores: int | None = None) -> RegistryEntry:
    entry = RegistryEntry(
        mlkey="k",
        endpoint="serv-hf-endpoint-k",
        model_version=f"m-{archive}",
        archive_sha256=archive * 64,
        dataset="d",
        exact_match=1,
        promoted_at="2026-01-01T00:00:00+00:00",
        run_id="r",
        restores=restores,
        version=number,
    )
    if config is None:
        return entry
    served_by = Serving(
        config_name=config,
        model_name=f"model-{archive}",
        image="i",
        archive_uri=f"s3://b/deploy/k/{archive * 12}/model.tar.gz",
        environment={},
        role_arn="r",
        memory_mb=1024,
        max_concurrency=1,
    )
    return entry.model_copy(update={"served_by": served_by})


def test_going_back_twice_goes_two_versions_back_and_never_forward() -> None:
    one, two, three = promotion(1, "a"), promotion(2, "b"), promotion(3, "c")
    assert choose((three, two, one), None) == two
    back = promotion(4, "b", restores=2)
    assert choose((back, three, two, one), None) == one
    again = promotion(5, "a", restores=1)
    with pytest.raises(ConfigError, match="no earlier version"):
        choose((again, back, three, two, one), None)
    new = promotion(6, "d")
    assert choose((new, again, back, three, two, one), None) == again


def test_a_version_is_found_by_its_beginning_and_must_be_one() -> None:
    history = (promotion(2, "b", config="c2"), promotion(1, "a", config="c1"))
    assert choose(history, "m-a").version == 1
    assert choose(history, "aaaa").version == 1
    assert choose(history, "m-b").version == 2
    for wrong in ("zzz", ""):
        with pytest.raises(ConfigError, match=r"no version .*\n.*\n  m-b .*answers now.*\n  m-a"):
            choose(history, wrong)
    with pytest.raises(ConfigError, match="fits 2 versions"):
        choose(history, "m-")


def test_another_size_of_the_same_package_is_a_version_of_its_own() -> None:
    history = (promotion(2, "a", config="large"), promotion(1, "a", config="small"))
    assert choose(history, None).version == 1


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def thing(kind: Any, name: str, *uses: str, managed: bool = True, **more: Any) -> Resource:
    return Resource(
        kind=kind, name=name, mlkey="k", managed=managed, uses=uses, **{"changed": NOW - timedelta(days=1), **more}
    )


def found(*resources: Resource, history: tuple[RegistryEntry, ...] = ()) -> Inventory:
    return Inventory(region="r", resources=resources, history={"k": history} if history else {})


def orphan_names(inventory: Inventory, **options: Any) -> set[str]:
    return {orphan.resource.name for orphan in find_orphans(inventory, now=NOW, **options) if not orphan.recent}


def test_orphans_are_what_neither_an_endpoint_nor_the_last_versions_refer_to() -> None:
    archives = [thing("archive", f"s3://b/deploy/k/{letter * 12}/model.tar.gz") for letter in "abc"]
    deployed = found(
        thing("endpoint", "serv-hf-endpoint-k", "config-c"),
        *(thing("endpoint configuration", f"config-{letter}", f"model-{letter}") for letter in "abc"),
        *(thing("model", f"model-{letter}", archives["abc".index(letter)].name) for letter in "abc"),
        *archives,
        history=tuple(
            promotion(number, "abc"[number - 1], config=f"config-{'abc'[number - 1]}") for number in (3, 2, 1)
        ),
    )
    assert orphan_names(deployed) == set()
    assert orphan_names(deployed, keep=2) == {"config-a", "model-a", archives[0].name}
    older = deployed.model_copy(
        update={
            "history": {"k": tuple(entry.model_copy(update={"served_by": None}) for entry in deployed.history["k"])}
        }
    )
    assert orphan_names(older, keep=2) == {"config-a", "model-a", archives[0].name}


def test_an_endpoint_without_an_entry_is_an_orphan_with_all_that_only_it_uses() -> None:
    deployed = found(
        thing("endpoint", "serv-hf-endpoint-k", "config"),
        thing("endpoint configuration", "config", "model"),
        thing("model", "model"),
    )
    assert orphan_names(deployed) == {"serv-hf-endpoint-k", "config", "model"}


def test_what_is_young_changing_or_used_by_others_is_not_taken() -> None:
    young = {"changed": NOW - timedelta(minutes=5)}
    assert (
        orphan_names(found(thing("endpoint configuration", "config", "model", **young), thing("model", "model")))
        == set()
    )
    changing = thing("endpoint", "serv-hf-endpoint-k", "config", status="Updating")
    assert orphan_names(found(changing, thing("endpoint configuration", "config"))) == set()
    theirs = thing("endpoint", "theirs", "config", managed=False)
    assert orphan_names(found(theirs, thing("endpoint configuration", "config"))) == set()
    assert orphan_names(found(thing("model", "model", managed=False))) == set()


def test_teardown_leaves_what_others_use_and_what_is_not_ours() -> None:
    plan = plan_teardown(
        found(
            thing("registry entry", "/askline/registry/k", "serv-hf-endpoint-k"),
            thing("model", "model-1"),
            thing("model", "model-2"),
            thing("endpoint configuration", "config-1", "model-1"),
            thing("endpoint configuration", "config-2", "model-2"),
            thing("endpoint", "serv-hf-endpoint-k", "config-1"),
            thing("endpoint", "theirs", "config-2", managed=False),
            thing("archive", "s3://b/k"),
        ),
        mlkey="k",
    )
    assert [str(resource) for resource in plan.going] == [
        "endpoint serv-hf-endpoint-k",
        "endpoint configuration config-1",
        "model model-1",
        "registry entry /askline/registry/k",
    ]
    why = {left.what: left.why for left in plan.left}
    assert "does not carry the tag" in why["endpoint theirs"]
    assert "endpoint theirs uses it" in why["endpoint configuration config-2"]
    assert "configuration config-2 uses it" in why["model model-2"]
    assert "--archives" in why["archive s3://b/k"]


@pytest.mark.parametrize("command", ["status", "rollback", "teardown"])
def test_without_the_embedded_cloud_the_commands_say_how_to_start_it(command: str, tmp_path: Path) -> None:
    nowhere = Place(Target(kind="local", region="us-east-1"), tmp_path / "nothing")
    done = nowhere.run(command)
    assert done.returncode == 1
    assert f"python -m local_cloud up --state-dir {nowhere.state_dir}" in done.stderr
    assert not nowhere.state_dir.exists(), "nothing was started"


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("teardown", ["--mlkey", "a", "--orphans"], "not both"),
        ("teardown", ["--keep", "2"], "--orphans"),
        ("status", ["--keep", "0"], "at least 1"),
        ("rollback", ["--mlkey", "../x"], "deploy.mlkey"),
        ("rollback", ["--tow", "x"], "unknown option --tow"),
    ],
)
def test_a_wrong_option_is_named(command: str, arguments: list[str], said: str, tmp_path: Path) -> None:
    done = Place(Target(kind="local", region="us-east-1"), tmp_path).run(command, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


# -- on the embedded cloud -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_versions_status_and_back(place: Place) -> None:
    first = place.deploy("back", "v-one", load="time.sleep(4)")
    second = place.deploy("back", "v-two", memory_mb=2048)
    assert first.entry.served_by is not None
    assert first.entry.served_by.config_name == first.endpoint.config_name

    shown = place.run("status", "--json")
    assert shown.returncode == 0, shown.stderr
    row = next(row for row in json.loads(shown.stdout)["deployed"] if row["mlkey"] == "back")
    assert row["status"] == "InService"
    assert (row["model_version"], row["archive_sha256"]) == ("v-two", second.entry.archive_sha256)
    assert (row["memory_mb"], row["max_concurrency"], row["versions"], row["idle_usd_a_month"]) == (2048, 5, 2, 0)
    assert (row["dataset"], row["exact_match"], row["run_id"]) == ("questions.csv@v-two", 0.75, "run-v-two")
    table = place.run("status")
    assert table.returncode == 0
    assert any(
        line.startswith("back ") and "InService" in line and "v-two" in line for line in table.stdout.splitlines()
    )

    done = place.run("rollback", "--mlkey", "back", "--question", "where?")
    assert done.returncode == 0, done.stderr
    assert "v-two → v-one" in done.stdout
    assert "v-one heard where?" in done.stdout
    assert place.active("back") == first.endpoint.config_name
    assert place.answer("back") == "v-one heard x"
    entry = registry.resolve("back", place.target)
    assert entry is not None
    assert (entry.model_version, entry.restores, entry.version) == ("v-one", 1, 3)
    assert entry.run_id.startswith("rollback-")

    again = place.run("rollback", "--mlkey", "back")
    assert again.returncode == 2
    assert "no earlier version" in again.stderr
    wrong = place.run("rollback", "--mlkey", "back", "--to", "v-three")
    assert wrong.returncode == 2
    assert "v-one" in wrong.stderr
    assert "v-two" in wrong.stderr
    nobody = place.run("rollback", "--mlkey", "nobody")
    assert nobody.returncode == 2
    assert "registered are: " in nobody.stderr

    # Forward again, although configuration and model are gone: both are made anew from the archive.
    client = aws_client(place.target, "sagemaker")
    client.delete_endpoint_config(EndpointConfigName=second.endpoint.config_name)
    client.delete_model(ModelName=second.endpoint.model_name)
    forward = rollback("back", to=second.entry.archive_sha256[:10], config=place.config, place=Workplace(place.target))
    assert forward.endpoint.config_name == second.endpoint.config_name
    assert place.answer("back") == "v-two heard x"
    variant = client.describe_endpoint_config(EndpointConfigName=second.endpoint.config_name)["ProductionVariants"][0]
    assert variant["ServerlessConfig"]["MemorySizeInMB"] == 2048

    # An earlier rollback that was killed between endpoint and registry is finished by the next.
    client.update_endpoint(EndpointName=first.endpoint.name, EndpointConfigName=first.endpoint.config_name)
    with pytest.raises(DeployError, match="a deployment is under way"):
        rollback("back", config=place.config, place=Workplace(place.target))
    wait_until_settled(place, "back")
    drift = next(row for row in status(place.config, target=place.target).deployed if row.mlkey == "back")
    assert any("another configuration serves" in note for note in drift.notes)
    finished = rollback("back", config=place.config, place=Workplace(place.target))
    assert finished.endpoint.action == "unchanged"
    assert finished.now.model_version == "v-one"


def wait_until_settled(place: Place, mlkey: str) -> None:
    client = aws_client(place.target, "sagemaker")
    deadline = time.monotonic() + 60
    while client.describe_endpoint(EndpointName=f"serv-hf-endpoint-{mlkey}")["EndpointStatus"] != "InService":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_version_that_does_not_answer_is_not_gone_back_to(place: Place, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    mute = place.deploy("sick", "v-mute", answer="raise RuntimeError('cannot answer')")
    other = place.deploy("sick", "v-named", said="v-other")
    shut = place.deploy("sick", "v-shut", load=f"assert not __import__('os').path.exists({str(gate)!r}), 'cannot load'")
    second = place.deploy("sick", "v-two")

    def unchanged() -> None:
        assert place.active("sick") == second.endpoint.config_name
        assert place.answer("sick") == "v-two heard x"
        assert registry.resolve("sick", place.target) == second.entry

    there = f"{second.endpoint.name} is InService on {second.endpoint.config_name}"
    done = place.run("rollback", "--mlkey", "sick", "--to", mute.entry.archive_sha256)
    assert done.returncode == 1
    assert "ModelError" in done.stderr
    assert f"What served before was put back, and was verified: {there}" in done.stderr
    assert "The registry still names v-two" in done.stderr
    unchanged()

    wrong = r"answers as version v-other, not v-named(.|\n)*put back, and was verified"
    with pytest.raises(DeployError, match=wrong):
        rollback("sick", to=other.entry.archive_sha256, config=place.config, place=Workplace(place.target))
    unchanged()

    gate.touch()
    with pytest.raises(DeployError, match=r"cannot load(.|\n)*still serves, and was verified"):
        rollback("sick", to=shut.entry.archive_sha256, config=place.config, place=Workplace(place.target))
    unchanged()


@pytest.mark.slow
def test_a_rollback_that_is_interrupted_restores_what_the_registry_names(place: Place) -> None:
    slow, second = place.deploy("halted", "v-slow", answer="time.sleep(20)"), place.deploy("halted", "v-two")
    process = subprocess.Popen(
        place.command("rollback", "--mlkey", "halted"), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    client = aws_client(place.target, "sagemaker")
    deadline = time.monotonic() + 120
    while place.active("halted") != slow.endpoint.config_name:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.describe_endpoint(EndpointName=second.endpoint.name)["EndpointStatus"] in ("InService", "Updating")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "What served before was put back, and was verified" in said
    assert place.active("halted") == second.endpoint.config_name
    assert place.answer("halted") == "v-two heard x"
    assert registry.resolve("halted", place.target) == second.entry


@pytest.mark.slow
def test_an_archive_that_was_altered_is_not_gone_back_to_whatever_its_labels_say(place: Place, tmp_path: Path) -> None:
    first, second = place.deploy("altered", "v-one"), place.deploy("altered", "v-two")
    before = aws_client(place.target, "sagemaker").describe_endpoint(EndpointName=second.endpoint.name)

    def refused(said: str) -> None:
        with pytest.raises(DeployError, match=said):
            rollback("altered", config=place.config, place=Workplace(place.target))
        after = aws_client(place.target, "sagemaker").describe_endpoint(EndpointName=second.endpoint.name)
        assert after["LastModifiedTime"] == before["LastModifiedTime"], "it was not even updated"
        assert place.answer("altered") == "v-two heard x"
        assert registry.resolve("altered", place.target) == second.entry

    place.overwrite(first, code("v-one", answer="pass  # and something else"), tmp_path)
    refused("holds another archive .* its bytes were changed after it was uploaded")
    s3 = aws_client(place.target, "s3")
    s3.put_object(Bucket=first.upload.bucket, Key=first.upload.key, Body=b"without any label")
    refused("holds another archive")
    s3.delete_object(Bucket=first.upload.bucket, Key=first.upload.key)
    refused("is gone; upload it again")


@pytest.mark.slow
def test_teardown_lists_asks_and_leaves_alone_what_is_not_ours(place: Place) -> None:
    made = place.deploy("down", "v-one")
    kept = place.deploy("stays", "v-one")
    client = aws_client(place.target, "sagemaker")
    model = client.describe_model(ModelName=made.endpoint.model_name)
    theirs = {"ModelName": "askline-down-00000000", "ExecutionRoleArn": model["ExecutionRoleArn"]}
    client.create_model(**theirs, PrimaryContainer=model["PrimaryContainer"])

    nobody = place.run("teardown", "--mlkey", "down")
    assert nobody.returncode == 2
    assert "add --yes" in nobody.stderr
    listed = nobody.stdout.splitlines()
    for line in (
        f"  endpoint {made.endpoint.name}",
        f"  endpoint configuration {made.endpoint.config_name}",
        f"  model {made.endpoint.model_name}",
        "  registry entry /askline/registry/down",
    ):
        assert line in listed
    assert "  model askline-down-00000000: it does not carry the tag askline:managed=true" in listed
    assert any(line.startswith(f"  archive {made.upload.uri}: ") for line in listed)
    no, said = on_a_terminal(place, "n\n", "--mlkey", "down")
    assert no == 3
    assert "Delete these 4? [y/N]" in said
    assert place.answer("down") == "v-one heard x", "nothing was deleted"

    done = place.run("teardown", "--mlkey", "down", "--yes")
    assert done.returncode == 0, done.stderr
    assert "4 deleted, the MLKey down is taken down" in done.stdout
    assert names(place.target, "down") == {"models": ["askline-down-00000000"], "configs": [], "endpoints": []}
    assert registry.resolve("down", place.target) is None
    s3 = aws_client(place.target, "s3")
    s3.head_object(Bucket=made.upload.bucket, Key=made.upload.key)
    assert place.answer("stays") == "v-one heard x"
    assert registry.resolve("stays", place.target) == kept.entry

    again = place.run("teardown", "--mlkey", "down", "--yes")
    assert again.returncode == 0
    assert "nothing to take down of the MLKey down; MLKeys here: " in again.stdout

    client.delete_model(ModelName="askline-down-00000000")
    emptied = place.run("teardown", "--mlkey", "down", "--yes", "--archives")
    assert emptied.returncode == 0
    assert f"deleted the archive {made.upload.uri}" in emptied.stdout
    assert take_inventory(place.config, target=place.target).of("archive").keys() & {made.upload.uri} == set()
    s3.head_bucket(Bucket=made.upload.bucket)


def on_a_terminal(place: Place, typed: str, *arguments: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            place.command("teardown", *arguments), cwd=REPOSITORY, stdin=theirs, stdout=subprocess.PIPE, text=True
        )
        os.write(ours, typed.encode())
        said, _ = process.communicate(timeout=120)
        return process.returncode, said
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.slow
def test_a_teardown_that_was_killed_is_finished_by_the_next(place: Place) -> None:
    place.deploy("killed", "v-one")
    place.deploy("killed", "v-two")
    process = subprocess.Popen(
        place.command("teardown", "--mlkey", "killed", "--yes", "--archives"),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("deleted the endpoint serv-"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=60)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    left = names(place.target, "killed")
    assert left["endpoints"] == []
    assert left["models"]
    assert registry.resolve("killed", place.target) is not None
    broken = next(row for row in status(place.config, target=place.target).deployed if row.mlkey == "killed")
    assert broken.status == "missing"

    done = place.run("teardown", "--mlkey", "killed", "--yes", "--archives")
    assert done.returncode == 0, done.stderr
    assert names(place.target, "killed") == {"models": [], "configs": [], "endpoints": []}
    assert registry.resolve("killed", place.target) is None
    assert not [
        resource
        for resource in take_inventory(place.config, target=place.target).resources
        if resource.mlkey == "killed"
    ]


@pytest.mark.slow
def test_orphans_are_shown_and_only_they_are_taken(place: Place) -> None:
    first, second = place.deploy("left", "v-one"), place.deploy("left", "v-two")
    package, sent = place.upload("unpromoted", code("v-one"))
    loose = deployed(DeployConfig(mlkey="unpromoted", memory_mb=1024), sent, package, place.target)
    shown = place.run("status", "--keep", "1")
    assert shown.returncode == 0, shown.stderr
    for orphan in (
        f"endpoint configuration {first.endpoint.config_name}",
        f"endpoint {loose.name}",
    ):
        assert f"  {orphan}: " in shown.stdout
    young = place.run("teardown", "--orphans", "--keep", "1", "--yes")
    assert young.returncode == 0
    assert "nothing to take down of the orphans" in young.stdout
    assert f"endpoint {loose.name}: it is recent and may belong to a deployment under way" in young.stdout

    done = place.run("teardown", "--orphans", "--keep", "1", "--older-than", "0", "--yes", "--archives")
    assert done.returncode == 0, done.stderr
    after = take_inventory(place.config, target=place.target)
    of_ours = {resource.name for resource in after.resources if resource.mlkey in ("left", "unpromoted")}
    assert of_ours == {
        second.endpoint.name,
        second.endpoint.config_name,
        second.endpoint.model_name,
        second.upload.uri,
        "/askline/registry/left",
    }
    assert find_orphans(after, keep=1, grace=timedelta(0)) == ()
    assert place.answer("left") == "v-two heard x"


@pytest.mark.slow
def test_the_api_is_shown_and_goes_only_when_told(place: Place) -> None:
    made = place.deploy("last", "v-one")
    api = deploy_api(ApiConfig(), bucket=made.upload.bucket, prefix="api", tags={}, place=Workplace(place.target))
    shown = status(place.config, target=place.target)
    assert (shown.api_url, shown.api_status) == (api.url, "CREATE_COMPLETE")
    for mlkey in shown.deployed:
        done = place.run("teardown", "--mlkey", mlkey.mlkey, "--yes")
        assert done.returncode == 0, done.stderr
    assert "the API's stack askline-api is still there; --api takes it down too" in done.stdout

    gone = place.run("teardown", "--mlkey", "last", "--api", "--yes")
    assert gone.returncode == 0, gone.stderr
    assert "  stack askline-api (CREATE_COMPLETE)" in gone.stdout
    assert status(place.config, target=place.target).api_status is None
