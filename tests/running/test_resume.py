"""What is done again and what is not: by a retry, a new run, another machine, a damaged artifact, ``redo_from``.

Real Prefect tasks on a real server; the steps are small, their names and options are those of the pipeline.
"""

import time
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.testing.utilities import prefect_test_harness

from askline.clients import aws_client
from askline.config import PipelineConfig
from askline.errors import ArtifactError, StepTimeoutError
from askline.records import DatasetRef, Run, SourceRef, Target
from askline.shared_artifacts import SharedArtifacts
from askline.store import ArtifactStore
from local_cloud.keys import exports
from tasks.running.remembering import ONCE_A_RUN, cached_on
from tasks.running.retries import RETRIES
from tasks.running.run_step import run_step
from tasks.workplace import store_of

pytestmark = pytest.mark.slow

LOCAL = Target(kind="local", region="us-east-1")
done: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def nothing_done_yet():
    done.clear()


@task(name="resolve-source", **ONCE_A_RUN)
def resolve(run: Run) -> SourceRef:
    done.append("resolve-source")
    return SourceRef(kind="file", location=str(run.state_dir / "questions.csv"), revision="1")


@task(name="fetch-dataset", **cached_on("qa.rows"))
def fetch(source: SourceRef, run: Run) -> DatasetRef:
    done.append("fetch-dataset")
    with store_of(run).new("dataset") as draft:
        (draft.folder / "train.jsonl").write_text("rows")
        sha256 = draft.commit()
    return DatasetRef(
        sha256=sha256,
        source=source,
        splits={"train": 1},
        rejected=0,
        question_column="q",
        answer_column="a",
        split_by="existing",
        unanswerable="I don't know",
    )


@task(name="evaluate", **cached_on("qa.rows"))
def judge(dataset: DatasetRef, run: Run) -> DatasetRef:
    done.append("evaluate")
    return dataset


@task(name="deploy-serverless")
def deploy(dataset: DatasetRef, run: Run) -> DatasetRef:
    done.append("deploy-serverless")
    if "cut off" in (run.state_dir / "network").read_text():
        (run.state_dir / "network").write_text("up")
        raise ConnectionError("cut off")
    return dataset


@flow(retries=1)
def pipeline(state_dir: Path, artifact_store: str | None, redo_from: str | None) -> str:
    from prefect.runtime import flow_run

    run = Run(
        run_id=str(flow_run.id),
        state_dir=state_dir,
        target=LOCAL,
        artifact_store=artifact_store,
        redo_from=redo_from,
    )
    source = run_step(resolve, run)
    dataset = run_step(fetch, source, run)
    return run_step(deploy, run_step(judge, dataset, run), run).sha256


def start(state_dir: Path, *, shared: Path | None = None, redo_from: str | None = None, network: str = "up") -> str:
    state_dir.mkdir(exist_ok=True)
    (state_dir / "network").write_text(network)
    return pipeline(state_dir, None if shared is None else str(shared), redo_from)


def test_a_new_run_redoes_only_what_asks_the_world(tmp_path):
    start(tmp_path / "a", shared=tmp_path / "shared")
    assert done == ["resolve-source", "fetch-dataset", "evaluate", "deploy-serverless"]
    done.clear()
    start(tmp_path / "a", shared=tmp_path / "shared")
    assert done == ["resolve-source", "deploy-serverless"]


def test_the_retry_of_a_run_redoes_only_the_step_that_failed(tmp_path):
    start(tmp_path / "a", shared=tmp_path / "shared", network="cut off")
    assert done == ["resolve-source", "fetch-dataset", "evaluate", "deploy-serverless", "deploy-serverless"]


def test_another_machine_takes_what_the_first_has_done(tmp_path):
    sha256 = start(tmp_path / "a", shared=tmp_path / "shared")
    done.clear()
    assert start(tmp_path / "b", shared=tmp_path / "shared") == sha256
    assert done == ["resolve-source", "deploy-serverless"]
    assert ArtifactStore(tmp_path / "b" / "artifacts").holds("dataset", sha256)


@pytest.mark.parametrize("damage", ["here", "both"])
def test_a_damaged_artifact_is_fetched_again_or_else_made_again(tmp_path, damage):
    sha256 = start(tmp_path / "a", shared=tmp_path / "shared")
    places = [tmp_path / "a" / "artifacts", *([tmp_path / "shared"] if damage == "both" else [])]
    for place in places:
        (place / "dataset" / sha256 / "train.jsonl").write_text("ro")
    done.clear()
    assert start(tmp_path / "a", shared=tmp_path / "shared") == sha256
    made_again = ["fetch-dataset"] if damage == "both" else []
    assert done == ["resolve-source", *made_again, "deploy-serverless"]
    for place in places:
        assert (place / "dataset" / sha256 / "train.jsonl").read_text() == "rows"


