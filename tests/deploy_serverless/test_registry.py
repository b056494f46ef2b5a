import pytest

from askline.clients import aws_client
from askline.errors import CloudError, ConfigError
from askline.records import Target
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.registry import REGISTRY_PATH, RegistryEntry

pytestmark = pytest.mark.slow

NOWHERE = Target(kind="local", region="us-east-1", endpoints={"ssm": "http://127.0.0.1:9"})


def promote(target: Target, mlkey: str, *, version: str = "m-1", run_id: str = "run-1") -> RegistryEntry:
    return registry.promote(
        mlkey,
        endpoint=f"serv-hf-endpoint-{mlkey}",
        model_version=version,
        archive_sha256="a" * 64,
        dataset="owner/data@abc",
        exact_match=0.75,
        run_id=run_id,
        target=target,
        tags={"project": "askline"},
    )


def test_a_promotion_is_what_the_api_reads(cloud: Target) -> None:
    entry = promote(cloud, "registry-first")

    assert entry.version == 1
    assert registry.resolve("registry-first", cloud) == entry
    assert entry in registry.entries(cloud)
    ssm = aws_client(cloud, "ssm")
    stored = ssm.get_parameter(Name=f"{REGISTRY_PATH}/registry-first")["Parameter"]
    assert '"version"' not in stored["Value"]
    tags = ssm.list_tags_for_resource(ResourceType="Parameter", ResourceId=stored["Name"])["TagList"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {
        "askline:managed": "true",
        "askline:mlkey": "registry-first",
        "project": "askline",
    }
    assert registry.tags_of("registry-first", cloud)["askline:managed"] == "true"


def test_a_forgotten_mlkey_is_gone_with_its_history(cloud: Target) -> None:
    promote(cloud, "registry-forgotten")
    assert registry.forget("registry-forgotten", cloud)
    assert registry.resolve("registry-forgotten", cloud) is None
    assert registry.history("registry-forgotten", cloud) == ()
    assert registry.tags_of("registry-forgotten", cloud) == {}
    assert not registry.forget("registry-forgotten", cloud)


def test_an_entry_of_an_older_version_is_read(cloud: Target) -> None:
    entry = promote(cloud, "registry-older")
    older = entry.model_dump_json(exclude={"served_by", "restores"})
    aws_client(cloud, "ssm").put_parameter(Name=f"{REGISTRY_PATH}/registry-older", Value=older, Overwrite=True)
    found = registry.resolve("registry-older", cloud)
    assert found is not None
    assert (found.served_by, found.restores, found.version) == (None, None, 2)


def test_the_same_model_is_not_promoted_twice(cloud: Target) -> None:
    first = promote(cloud, "registry-same", run_id="run-1")

    assert promote(cloud, "registry-same", run_id="run-2") == first
    assert registry.history("registry-same", cloud) == (first,)


def test_history_is_newest_first(cloud: Target) -> None:
    promoted = [promote(cloud, "registry-history", version=version) for version in ("m-1", "m-2", "m-1")]

    assert [entry.version for entry in promoted] == [1, 2, 3]
    assert registry.history("registry-history", cloud) == tuple(reversed(promoted))
    assert registry.resolve("registry-history", cloud) == promoted[-1]


def test_an_unknown_mlkey_is_nothing(cloud: Target) -> None:
    assert registry.resolve("registry-nobody", cloud) is None
    assert registry.history("registry-nobody", cloud) == ()


@pytest.mark.parametrize("mlkey", ["", "-a", "a/b", "../x", "a" * 47, "a\n", "ä"])
def test_a_name_that_callers_may_not_use_is_refused_before_any_call(mlkey: str) -> None:
    with pytest.raises(ConfigError, match="MLKey"):
        registry.resolve(mlkey, NOWHERE)


def test_somebody_elses_parameter_is_named(cloud: Target) -> None:
    name = f"{REGISTRY_PATH}/registry-foreign"
    ssm = aws_client(cloud, "ssm")
    ssm.put_parameter(Name=name, Type="String", Value="hello")
    try:
        with pytest.raises(CloudError, match=name):
            promote(cloud, "registry-foreign")
        assert ssm.get_parameter(Name=name)["Parameter"]["Value"] == "hello"
    finally:
        ssm.delete_parameter(Name=name)
