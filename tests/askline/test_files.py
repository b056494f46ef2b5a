"""Files that are whole or not there."""

from pathlib import Path

import pytest

from askline.files import write_whole


def test_a_file_is_written_into_a_folder_that_was_missing_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_whole(path, "ä")
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half a pair \ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
