"""fetch-dataset from local files: every format, every error, the command line's own promises about a user's CSV."""

import csv
import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askline.config import DatasetConfig
from askline.errors import ArtifactError, AsklineError, ConfigError, DatasetFormatError, DatasetNotFoundError
from askline.records import DatasetRef, Target
from askline.store import ArtifactStore
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.fetch_dataset.readers.reading import read_file
from tasks.fetch_dataset.text import DELIMITERS, decode, find_delimiter
from tasks.qa.rows import read_rows
from tasks.workplace import Workplace

TARGET = Target(kind="local", region="us-east-1", hub="http://127.0.0.1:9")
ROWS = [(f"What is the number of item {n}?", f"It is {n}") for n in range(20)]


@pytest.fixture
def fetch(tmp_path: Path):
    """Run both functions on a source and return the record and the artifact's folder."""

    def run(source: object, **options: Any) -> tuple[DatasetRef, Path]:
        config = DatasetConfig(source=str(source), **options)
        store = ArtifactStore(tmp_path / "state" / "artifacts")
        ref = resolve_source(config, place=Workplace(TARGET, tmp_path / "state"))
        dataset = fetch_dataset(config, ref, place=Workplace(TARGET, store=store))
        return dataset, store.verify("dataset", dataset.sha256)

    return run


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def as_csv(rows: list[tuple[str, ...]], header: tuple[str, ...] = ("question", "answer"), delimiter: str = ",") -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def pairs(folder: Path) -> set[tuple[str, str]]:
    return {
        (row.question, row.answer) for split in ("train", "test") for row in read_rows(folder, split) if not row.made_by
    }


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").split("\n") if line]


def profile(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "profile.json").read_text(encoding="utf-8"))


# --- formats


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_csv_with_any_delimiter(tmp_path, fetch, delimiter):
    dataset, folder = fetch(write(tmp_path / "data.csv", as_csv(ROWS, delimiter=delimiter)))
    assert pairs(folder) == set(ROWS)
    assert profile(folder)["files"][0]["delimiter"] == delimiter
    assert (dataset.question_column, dataset.answer_column, dataset.rejected) == ("question", "answer", 0)
    assert dataset.splits["train"] == 20


def squad(rows):
    entries = [
        {"id": str(n), "question": q, "answers": [{"text": a}, {"text": "another"}]} for n, (q, a) in enumerate(rows)
    ]
    entries.append({"id": "x", "question": "What is nowhere?", "answers": [], "is_impossible": True})
    return {"version": "2.0", "data": [{"title": "Items", "paragraphs": [{"context": "…", "qas": entries}]}]}


def parquet(path: Path, table: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.tsv", as_csv(ROWS, delimiter="\t")),
        ("data.tab", as_csv(ROWS, delimiter="\t")),
        ("data.txt", as_csv(ROWS, delimiter=";")),
        ("data.json", json.dumps([{"question": q, "answer": a} for q, a in ROWS])),
        ("data.json", json.dumps({"version": 1, "data": [{"question": q, "answer": a} for q, a in ROWS]})),
        ("data.json", json.dumps({"examples": [{"question": q, "answer": a} for q, a in ROWS]}, indent=2)),
        ("data.json", "\n".join(json.dumps({"question": q, "answer": [a, "x"]}) for q, a in ROWS)),
        ("data.jsonl", "\r\n".join(json.dumps({"question": q, "answer": {"text": [a, "x"]}}) for q, a in ROWS)),
        ("data.ndjson", "\n\n".join(json.dumps({"prompt": q, "completion": a}) for q, a in ROWS)),
        ("data.jsonl", json.dumps([{"question": q, "answer": a} for q, a in ROWS])),
        ("data", "\n".join(json.dumps({"question": q, "answer": a}) for q, a in ROWS)),
    ],
)
def test_other_text_formats(tmp_path, fetch, name, content):
    _, folder = fetch(write(tmp_path / name, content))
    assert pairs(folder) == set(ROWS)


