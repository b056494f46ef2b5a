"""Every file, module and program that the README and the docs name is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "askline|benchmarks|data|deployments|docs|flows|inference|lambda_handler|local_cloud|tasks|tests"
#: A path below one of our folders. ``askline/name`` without a suffix is a repository on the Hub.
PATH = re.compile(rf"(?<![\w/.~:-])((?:{FOLDERS})/[\w./*<>-]*)")
PROGRAM = re.compile(r"python3? -m ([a-z_]\w*(?:\.\w+)*)")
#: A module, or a name in one; of ``askline`` and ``inference`` there are files and events of the same form.
MODULE = re.compile(r"(?<![\w/.-])((?:benchmarks|deployments|flows|local_cloud|tasks)(?:\.\w+)+)")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
PLACEHOLDER = "NAME"


def is_path(name: str) -> bool:
    if re.fullmatch(r"askline/[\w-]+", name):
        return True
    return (ROOT / name).exists() or bool(list(ROOT.glob(re.sub(r"<\w+>", "*", name))))


def is_module(name: str, *, attributes: int) -> bool:
    """Say whether there is such a module, or one with so many names behind it that its text holds."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:count])
        source = folder.with_suffix(".py") if folder.with_suffix(".py").is_file() else folder / "__init__.py"
        if source.is_file():
            behind = parts[count:]
            text = source.read_text(encoding="utf-8")
            return len(behind) <= attributes and all(each == PLACEHOLDER or each in text for each in behind)
    return False


def is_program(name: str) -> bool:
    if name.split(".")[0] not in FOLDERS.split("|") or name.endswith(PLACEHOLDER):
        return True  # of the standard library or of something installed
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def missing(page: Path, text: str) -> Iterator[str]:
    """Yield what a page names and is not there."""
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{page.relative_to(ROOT)}:{number}"
        for pattern, is_there in (
            (PATH, is_path),
            (PROGRAM, is_program),
            (MODULE, lambda name: is_module(name, attributes=2)),
            (LINK, lambda name: (page.parent / name).exists()),
        ):
            for found in pattern.findall(line):
                name = found.rstrip(".,")
                if not is_there(name):
                    yield f"{where} {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_what_is_there(page: Path) -> None:
    assert not list(missing(page, page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "see `tasks/gone.py`",
        "in `docs/gone.md`",
        "run `python -m flows.gone`",
        "`tasks.gate.gone`",
        "[gone](gone.md)",
        "the tests under `tests/gone/`",
    ],
)
def test_what_is_gone_is_found(line: str) -> None:
    assert "gone" in "".join(missing(ROOT / "README.md", line))


def test_what_is_there_is_not_complained_of() -> None:
    line = "`tasks/gate/gate.py`, `python -m flows.full_pipeline`, `tasks.gate.gate.check_gate`, `askline/biography`"
    assert not list(missing(ROOT / "README.md", line))
