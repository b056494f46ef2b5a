"""When a remembered result may be taken, and which errors are tried again."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from askline.config import DatasetConfig
from askline.errors import CloudError, DatasetFormatError
from askline.records import Run, SourceRef, Target
from tasks.running import remembering, retries

SOURCE = SourceRef(kind="file", location="a.csv", revision="1")


def key(*rooms, config=None, source=SOURCE, state_dir="a", libraries=()):
    options = remembering.cached_on(*rooms, libraries=libraries)
    run = Run(run_id=state_dir, state_dir=Path(state_dir), target=Target(kind="local", region="us-east-1"))
    context = SimpleNamespace(task=SimpleNamespace(name="fetch-dataset"))
    return options["cache_key_fn"](context, {"config": config or DatasetConfig(), "source": source, "run": run})


def test_where_things_lie_does_not_change_the_key():
    assert key("gate.gate", state_dir="a") == key("gate.gate", state_dir="b")


def test_an_option_an_input_a_module_or_a_library_changes_the_key():
    keys = {
        key("gate.gate"),
        key("gate.gate", config=DatasetConfig(seed=14)),
        key("gate.gate", source=SOURCE.model_copy(update={"revision": "2"})),
        key("qa.rows"),
        key("gate.gate", libraries=("pydantic",)),
    }
    assert len(keys) == 5


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

    assert retries.RETRIES["retry_condition_fn"](None, None, SimpleNamespace(result=result)) is again
