"""The engine's libraries: the same bytes from an installation and from a wheel, and they run where only numpy is."""

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

from askline.errors import PackageError
from tasks.package import archive
from tasks.package.elf import mapped_part
from tasks.package.libraries import Requirement, collect, own_platform, own_python, tag_of

REPOSITORY = Path(__file__).parents[2]
#: A Python that this is not, so that the wheel must be fetched.
OTHER = "3.12" if own_python() == "3.11" else "3.11"
ENGINE = ("onnxruntime", "tokenizers")
TINY = Requirement("askline-tiny", "1.0")

RUN_ENGINE = """
import importlib, json, pathlib, sys
library, graph = sys.argv[1:]
sys.path.insert(0, library)
import numpy, onnxruntime, tokenizers
session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
(sums,) = session.run(None, {"x": numpy.array([1, 2], "float32")})
words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
root = pathlib.Path(library)
names = [p.relative_to(root).with_suffix("").as_posix().replace("/", ".") for p in root.rglob("*.py")]
for name in names:
    importlib.import_module(name.removesuffix(".__init__"))
places = [onnxruntime.__file__, tokenizers.__file__]
foreign = sorted({m.partition(".")[0] for m in sys.modules} - set(sys.stdlib_module_names))
print(json.dumps([sums.tolist(), words.encode("b a b").ids, places, len(names), foreign]))
"""


