"""The steps as Prefect tasks: each a thin shell around the core that its module holds.

A shell adds what only Prefect can give: a remembered result or retries, progress in the UI, and artifacts that a
person reads there. All that a step *does* stands in its own module and runs without Prefect.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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
from askline.console import say
from askline.errors import AsklineError, DeployError
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
    Promotion,
    Run,
    Scores,
    SecondOpinionRef,
    SmokeRef,
    SourceRef,
    UploadRef,
)
from tasks.deploy_api import deploy_api as api_core
from tasks.deploy_serverless import deploy_serverless as endpoint_core
from tasks.deploy_serverless import plan as plan_core
from tasks.deployed import promote as promote_core
from tasks.deployed import restore as restore_core
from tasks.deployed.restore import Restored
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
from tasks.running.interrupts import interruptible
from tasks.running.lock import one_at_a_time
from tasks.running.progress import place_of
from tasks.running.remembering import ONCE_A_RUN, cached_on
from tasks.running.retries import RETRIES
from tasks.running.run_step import run_step
from tasks.second_opinion import second_opinion as opinion_core
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
    name="second-opinion",
    **RETRIES,
    **cached_on(*opinion_core.ROOMS, libraries=opinion_core.LIBRARIES),
)
def second_opinion(choice: str, answers: str, model: ModelRef, dataset: DatasetRef, run: Run) -> SecondOpinionRef:
    """Fit an encoder's opinion on the known answers, which judges beside the model."""
    choice = choice if answers == "known" else "none"
    return opinion_core.fit_second_opinion(choice, model, dataset, place=place_of(run, "second-opinion"))


@task(
    name="evaluate",
    **RETRIES,
    **cached_on(*evaluate_core.ROOMS, libraries=evaluate_core.LIBRARIES),
)
def evaluate(
    config: EvaluationConfig,
    model: ModelRef,
    dataset: DatasetRef,
    answers: evaluate_core.Answers,
    second: SecondOpinionRef,
    run: Run,
) -> Scores:
    """Measure the model on held-out questions, beside its baselines."""
    place = place_of(run, "evaluate")
    with workers.asking(config, model, run) as ask:
        scores = evaluate_core.evaluate_model(
            config, model, dataset, place=place, ask=ask, answers=answers, second=second
        )
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
        # Before the comparison: what is promoted while it goes on is found out under the lock of the deployment.
        standing = champion_core.standing(config, mlkey, target=run.target)
        comparison = champion_core.challenge(config, mlkey, model, scores, dataset, place=place_of(run, "gate"))
        gate = gate_core.weigh(config, gate.model_copy(update={"standing": standing}), comparison, mlkey=mlkey)
    create_markdown_artifact(markdown.gate(gate), key="champion-and-challenger", description="The gate's decision")
    return gate


#: The same decision once more, in the same run.
_gate_again = check_gate.with_options(name="gate-again")


def still_better(
    config: EvaluationConfig, gate: Gate, model: ModelRef, scores: Scores, dataset: DatasetRef, mlkey: str, run: Run
) -> Gate:
    """Return the gate, decided anew where another model was promoted since: while this run waited or trained.

    Called under the lock of the deployment, so that no other run promotes from here on.
    """
    if gate.standing is None or champion_core.standing(config, mlkey, target=run.target) == gate.standing:
        return gate
    again = run_step(_gate_again, config, model, scores, dataset, mlkey, run)
    return again.model_copy(update={"approval": gate.approval})


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
def deploy_serverless(config: DeployConfig, plan: DeployPlan, upload: UploadRef, run: Run) -> EndpointRef:
    """Create or update the SageMaker endpoint as planned, and wait until it is in service."""
    return endpoint_core.deploy_serverless(config, plan, upload, place=place_of(run, f"deploy-{config.target}"))


#: The step by the kind of endpoint, under its own name.
deploy = {kind: deploy_serverless.with_options(name=f"deploy-{kind}") for kind in ("serverless", "real-time", "async")}


@task(name="restore", **RETRIES)
def restore(config: DeployConfig, deployed: EndpointRef | None, settle_seconds: float, run: Run) -> Restored:
    """Let the endpoint serve what the registry names again, and ask it."""
    return restore_core.restore(
        config, deployed=deployed, settle_seconds=settle_seconds, place=place_of(run, "restore")
    )


@contextmanager
def deployment(config: DeployConfig, found: Findings, run: Run) -> Iterator[None]:
    """Make what is deployed, asked and promoted in the block one act: alone at its MLKey, and undone if it fails.

    An interrupt undoes it too, whoever sends it: Ctrl-C, SIGTERM, a terminal that is closed, a cancellation. A second
    one ends the undoing.

    Raises
    ------
    BusyError
        If another run is still deploying the MLKey after ``queue_seconds``.
    DeployError
        With what failed, and with what the endpoint serves now.
    """
    place = "AWS" if run.target.kind == "aws" else "the embedded cloud"
    name = f"deploy {config.multi_model or config.mlkey} to {place}, {run.target.region}"
    with one_at_a_time(name, wait_seconds=config.queue_seconds), interruptible():
        try:
            yield
        except AsklineError as error:
            raise DeployError(f"{error}\n{_stands(config, found, run)}") from error
        except Exception as error:
            error.add_note(_stands(config, found, run))
            raise
        except GeneratorExit:
            raise
        except BaseException as error:
            say("  … interrupted: what served before is put back; interrupt again to leave it as it is")
            stands = _stands(config, found, run, settle_seconds=config.wait_seconds)
            say(stands)
            error.add_note(stands)
            raise


def _stands(config: DeployConfig, found: Findings, run: Run, settle_seconds: float = 0) -> str:
    """Put right what failed and say what stands; this failure too must not hide the first one."""
    try:
        return run_step(restore, config, found.endpoint, settle_seconds, run).said
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


@task(name="smoke-invoke", **RETRIES)
def smoke_invoke(config: SmokeConfig, endpoint: EndpointRef, scores: Scores, package: PackageRef, run: Run) -> SmokeRef:
    """Ask the endpoint what the evaluation asked."""
    return smoke_core.smoke_invoke(
        config, endpoint, scores, differing=package.differing, place=place_of(run, "smoke-invoke")
    )


@task(name="promote", **RETRIES)
def promote(
    config: DeployConfig,
    gate: Gate,
    endpoint: EndpointRef,
    smoke: SmokeRef,
    api: ApiRef | None,
    scores: Scores,
    package: PackageRef,
    dataset: DatasetRef,
    run: Run,
) -> Promotion:
    """Let the MLKey answer from the endpoint, ask the API, and delete what earlier runs left behind."""
    promotion = promote_core.promote(
        config, endpoint, smoke, api, scores, package, dataset, over=gate.standing, place=place_of(run, "promote")
    )
    create_markdown_artifact(
        markdown.deployment(endpoint, api, smoke), key="endpoint", description="The endpoint and its API"
    )
    if promotion.swept:
        get_run_logger().info("left behind by earlier runs, and deleted: %s", ", ".join(promotion.swept))
    return promotion
