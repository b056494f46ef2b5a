"""The API's Lambda zip: ``lambda_handler/`` and AWS Lambda Powertools with what it depends on, as installed here.

boto3 is Lambda's own. What goes in is pure Python, so that any Python and any processor of Lambda runs it. Beside each
module lies its bytecode for the Python that builds the zip: Lambda cannot write any, and would compile every module
again at every cold start. Another Python passes over it.
"""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path, PurePosixPath

from askline.errors import PackageError

LIBRARY = "aws-lambda-powertools"

#: Parts of Powertools that the handler never reaches; the largest is the Swagger page.
_LEFT_OUT = (
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/",
    "aws_lambda_powertools/utilities/auth_alpha/",
    "aws_lambda_powertools/utilities/batch/",
    "aws_lambda_powertools/utilities/circuit_breaker/",
    "aws_lambda_powertools/utilities/data_masking/",
    "aws_lambda_powertools/utilities/feature_flags/",
    "aws_lambda_powertools/utilities/idempotency/",
    "aws_lambda_powertools/utilities/kafka/",
    "aws_lambda_powertools/utilities/parser/",
    "aws_lambda_powertools/utilities/streaming/",
    "aws_lambda_powertools/utilities/validation/",
)
#: What ``lambda_handler/`` is made of: its modules, the page and the OpenAPI document.
_HANDLER_FILES = {".py", ".html", ".json"}
#: What an installer writes about this machine.
_MACHINE_FILES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
_BINARY = {".so", ".pyd", ".dylib", ".dll"}
#: The earliest date that a zip can hold; a real one would make each build different.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class LambdaZip:
    """A zip in memory."""

    content: bytes
    sha256: str
    """Over the names and bytes of the sources and the Python that compiled them, not over the zip: another zlib gives
    other bytes for the same files."""
    members: tuple[str, ...]


def build() -> LambdaZip:
    """Return the zip; the same files give the same bytes.

    Raises
    ------
    PackageError
        If Powertools or something that it needs is not installed, or is not pure Python; or does not compile.
    """
    sources = {name: path.read_bytes() for name, path in {**_libraries(), **_handler()}.items()}
    digest = hashlib.sha256(f"{sys.implementation.cache_tag}\0".encode())
    for name, content in sorted(sources.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    members = dict(sorted({**sources, **_bytecode(sources)}.items()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name, _NO_DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3  # Unix, whatever this machine is: Lambda reads the mode from it
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)
    return LambdaZip(content=buffer.getvalue(), sha256=digest.hexdigest(), members=tuple(members))


def _bytecode(sources: dict[str, bytes]) -> dict[str, bytes]:
    """Compile every module and return the bytecode by the name that it has in the zip.

    Not checked against the sources when it is loaded: in the zip they never change. Compiled in a process of its own
    because sets of strings among the constants are written in the order of their hashes, which differ between
    processes unless their seed is fixed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name, content in sources.items():
            if name.endswith(".py"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
        options = ["-q", "-f", "-s", scratch, "--invalidation-mode", "unchecked-hash"]
        done = subprocess.run(
            [sys.executable, "-m", "compileall", *options, scratch],
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPYCACHEPREFIX": ""},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise PackageError(f"the API's Lambda function does not compile: {done.stdout.strip()[-500:]}")
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.pyc")}


def _handler() -> dict[str, Path]:
    folder = Path(str(files("lambda_handler")))
    found = (path for path in folder.rglob("*") if path.suffix in _HANDLER_FILES)
    return {f"lambda_handler/{path.relative_to(folder).as_posix()}": path for path in found}


def _libraries() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in with_dependencies(LIBRARY):
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            member = PurePosixPath(file)
            if _belongs(member):
                found[member.as_posix()] = Path(str(distribution.locate_file(file)))
    binary = sorted(name for name in found if PurePosixPath(name).suffix in _BINARY)
    if binary:
        raise PackageError(
            f"{binary[0]} is not pure Python and would not run on Lambda; install {LIBRARY} and its dependencies "
            "from their pure-Python wheels"
        )
    return found


def with_dependencies(name: str) -> Iterator[str]:
    """Yield a distribution and, without their extras, all that it needs."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = canonicalize_name(waiting.pop())
        if current in seen:
            continue
        seen.add(current)
        try:
            declared: Iterable[str] = metadata.requires(current) or ()
        except metadata.PackageNotFoundError as error:
            raise PackageError(
                f"{current} is not installed, so the API's Lambda zip cannot be built; run pip install {LIBRARY}"
            ) from error
        for requirement in map(Requirement, declared):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
        yield current


def _belongs(member: PurePosixPath) -> bool:
    """Say whether a file of a distribution goes into the zip: no scripts, no caches, nothing about this machine."""
    if ".." in member.parts or "__pycache__" in member.parts or member.suffix == ".pyc":
        return False
    if member.parts[0].endswith(".dist-info") and member.name in _MACHINE_FILES:
        return False
    return not member.as_posix().startswith(_LEFT_OUT)
