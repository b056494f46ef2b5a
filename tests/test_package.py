"""The archive: the same bytes from the same model, checked, and proved to answer as the evaluation did."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_package import QUESTIONS, Tiny, make_tiny, model_ref, package, tiny, write_scores  # noqa: F401

from askline.errors import ArtifactError, PackageError
from askline.records import PackageRef
from askline.store import ArtifactStore, sha256_of_file
from tasks.package import ARCHIVE, PROOF_QUESTIONS, prove
from tasks.packaging import archive
from tasks.packaging.held_out import HeldOut, read_held_out, spread


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files that have the right names; nothing loads them."""
    folder = tmp_path / "files"
    names = [*archive.REQUIRED, archive.WEIGHTS[0], "tokenizer.json"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * (number + 1) * 1000)
    return {name: folder / name for name in names}


def test_the_archive_has_the_layout_of_the_container(tiny: Tiny, package: PackageRef) -> None:  # noqa: F811
    path = tiny.store.verify("package", package.sha256) / ARCHIVE
    assert sha256_of_file(path) == package.archive_sha256
    assert path.stat().st_size == package.size
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        code = tar.extractfile("code/inference.py")
        assert code is not None
        assert code.read() == (Path(__file__).parents[1] / "inference" / "inference.py").read_bytes()
    names = [member.name for member in members]
    assert names == sorted(names) == list(package.members)
    assert {"askline.json", "config.json", "model.safetensors", "tokenizer.json", "code/inference.py"} <= set(names)
    assert "training_log.jsonl" not in names
    assert sum(member.size for member in members) == package.unpacked_size
    for member in members:
        assert (member.mode, member.mtime, member.uid, member.gid, member.uname, member.gname) == (
            0o644,
            0,
            0,
            0,
            "",
            "",
        )


def test_the_manifest_tells_what_is_served(tiny: Tiny, package: PackageRef, tmp_path: Path) -> None:  # noqa: F811
    archive.unpack(tiny.store.path("package", package.sha256) / ARCHIVE, tmp_path)
    manifest = json.loads((tmp_path / "askline.json").read_text(encoding="utf-8"))
    assert manifest["model_version"] == tiny.model.sha256[:12]
    assert manifest["prompt"] == tiny.model.prompt
    assert manifest["dataset"]["location"] == "questions.csv", "no path of this machine"
    assert manifest["dataset"]["revision"] == "r1"
    assert manifest["scores"]["test"]["exact_match"] == 1
    assert manifest["versions"]["torch"] == "2"
    assert manifest["license"]
    on_disk = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == on_disk - {"askline.json"}
    for name, sha256 in manifest["files"].items():
        assert sha256_of_file(tmp_path / name) == sha256


def test_two_machines_pack_the_same_bytes(tiny: Tiny, package: PackageRef, tmp_path: Path) -> None:  # noqa: F811
    """Another folder, another time, other modes, and an evaluation that took longer."""
    for kind in ("model", "scores"):
        shutil.copytree(tiny.store.root / kind, tmp_path / "elsewhere" / kind)
    for path in (tmp_path / "elsewhere").rglob("*"):
        path.chmod(0o755)
        os.utime(path, (1, 1))
    source = tiny.dataset.source.model_copy(update={"location": "/another/place/questions.csv"})
    again = tiny._replace(
        scores=tiny.scores.model_copy(update={"seconds": 99.0}),
        dataset=tiny.dataset.model_copy(update={"source": source}),
    ).build(ArtifactStore(tmp_path / "elsewhere"))
    assert again == package


def test_the_gzip_header_holds_no_name_and_no_time(files: dict[str, Path], tmp_path: Path) -> None:
    archive.pack(files, tmp_path / "a.tar.gz")
    header = (tmp_path / "a.tar.gz").read_bytes()[:10]
    assert header[3] == 0, "no flags: neither name nor comment"
    assert header[4:8] == b"\0\0\0\0", "no time"


