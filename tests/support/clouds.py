"""What the tests of deployment and smoke test share: uploads to the embedded cloud, and packages that cannot serve."""

from pathlib import Path

from askline.clients import LocalKeys, aws_client
from askline.config import DeployConfig, PackageConfig
from askline.records import DeployPlan, EndpointRef, PackageRef, Target, UploadRef
from askline.store import ArtifactStore, sha256_of_file
from support.tiny_package import Tiny
from tasks.aws.execution_role import ensure_local_role
from tasks.deploy_serverless.deploy_serverless import deploy_serverless
from tasks.deploy_serverless.plan import plan_for
from tasks.deploy_serverless.serve import serve
from tasks.package import archive
from tasks.package.package import ARCHIVE
from tasks.package.upload import upload_package
from tasks.workplace import Workplace


def prefect_auth(target: Target) -> tuple[str, str]:
    """Return the user and the password of the API of a cloud's Prefect server."""
    user, _, password = (LocalKeys.of(target).prefect_auth or "").partition(":")
    return user, password


def upload(tiny: Tiny, package: PackageRef, target: Target, mlkey: str) -> UploadRef:
    return upload_package(
        PackageConfig(),
        package,
        mlkey=mlkey,
        tags={},
        place=Workplace(target, store=tiny.store),
    )


def deployed(config: DeployConfig, sent: UploadRef, package: PackageRef, target: Target) -> EndpointRef:
    """Plan and deploy what was uploaded, as the pipeline does."""
    plan = plan_for(
        config,
        package,
        archive_uri=sent.uri,
        role_arn=config.role_arn or ensure_local_role(sent, target=target, tags={}),
        target=target,
    )
    return deploy_serverless(config, plan, sent, place=Workplace(target))


def carried_out(plan: DeployPlan, target: Target, wait_seconds: float = 120) -> EndpointRef:
    """Carry out a plan whose archive is not the one that its package names."""
    return serve(plan.serving, plan, archive_sha256=None, place=Workplace(target), wait_seconds=wait_seconds).endpoint


def broken_package(tiny: Tiny, package: PackageRef, scratch: Path) -> PackageRef:
    """Store a package whose code fails when the container loads it."""
    archive.unpack(tiny.store.path("package", package.sha256) / ARCHIVE, scratch)
    (scratch / "code" / "inference.py").write_text(
        "def model_fn(model_dir, context=None):\n    raise RuntimeError('this package is broken on purpose')\n"
    )
    files = {path.relative_to(scratch).as_posix(): path for path in scratch.rglob("*") if path.is_file()}
    return _store(tiny.store, files, package)


def _store(store: ArtifactStore, files: dict[str, Path], like: PackageRef) -> PackageRef:
    with store.new("package") as draft:
        path = draft.folder / ARCHIVE
        archive.pack(files, path)
        facts = {"archive_sha256": sha256_of_file(path), "size": path.stat().st_size}
        sha256 = draft.commit()
    return like.model_copy(update={"sha256": sha256, **facts})


def names(target: Target, mlkey: str) -> dict[str, list[str]]:
    """List every resource of an MLKey, by kind."""
    client = aws_client(target, "sagemaker")
    return {
        "models": [item["ModelName"] for item in client.list_models(NameContains=f"askline-{mlkey}-")["Models"]],
        "configs": [
            item["EndpointConfigName"]
            for item in client.list_endpoint_configs(NameContains=f"askline-{mlkey}-")["EndpointConfigs"]
        ],
        "endpoints": [
            item["EndpointName"]
            for item in client.list_endpoints(NameContains=f"serv-hf-endpoint-{mlkey}")["Endpoints"]
        ],
    }