def test_squad_nesting_with_unanswerable_questions(tmp_path, fetch):
    dataset, folder = fetch(write(tmp_path / "train-v2.0.json", json.dumps(squad(ROWS))))
    assert pairs(folder) == {*ROWS, ("What is nowhere?", "I don't know")}
    assert [r.in_scope for s in ("train", "test") for r in read_rows(folder, s) if "nowhere" in r.question] == [False]
    assert profile(folder)["files"][0]["format"] == "squad"
    assert dataset.answer_column == "answers"
    assert any("paragraphs are not used" in warning for warning in dataset.warnings)


def test_parquet_with_structs_numbers_and_an_image_column(tmp_path, fetch):
    path = parquet(
        tmp_path / "data.parquet",
        {
            "id": list(range(21)),
            "image": [b"\x89PNG"] * 21,
            "question": [q for q, _ in ROWS] + ["Who knows?"],
            "answers": [{"text": [a], "answer_start": [0]} for _, a in ROWS] + [{"text": [], "answer_start": []}],
        },
    )
    _, folder = fetch(path)
    assert pairs(folder) == {*ROWS, ("Who knows?", "I don't know")}
    path = parquet(
        tmp_path / "years.parquet", {"question": [q for q, _ in ROWS], "answer": [1800.0 + n for n in range(20)]}
    )
    _, folder = fetch(path)
    assert ("What is the number of item 3?", "1803") in pairs(folder)


def test_values_of_a_csv_stay_as_they_are_written(tmp_path, fetch):
    rows = [
        ("What is the code?", "007"),
        ("What is the share?", "1.50"),
        ("Which country code?", "NA"),
        ("Is it?", "null"),
    ]
    _, folder = fetch(write(tmp_path / "d.csv", as_csv(rows)))
    assert pairs(folder) == set(rows)


# --- text


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("latin-1", "cp1252"), ("cp1252", "cp1252")],
)
def test_encoding_is_found(tmp_path, fetch, encoding, shown):
    rows = [(f"Où est né l'écrivain numéro {n} ?", f"À Besançon, près de l'église {n}") for n in range(20)]
    dataset, folder = fetch(write(tmp_path / "d.csv", as_csv(rows, ("question", "réponse")), encoding))
    assert pairs(folder) == set(rows)
    assert profile(folder)["files"][0]["encoding"] == shown
    assert any("cp1252" in warning for warning in dataset.warnings) == (shown == "cp1252")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", "Gdzie urodziła się Maria Skłodowska?|W Warszawie, przy ulicy Świętojańskiej\n"),
        ("cp1251", "Где родился писатель?|В Москве, на улице Арбат\n"),
        ("cp932", "作家はどこで生まれましたか？|東京です\n"),
        ("gb18030", "作家在哪里出生？|北京，中国的首都\n"),
        ("cp1254", "Yazar nerede doğdu?|İstanbul'da, Şişli semtinde\n"),
        ("cp1252", "Who wrote it?|José\n"),
        ("cp1252", "What’s it?|It’s “good”\n"),
    ],
)
def test_other_encodings_are_found(encoding, text):
    assert decode((text * 5).encode(encoding), None, "f")[0] == text * 5


def test_an_encoding_that_does_not_fit_names_the_line_and_the_option(tmp_path, fetch):
    path = write(tmp_path / "d.csv", "question,answer\na,b\nOù ?,là\n", "latin-1")
    with pytest.raises(DatasetFormatError, match=r"d\.csv, line 3: the byte 0xf9 is not utf-8.*--dataset\.encoding"):
        fetch(path, encoding="utf-8")
    mixed = tmp_path / "mixed.csv"
    mixed.write_bytes("question,answer\nÀ qui est-ce ?,élève être çà\nOù ?,là\n".encode() + b"caf\xe9 ?,x\n")
    with pytest.raises(DatasetFormatError, match=r"mixed\.csv, line 4: the byte 0xe9 is not UTF-8, though the rest"):
        fetch(mixed)
    with pytest.raises(ConfigError, match="no text encoding 'latin-99'"):
        fetch(path, encoding="latin-99")
    with pytest.raises(ConfigError, match="no text encoding 'zlib'"):
        fetch(path, encoding="zlib")


