"""What a remembered result depends on: options, rooms, libraries; and that each list of rooms is what is imported."""

import importlib
import re
import shutil
from pathlib import Path

import pytest

from askline.config import ClusterConfig, EvaluationConfig, PackageConfig, TrainingConfig
from askline.config.section import Section
from benchmarks.house import closure, imports_in, modules_in
from tasks.fine_tune.fine_tune import training_key
from tasks.fine_tune.recipe import resolve_recipe
from tasks.identity import ROOT, SHAPES_NOTHING, code_of
from tasks.running import on_a_worker

PACKAGES = ("tasks", "inference")
#: Every core that says what its remembered result depends on.
CORES = [
    name
    for name, path in modules_in(ROOT, PACKAGES).items()
    if re.search(r"^ROOMS = ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the project's code that may be edited."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return imports_in(ROOT, PACKAGES)


def not_named(rooms: tuple[str, ...], start: str, imports: dict[str, set[str]]) -> set[str]:
    """Return the modules that a core imports, itself or through others, and that no room of its list holds."""
    needed = closure(imports, start, leave_out=SHAPES_NOTHING)
    return {name for name in needed if not any(holds(room, name) for room in rooms)} - set(PACKAGES)


def holds(room: str, module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in (f"tasks.{room}", room))


def edit(path: Path, line: str = "EDITED = True") -> None:
    assert path.is_file()
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def key(root: Path = ROOT, config: TrainingConfig = TrainingConfig(seed=1), dataset: str = "d") -> str:  # noqa: B008
    recipe = resolve_recipe(config, rows=100, has_out_of_scope=False)
    return training_key(config, recipe, base={"name": "scratch"}, dataset=dataset, root=root)


def rooms_of(core: str) -> tuple[str, ...]:
    rooms: tuple[str, ...] = importlib.import_module(core).ROOMS
    return rooms


def test_the_remembered_steps_say_what_they_depend_on() -> None:
    steps = ("fetch_dataset", "fine_tune", "evaluate", "package")
    assert {f"tasks.{step}.{step}" for step in steps} <= set(CORES)
    assert rooms_of("tasks.evaluate.evaluate") == on_a_worker.ROOMS


@pytest.mark.parametrize("core", CORES)
def test_a_list_of_rooms_names_all_that_its_core_imports(core: str, imports: dict[str, set[str]]) -> None:
    assert not not_named(rooms_of(core), core, imports), f"name their rooms in ROOMS of {core}"


@pytest.mark.parametrize("core", CORES)
def test_a_list_of_rooms_names_none_that_its_core_does_not_need(core: str, imports: dict[str, set[str]]) -> None:
    needed = closure(imports, core, leave_out=SHAPES_NOTHING)
    assert not [room for room in rooms_of(core) if not any(holds(room, name) for name in needed)]


@pytest.mark.parametrize(
    ("core", "path", "line"),
    [
        ("tasks.fetch_dataset.fetch_dataset", "tasks/fetch_dataset/cleaning.py", "from tasks.report import words"),
        ("tasks.fine_tune.fine_tune", "tasks/t5/scratch.py", "def f():\n    import tasks.report.words"),
        ("tasks.evaluate.evaluate", "tasks/qa/rows.py", "from tasks.report.words import words"),
        ("tasks.package.package", "tasks/package/archive.py", "def f():\n    from ..report.words import words"),
        ("tasks.evaluate.evaluate", "tasks/t5/decoding.py", "import tasks.report.words as words"),
    ],
)
def test_an_import_that_no_list_names_is_found(tree: Path, core: str, path: str, line: str) -> None:
    edit(tree / path, line)
    assert "tasks.report.words" in not_named(rooms_of(core), core, imports_in(tree, PACKAGES))


def test_what_launches_a_training_shapes_no_key(tree: Path) -> None:
    before = key(tree)
    for path in (tree / "tasks" / "fine_tune" / "launch").glob("*.py"):
        edit(path)
    edit(tree / "tasks" / "workplace.py")
    code_of.cache_clear()
    assert key(tree) == before == key()


@pytest.mark.parametrize("path", ["qa/prompt.py", "t5/base.py", "fine_tune/trainer.py", "qa/rows.py"])
def test_what_a_training_is_made_of_changes_its_key(tree: Path, path: str) -> None:
    before = key(tree)
    edit(tree / "tasks" / path)
    code_of.cache_clear()
    assert key(tree) != before


def test_a_room_that_is_not_there_is_no_silent_hole_in_the_key() -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        code_of("nothing")


def test_the_order_of_rooms_does_not_count_and_a_library_does() -> None:
    assert code_of("qa", "t5") == code_of("t5", "qa")
    assert code_of("qa", libraries=("pydantic",)) != code_of("qa")


def test_options_of_where_and_how_often_leave_a_training_its_key() -> None:
    same = TrainingConfig(
        seed=1,
        checkpoint_steps=7,
        checkpoint_store="s3://b/c",
        report_to=("none",),
        where="torchrun",
        cluster=ClusterConfig(processes=2),
    )
    assert key(config=same) == key()
    assert key(config=TrainingConfig(seed=2)) != key() != key(dataset="other")


def test_floors_and_workers_measure_the_same_and_a_batch_size_may_not() -> None:
    measured = EvaluationConfig().identity()
    assert EvaluationConfig(min_exact_match=0.9, alpha=0.01, approval=True).identity() == measured
    assert EvaluationConfig(workers=4).identity() == measured
    assert EvaluationConfig(scheduler="tcp://10.0.0.7:8786").identity() == measured
    assert EvaluationConfig(batch_size=4).identity() != measured


def test_another_bucket_takes_the_same_package() -> None:
    assert PackageConfig(bucket="another", prefix="x").identity() == PackageConfig().identity()
    assert PackageConfig(answers="bare").identity() != PackageConfig().identity()


def test_an_option_that_does_not_exist_cannot_shape_nothing() -> None:
    with pytest.raises(TypeError, match=re.escape("shapes_nothing names what is no option: seeed")):
        type("Typo", (Section,), {"shapes_nothing": frozenset({"seeed"}), "__module__": __name__})
