"""Where a distribution's files come from: what is installed here, or a wheel that is fetched once and kept.

Both are checked: an installed file against the hash that the installer recorded, a wheel against a known sha256, or
else the one that it had when it came (its index's own hash is compared by pip).
"""

import base64
import hashlib
import os
import platform as machine
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from packaging.utils import canonicalize_name

from askline.errors import PackageError
from askline.store import sha256_of_file

#: Platforms that wheels are fetched for.
PLATFORMS = ("linux_x86_64", "linux_aarch64")
#: The sha256 of wheels, by name, version, Python and platform. Of another version, the one that it had when it was
#: fetched is recorded beside it.
KNOWN_WHEELS: Mapping[tuple[str, str, str, str], str] = {
    ("onnxruntime", "1.32.0", "cp311", "linux_x86_64"): (
        "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d"
    ),
    ("onnxruntime", "1.32.0", "cp312", "linux_x86_64"): (
        "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8"
    ),
    ("tokenizers", "0.23.3", "cp311", "linux_x86_64"): (
        "376851d22bcf9d650a5c3090bb83e6cf9e895fbf0595369fa4cd43c1f69b5f87"
    ),
    ("tokenizers", "0.23.3", "cp312", "linux_x86_64"): (
        "376851d22bcf9d650a5c3090bb83e6cf9e895fbf0595369fa4cd43c1f69b5f87"
    ),
}

# A wheel for an older glibc runs on a newer one; Ubuntu 20.04, Debian 11 and Amazon Linux 2023 have 2.31 or newer.
_MANYLINUX = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux2010")
_FETCH_SECONDS = 600


class Requirement(NamedTuple):
    """One distribution, at one version."""

    name: str
    version: str


class Source(NamedTuple):
    """A distribution's files, by their names in the wheel, and its metadata."""

    files: Mapping[str, Callable[[], bytes]]
    metadata: Message


def tag_of(python: str) -> str:
    """Return the folder under ``code/lib`` for a Python version: ``"3.11"`` is in ``"cp311"``."""
    if not re.fullmatch(r"3\.\d{1,2}", python):
        raise PackageError(f"{python!r} is no Python version to package for; give major and minor, such as 3.12")
    return "cp" + python.replace(".", "")


def own_python() -> str:
    """Return this interpreter's version as :func:`collect` takes it."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def own_platform() -> str:
    """Return this machine's platform as :func:`collect` takes it: ``linux_x86_64``, ``darwin_arm64`` …."""
    return f"{sys.platform}_{machine.machine()}"


def installed(wanted: Requirement, python: str, platform: str) -> Source | None:
    """Return what is installed here, or None where that is for another Python or platform, or not from a wheel."""
    if (python, platform) != (own_python(), own_platform()) or sys.implementation.name != "cpython":
        return None
    try:
        found = distribution(wanted.name)
    except PackageNotFoundError:
        return None
    if found.version != wanted.version:
        raise PackageError(
            f"the package carries {wanted.name} {wanted.version}, and {found.version} is installed; install "
            f"{wanted.name}=={wanted.version} (the versions in constraints.txt)"
        )
    wheel = Parser().parsestr(found.read_text("WHEEL") or "")
    tags = wheel.get_all("Tag", [])
    runs_elsewhere = any("manylinux" in tag or tag.endswith("-any") for tag in tags)
    if not found.files or not (runs_elsewhere or not platform.startswith("linux")):
        return None
    return Source(dict(_recorded(found, wanted)), Parser().parsestr(found.read_text("METADATA") or ""))


def _recorded(found: Distribution, wanted: Requirement) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for file in found.files or []:
        if file.hash is None or ".." in file.parts or file.name in ("INSTALLER", "REQUESTED", "direct_url.json"):
            continue
        path, algorithm, digest = Path(str(file.locate())), file.hash.mode, file.hash.value

        def read(path: Path = path, algorithm: str = algorithm, digest: str = digest) -> bytes:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                content = b""
            found_digest = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()
            if found_digest != digest:
                raise PackageError(
                    f"{path} is not as it was installed; reinstall it: "
                    f"pip install --force-reinstall --no-deps {wanted.name}=={wanted.version}"
                )
            return content

        yield file.as_posix(), read


def fetched(wanted: Requirement, python: str, platform: str, cache: Path) -> Source:
    """Return the wheel for another Python or platform, from the cache or else from the package index."""
    shelf = cache / f"{tag_of(python)}-{platform}"
    known = KNOWN_WHEELS.get((canonicalize_name(wanted.name), wanted.version, tag_of(python), platform))
    wheel = _on_the_shelf(wanted, shelf, known)
    if wheel is None:
        if platform not in PLATFORMS:
            raise PackageError(f"{wanted.name} is not installed here; install {wanted.name}=={wanted.version}")
        _fetch(wanted, python, platform, shelf, known)
        wheel = _on_the_shelf(wanted, shelf, known)
    if wheel is None:
        raise PackageError(f"{shelf} lost {wanted.name} {wanted.version} while it was fetched; try again")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        metadata = next(name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        text = archive.read(metadata).decode()
    unsafe = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if unsafe:
        raise PackageError(f"{wheel} holds {unsafe[0]!r}, which leads out of it; delete it and fetch it again")

    def reader(name: str) -> Callable[[], bytes]:
        def read() -> bytes:
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(name)

        return read

    return Source({name: reader(name) for name in names}, Parser().parsestr(text))


def _on_the_shelf(wanted: Requirement, shelf: Path, known: str | None) -> Path | None:
    """Return a whole wheel; one that is not what its sha256 says is thrown away."""
    escaped = canonicalize_name(wanted.name).replace("-", "_")
    for path in sorted(shelf.glob("*.whl")):
        if path.name.lower().startswith(f"{escaped}-{wanted.version}-"):
            beside = path.with_name(path.name + ".sha256")
            expected = known or (beside.read_text().strip() if beside.is_file() else None)
            if expected is not None and sha256_of_file(path) == expected:
                return path
            path.unlink()
            beside.unlink(missing_ok=True)
    return None


def _fetch(wanted: Requirement, python: str, platform: str, shelf: Path, known: str | None) -> None:
    architecture = platform.removeprefix("linux_")
    platforms = [part for name in _MANYLINUX for part in ("--platform", f"{name}_{architecture}")]
    shelf.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=shelf) as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_text(f"{wanted.name}=={wanted.version}{f' --hash=sha256:{known}' if known else ''}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        command += [*platforms, "--dest", scratch, "--requirement", str(listed)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_FETCH_SECONDS,
                check=False,
                env={**os.environ, "PIP_RETRIES": os.environ.get("PIP_RETRIES", "2")},
            )
        except subprocess.TimeoutExpired as error:
            raise PackageError(
                f"{wanted.name} {wanted.version} did not come in {_FETCH_SECONDS} s; try again", retryable=True
            ) from error
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise PackageError(
                f"cannot fetch {wanted.name} {wanted.version} for Python {python} on {platform}: {said[-1]}. It takes "
                "the package index once; without a network, put that wheel, and its sha256 in a file of the same name "
                f"with .sha256 at its end, into {shelf}",
                retryable=True,
            )
        wheel = wheels[0]
        sha256 = sha256_of_file(wheel)
        (shelf / (wheel.name + ".sha256")).write_text(sha256 + "\n")
        wheel.replace(shelf / wheel.name)