def test_quoted_newlines_and_white_space_and_unicode_forms(tmp_path, fetch):
    text = "question,answer\r\n"
    text += '"Who\nwas  the\tfirst?","A ""B""\r\nC"\r\n\r\nWho was cafe\u0301?,caf\u0065\u0301\u00a0x\r\n'
    _, folder = fetch(write(tmp_path / "d.csv", text))
    assert pairs(folder) == {
        ("Who was the first?", 'A "B"\r\nC'),
        ("Who was café?", "cafe\u0301\u00a0x"),
    }


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("delimiter", DELIMITERS)
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=12))
def test_any_rows_survive_a_csv_round_trip(delimiter, rows):
    rows = [row for row in rows if row != ("", "")] or [("q", "a")]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["question", "answer"])
    writer.writerows(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "d.csv")
        path.write_bytes(stream.getvalue().encode())
        table = read_file(path, "d.csv", DatasetConfig())
    assert table.delimiter == delimiter
    assert [(row.values["question"], row.values["answer"]) for row in table.rows] == rows
    assert not any(row.problem for row in table.rows)


@given(st.lists(st.tuples(cells, cells), max_size=8), st.sampled_from(DELIMITERS))
@settings(max_examples=100, deadline=None)
def test_the_delimiter_is_found_with_minimal_quoting_too(rows, delimiter):
    assert find_delimiter(as_csv(rows, delimiter=delimiter), frozenset({"question", "answer"})) == delimiter


def test_delimiter_is_found_without_usual_names():
    assert find_delimiter("Nummer;Was ist es\n1;Eins, zwei, drei\n2;Vier, fünf\n") == ";"
    assert find_delimiter('x|y\n"a\nb, c, d"|e, f\nr|s, t\n') == "|"


# --- a user's own CSV


def test_a_user_csv_of_five_thousand_rows(tmp_path, fetch):
    rows = [
        (
            f"Wer hat das Gebäude Nummer {n}\nin München, „Süd“, gebaut?".replace("„", '"').replace("“", '"'),
            f"Müller {n % 500}",
        )
        for n in range(5000)
    ]
    path = write(tmp_path / "eigene.csv", as_csv(rows, ("Frage", "Antwort"), "|"), "latin-1")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    start = time.process_time()
    dataset, folder = fetch(path, question_column="frage", answer_column="antwort")
    assert time.process_time() - start < 5
    assert dataset.splits["train"] == 5000
    assert (dataset.question_column, dataset.answer_column) == ("Frage", "Antwort")
    assert ('Wer hat das Gebäude Nummer 7 in München, "Süd", gebaut?', "Müller 7") in pairs(folder)


def test_a_malformed_row_is_rejected_with_its_line_and_what_was_expected(tmp_path, fetch):
    text = as_csv(ROWS).replace("\r\n", "\n").split("\n")
    text[4] = '"Quoted\nover two lines?",yes'
    text[6] = "one,two,three"
    text[8] = '"closed"early,x'
    dataset, folder = fetch(write(tmp_path / "d.csv", "\n".join(text)), max_rejected=0.2)
    assert [(r["line"], r["row"], r["reason"]) for r in rejected(folder)] == [
        (8, 6, "malformed row"),
        (10, 8, "malformed row"),
    ]
    assert rejected(folder)[0]["detail"] == "expected 2 columns (question, answer), found 3"
    assert rejected(folder)[0]["content"] == {"cells": ["one", "two", "three"]}
    assert rejected(folder)[1]["content"] == {"text": '"closed"early,x'}
    assert dataset.rejected == 2
    assert any("d.csv, line 8: malformed row: expected 2 columns" in warning for warning in dataset.warnings)


def test_too_many_rejected_rows_stop_with_counts_and_the_first_places(tmp_path, fetch):
    rows = [*ROWS, ("", "x"), ("What?", " "), ("", "y"), *ROWS[:3]]
    with pytest.raises(DatasetFormatError) as caught:
        fetch(write(tmp_path / "d.csv", as_csv(rows)))
    message = str(caught.value)
    assert "3 of 26 rows (12%) were rejected, at most 10%" in message
    assert "--dataset.max-rejected" in message
    assert "2 blank question, 1 blank answer" in message
    assert "duplicate" not in message
    assert "d.csv, line 22: blank question: nothing in 'question'" in message


