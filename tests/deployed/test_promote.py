"""Promotion: who may be replaced, and what is refused because another run was faster."""

from typing import Any

import pytest

from askline.config import DeployConfig
from askline.errors import DeployError
from askline.records import (
    DatasetRef,
    EndpointRef,
    PackageRef,
    Promotion,
    Scores,
    SmokeRef,
    SourceRef,
    SplitScores,
    Target,
)
from tasks.deploy_serverless import registry
from tasks.deployed.promote import promote
from tasks.workplace import Workplace

pytestmark = pytest.mark.slow

SOME = SplitScores(questions=2, exact_match=0.5, token_f1=0.5, rouge_l=0.5)
SCORES = Scores(
    sha256="s" * 64,
    model_sha256="m" * 64,
    train=SOME,
    test=SOME,
    out_of_scope=None,
    false_abstention=0,
    baselines={},
    seconds=1,
)
DATASET = DatasetRef(
    sha256="d" * 64,
    source=SourceRef(kind="file", location="/home/me/q.csv", revision="1"),
    splits={"train": 1, "test": 1},
    rejected=0,
    question_column="q",
    answer_column="a",
    split_by="wording",
    unanswerable="I don't know",
)
SMOKE = SmokeRef(asked=0, agreed=0, answers=(), cold_start_seconds=0)


def endpoint(mlkey: str) -> EndpointRef:
    facts: dict[str, Any] = dict.fromkeys(("arn", "model_name", "config_name", "image"), "x")
    return EndpointRef(
        name=f"serv-hf-endpoint-{mlkey}",
        mlkey=mlkey,
        memory_mb=1024,
        max_concurrency=1,
        action="created",
        seconds=1,
        **facts,
    )


def promoted(target: Target, mlkey: str, archive: str, over: int | None) -> Promotion:
    package = PackageRef(
        sha256="p", archive_sha256=archive * 64, size=1, unpacked_size=1, model_sha256=archive * 64, members=()
    )
    place = Workplace(target, run_id=f"run-{archive}")
    return promote(
        DeployConfig(mlkey=mlkey), endpoint(mlkey), SMOKE, None, SCORES, package, DATASET, over=over, place=place
    )


def test_a_model_that_was_promoted_since_the_comparison_is_not_replaced(cloud: Target) -> None:
    first = promoted(cloud, "raced", "a", over=0)
    assert (first.version, first.replaced, first.model_version) == (1, None, "a" * 12)
    # Two runs compared themselves with the first; the better one was faster.
    assert promoted(cloud, "raced", "b", over=1).replaced == "a" * 12
    with pytest.raises(DeployError, match=r"run-b promoted bbbbbbbbbbbb.*the registry was not written"):
        promoted(cloud, "raced", "c", over=1)
    entry = registry.resolve("raced", cloud)
    assert entry is not None
    assert (entry.model_version, entry.dataset) == ("b" * 12, "q.csv@1"), "no path of this machine"
    # A retry of the one that was faster, after its own entry, is no race; and a person may have it otherwise.
    assert promoted(cloud, "raced", "b", over=1).version == 2
    assert promoted(cloud, "raced", "c", over=None).version == 3


def test_a_first_promotion_gives_way_to_one_that_came_first(cloud: Target) -> None:
    promoted(cloud, "raced-first", "a", over=0)
    with pytest.raises(DeployError, match="was changed by another run"):
        promoted(cloud, "raced-first", "b", over=0)
    registry.forget("raced-first", cloud)
    with pytest.raises(DeployError, match="it was taken down"):
        promoted(cloud, "raced-first", "b", over=1)
