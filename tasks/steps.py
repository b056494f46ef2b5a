"""The steps as Prefect tasks: each a thin shell around the core that its module holds.

A shell adds what only Prefect can give: a remembered result or retries, progress in the UI, and artifacts that a
person reads there. All that a step *does* stands in its own module and runs without Prefect.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from askline.config import (
    ApiConfig,
    DatasetConfig,
    DeployConfig,
    EvaluationConfig,
    HubConfig,
    PackageConfig,
    PipelineConfig,
    SmokeConfig,
    TrainingConfig,
)
from askline.errors import AsklineError, CloudError, DeployError
from askline.records import (
    ApiRef,
    BaseRef,
    DatasetRef,
    DeployPlan,
    EndpointRef,
    Gate,
    HubRef,
    ModelRef,
    PackageRef,
    Preflight,
    Run,
    Scores,
    SmokeRef,
    SourceRef,
    UploadRef,
)
from tasks.deploy_api import deploy_api as api_core
from tasks.deploy_serverless import deploy_serverless as endpoint_core
from tasks.deploy_serverless import plan as plan_core
from tasks.deploy_serverless import registry
from tasks.deployed import restore as put_right_core
from tasks.deployed.restore import PutRight
from tasks.evaluate import evaluate as evaluate_core
from tasks.fetch_dataset import fetch_dataset as dataset_core
from tasks.fine_tune import fine_tune as training_core
from tasks.gate import champion as champion_core
from tasks.gate import gate as gate_core
from tasks.package import package as package_core
from tasks.package import upload as upload_core
from tasks.preflight import preflight as preflight_core
from tasks.push_to_hub import push_to_hub as hub_core
from tasks.report import markdown
from tasks.report import plan as plan_report
from tasks.report import preflight as preflight_report
from tasks.report.report import Findings
from tasks.running import workers
from tasks.running.lock import one_at_a_time
from tasks.running.progress import place_of
from tasks.running.remembering import ONCE_A_RUN, cached_on
from tasks.running.retries import RETRIES
from tasks.running.run_step import run_step
from tasks.smoke_invoke import smoke_invoke as smoke_core
from tasks.t5 import base as base_core
from tasks.t5.scratch import AUTO
from tasks.workplace import Workplace, checkpoints_of


@task(name="resolve-source", **RETRIES, **ONCE_A_RUN)
def resolve_source(config: DatasetConfig, run: Run) -> SourceRef:
    """Pin the dataset's source to something that cannot change: a commit or a hash."""
    return dataset_core.resolve_source(config, place=Workplace.of(run))


@task(
    name="fetch-dataset",
    **RETRIES,
    **cached_on(*dataset_core.ROOMS, libraries=dataset_core.LIBRARIES),
)
def fetch_dataset(config: DatasetConfig, source: SourceRef, run: Run) -> DatasetRef:
    """Read, clean, profile and split the questions and answers."""
    place = place_of(run, "fetch-dataset")
    dataset = dataset_core.fetch_dataset(config, source, place=place)
    create_markdown_artifact(markdown.dataset(dataset, place.store), key="dataset-profile", description="The dataset")
    return dataset


@task(name="resolve-base", **RETRIES, **ONCE_A_RUN)
def resolve_base(config: TrainingConfig, dataset: DatasetRef, run: Run) -> BaseRef:
    """Choose the base where that is left open, and pin it to something that cannot change: a commit or a hash."""
    if config.base == AUTO:
        return base_core.choose_base(dataset.splits["train"], place=Workplace.of(run))
    return base_core.resolve_base(config.base, config.base_revision, place=Workplace.of(run))


@task(
    name="fine-tune",
    **RETRIES,
    **cached_on(*training_core.ROOMS, libraries=training_core.LIBRARIES),
)
def fine_tune(config: TrainingConfig, base: BaseRef, dataset: DatasetRef, run: Run) -> ModelRef:
    """Train the model; resumes from its newest checkpoint, on another machine too where the two share artifacts."""
    place = place_of(run, "fine-tune")
    checkpoint_store = config.checkpoint_store or checkpoints_of(run)
    model = training_core.fine_tune(
        config.model_copy(
            update={"base": base.name, "base_revision": base.revision, "checkpoint_store": checkpoint_store}
        ),
        dataset,
        place=place,
    )
    create_markdown_artifact(markdown.loss_curve(model, place.store), key="loss-curve", description="Training loss")
    return model