def test_jsonl_names_the_bad_line(tmp_path, fetch):
    lines = [json.dumps({"question": q, "answer": a}) for q, a in ROWS]
    lines[5] = '{"question": "x" "answer"'
    lines[7] = "[1, 2]"
    lines[9] = '{"question": "Half a \\ud800 pair?", "answer": "x"}'
    lines[11] = '{"question": {"nested": 1}, "answer": "x"}'
    _, folder = fetch(write(tmp_path / "d.jsonl", "\n".join(lines)), max_rejected=0.5)
    found = [(r["line"], r["reason"]) for r in rejected(folder)]
    assert found == [(6, "malformed row"), (8, "malformed row"), (10, "unreadable cell"), (12, "unreadable cell")]
    details = [r["detail"] for r in rejected(folder)]
    assert "not JSON" in details[0]
    assert details[1] == "expected a JSON object, found an array"
    assert details[3] == "expected text in 'question', found an object with the keys 'nested'"


# --- files that cannot be used

BROKEN = [
    ("empty.csv", b"", "empty.csv is empty"),
    ("blank.csv", b"\xef\xbb\xbf \n\n", "blank.csv is empty"),
    ("header.csv", b"question,answer\n", "header.csv has no rows below its header"),
    ("one.csv", b"question\nWho?\n", "one.csv has one column, 'question'.*--dataset.delimiter"),
    ("open.csv", b'question,answer\na,b\n"c,d\ne,f\n', "open.csv, line 3: a quoted cell .* never closed"),
    ("big.csv", b'question,answer\na,b\n"c,' + b"d\n" * 80_000, "big.csv, line 3: a quoted cell .* never closed"),
    ("a.json", b'[{"question": "x",\n "answer": }]', "a.json, line 2, column 12"),
    ("b.json", b'{"one": 1, "two": {}}', "an object with the keys 'one', 'two'"),
    ("c.json", b"17", "expected an array of JSON objects, found a number"),
    ("d.json", b"[]", "d.json has no rows"),
    ("d2.json", b"[1, 2]", "d2.json, row 1: expected a JSON object, found a number"),
    ("e.jsonl", b"one\ntwo\n", "e.jsonl, line 1: expected a JSON object, found text that is not JSON"),
    ("f.parquet", b"PAR1 and nothing", "f.parquet is not a readable Parquet file"),
    ("g.csv", b"PK\x03\x04xxxx", "g.csv is a damaged zip archive"),
    ("h.csv.gz", b"\x1f\x8b\x08xx", "compressed with gzip"),
    (
        "names.csv",
        b"c1,c2,c3\na,b,c\n",
        r"--dataset.answer-column. The columns are: 'c1' \(a\), 'c2' \(b\), 'c3' \(c\)",
    ),
    ("ambiguous.csv", b"question,frage,answer\na,b,c\n", "'question', 'frage' could each be the question column"),
    ("none.csv", b"question,answer\nWho?,I don't know\n", "none of them has an answer other than the unanswerable"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_file_that_cannot_be_used_says_why(tmp_path, fetch, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetFormatError, match=message) as caught:
        fetch(tmp_path / name)
    assert not caught.value.retryable
    assert not list((tmp_path / "state").glob("artifacts/dataset/*"))


def test_a_missing_path_is_named(tmp_path, fetch):
    for source in (tmp_path / "no.csv", "./no", "nowhere/no.csv", "no.parquet", "folder/", "a/b/c", "word"):
        with pytest.raises(DatasetNotFoundError, match="there is no file or folder"):
            fetch(source)
    with pytest.raises(DatasetNotFoundError, match="does not read ftp://"):
        fetch("ftp://host/x.csv")


def test_an_existing_path_wins_over_a_hub_id(tmp_path, fetch, monkeypatch):
    write(tmp_path / "owner" / "name", as_csv(ROWS))
    monkeypatch.chdir(tmp_path)
    dataset, _ = fetch("owner/name")
    assert dataset.source.kind == "file"


def test_options_that_do_not_fit(tmp_path, fetch):
    path = write(tmp_path / "d.csv", as_csv(ROWS))
    with pytest.raises(ConfigError, match=r"--dataset.revision"):
        fetch(path, revision="main")
    with pytest.raises(ConfigError, match=r"--dataset.subset"):
        fetch(path, subset="en")
    with pytest.raises(ConfigError, match=r"--dataset.group-column"):
        fetch(path, split_by="group")
    with pytest.raises(
        DatasetFormatError, match=r"--dataset.question-column 'frage' is not there. The columns are: 'question'"
    ):
        fetch(path, question_column="frage")
    with pytest.raises(DatasetFormatError, match="both name 'answer'"):
        fetch(path, question_column="answer", answer_column="ANSWER")
    with pytest.raises(DatasetFormatError, match=r"one column.*--dataset.delimiter"):
        fetch(path, delimiter=";")


def test_a_source_that_changes_after_it_was_resolved_is_not_read(tmp_path):
    config = DatasetConfig(source=str(write(tmp_path / "d.csv", as_csv(ROWS))))
    ref = resolve_source(config, place=Workplace(TARGET, tmp_path))
    write(tmp_path / "d.csv", as_csv(ROWS[:5]))
    with pytest.raises(DatasetNotFoundError, match="has changed") as caught:
        fetch_dataset(config, ref, place=Workplace(TARGET, tmp_path))
    assert caught.value.retryable


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path):
    from tasks.fetch_dataset.fetch_dataset import _disk

    def fill() -> None:
        with _disk(tmp_path), open("/dev/full", "w") as stream:  # noqa: PTH123
            stream.write("x" * 100_000)

    with pytest.raises(ArtifactError, match=r"No space left.*--state-dir"):
        fill()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path, fetch):
    path = write(tmp_path / "d.csv", as_csv(ROWS))
    path.chmod(0)
    with pytest.raises(DatasetNotFoundError, match="Permission denied"):
        fetch(path)


