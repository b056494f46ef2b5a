"""The artifact store: whole or not at all, and verified when read."""

import subprocess
import sys
from pathlib import Path

import pytest

from askline.errors import ArtifactError
from askline.store import ArtifactStore, sha256_of_folder


def write(store, text="x"):
    with store.new("dataset") as draft:
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub" / "a.txt").write_text(text)
        (draft.folder / "b.txt").write_text(text)
        return draft.commit()


def test_the_same_content_has_the_same_address_in_every_store(tmp_path):
    assert write(ArtifactStore(tmp_path / "one")) == write(ArtifactStore(tmp_path / "two"))


def test_a_name_is_part_of_the_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text("same")
    assert sha256_of_folder(tmp_path / "one") != sha256_of_folder(tmp_path / "two")


def test_verify_gives_the_folder_back(tmp_path):
    store = ArtifactStore(tmp_path)
    assert (store.verify("dataset", write(store)) / "b.txt").read_text() == "x"


def test_nothing_is_left_when_the_writer_fails(tmp_path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(FileNotFoundError), store.new("dataset") as draft:
        (draft.folder / "half").write_text((tmp_path / "missing").read_text())
    assert list((tmp_path / "dataset").iterdir()) == []


def test_writing_the_same_twice_leaves_one_artifact(tmp_path):
    store = ArtifactStore(tmp_path)
    assert write(store) == write(store)
    assert len(list((tmp_path / "dataset").iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncate", "remove", "add"])
def test_damage_is_noticed_and_mended_by_writing_again(tmp_path, damage):
    store = ArtifactStore(tmp_path)
    sha256 = write(store, "content")
    file = store.path("dataset", sha256) / "b.txt"
    if damage == "truncate":
        file.write_text("con")
    elif damage == "remove":
        file.unlink()
    else:
        (file.parent / "c.txt").write_text("more")
    assert not store.holds("dataset", sha256)
    with pytest.raises(ArtifactError, match="damaged"):
        store.verify("dataset", sha256)
    assert write(store, "content") == sha256
    assert store.holds("dataset", sha256)


def test_a_missing_artifact_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="not in"):
        ArtifactStore(tmp_path).verify("model", "0" * 64)


def test_a_store_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="--state-dir"), ArtifactStore(tmp_path / "file").new("model"):
        pass


def test_what_a_killed_process_left_behind_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from askline.store import ArtifactStore\n"
        "with ArtifactStore(sys.argv[1]).new('model') as draft:\n"
        "    (draft.folder / 'half').write_bytes(b'x' * 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    (left,) = (tmp_path / "model").iterdir()
    of_another_machine = tmp_path / "model" / ".draft-elsewhere-1-abc"
    of_another_machine.mkdir()
    store = ArtifactStore(tmp_path)
    with store.new("model") as running, store.new("model"):
        assert not left.exists()
        assert of_another_machine.is_dir()
        assert running.folder.is_dir(), "a draft of a process that runs is nobody else's"
