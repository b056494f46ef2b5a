"""The locks hold what pyproject.toml asks for, in the versions that constraints.txt pins, each file with its hash."""

import re
import tomllib

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: In no lock: one version comes as several builds.
OUTSIDE = {"torch"}


def locked(name: str) -> dict[str, str]:
    """The versions of a lock, by name."""
    text = (REPOSITORY / "requirements" / f"{name}.lock").read_text()
    return dict(re.findall(r"^([\w.-]+)==([^ ;\\]+)", text, re.MULTILINE))


def asked_for(*extras: str) -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(("lock", "extras"), [("run", ()), ("dev", ("dev", "cloud-scale"))])
def test_a_lock_holds_all_that_is_asked_for(lock: str, extras: tuple[str, ...]) -> None:
    versions = locked(lock)
    for requirement in asked_for(*extras):
        name = canonicalize_name(requirement.name)
        if name not in OUTSIDE:
            assert name in versions, f"{name} is in no requirements/{lock}.lock: make lock"
            assert requirement.specifier.contains(versions[name]), f"{name} {versions[name]}: make lock"


def test_the_locks_hold_the_pinned_versions_and_agree() -> None:
    run, dev = locked("run"), locked("dev")
    assert run.items() <= dev.items()
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if pin := re.match(r"[\w-]+[<>=][^ ]+", line):
            requirement = Requirement(pin.group())
            name = canonicalize_name(requirement.name)
            assert name in OUTSIDE or requirement.specifier.contains(dev[name]), line


@pytest.mark.parametrize("lock", ["run", "dev"])
def test_every_line_of_a_lock_has_hashes_and_none_names_a_place(lock: str) -> None:
    text = (REPOSITORY / "requirements" / f"{lock}.lock").read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 200
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?:|file:|^-|^/", text, re.MULTILINE)
    assert not re.search(r"^(nvidia|cuda|triton)", text, re.MULTILINE), "torch's own libraries come with its build"