@task(
    name="evaluate",
    **RETRIES,
    **cached_on(*evaluate_core.ROOMS, libraries=evaluate_core.LIBRARIES),
)
def evaluate(
    config: EvaluationConfig, model: ModelRef, dataset: DatasetRef, answers: evaluate_core.Answers, run: Run
) -> Scores:
    """Measure the model on held-out questions, beside its baselines."""
    place = place_of(run, "evaluate")
    with workers.asking(config, model, run) as ask:
        scores = evaluate_core.evaluate_model(config, model, dataset, place=place, ask=ask, answers=answers)
    said = markdown.scores(scores) + "\n\n" + markdown.confidence(scores, place.store)
    create_markdown_artifact(said, key="scores", description="Scores and baselines")
    wrong = markdown.wrong_answers(scores, place.store)
    create_table_artifact(wrong, key="wrong-answers", description="Held-out questions answered wrongly")
    return scores


@task(name="gate", **RETRIES, **ONCE_A_RUN)
def check_gate(
    config: EvaluationConfig, model: ModelRef, scores: Scores, dataset: DatasetRef, mlkey: str, run: Run
) -> Gate:
    """Decide whether the model is good enough to be published and deployed, and better than the one that is."""
    gate = gate_core.check_gate(config, scores, dataset)
    if gate.passed:
        comparison = champion_core.challenge(config, mlkey, model, scores, dataset, place=place_of(run, "gate"))
        gate = gate_core.weigh(config, gate, comparison, mlkey=mlkey)
    create_markdown_artifact(markdown.gate(gate), key="champion-and-challenger", description="The gate's decision")
    return gate


@task(name="push-to-hf", **RETRIES, **ONCE_A_RUN)
def push_to_hub(
    config: HubConfig, model: ModelRef, scores: Scores, dataset: DatasetRef, mlkey: str, run: Run
) -> HubRef:
    """Publish the model with its card on the Hub."""
    published = hub_core.push_to_hub(config, model, scores, dataset, mlkey=mlkey, place=place_of(run, "push-to-hf"))
    if published.url:
        create_link_artifact(published.url, key="hub-repository", description=f"{published.repo_id} {published.tag}")
    return published


@task(
    name="package",
    **RETRIES,
    **cached_on(*package_core.ROOMS, libraries=package_core.LIBRARIES),
)
def build_package(
    config: PackageConfig,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    license_name: str,
    python: str,
    run: Run,
) -> PackageRef:
    """Build model.tar.gz for the container's Python and prove it in a clean process."""
    package = package_core.build_package(
        config,
        model,
        scores,
        dataset,
        place=place_of(run, "package"),
        python=python,
        license=license_name,
    )
    create_markdown_artifact(markdown.package(package), key="package", description="The package and its proof")
    return package


@task(name="plan", **RETRIES)
def plan_deploy(config: DeployConfig, upload: PackageConfig, package: PackageRef, run: Run) -> DeployPlan:
    """Say what will be created, in which size and at what price, before anything is."""
    plan = plan_core.plan_deploy(config, upload, package, target=run.target)
    create_markdown_artifact(plan_report.markdown(plan), key="deploy-plan", description="What will be created")
    return plan


@task(name="preflight", **RETRIES)
def preflight(config: PipelineConfig, plan: DeployPlan, package: PackageRef, run: Run, plan_only: bool) -> Preflight:
    """Look whether all that the deployment needs is there and allowed; a plan only tells what it found."""
    found = preflight_core.preflight(config, plan, package, place=place_of(run, "preflight"))
    create_markdown_artifact(preflight_report.markdown(found), key="preflight", description="Before the deployment")
    if not plan_only:
        preflight_core.require(found)
    return found


@task(name="upload", **RETRIES, **ONCE_A_RUN)
def upload_package(config: PackageConfig, package: PackageRef, deploy: DeployConfig, run: Run) -> UploadRef:
    """Bring the archive to S3, unless the same bytes are there."""
    return upload_core.upload_package(
        config,
        package,
        mlkey=deploy.mlkey,
        place=place_of(run, "upload"),
        tags=deploy.tags,
    )


@task(name="deploy-serverless", **RETRIES)
def deploy_serverless(config: DeployConfig, upload: UploadRef, package: PackageRef, run: Run) -> EndpointRef:
    """Create or update the SageMaker endpoint and wait until it is in service."""
    return endpoint_core.deploy_serverless(config, upload, package, place=place_of(run, f"deploy-{config.target}"))


