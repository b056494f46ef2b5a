"""When a remembered result may be taken, and which errors are tried again."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from askline.config import DatasetConfig
from askline.errors import CloudError, DatasetFormatError
from askline.records import Run, SourceRef, Target
from tasks.running import remembering

SOURCE = SourceRef(kind="file", location="a.csv", revision="1")


def key(*modules, config=None, source=SOURCE, state_dir="a", libraries=()):
    options = remembering.cached_on(*modules, libraries=libraries)
    run = Run(run_id=state_dir, state_dir=Path(state_dir), target=Target(kind="local", region="us-east-1"))
    context = SimpleNamespace(task=SimpleNamespace(name="fetch-dataset"))
    return options["cache_key_fn"](context, {"config": config or DatasetConfig(), "source": source, "run": run})


def test_where_things_lie_does_not_change_the_key():
    assert key("tasks.gate.gate", state_dir="a") == key("tasks.gate.gate", state_dir="b")


def test_an_option_an_input_a_module_or_a_library_changes_the_key():
    keys = {
        key("tasks.gate.gate"),
        key("tasks.gate.gate", config=DatasetConfig(seed=14)),
        key("tasks.gate.gate", source=SOURCE.model_copy(update={"revision": "2"})),
        key("tasks.qa.rows"),
        key("tasks.gate.gate", libraries=("pydantic",)),
    }
    assert len(keys) == 5


def test_every_file_of_a_package_is_part_of_its_fingerprint(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "deep" / "code.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = remembering.fingerprint.__wrapped__(("some_package",), ())
    (package / "deep" / "code.py").write_text("A = 2\n")
    assert remembering.fingerprint.__wrapped__(("some_package",), ()) != before


def test_a_module_that_does_not_exist_is_no_silent_hole_in_the_key():
    with pytest.raises(ModuleNotFoundError):
        remembering.fingerprint(("tasks.nothing",), ())


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (CloudError("throttled", retryable=True), True),
        (CloudError("no such role"), False),
        (DatasetFormatError("line 3"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_errors_that_say_so_are_tried_again(error, again):
    def result():
        raise error

    assert remembering.RETRIES["retry_condition_fn"](None, None, SimpleNamespace(result=result)) is again