def test_from_a_step_on_nothing_remembered_is_taken_and_its_retry_does_not_begin_anew(tmp_path):
    start(tmp_path / "a", shared=tmp_path / "shared")
    done.clear()
    start(tmp_path / "a", shared=tmp_path / "shared", redo_from="evaluate", network="cut off")
    assert done == ["resolve-source", "evaluate", "deploy-serverless", "deploy-serverless"]
    done.clear()
    start(tmp_path / "a", shared=tmp_path / "shared", redo_from="fetch-dataset")
    assert done == ["resolve-source", "fetch-dataset", "evaluate", "deploy-serverless"]


@pytest.mark.timeout(120, method="thread")  # the alarm signal is the step's
def test_a_step_that_takes_too_long_is_broken_off_and_the_option_is_named(tmp_path):
    @task(name="upload", **RETRIES)
    def upload(run: Run) -> SourceRef:
        time.sleep(60)
        raise AssertionError("not broken off")

    @flow
    def slow() -> None:
        run_step(upload, Run(run_id="1", state_dir=tmp_path, target=LOCAL, timeouts={"upload": 0.01}))

    started = time.monotonic()
    with pytest.raises(StepTimeoutError, match=r"timeouts\.upload"):
        slow()
    assert time.monotonic() - started < 30


def test_checkpoints_go_to_s3_and_come_back(cloud, tmp_path, monkeypatch):
    from support.checkpoints import write_checkpoint

    from tasks.fine_tune.checkpoints import newest_whole
    from tasks.fine_tune.remote_checkpoints import CheckpointStore

    s3 = aws_client(cloud, "s3")
    s3.create_bucket(Bucket="checkpoints-1")
    for name, value in exports(cloud).items():
        monkeypatch.setenv(name, value)
    store = CheckpointStore("s3://checkpoints-1/of/a-run")
    assert store.restore_remote(tmp_path / "there") is None
    for step in (1, 2, 3):
        store.save_remote(write_checkpoint(tmp_path / "here", step))
    store.wait()
    there = CheckpointStore("s3://checkpoints-1/of/a-run").restore_remote(tmp_path / "there")
    assert there == newest_whole(tmp_path / "there") == tmp_path / "there" / "checkpoint-3"
    kept = {item["Key"].split("/")[2] for item in s3.list_objects_v2(Bucket="checkpoints-1")["Contents"]}
    assert kept == {"checkpoint-2", "checkpoint-3"}
    s3.put_object(Bucket="checkpoints-1", Key="of/a-run/checkpoint-3/deeper/weights", Body=b"cut off")
    again = CheckpointStore("s3://checkpoints-1/of/a-run").restore_remote(tmp_path / "elsewhere")
    assert again == tmp_path / "elsewhere" / "checkpoint-2"
    store.remove()
    assert s3.list_objects_v2(Bucket="checkpoints-1")["KeyCount"] == 0


def test_every_step_has_a_limit():
    limits = PipelineConfig().timeouts.model_dump()
    assert {"fetch_dataset", "fine_tune", "evaluate", "push_to_hf", "package", "upload", "deploy"} <= set(limits)


class TestSharedPlace:
    """The shared place itself: written whole or not at all, and never believed without a look."""

    def test_an_artifact_that_was_cut_off_is_not_there(self, tmp_path):
        shared = SharedArtifacts(f"file://{tmp_path}/shared")
        (tmp_path / "shared" / "model" / "1").mkdir(parents=True)
        (tmp_path / "shared" / "model" / "1.json").write_text('["a.bi')
        assert not shared.has("model", "1")

    def test_a_list_that_points_outside_is_refused(self, tmp_path):
        shared = SharedArtifacts(str(tmp_path / "shared"))
        (tmp_path / "shared" / "model").mkdir(parents=True)
        (tmp_path / "shared" / "model" / "1.json").write_text('["../../evil"]')
        (tmp_path / "here").mkdir()
        with pytest.raises(ArtifactError, match="outside"):
            shared.get("model", "1", tmp_path / "here")

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        store = ArtifactStore(tmp_path / "here", SharedArtifacts(str(tmp_path / "file" / "shared")))
        with pytest.raises(ArtifactError, match=r"file/shared"), store.new("model") as draft:
            draft.commit()

    def test_s3_holds_artifacts_too(self, cloud, tmp_path):
        aws_client(cloud, "s3").create_bucket(Bucket="shared-1")
        runs = [
            Run(run_id="1", state_dir=tmp_path / name, target=cloud, artifact_store="s3://shared-1/artifacts")
            for name in ("a", "b")
        ]
        with store_of(runs[0]).new("dataset") as draft:
            (draft.folder / "deep").mkdir()
            (draft.folder / "deep" / "train.jsonl").write_text("rows")
            sha256 = draft.commit()
        assert (store_of(runs[1]).verify("dataset", sha256) / "deep" / "train.jsonl").read_text() == "rows"

    def test_a_bucket_that_is_not_there_is_named(self, cloud, tmp_path):
        run = Run(run_id="1", state_dir=tmp_path, target=cloud, artifact_store="s3://no-such-bucket-1/x")
        with pytest.raises(ArtifactError, match="no-such-bucket-1"), store_of(run).new("dataset") as draft:
            draft.commit()