#: The step by the kind of endpoint, under its own name.
deploy = {kind: deploy_serverless.with_options(name=f"deploy-{kind}") for kind in ("serverless", "real-time", "async")}


@task(name="put-right", **RETRIES)
def put_right(config: DeployConfig, deployed: EndpointRef | None, run: Run) -> PutRight:
    """Let the endpoint serve what the registry names again, and ask it."""
    return put_right_core.put_right(config, deployed=deployed, place=place_of(run, "put-right"))


@contextmanager
def deployment(config: DeployConfig, found: Findings, run: Run) -> Iterator[None]:
    """Make what is deployed and asked in the block one act: alone at its MLKey, and undone if it fails.

    Raises
    ------
    BusyError
        If another run is still deploying the MLKey after ``queue_seconds``.
    DeployError
        With what failed, and with what the endpoint serves now.
    """
    place = "AWS" if run.target.kind == "aws" else "the embedded cloud"
    name = f"deploy {config.multi_model or config.mlkey} to {place}, {run.target.region}"
    with one_at_a_time(name, wait_seconds=config.queue_seconds):
        try:
            yield
        except Exception as error:
            stands = _stands(config, found, run)
            if not isinstance(error, AsklineError):
                error.add_note(stands)
                raise
            raise DeployError(f"{error}\n{stands}") from error


def _stands(config: DeployConfig, found: Findings, run: Run) -> str:
    """Put right what failed and say what stands; this failure too must not hide the first one."""
    try:
        return run_step(put_right, config, found.endpoint, run).said
    except Exception as error:  # noqa: BLE001 - told beside the first failure
        return f"What the endpoint serves now could not be found out: {error}; see python -m flows.status"


@task(name="deploy-api", **RETRIES)
def deploy_api(config: ApiConfig, upload: UploadRef, deploy: DeployConfig, run: Run) -> ApiRef:
    """Create or update the Lambda function and the API in front of it."""
    return api_core.deploy_api(
        config,
        bucket=upload.bucket,
        prefix="api",
        place=place_of(run, "deploy-api"),
        tags=deploy.tags,
        mlkey=deploy.mlkey,
    )


def _public_name(source: SourceRef) -> str:
    """Return what API callers may read about the data: of a file its name, not where it lies."""
    location = PurePath(source.location).name if source.kind == "file" else source.location
    return f"{location}@{source.revision}"


@task(name="smoke-invoke", **RETRIES)
def smoke_invoke(
    config: SmokeConfig,
    endpoint: EndpointRef,
    api: ApiRef | None,
    scores: Scores,
    package: PackageRef,
    dataset: DatasetRef,
    run: Run,
) -> SmokeRef:
    """Ask the endpoint what the evaluation asked, promote it in the registry, and ask the API."""
    smoke = smoke_core.smoke_invoke(
        config,
        endpoint,
        scores,
        differing=package.differing,
        place=place_of(run, "smoke-invoke"),
    )
    registry.promote(
        endpoint.mlkey,
        endpoint=endpoint.name,
        model_version=package.model_sha256[:12],
        archive_sha256=package.archive_sha256,
        dataset=_public_name(dataset.source),
        dataset_sha256=dataset.sha256,
        exact_match=scores.test.exact_match,
        run_id=run.run_id,
        target=run.target,
        target_model=endpoint.target_model,
    )
    if api is not None:
        smoke_core.smoke_api(api, smoke, mlkey=endpoint.mlkey, target=run.target)
        smoke = smoke.model_copy(update={"api_checked": True})
    _sweep(endpoint, run)
    create_markdown_artifact(
        markdown.deployment(endpoint, api, smoke), key="endpoint", description="The endpoint and its API"
    )
    return smoke


def _sweep(endpoint: EndpointRef, run: Run) -> None:
    """Delete what killed runs left of this MLKey; whether that can be done decides nothing."""
    try:
        swept = put_right_core.sweep_mlkey(endpoint.mlkey, endpoint=endpoint.name, target=run.target)
    except CloudError as error:
        get_run_logger().warning("what earlier runs left behind was not looked for: %s", error)
        return
    if swept:
        get_run_logger().info("left behind by earlier runs, and deleted: %s", ", ".join(swept))
