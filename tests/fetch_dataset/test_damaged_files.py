"""Files that are damaged, or made to do harm: one clear message, or what is whole of them, and never a traceback."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from askline.config import DatasetConfig
from askline.errors import AsklineError, DatasetFormatError
from benchmarks.shapes import OWN
from tasks.fetch_dataset.readers import archives, yaml_text
from tasks.fetch_dataset.readers.pairs import read_pairs

# One small file of every family, by the name under which it is damaged.
WHOLE = [
    "01-plain.csv", "02-intents.json", "05-map.json", "07-categories.json", "10-nlpjs.json", "11-object-ids.json",
    "14-no-header.csv", "20-same-answer-other-facts.jsonl", "22-sheet.xlsx", "23-chatterbot.yml", "24-list.yaml",
    "25-rasa/data/nlu.yml", "26-chat.jsonl", "28-instructions.json", "29-qnamaker.tsv", "31-faq.md", "32-q-and-a.txt",
    "bikes-bold.md", "bikes-details.md", "bikes-blocks.txt", "bikes-pandas-columns.json", "bikes-table.md",
    "bikes-lang-items.json", "bikes-utf16.csv", "bikes-numbered.csv",
]  # fmt: skip
SIGNS = [
    sign.encode()
    for sign in ('"', "'", "{", "}", "[", "]", ",", ":", "\n", "\r", "\0", "&a ", "*a ", "#", "- ", "\t", "\\")
]
SIGNS += [b"\xff", b"\\ud800"]


def read_or_told(path: Path) -> str | None:
    """Read a file; returns the message where it cannot be."""
    try:
        table, columns = read_pairs(path, path.name, DatasetConfig())
    except AsklineError as error:
        message = str(error)
        assert path.name in message
        assert message.encode()  # half a surrogate pair could not be printed
        return message
    assert {columns.question, columns.answer} <= set(table.columns)
    assert all(note.encode() for note in table.notes + table.left_out)
    return None


@st.composite
def damages(draw):
    """A few cuts, insertions, repetitions and overwritten stretches."""
    places = st.floats(0, 1)
    steps = st.tuples(st.sampled_from(["cut", "insert", "repeat", "end"]), places, places, st.sampled_from(SIGNS))
    return draw(st.lists(steps, min_size=1, max_size=4))


def damaged(data: bytes, steps) -> bytes:
    for kind, start, length, sign in steps:
        at = int(start * len(data))
        end = min(at + int(length * 60), len(data))
        if kind == "cut":
            data = data[:at] + data[end:]
        elif kind == "insert":
            data = data[:at] + sign * (1 + int(length * 3)) + data[at:]
        elif kind == "repeat":
            data = data[:end] + data[at:end] + data[end:]
        else:
            data = data[: max(at, 1)]
    return data


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=damages())
def test_a_damaged_file_is_read_or_told(tmp_path, name, steps):
    source = OWN / name
    path = tmp_path / source.name
    path.write_bytes(damaged(source.read_bytes(), steps))
    read_or_told(path)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["When?", "At 9."]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["question", "answer", "patterns", "responses", "q", "a", "en", "de", "data", "nlu", "messages"]
            )
            | st.text(max_size=6),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values, suffix=st.sampled_from([".json", ".jsonl", ".yaml"]))
def test_any_document_is_read_or_told(tmp_path, value, suffix):
    path = tmp_path / f"d{suffix}"
    path.write_text(json.dumps(value), encoding="utf-8")
    read_or_told(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200), suffix=st.sampled_from([".csv", ".tsv", ".txt", ".md", ".yml", ".json", "", ".xyz"]))
def test_any_text_is_read_or_told(tmp_path, text, suffix):
    path = tmp_path / f"d{suffix}"
    path.write_bytes(text.encode(errors="surrogatepass"))
    read_or_told(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300), begins=st.sampled_from([b"", b"PK\x03\x04", b"PAR1", b"\xff\xfe", b"\xfe\xff", b"["])
)
def test_any_bytes_are_read_or_told(tmp_path, data, begins):
    path = tmp_path / "d.bin"
    path.write_bytes(begins + data)
    read_or_told(path)


# --- depth


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.json", "[" * 100_000 + "]" * 100_000),
        ("d.json", '{"a":' * 100_000 + "1" + "}" * 100_000),
        ("d.jsonl", '{"question": ' + "[" * 50_000 + "]" * 50_000 + "}"),
        ("d.yaml", "[" * 100_000 + "]" * 100_000),
        ("d.yaml", "- " * 50_000 + "x"),
        ("d.md", ">" * 50_000 + " x"),
    ],
)
def test_nesting_without_end_is_told(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_or_told(path) is not None


# --- YAML


def test_aliases_that_explode_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path = tmp_path / "d.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(DatasetFormatError, match=r"line \d+: its aliases stand for more than 5,000,000 values"):
        read_pairs(path, path.name, DatasetConfig())


def test_an_alias_within_itself_or_for_nothing_is_told(tmp_path):
    for text in ("a: &a [*a]", "a: *b"):
        path = tmp_path / "d.yaml"
        path.write_text(text)
        with pytest.raises(DatasetFormatError, match="stands for nothing before it"):
            read_pairs(path, path.name, DatasetConfig())


def test_an_alias_that_is_meant_is_followed_and_tags_make_no_object():
    tree = yaml_text.read_yaml("- question: When?\n  answer: &a At nine.\n- question: Open?\n  answer: *a\n", "d")
    assert tree[1] == {"question": "Open?", "answer": "At nine."}
    assert yaml_text.read_yaml("x: !!python/object/apply:os.system ['true']", "d") == {"x": ["true"]}
    assert yaml_text.read_yaml("base: &b {q: x}\none: {<<: *b, a: y}", "d")["one"] == {"q": "x", "a": "y"}


# --- archives


def bomb(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def test_archives_that_explode_are_refused_before_they_are_unpacked(tmp_path):
    for member in ("faq.csv", "xl/workbook.xml"):
        path = tmp_path / "d.zip"
        path.write_bytes(bomb(member, b"\0" * (archives._SMALL_BYTES + 1)))
        with pytest.raises(DatasetFormatError, match=r"would unpack to 32 MiB in 1 files"):
            read_pairs(path, path.name, DatasetConfig())


def test_an_archive_that_understates_its_size_is_not_read(tmp_path, monkeypatch):
    data = bomb("faq.csv", b"question,answer\n" * 1000)
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DatasetFormatError, match="unpacks to more than it says"):
        archives.members_of(zipfile.ZipFile(io.BytesIO(data)), "d.zip")


def test_members_that_lead_elsewhere_write_nothing(tmp_path):
    path = tmp_path / "in" / "d.zip"
    path.parent.mkdir()
    path.write_bytes(bomb("../../faq.csv", b"question,answer\nWhen?,At nine.\n"))
    assert read_or_told(path) is None or "d.zip" in str(read_or_told(path))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["d.zip", "in"]


# --- workbooks


def workbook(sheet: str, extra: dict[str, str] | None = None) -> bytes:
    """A workbook of one sheet, with its XML as given."""
    import openpyxl

    stream = io.BytesIO()
    openpyxl.Workbook().save(stream)
    source = zipfile.ZipFile(stream)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in source.namelist():
            content = source.read(item).decode()
            archive.writestr(item, sheet if item == "xl/worksheets/sheet1.xml" else content)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return out.getvalue()


def cells(rows: list[tuple[str, str]]) -> str:
    """A sheet of inline texts; one that begins with "=" is a formula with a stored result, or without."""
    lines = []
    for number, row in enumerate(rows, start=1):
        made = []
        for column, text in zip("AB", row, strict=True):
            place = f'r="{column}{number}"'
            if text.startswith("="):
                formula, _, stored = text[1:].partition("→")
                value = f"<v>{stored}</v>" if stored else ""
                made.append(f'<c {place} t="str"><f>{formula}</f>{value}</c>')
            else:
                made.append(f'<c {place} t="inlineStr"><is><t>{text}</t></is></c>')
        lines.append(f'<row r="{number}">{"".join(made)}</row>')
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    return f'<?xml version="1.0"?><worksheet xmlns="{space}"><sheetData>{"".join(lines)}</sheetData></worksheet>'


def test_formulas_are_not_calculated_and_their_stored_results_are_read(tmp_path):
    path = tmp_path / "d.xlsx"
    rows = [("question", "answer"), ("How much?", "=1+1→2"), ("Who?", "=WEBSERVICE(1)"), ("Where?", "Here.")]
    path.write_bytes(workbook(cells(rows)))
    table, columns = read_pairs(path, path.name, DatasetConfig())
    assert [row.values[columns.answer] for row in table.rows] == ["2", "", "Here."]
    assert any("2 cells hold formulas" in note for note in table.notes)


def test_links_to_other_workbooks_are_not_followed(tmp_path):
    path = tmp_path / "d.xlsx"
    link = '<externalLink xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"/>'
    rows = [("question", "answer"), ("When?", "=[1]Sheet1!A1→At nine."), ("Where?", "Here.")]
    path.write_bytes(workbook(cells(rows), {"xl/externalLinks/externalLink1.xml": link}))
    table, columns = read_pairs(path, path.name, DatasetConfig())
    assert [row.values[columns.answer] for row in table.rows] == ["At nine.", "Here."]


def test_entities_in_a_workbook_are_refused(tmp_path):
    path = tmp_path / "d.xlsx"
    declared = "<!DOCTYPE x [" + '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">' + "]>"
    sheet = cells([("question", "answer"), ("When?", "&b;")]).replace("?>", f"?>{declared}", 1)
    path.write_bytes(workbook(sheet))
    with pytest.raises(DatasetFormatError, match=r"d\.xlsx is a damaged Excel workbook"):
        read_pairs(path, path.name, DatasetConfig())
    outside = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]>'
    sheet = cells([("question", "answer"), ("When?", "&f;")]).replace("?>", f"?>{outside}", 1)
    path.write_bytes(workbook(sheet))
    with pytest.raises(DatasetFormatError, match=r"d\.xlsx is a damaged Excel workbook"):
        read_pairs(path, path.name, DatasetConfig())


# --- other kinds of file


@pytest.mark.parametrize(
    ("begins", "advice"),
    [
        (b"%PDF-1.7", "a PDF"),
        (b"\xd0\xcf\x11\xe0", r"Save it as \.xlsx"),
        (b"7z\xbc\xaf", "Unpack it first"),
        (b"{\\rtf1", "plain text"),
    ],
)
def test_what_is_no_text_is_named_with_what_to_do(tmp_path, begins, advice):
    path = tmp_path / "faq"
    path.write_bytes(begins + b" and more")
    with pytest.raises(DatasetFormatError, match=advice):
        read_pairs(path, path.name, DatasetConfig())
