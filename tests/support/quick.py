"""What ``pytest --quick`` leaves out: all that starts a server, trains a network or loads one.

A test says so by its mark ``slow``, by a fixture that is shared by many, or by what its own text imports; a module that
is slow as a whole, or that imports such a library, is not even imported.
"""

import inspect
import re
from pathlib import Path

import pytest

#: Fixtures behind which a server or a training stands.
FIXTURES = frozenset({"cloud", "cloud_with_prefect", "tiny", "package", "plain", "base", "troubles", "served"})
_LIBRARIES = r"(torch|transformers|prefect|datasets|sagemaker)\b"
_MODULE = re.compile(rf"^(pytestmark = .*\bslow\b|(import|from) {_LIBRARIES})", re.MULTILINE)
_FUNCTION = re.compile(rf"^\s+(import|from) {_LIBRARIES}", re.MULTILINE)


def is_slow_module(path: Path) -> bool:
    """Say whether nothing of a test module is quick."""
    return path.name.startswith("test_") and _MODULE.search(path.read_text(encoding="utf-8")) is not None


def is_quick(item: pytest.Item) -> bool:
    """Say whether a test needs no server and no network."""
    if item.get_closest_marker("slow") or FIXTURES & set(getattr(item, "fixturenames", ())):
        return False
    return not _FUNCTION.search(inspect.getsource(item.function))  # type: ignore[attr-defined]