def bare_python(folder: Path) -> Path:
    """Make an environment that holds numpy and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    numpy = Path(str(distribution("numpy").locate_file("")))
    for name in ("numpy", "numpy.libs"):
        if (numpy / name).is_dir():
            (packages / name).symlink_to(numpy / name)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_engine_runs_where_there_is_only_numpy(tmp_path: Path) -> None:
    """Every module that travels can be imported, so nothing that one of them needs was left out."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    found = collect(
        [Requirement(name, version(name)) for name in ENGINE],
        python=own_python(),
        platform=own_platform(),
        destination=tmp_path / "lib",
        cache=tmp_path / "cache",
    )
    assert not (tmp_path / "cache").exists(), "nothing is fetched"
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "double.onnx")
    done = subprocess.run(
        [bare_python(tmp_path / "bare"), "-I", "-c", RUN_ENGINE, found.folder, tmp_path / "double.onnx"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no warning of something missing"
    sums, ids, places, modules, foreign = json.loads(done.stdout)
    assert (sums, ids) == ([2.0, 4.0], [1, 0, 1])
    assert all(place.startswith(str(found.folder)) for place in places)
    assert modules > 10
    assert set(foreign) <= {"numpy", "onnxruntime", "tokenizers", "__main__", "_virtualenv", "sitecustomize"}
    assert found.size == sum((found.folder / name).stat().st_size for name in found.files) < 60e6
    third_party = (found.folder / "licenses" / "THIRD-PARTY.txt").read_text()
    assert "MIT" in third_party
    assert "Apache" in third_party


@pytest.mark.slow
def test_the_engine_in_an_archive_is_accepted(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    wanted = [Requirement(name, version(name)) for name in ENGINE]
    found = collect(
        wanted,
        python=own_python(),
        platform=own_platform(),
        destination=tmp_path / "lib",
        cache=tmp_path / "cache",
    )
    manifest = tmp_path / "askline.json"
    manifest.write_text("{}")
    archive.pack({**found.members(), "askline.json": manifest}, tmp_path / "a.tar.gz")
    names, size = archive.lint(tmp_path / "a.tar.gz", required=("askline.json",), weights=())
    assert f"code/lib/{tag_of(own_python())}/onnxruntime/__init__.py" in names
    assert size == found.size + 2
    assert (tmp_path / "a.tar.gz").stat().st_size < 0.5 * found.size


def make_wheel(folder: Path, name: str = "askline_tiny", release: str = "1.0", text: str = "ANSWER = 42\n") -> Path:
    """Write a wheel as a build tool would, with things that no server needs."""
    info = f"{name}-{release}.dist-info"
    content = {
        f"{name}/__init__.py": text,
        f"{name}/__init__.pyi": "ANSWER: int\n",
        f"{name}/tests/test_it.py": "assert False\n",
        f"{name}/include/it.h": "int answer;\n",
        f"{name}-{release}.data/scripts/tiny": "#!python\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\nLicense: BSD-2-Clause\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE": "Do as you like.\n",
        f"{info}/entry_points.txt": "[console_scripts]\ntiny2 = askline_tiny:main\n",
    }
    lines = []
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}")
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{release}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as target:
        for path, data in content.items():
            target.writestr(path, data)
        target.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    return wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which pip, and nothing else, fetches."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def collect_tiny(tmp_path: Path, python: str, place: str = "lib", wanted: Requirement = TINY):  # type: ignore[no-untyped-def]
    return collect(
        [wanted],
        python=python,
        platform=own_platform() if python == own_python() else "linux_x86_64",
        destination=tmp_path / place,
        cache=tmp_path / "cache",
    )


def install(wheel: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def test_an_installation_and_a_wheel_give_the_same(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(make_wheel(index), tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    installed = collect_tiny(tmp_path, own_python())
    assert installed.files == (
        "askline_tiny/__init__.py",
        "licenses/THIRD-PARTY.txt",
        "licenses/askline-tiny-1.0/licenses_LICENSE",
    )
    fetched = collect_tiny(tmp_path, OTHER)
    assert (fetched.sha256, fetched.files, fetched.size) == (installed.sha256, installed.files, installed.size)
    assert {path.name for path in (tmp_path / "lib").iterdir()} == {tag_of(own_python()), tag_of(OTHER)}
    assert sorted(fetched.members()) == [f"code/lib/{tag_of(OTHER)}/{name}" for name in fetched.files]
    listed = (fetched.folder / "licenses" / "THIRD-PARTY.txt").read_text()
    assert listed == "askline-tiny 1.0: BSD-2-Clause\n"


def test_a_changed_installation_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(make_wheel(index), tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(PackageError, match=r"carries askline-tiny 2\.0, and 1\.0 is installed"):
        collect_tiny(tmp_path, own_python(), wanted=Requirement("askline-tiny", "2.0"))
    (tmp_path / "site" / "askline_tiny" / "__init__.py").write_text("ANSWER = 41\n")
    with pytest.raises(PackageError, match="not as it was installed"):
        collect_tiny(tmp_path, own_python())
    assert list((tmp_path / "lib").iterdir()) == [], "nothing half-written"


def test_what_was_fetched_once_needs_no_network_again(index: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="without a network") as caught:
        collect_tiny(tmp_path, OTHER)
    assert caught.value.retryable
    assert "askline-tiny 1.0" in str(caught.value)
    assert str(tmp_path / "cache") in str(caught.value)
    assert list((tmp_path / "lib").iterdir()) == []
    wheel = make_wheel(index)
    first = collect_tiny(tmp_path, OTHER)
    wheel.unlink()
    assert collect_tiny(tmp_path, OTHER, "again").sha256 == first.sha256
    (kept,) = (tmp_path / "cache").rglob("*.whl")
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(PackageError, match="without a network"):
        collect_tiny(tmp_path, OTHER)
    assert first.folder.is_dir(), "what was collected before is still there"
    make_wheel(index)
    assert collect_tiny(tmp_path, OTHER).sha256 == first.sha256


def test_a_wheel_that_is_not_the_known_one_is_refused(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "onnxruntime", "1.32.0", text="import os; os.abort()\n")
    with pytest.raises(PackageError, match=r"onnxruntime 1\.32\.0") as caught:
        collect_tiny(tmp_path, OTHER, wanted=Requirement("onnxruntime", "1.32.0"))
    assert "hash" in str(caught.value).lower()
    assert list((tmp_path / "cache").rglob("*.whl")) == []


def test_a_full_disk_leaves_nothing(index: Path, tmp_path: Path) -> None:
    """The limit on a file's size gives the same error as a full disk."""
    make_wheel(index, text="# a long comment\n" * 20_000)
    code = """
import resource, sys
from pathlib import Path
from askline.errors import ArtifactError
from tasks.package.libraries import Requirement, collect
root = Path(sys.argv[1])
wanted = dict(python=sys.argv[2], destination=root / "lib", cache=root / "cache")
collect([Requirement("askline-tiny", "1.0")], **{**wanted, "destination": root / "first"})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    collect([Requirement("askline-tiny", "1.0")], **wanted)
except ArtifactError as error:
    print(error, list((root / "lib").iterdir()))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(len(collect([Requirement("askline-tiny", "1.0")], **wanted).files))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), OTHER], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert "[]\n3" in done.stdout


@pytest.mark.parametrize("python", ["3", "3.12.1", "2.7", "python3.11"])
def test_a_python_that_is_none(python: str) -> None:
    with pytest.raises(PackageError, match=r"such as 3\.12"):
        tag_of(python)


def test_a_platform_without_wheels(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="linux_x86_64"):
        collect([TINY], python=OTHER, platform="amiga", destination=tmp_path, cache=tmp_path)


def fake_object(segments: list[tuple[int, int]], length: int) -> bytes:
    """Write an ELF header, a table of segments, and marks everywhere else."""
    content = bytearray(b"\xdd" * length)
    content[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, length - 64, 0, 64, 56, len(segments), 64, 9, 8
    )
    for index, (offset, size) in enumerate(segments):
        struct.pack_into("<IIQQQQQQ", content, 64 + 56 * index, 1, 5, offset, 0, 0, size, size, 4096)
    return bytes(content)


def test_only_what_is_loaded_stays_in_a_shared_object() -> None:
    content = fake_object([(0, 300), (5000, 100)], 9000)
    slim = mapped_part(content)
    assert len(slim) == 5100
    assert slim[64:300] == content[64:300]
    assert slim[300:5000] == bytes(4700), "not loaded, and segments follow"
    assert slim[5000:] == content[5000:5100]
    assert slim[0x28:0x30] == bytes(8), "no section table"
    assert mapped_part(slim) == slim
    assert mapped_part(content[:5050]) == content[:5050], "a cut one is left for the loader to complain about"
    assert mapped_part(b"text") == b"text"


def test_a_slim_shared_object_loads(tmp_path: Path) -> None:
    (place,) = [file for file in distribution("tokenizers").files or [] if file.name.endswith(".so")]
    whole = Path(str(place.locate())).read_bytes()
    if not whole.startswith(b"\x7fELF"):
        pytest.skip("not a machine with ELF libraries")
    slim = mapped_part(whole)
    assert len(slim) < 0.8 * len(whole)
    (tmp_path / "slim.so").write_bytes(slim)
    code = "import ctypes, sys; ctypes.PyDLL(sys.argv[1]).PyInit_tokenizers; print('found')"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "slim.so"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "found\n"