def test_a_package_of_another_model_is_not_made(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    """The predictions of one model beside the weights of another: what a mix-up of checkpoints looks like."""
    store = ArtifactStore(tmp_path)
    other = make_tiny(store, steps=1, seed=5)
    evaluated = {row.question: row.prediction for row in read_held_out(tiny.scores, tiny.store)}
    mixed = other._replace(scores=write_scores(store, other.model.sha256, evaluated))
    with pytest.raises(PackageError) as caught:
        mixed.build()
    message = str(caught.value)
    assert any(repr(question) in message for question in QUESTIONS)
    assert "in the evaluation" in message or "evaluation did" in message
    assert not list((tmp_path / "package").iterdir()), "nothing is kept"


def test_scores_of_another_model_are_refused_before_any_work(tiny: Tiny) -> None:  # noqa: F811
    with pytest.raises(PackageError, match="evaluate this model"):
        tiny._replace(model=model_ref("0" * 64)).build()


def test_a_damaged_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    for kind in ("model", "scores"):
        shutil.copytree(tiny.store.root / kind, tmp_path / kind)
    weights = tmp_path / "model" / tiny.model.sha256 / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        tiny.build(ArtifactStore(tmp_path))


def test_an_archive_that_cannot_be_loaded_shows_why(tmp_path: Path, files: dict[str, Path]) -> None:
    files["code/inference.py"].write_text("import no_such_library_at_all\n")
    archive.pack(files, tmp_path / ARCHIVE)
    with pytest.raises(PackageError, match="no_such_library_at_all"):
        prove(tmp_path / ARCHIVE, [HeldOut("Who?", "A", "A", True)])


def test_the_proof_asks_over_the_whole_evaluation() -> None:
    rows = [HeldOut(str(number), "", "", True) for number in range(100)]
    chosen = spread(rows, PROOF_QUESTIONS, seed=0)
    assert chosen == spread(rows, PROOF_QUESTIONS, seed=0)
    assert [int(row.question) // 10 for row in chosen] == list(range(10))
    assert spread(rows, PROOF_QUESTIONS, seed=1) != chosen
    assert spread(rows[:3], 10, seed=0) == rows[:3]
    assert spread([], 10, seed=0) == []


def repack(path: Path, change: Callable[[tarfile.TarFile, list[tarfile.TarInfo]], None]) -> None:
    """Write an archive that ``change`` fills, from all the members of the one at ``path``."""
    with tarfile.open(path) as source:
        members = source.getmembers()
        content = {member.name: source.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    with tarfile.open(path, "w:gz") as tar:
        change(tar, members)
        for member in members:
            tar.addfile(member, io.BytesIO(content[member.pax_headers.get("was", member.name)]))


def add_link(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    link = tarfile.TarInfo("spiece.model")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(link)


def lead_out(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    tar.addfile(tarfile.TarInfo("../outside"))


def be_absolute(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    tar.addfile(tarfile.TarInfo("/etc/askline"))


def repeat(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    tar.addfile(tarfile.TarInfo("config.json"))


def put_into_a_folder(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    for member in members:
        member.pax_headers = {"was": member.name}
        member.name = "model/" + member.name


def lose_the_code(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    members[:] = [member for member in members if member.name != "code/inference.py"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (add_link, "spiece.model is a link"),
        (lead_out, "../outside leads out"),
        (be_absolute, "/etc/askline leads out"),
        (repeat, "config.json is there twice"),
        (put_into_a_folder, "config.json lies in a folder (model/config.json), not at the root"),
        (lose_the_code, "code/inference.py is missing"),
    ],
)
def test_what_cannot_be_served_is_found(
    files: dict[str, Path],
    tmp_path: Path,
    change: Callable[[tarfile.TarFile, list[tarfile.TarInfo]], None],
    expected: str,
) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    assert set(archive.lint(path)[0]) == set(files)
    repack(path, change)
    with pytest.raises(PackageError) as caught:
        archive.lint(path)
    assert expected in str(caught.value)


def test_more_than_the_endpoints_disk_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    size = archive.lint(path)[1]
    assert size == sum(file.stat().st_size for file in files.values())
    with pytest.raises(PackageError, match=f"takes {size:,} bytes unpacked"):
        archive.lint(path, max_unpacked=size)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_archive_is_no_archive(files: dict[str, Path], tmp_path: Path, keep: float) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(PackageError, match="not a whole"):
        archive.lint(path)


def test_a_flipped_bit_is_found(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PackageError, match="not a whole"):
        archive.lint(path)


def test_packing_reports_how_far_it_is(files: dict[str, Path], tmp_path: Path) -> None:
    shares: list[float] = []
    archive.pack(files, tmp_path / ARCHIVE, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
