"""The engine's libraries, for the container's Python, as they travel in the archive: nothing is installed there.

For this interpreter's own Python and platform they are taken from what is installed, file by file against the hashes
that the installer recorded, so that packaging needs no network. For another Python (such as 3.12 of the images on
AWS) the wheels are fetched once, checked against a known sha256 and kept.

What serving never opens is left out (:data:`LEFT_OUT`), and shared objects lose what no loader maps
(:func:`mapped_part`). Both ways give the same bytes, whatever the machine.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from email.message import Message
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from packaging.utils import canonicalize_name

from askline.errors import ArtifactError, PackageError
from askline.progress import Progress, quiet
from askline.store import sha256_of_folder
from tasks.package.elf import mapped_part
from tasks.package.wheels import PLATFORMS, Requirement, Source, fetched, installed, own_platform, own_python, tag_of

__all__ = ["LEFT_OUT", "Libraries", "Requirement", "collect", "own_platform", "own_python", "tag_of"]

#: What stays behind, and why: patterns of paths inside the wheel, by distribution ("*" is every one).
LEFT_OUT: Mapping[str, tuple[tuple[str, str], ...]] = {
    "*": (
        ("*__pycache__/*", "written anew by the Python that runs"),
        ("*.pyi", "for type checkers"),
        ("*/py.typed", "for type checkers"),
        ("*.h", "for compilers"),
        ("*.hpp", "for compilers"),
        ("*.a", "for linkers"),
        ("*.pth", "read in site-packages only"),
        ("*/tests/*", "tests"),
        ("*/test/*", "tests"),
        ("*.dist-info/*", "would hide the version that the container's own libraries look for; licences are kept"),
        ("*.data/scripts/*", "command-line programs"),
    ),
    "onnxruntime": (
        ("onnxruntime/capi/libonnxruntime.so*", "the C interface's own copy; the Python module holds all of it"),
        ("onnxruntime/capi/convert_npz_to_onnx_adapter.py", "a command-line program"),
        ("onnxruntime/backend/*", "runs ONNX's conformance tests; needs onnx"),
        ("onnxruntime/datasets/*", "sample graphs"),
        ("onnxruntime/quantization/*", "makes models; needs onnx"),
        ("onnxruntime/tools/*", "makes models; needs onnx"),
        ("onnxruntime/transformers/*", "makes models; needs onnx and torch"),
    ),
    "tokenizers": (("tokenizers/tools/*", "draws pictures for notebooks"),),
    "ctranslate2": (("ctranslate2/converters/*", "makes models; the package's own import does without it"),),
    "numpy": (("numpy/f2py/*", "compiles Fortran"), ("numpy/distutils/*", "builds packages")),
}

_LICENSE = re.compile(r"(licen[cs]e|copying|notice|authors|thirdparty)", re.IGNORECASE)
_APACHE = Path(__file__).parents[2] / "LICENSE"


class Libraries(NamedTuple):
    """What was collected."""

    folder: Path
    """Stands in the archive as ``code/lib/<tag>``; the folder's name is the tag."""
    versions: dict[str, str]
    files: tuple[str, ...]
    """Names relative to ``folder``, sorted."""
    size: int
    """Bytes unpacked."""
    sha256: str
    """Over all files' names and hashes: the same wherever they were collected."""

    def members(self, prefix: str = "code/lib") -> dict[str, Path]:
        """Return name in the archive to path, as :func:`tasks.package.archive.pack` takes it."""
        return {f"{prefix}/{self.folder.name}/{name}": self.folder / name for name in self.files}


def collect(
    requirements: Sequence[Requirement],
    *,
    python: str,
    platform: str = "linux_x86_64",
    destination: Path,
    cache: Path,
    progress: Progress = quiet,
) -> Libraries:
    """Gather libraries into ``destination/<tag>``, whole or not at all; what was there is replaced.

    Parameters
    ----------
    requirements
        What to carry. Nothing is added: a dependency that the container lacks must be named too.
    python
        The container's, such as ``"3.11"``.
    platform
        ``linux_x86_64``, ``linux_aarch64``, or this machine's own (:func:`own_platform`).
    cache
        Folder of fetched wheels; only needed where something must be fetched.

    Raises
    ------
    PackageError
        If a distribution has another version here than asked for, was changed after it was installed, cannot be
        fetched, or is not what its sha256 says.
    ArtifactError
        If the disk is full.
    """
    tag = tag_of(python)
    if platform not in (*PLATFORMS, own_platform()):
        raise PackageError(f"no libraries are known for {platform!r}; choose one of {', '.join(PLATFORMS)}")
    versions, lines = {}, []
    try:
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{tag}-", dir=destination) as scratch:
            folder = Path(scratch, tag)
            for number, wanted in enumerate(requirements):
                progress(number / len(requirements), f"{wanted.name} {wanted.version} for Python {python}")
                source = installed(wanted, python, platform) or fetched(wanted, python, platform, cache)
                _copy(wanted, source, folder)
                licence = _license_of(source.metadata)
                _keep_licenses(wanted, source, licence, folder)
                versions[wanted.name] = wanted.version
                lines.append(f"{wanted.name} {wanted.version}: {licence}\n")
            (folder / "licenses" / "THIRD-PARTY.txt").write_text("".join(sorted(lines)), encoding="utf-8")
            final = destination / tag
            if final.exists():
                shutil.rmtree(final)
            folder.replace(final)
    except OSError as error:
        raise ArtifactError(
            f"cannot write the libraries to {destination}: {error.strerror or error}; free some space"
        ) from error
    files = tuple(sorted(path.relative_to(final).as_posix() for path in final.rglob("*") if path.is_file()))
    size = sum((final / name).stat().st_size for name in files)
    progress(1.0, f"{len(files)} files, {size / 1e6:.1f} MB")
    return Libraries(final, versions, files, size, sha256_of_folder(final))


def _is_left_out(distribution_name: str, name: str) -> bool:
    rules = (*LEFT_OUT["*"], *LEFT_OUT.get(canonicalize_name(distribution_name), ()))
    return any(fnmatchcase(name, pattern) for pattern, _ in rules)


def _copy(wanted: Requirement, source: Source, folder: Path) -> None:
    for name, read in source.files.items():
        if _is_left_out(wanted.name, name):
            continue
        target = folder / re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(mapped_part(read()))


def _keep_licenses(wanted: Requirement, source: Source, licence: str, folder: Path) -> None:
    place = folder / "licenses" / f"{wanted.name}-{wanted.version}"
    place.mkdir(parents=True)
    found = False
    for name, read in source.files.items():
        path = PurePosixPath(name)
        if not _LICENSE.match(path.name) or path.suffix == ".py":
            continue
        found = True
        if path.parts[0].endswith(".dist-info"):
            (place / "_".join(path.parts[1:])).write_bytes(read())
    if not found and "Apache" in licence and _APACHE.is_file():  # named in the metadata, its text not in the wheel
        (place / "LICENSE").write_bytes(_APACHE.read_bytes())


def _license_of(metadata: Message) -> str:
    named = metadata.get("License-Expression") or metadata.get("License") or ""
    classified = [value.split(" :: ")[-1] for value in metadata.get_all("Classifier", []) if "License ::" in value]
    return (named.strip().splitlines() or classified or ["not stated"])[0]
