"""Whether the archive is one that the container can serve: members, sizes, Python and transformers."""

import json
import re
from pathlib import Path

from askline.config import PipelineConfig
from askline.errors import ArtifactError, ConfigError
from askline.records import DeployPlan, PackageRef, Target
from askline.store import ArtifactStore
from tasks.deploy_serverless.image import container_python
from tasks.package.package import ARCHIVE
from tasks.preflight.checks import Checks, bad, good, unknown

#: Disk of a serverless endpoint, in bytes.
SERVERLESS_DISK = 5 * 1024**3
#: SageMaker's own default for instances without a disk of their own.
INSTANCE_VOLUME_GB = 30
ENTRY = "code/inference.py"
_CHUNK = 1 << 20


def archive_checks(
    config: PipelineConfig, plan: DeployPlan, package: PackageRef, *, store: ArtifactStore, target: Target
) -> Checks:
    """Yield whether the archive is whole and right for the image. Reads it once; nothing is unpacked to disk."""
    again = "package it again: python -m flows.full_pipeline --from package"
    try:
        path = store.path("package", package.sha256) / ARCHIVE
        room, where, remedy = _room(config)
        members, unpacked, manifest = _read(path, room)
    except ArtifactError as error:
        yield bad("archive", str(error), again)
        return
    except (OSError, EOFError, ValueError) as error:
        yield bad("archive", f"{ARCHIVE} is damaged: {error}", again)
        return
    size = path.stat().st_size
    if max(size, unpacked) > room:
        found = f"{_gb(size)}, {_gb(unpacked)} or more unpacked; {where} holds {_gb(room)}"
        yield bad("archive size", found, remedy)
        return
    yield good("archive size", f"{_gb(size)}, {_gb(unpacked)} unpacked; {where} holds {_gb(room)}")
    yield from _members(members, again)
    yield from _python(config, package, target)
    yield from _transformers(plan, package, manifest, target)


def _room(config: PipelineConfig) -> tuple[int, str, str]:
    """Return the bytes that the archive may have and unpack to, what has so many, and what to do about too little."""
    deploy = config.deploy
    if deploy.target == "serverless":
        return SERVERLESS_DISK, "a serverless endpoint", 'package.quantisation "int8", or deploy.target "real-time"'
    volume = deploy.volume_size_gb or INSTANCE_VOLUME_GB
    return volume * 1024**3, f"a volume of {volume} GB", "raise deploy.volume_size_gb"


def _read(path: Path, most: int) -> tuple[list[str], int, dict[str, str]]:
    """Return members, bytes unpacked and the versions that the manifest names.

    Reads to the end, checksum included; but stops where it would unpack to more than ``most`` bytes.
    """
    import gzip
    import tarfile
    import zlib

    members: list[str] = []
    versions: dict[str, str] = {}
    unpacked = 0
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    members.append(member.name.removeprefix("./"))
                    unpacked += member.size
                    if unpacked > most:
                        return members, unpacked, versions
                    if members[-1] == "askline.json" and member.isfile():
                        content = tar.extractfile(member)
                        found = json.loads(content.read()) if content else {}
                        versions = {str(name): str(version) for name, version in found.get("versions", {}).items()}
            while stream.read(_CHUNK):
                pass
    except (tarfile.TarError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return members, unpacked, versions


def _members(members: list[str], again: str) -> Checks:
    if ENTRY in members:
        yield good("archive", f"{len(members)} members, {ENTRY} at its root")
        return
    nested = next((name for name in members if name.endswith(f"/{ENTRY}")), None)
    if nested is not None:
        folder = nested.removesuffix(f"/{ENTRY}")
        yield bad(
            "archive",
            f"everything lies in the folder {folder}, and SageMaker looks for {ENTRY} at the root",
            f"pack what is in {folder}, not {folder} itself: tar -C {folder} -czf {ARCHIVE} .",
        )
    else:
        yield bad("archive", f"there is no {ENTRY} in it, so nothing would answer", again)


def _python(config: PipelineConfig, package: PackageRef, target: Target) -> Checks:
    if package.python is None:
        yield good("python", "the archive carries no libraries: the image's own are used")
        return
    if target.kind == "local":
        from tasks.package.libraries import own_python

        has = own_python()
    else:
        try:
            has = container_python(config.deploy.image)
        except ConfigError:
            yield unknown(
                "python", f"not checked: the name of {config.deploy.image} does not say which Python is in it"
            )
            return
    if has != package.python:
        yield bad(
            "python",
            f"the archive carries libraries for Python {package.python}, and the image has {has}",
            f'set package.python to "{has}" and package again',
        )
    else:
        yield good("python", f"{has}, as the archive's libraries")


def _transformers(plan: DeployPlan, package: PackageRef, versions: dict[str, str], target: Target) -> Checks:
    if package.engine != "transformers":
        yield good("transformers", f"not needed: {package.engine} answers")
        return
    saved = versions.get("transformers")
    found = re.search(r"transformers-?(\d+(?:\.\d+)+)", plan.serving.image)
    if target.kind == "local" or found is None or saved is None:
        where = (
            "the embedded cloud's own" if target.kind == "local" else f"the name of {plan.serving.image} does not say"
        )
        yield unknown("transformers", f"not checked: {where}")
        return
    # A T5 saved by 5.x is read by 4.x without complaint, and answers wrongly.
    if int(found[1].split(".")[0]) < int(saved.split(".")[0]):
        yield bad(
            "transformers",
            f"the model was saved by {saved}, and the image has {found[1]}, which reads it wrongly",
            'take a newer deploy.image, or package.engine "onnxruntime"',
        )
    else:
        yield good("transformers", f"{found[1]} in the image, {saved} saved the model")


def _gb(size: int) -> str:
    return f"{size / 1024**3:.2f} GB" if size > 2**27 else f"{size / 1024**2:.1f} MB"
