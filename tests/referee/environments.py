"""Virtual environments that hold other versions of transformers, built once with plain pip.

An environment has its own transformers, tokenizers, huggingface_hub, safetensors and sentencepiece. It borrows torch,
numpy, scipy and what these need from the environment that runs the tests, through symbolic links: they are hundreds of
megabytes, and of no version of their own. Whatever pip puts in comes first on ``sys.path``.

They lie in ``~/.cache/askline/referee`` (``ASKLINE_REFEREE_CACHE`` names another folder), each under a hash of all that
it is made of. One is built under a temporary name, with a lock held, and renamed when it is whole.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

CACHE = "ASKLINE_REFEREE_CACHE"
#: ``ASKLINE_REFEREE=required`` makes a failure of what would be skipped.
REQUIRED = "ASKLINE_REFEREE"
BORROWED = ("torch", "numpy", "scipy", "pillow", "psutil")
#: The toolkit needs pkg_resources, which newer ones lack.
NOT_BORROWED = ("setuptools",)
INSTALL_SECONDS = 300
FORMAT = 1

#: A name that transformers 5 dropped and toolkit 2.6.0 imports. AWS's image for 5.5.3 holds an unreleased commit of the
#: toolkit instead, which no package index has.
WITHOUT_TENSORFLOW = "\n\ndef is_tf_available():\n    return False\n"


class UnavailableError(Exception):
    """The environment cannot be installed here: no network, or no such release."""


@dataclass(frozen=True)
class Environment:
    """What pip installs, and what is appended to a file of it."""

    requirements: tuple[str, ...] = ()
    without_dependencies: tuple[str, ...] = ()
    append: tuple[tuple[str, str], ...] = ()


def _transformers(version: str, *others: str) -> Environment:
    return Environment((f"transformers=={version}", "sentencepiece==0.2.*", "protobuf>=5,<8", *others))


def _toolkit(base: Environment, *append: tuple[str, str]) -> Environment:
    # By name and without their own dependencies: the toolkit asks for librosa, pyctcdecode and phonemizer, which only
    # questions about sound need; boto3 is needed only where the container downloads the model itself.
    return Environment(
        (*base.requirements, "setuptools<81", "six", "retrying", "future"),
        ("sagemaker-huggingface-inference-toolkit==2.6.0", "sagemaker-inference==1.10.1", "multi-model-server==1.1.11"),
        append,
    )


ENVIRONMENTS = {
    "transformers-4.49": _transformers("4.49.0"),
    "transformers-4.57": _transformers("4.57.6"),
    "toolkit-4.51": _toolkit(_transformers("4.51.3")),
    # huggingface_hub as in AWS's image for transformers 5.5.3.
    "toolkit-5.5": _toolkit(
        _transformers("5.5.3", "huggingface_hub==1.10.0"), ("transformers/file_utils.py", WITHOUT_TENSORFLOW)
    ),
}

_unavailable: dict[str, str] = {}


def python_of(name: str) -> Path:
    """Return the Python of an environment, built now if it is not there; skip the test where that cannot be."""
    if name not in _unavailable:
        try:
            return build(ENVIRONMENTS[name])
        except UnavailableError as error:
            _unavailable[name] = str(error)
    reason = f"no environment {name}: {_unavailable[name]}"
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def cache_folder() -> Path:
    """Return where environments are kept: never in the working tree."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "askline" / "referee"


def build(environment: Environment, *, cache: Path | None = None, options: Sequence[str] = ()) -> Path:
    """Return the Python of an environment, after building it where there is none.

    Parameters
    ----------
    options
        Further options for ``pip install``.

    Raises
    ------
    UnavailableError
        If pip cannot install it.
    """
    cache = cache or cache_folder()
    borrowed = _borrowed()
    facts = {
        "format": FORMAT,
        "python": [sys.base_prefix, *sys.version_info[:3]],
        "borrowed": {name: [found.version, str(found.locate_file(""))] for name, found in borrowed.items()},
        "environment": asdict(environment),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / key
    with _locked(cache, key):
        if not folder.is_dir():
            for left in cache.glob(f".building-{key}-*"):  # by one that was killed: we hold the lock
                shutil.rmtree(left)
            draft = Path(tempfile.mkdtemp(prefix=f".building-{key}-", dir=cache))
            try:
                _fill(draft, environment, borrowed, options)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder / "bin" / "python"


def _borrowed() -> dict[str, importlib.metadata.Distribution]:
    """Return the distributions that environments share with this one: :data:`BORROWED` and all that they need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    names = list(BORROWED)
    while names:
        name = names.pop().lower().replace("_", "-")
        if name in found or name in NOT_BORROWED:
            continue
        found[name] = importlib.metadata.distribution(name)
        for line in found[name].requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                names.append(needed.name)
    return dict(sorted(found.items()))


def _fill(
    folder: Path,
    environment: Environment,
    borrowed: dict[str, importlib.metadata.Distribution],
    options: Sequence[str],
) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    (packages,) = folder.glob("lib/python3.*/site-packages")
    links = packages / "_borrowed"
    links.mkdir()
    for distribution in borrowed.values():
        tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
        for name in tops:
            if not name.endswith(".pth") and not (links / name).exists():
                (links / name).symlink_to(Path(str(distribution.locate_file(name))))
    # A path file's folders come after site-packages itself, so that what pip installs is found first.
    (packages / "borrowed.pth").write_text("_borrowed\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-compile", "--retries", "2", "--timeout", "30", *options]
    if environment.requirements:
        _run([*pip, *environment.requirements])
    if environment.without_dependencies:
        _run([*pip, "--no-deps", *environment.without_dependencies])
    for name, text in environment.append:
        with (packages / name).open("a", encoding="utf-8") as stream:
            stream.write(text)


def _run(command: list[str]) -> None:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=surroundings)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"nothing was installed in {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
        raise UnavailableError(" ".join(said))


@contextmanager
def _locked(cache: Path, key: str) -> Iterator[None]:
    """Hold the lock of one environment; a process that dies gives it back."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{key}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