# --- folders


def test_a_folder_keeps_its_splits_by_file_name(tmp_path, fetch):
    write(tmp_path / "d" / "train.csv", as_csv(ROWS[:14]))
    write(tmp_path / "d" / "validation.csv", as_csv(ROWS[14:16]))
    write(tmp_path / "d" / "test.csv", as_csv(ROWS[16:], delimiter=";"))
    write(tmp_path / "d" / "LICENSE", "free")
    dataset, folder = fetch(tmp_path / "d")
    assert dataset.splits == {"train": 14, "validation": 2, "test": 4}
    assert dataset.split_by == "existing"
    assert [row.question for row in read_rows(folder, "test")] == [q for q, _ in ROWS[16:]]
    assert {file["file"]: file["split"] for file in profile(folder)["files"]}["validation.csv"] == "validation"


def test_a_folder_keeps_its_splits_by_folder_name(tmp_path, fetch):
    write(tmp_path / "d" / "train" / "a.jsonl", "\n".join(json.dumps({"q": q, "a": a}) for q, a in ROWS[:8]))
    write(tmp_path / "d" / "train" / "b.jsonl", "\n".join(json.dumps({"q": q, "a": a}) for q, a in ROWS[8:15]))
    write(tmp_path / "d" / "test" / "a.jsonl", "\n".join(json.dumps({"q": q, "a": a}) for q, a in ROWS[15:]))
    dataset, _ = fetch(tmp_path / "d")
    assert dataset.splits == {"train": 15, "test": 5}


def test_a_folder_without_split_names_is_read_whole_and_split(tmp_path, fetch):
    write(tmp_path / "d" / "one.csv", as_csv(ROWS[:10]))
    write(tmp_path / "d" / "two.csv", as_csv(ROWS[10:], delimiter="|"))
    write(tmp_path / "d" / ".hidden.csv", "nothing")
    dataset, folder = fetch(tmp_path / "d")
    assert pairs(folder) == set(ROWS)
    assert dataset.split_by == "made"


def test_a_validation_split_stands_in_for_a_missing_test_split(tmp_path, fetch):
    write(tmp_path / "d" / "train.csv", as_csv(ROWS[:14]))
    write(tmp_path / "d" / "validation.csv", as_csv(ROWS[14:]))
    dataset, _ = fetch(tmp_path / "d")
    assert dataset.splits == {"train": 14, "test": 6}
    assert any("validation split is held out" in warning for warning in dataset.warnings)


