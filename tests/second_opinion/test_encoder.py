"""Where the sentence encoder comes from, and what is said where it cannot be had."""

from pathlib import Path

import pytest
from support.tiny_encoder import tiny_encoder

from askline.errors import ConfigError, PackageError
from tasks.second_opinion.encoder import DEFAULT, KNOWN_FILES, find_encoder, is_default


def test_a_folder_of_this_machine_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "my-encoder")
    found = find_encoder(str(folder), target=None, cache=tmp_path / "cache")
    assert found.folder == folder
    assert (found.name, found.revision, found.prefix) == ("my-encoder", None, "")


def test_a_folder_that_lacks_a_file_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "my-encoder")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PackageError, match=r"has no tokenizer\.json"):
        find_encoder(str(folder), target=None, cache=tmp_path)


@pytest.mark.parametrize("name", ["/not/there", "./not-there", "minilm", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_told_with_what_is_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected auto, own, none, a folder"):
        find_encoder(name, target=None, cache=tmp_path)


def test_other_files_under_the_defaults_name_are_not_the_default(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / DEFAULT.replace("/", "--"))
    assert not is_default(folder)


def test_every_known_file_has_a_whole_sha256() -> None:
    assert all(len(sha256) == 64 and int(sha256, 16) for sha256 in KNOWN_FILES.values())