CARD = """---
configs:
- config_name: english
  data_files:
  - {split: train, path: en/learn.csv}
  - {split: test, path: en/ask.csv}
- config_name: german
  data_files:
  - {split: train, path: de/learn.csv}
  - {split: test, path: de/ask.csv}
---
# Data
"""


def test_the_card_names_subsets_and_splits(tmp_path, fetch):
    for language in ("en", "de"):
        write(tmp_path / "d" / language / "learn.csv", as_csv([(f"{language} {q}", a) for q, a in ROWS[:15]]))
        write(tmp_path / "d" / language / "ask.csv", as_csv([(f"{language} {q}", a) for q, a in ROWS[15:]]))
    write(tmp_path / "d" / "README.md", CARD)
    dataset, folder = fetch(tmp_path / "d", subset="german")
    assert dataset.splits == {"train": 15, "test": 5}
    assert all(row.question.startswith("de ") for row in read_rows(folder, "test"))
    with pytest.raises(ConfigError, match=r"has several subsets: name one with --dataset.subset.*english"):
        fetch(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"has no subset 'french'.*german"):
        fetch(tmp_path / "d", subset="french")
    dataset, _ = fetch(tmp_path / "d", subset="en")  # a sub-folder serves as well
    assert dataset.splits["train"] == 20


@pytest.mark.parametrize("path", ["../secret.csv", "{outside}", "http://127.0.0.1:9/x.csv"])
def test_a_card_cannot_reach_outside_its_dataset(tmp_path, fetch, path):
    outside = write(tmp_path / "secret.csv", as_csv(ROWS))
    write(tmp_path / "d" / "data.csv", as_csv(ROWS))
    where = path.format(outside=outside)
    write(tmp_path / "d" / "README.md", f"---\nconfigs:\n- config_name: default\n  data_files: '{where}'\n---\n")
    with pytest.raises(DatasetFormatError, match=r"outside the dataset|cannot be told"):
        fetch(tmp_path / "d")


def test_folders_that_cannot_be_used(tmp_path, fetch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetFormatError, match=r"holds no data file; askline reads \.csv"):
        fetch(tmp_path / "empty")
    write(tmp_path / "mixed" / "train.csv", as_csv(ROWS))
    write(tmp_path / "mixed" / "test.jsonl", '{"question": "x", "answer": "y"}')
    with pytest.raises(DatasetFormatError, match="cannot be told"):
        fetch(tmp_path / "mixed")
    write(tmp_path / "differ" / "a.csv", as_csv(ROWS))
    write(tmp_path / "differ" / "b.csv", as_csv([(*row, row[1]) for row in ROWS], ("frage", "x", "y")))
    with pytest.raises(DatasetFormatError, match=r"b\.csv: neither names nor content tell"):
        fetch(tmp_path / "differ")


def test_the_same_content_gives_the_same_artifact_wherever_it_lies(tmp_path, fetch):
    rows = [*ROWS, ROWS[0], ("Conflict?", "a"), ("conflict", "b")]
    one, folder = fetch(write(tmp_path / "here" / "d.csv", as_csv(rows)), max_rejected=0.5)
    other, _ = fetch(write(tmp_path / "there" / "d.csv", as_csv(rows)), max_rejected=0.5)
    assert one.sha256 == other.sha256
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == [
        "look.json",
        "profile.json",
        "rejected.jsonl",
        "test.jsonl",
        "train.jsonl",
    ]


def test_every_error_is_one_of_ours(tmp_path, fetch):
    """Random bytes under every suffix: an artifact or an AsklineError, never anything else."""
    import random

    source = random.Random(7)
    alphabet = [
        b"question",
        b"answer",
        b",",
        b"|",
        b"\n",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"\xff",
        b"\x00",
        b"a",
        b"1",
    ]
    for number in range(150):
        suffix = source.choice([".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"])
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(b"".join(source.choices(alphabet, k=source.randint(0, 60))))
        try:
            fetch(path)
        except AsklineError as error:
            assert path.name in str(error) or "rows" in str(error)  # noqa: PT017
