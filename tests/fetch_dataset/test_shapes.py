"""Files as people keep them: what is read of each with no option, and that what a message advises works."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError
from askline.records import Target
from askline.store import ArtifactStore
from benchmarks.shapes import OWN, look, pairs_of
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.fetch_dataset.readers.families import FAMILIES
from tasks.fetch_dataset.readers.pairs import read_pairs
from tasks.fetch_dataset.readers.reading import read_file
from tasks.fetch_dataset.sources import data_files
from tasks.fetch_dataset.values import cell_text
from tasks.qa.rows import read_rows
from tasks.workplace import Workplace

EXPECTED = json.loads((OWN / "expected.json").read_text(encoding="utf-8"))
# Files that hold other facts, or the same in another language or with damage.
OTHER_FACTS = ("12", "15", "17", "18", "20", "34", "38", "39")
PAIRS = [
    ("When do you open?", "We open at nine, every day but Monday."),
    ("What does a ticket cost?", "Twelve euros; children pay half."),
    ("May I bring my dog?", "Yes, on a lead, and not in the café."),
    ("Where can I park?", "Behind the house, for three hours."),
]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **options: Any) -> tuple[list[tuple[str, str]], Any]:
    """The pairs of a file, letter by letter, and its table."""
    table, columns = read_pairs(path, path.name, DatasetConfig(**options))
    good = [row.values for row in table.rows if row.problem is None]
    return [(cell_text(v[columns.question], "-"), cell_text(v[columns.answer], "-")) for v in good], table


# --- the stock


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_is_read_as_a_person_would_read_it(name):
    fits, line = look(OWN / name, EXPECTED[name])
    assert fits, line


@pytest.mark.parametrize("name", [n for n in EXPECTED if n[:2].isdigit() and not n.startswith(OTHER_FACTS)])
def test_every_shape_of_the_library_says_the_same_letter_by_letter(name):
    known = set(pairs_of(OWN / "02-intents.json", DatasetConfig())[0])
    assert set(pairs_of(OWN / name, DatasetConfig())[0]) <= known


def test_every_family_reads_a_file_of_the_stock(tmp_path):
    shapes = {pairs_of(OWN / name, DatasetConfig())[1] for name in EXPECTED if "choose" not in EXPECTED[name]}
    assert {"intents.json", "nlp.js corpus", "QnABot export", "chat", "Rasa bot", "Dialogflow export"} <= shapes
    assert {"ChatterBot corpus", "map of questions", "Markdown headings", "Q: and A: text", "Excel sheet"} <= shapes
    assert {"objects by id", "objects by category", "instruction, input, output"} <= shapes
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == 17


# --- what was understood is said


def test_several_replies_and_tags_without_questions_are_said_to_be_left_out():
    _, table = read(OWN / "03-intents-several-responses.json")
    assert (
        "several answers in 2 entries ('hours', 'gift'); the first is the answer, 2 others left out"
        in table.left_out[0]
    )
    _, table = read(OWN / "02-intents.json")
    assert table.declining == "Sorry, I did not get that."
    assert "answers without a question in 1 entry, left out: 'noanswer'" in table.left_out[0]


def test_half_a_bot_says_which_half_is_missing():
    with pytest.raises(DatasetFormatError, match=r"nlu\.yml holds what users say .* domain\.yml is missing"):
        read(OWN / "25-rasa" / "data" / "nlu.yml")
    with pytest.raises(DatasetFormatError, match=r"domain\.yml holds .* data/nlu\.yml is missing"):
        read(OWN / "25-rasa" / "domain.yml")


def test_damaged_letters_are_told_with_their_rows_and_what_they_were():
    pairs, table = read(OWN / "34-damaged.csv")
    (note,) = table.notes
    assert "damaged letters in 2 rows" in note
    assert "line 2: 'geÃ¶ffnet?' seems encoded twice; it was probably 'geöffnet?'" in note
    assert "line 3: 'p\ufffdrk?' holds U+FFFD" in note
    assert pairs[0][0] == "Wann ist geÃ¶ffnet?"  # told, not mended


def test_a_topic_is_no_fact_and_one_answer_a_group_is():
    _, table = read(OWN / "21-topic-called-group.tsv")
    assert "'group' is a topic, not a fact" in table.notes[0]


def test_columns_taken_by_what_they_hold_are_said_once_for_both(tmp_path):
    _, table = read(OWN / "36-title-text.csv")
    (note,) = table.notes
    assert "'title' was taken for the questions and 'text' for the answers" in note
    assert "--dataset.question-column and --dataset.answer-column" in note


def test_content_decides_whatever_the_order_of_the_columns(tmp_path):
    lines = ["body,topic,headline", *(f'"{a}",house,"{q}"' for q, a in PAIRS)]
    pairs, _ = read(write(tmp_path / "d.csv", "\n".join(lines)))
    assert pairs == PAIRS


def test_numbered_questions_are_wordings_of_one(tmp_path):
    text = "question_1;question_2;answer\nWhen?;At what time?;At nine.\nWhere?;;Here.\n"
    pairs, table = read(write(tmp_path / "d.csv", text))
    assert pairs == [("When?", "At nine."), ("At what time?", "At nine."), ("Where?", "Here.")]
    assert [row.line for row in table.rows] == [2, 2, 3]


def test_instructions_that_differ_are_part_of_the_question(tmp_path):
    rows = [
        {"instruction": "Name the capital.", "input": "France", "output": "Paris"},
        {"instruction": "Name the river.", "input": "France", "output": "Seine"},
        {"instruction": "Who painted the Mona Lisa?", "input": "", "output": "Leonardo"},
    ]
    pairs, table = read(write(tmp_path / "d.json", json.dumps(rows)))
    assert [q for q, _ in pairs] == [
        "Name the capital.\nFrance",
        "Name the river.\nFrance",
        "Who painted the Mona Lisa?",
    ]
    assert "the instruction and the input together" in table.notes[0]


def test_chats_of_several_turns_give_a_row_a_turn(tmp_path):
    turns = [m for q, a in PAIRS for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    pairs, table = read(write(tmp_path / "d.jsonl", json.dumps({"messages": turns})))
    assert pairs == PAIRS
    assert "each turn is a row of its own (3 rows after the first turn)" in table.notes[0]


# --- delimited text


def test_unquoted_commas_belong_to_the_answer_or_to_a_question_that_ends_behind_them(tmp_path):
    text = "question,answer\nWhen, if at all, do you open?,At nine, ten, or eleven.\nPrices,Twelve, or six.\n"
    pairs, table = read(write(tmp_path / "d.csv", text))
    assert pairs == [("When, if at all, do you open?", "At nine, ten, or eleven."), ("Prices", "Twelve, or six.")]
    assert "2 rows have more cells than columns (line 2, 3)" in table.notes[0]


def test_a_column_of_its_own_behind_an_unquoted_answer_stays_one(tmp_path):
    text = "id,question,answer,topic\n1,When?,At nine, or ten.,hours\n2,Where?,Here.,place\n"
    pairs, table = read(write(tmp_path / "d.csv", text))
    assert pairs == [("When?", "At nine, or ten."), ("Where?", "Here.")]
    assert [row.values["topic"] for row in table.rows] == ["hours", "place"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_header_is_told_from_a_row(tmp_path, delimiter):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows(PAIRS)
    pairs, table = read(write(tmp_path / "d.csv", stream.getvalue()))
    assert pairs == PAIRS
    assert "has no header" in table.notes[0]
    csv.writer(stream := io.StringIO(newline=""), delimiter=delimiter).writerows([("Anfrage", "Text"), *PAIRS])
    assert read(write(tmp_path / "e.csv", stream.getvalue()))[0] == PAIRS


def test_letters_of_the_old_mac_os(tmp_path):
    pairs, table = read(write(tmp_path / "d.csv", "question\tanswer\rOù ?\tÀ l’été, 3 €\r".encode("mac_roman")))
    assert (pairs, table.encoding) == ([("Où ?", "À l’été, 3 €")], "mac_roman")


def test_a_title_above_the_header_is_no_row(tmp_path):
    pairs, table = read(write(tmp_path / "d.csv", 'Our FAQ,\n,\nquestion,answer\n"When?",At nine\n'))
    assert pairs == [("When?", "At nine")]
    assert "2 lines above the header not read" in table.notes[0]


def test_a_name_that_stands_twice_is_told(tmp_path):
    pairs, table = read(write(tmp_path / "d.csv", "question,answer,answer\nWhen?,At nine,At ten\n"))
    assert pairs == [("When?", "At nine")]
    assert "the header names 'answer' twice; the later one is called 'answer (2)'" in table.notes[0]


# --- numbers as they stand

WRITTEN = ["007", "1.50", "1e3", "-0", "1_000", "12:30", "no", "2024-01-01", "0x1F", "1800.0", "٣"]


@pytest.mark.parametrize("name", ["d.csv", "d.tsv", "d.yaml", "d.md", "d.txt"])
def test_numbers_stay_as_they_are_written(tmp_path, name):
    rows = [(f"What is number {n}?", value) for n, value in enumerate(WRITTEN)]
    sign = "\t" if name == "d.tsv" else ","
    texts = {
        "d.yaml": "".join(f"- question: {q}\n  answer: {a}\n" for q, a in rows),
        "d.md": "".join(f"## {q}\n\n{a}\n\n" for q, a in rows),
        "d.txt": "".join(f"Q: {q}\nA: {a}\n\n" for q, a in rows),
    }
    text = texts.get(name, f"question{sign}answer\n" + "".join(f"{q}{sign}{a}\n" for q, a in rows))
    assert read(write(tmp_path / name, text))[0] == rows


@pytest.mark.parametrize("number", ["1.50", "1800.0", "1e3", "-0", "0.1", "12345678901234567890123", "9" * 5000])
def test_numbers_of_json_stay_as_they_are_written(tmp_path, number):
    text = f'[{{"question": "How much?", "answer": {number}}}, {{"question": "What?", "answer": true}}]'
    assert read(write(tmp_path / "d.json", text))[0] == [("How much?", number), ("What?", "true")]
    lines = f'{{"question": "How much?", "answer": {number}}}\n'
    assert read(write(tmp_path / "d.jsonl", lines))[0] == [("How much?", number)]


def test_cells_of_a_workbook_are_read_as_the_sheet_shows_them(tmp_path):
    import datetime

    import openpyxl

    cells: list[tuple[Any, str, str]] = [
        (7, "000", "007"), (1.5, "0.00", "1.50"), (0.05, "0%", "5%"), (0.125, "0.0%", "12.5%"),
        (1234567, "#,##0", "1,234,567"),
        (0.1 + 0.2, "General", "0.3"), (12.0, "General", "12"), (datetime.date(2026, 3, 1), "dd/mm/yyyy", "2026-03-01"),
        ("007", "General", "007"), (True, "General", "TRUE"), (datetime.time(9, 30), "hh:mm", "09:30:00"),
    ]  # fmt: skip
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["question", "answer"])
    for number, (value, shown, _) in enumerate(cells, start=2):
        sheet.append([f"What is in cell {number}?", value])
        sheet.cell(number, 2).number_format = shown
    book.save(tmp_path / "d.xlsx")
    assert [a for _, a in read(tmp_path / "d.xlsx")[0]] == [text for _, _, text in cells]


# --- limits


def test_a_cell_of_a_million_characters_is_a_cell(tmp_path):
    long = "word " * 200_000
    for name, text in (
        ("d.csv", f'question,answer\nWhat?,"{long}"\nWhere?,"Here, or there"\n'),
        (
            "d.json",
            json.dumps([{"question": "What?", "answer": long}, {"question": "Where?", "answer": "Here, or there"}]),
        ),
        ("d.yaml", f"- question: What?\n  answer: {long}\n- question: Where?\n  answer: Here, or there\n"),
        ("d.txt", f"Q: What?\nA: {long}\n\nQ: Where?\nA: Here, or there\n"),
    ):
        pairs, _ = read(write(tmp_path / name, text))
        assert [(q, a.strip()) for q, a in pairs] == [("What?", long.strip()), ("Where?", "Here, or there")]


def test_keys_that_stand_twice_and_nan_are_told(tmp_path):
    text = '[{"question": "When?", "answer": "no", "answer": "At nine"}, {"question": "Where?", "answer": NaN}]'
    pairs, table = read(write(tmp_path / "d.json", text))
    assert pairs == [("When?", "At nine"), ("Where?", "")]
    assert any("1 times a key stands twice in one object ('answer')" in note for note in table.notes)
    assert any("1 values are NaN" in note for note in table.notes)


def test_a_question_that_stands_twice_in_a_map_is_asked_twice(tmp_path):
    text = '{"When do you open?": "At nine.", "When do you open?": "At ten.", "Where are you?": "Here."}'
    pairs, _ = read(write(tmp_path / "d.json", text))
    assert ("When do you open?", "At nine.") in pairs
    assert ("When do you open?", "At ten.") in pairs


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_marks_and_wide_encodings(tmp_path, encoding):
    text = json.dumps([{"question": "Où ?", "answer": "là"}] * 3, ensure_ascii=False)
    if encoding == "utf-32":
        text = "\ufeff" + text if not text.encode(encoding).startswith(b"\xff\xfe\x00\x00") else text
    assert read(write(tmp_path / "d.json", text.encode(encoding)))[0][0] == ("Où ?", "là")


def test_comments_and_commas_too_many_are_passed_over_and_told(tmp_path):
    text = '// FAQ\n[{"question": "When?", "answer": "See https://x.example/a,]",}, /* more */\n]'
    pairs, table = read(write(tmp_path / "d.json", text))
    assert pairs == [("When?", "See https://x.example/a,]")]
    assert "comments, and commas before a closing bracket" in table.notes[0]


# --- advice, followed to its end


def options_in(message: str) -> dict[str, str]:
    """The options that a message names with a value."""
    found = re.findall(r"--dataset\.([\w-]+) ('[^']*'|[\w-]+)", message)
    return {name.replace("-", "_"): shlex.split(value)[0] for name, value in found}


@pytest.mark.parametrize("name", [name for name in EXPECTED if "choose" in EXPECTED[name]])
def test_the_language_that_a_message_names_can_be_chosen(name):
    with pytest.raises(DatasetFormatError, match="side by side") as caught:
        read(OWN / name)
    options = options_in(str(caught.value))
    pairs, _ = read(OWN / name, **options)
    assert f"{options['language']} ({len(pairs)})" in str(caught.value)
    with pytest.raises(DatasetFormatError, match=r"There are, with the number of pairs: .*\(\d+\)"):
        read(OWN / name, language="xx")


def test_one_message_asks_for_both_columns_and_its_options_work(tmp_path):
    path = write(tmp_path / "d.csv", "one,two,three\nred,dog,loud\nblue,cat,calm\ngreen,cow,slow\n")
    with pytest.raises(DatasetFormatError) as caught:
        read(path)
    message = str(caught.value)
    assert "--dataset.question-column and --dataset.answer-column" in message
    assert "'one' (red), 'two' (dog), 'three' (loud)" in message
    assert read(path, question_column="two", answer_column="one")[0][0] == ("dog", "red")


def test_what_was_taken_by_content_can_be_said_otherwise(tmp_path):
    path = write(tmp_path / "d.csv", "\n".join(f'"{q}","{a}"' for q, a in PAIRS))
    _, table = read(path)
    assert len(read(path, header="yes")[0]) == len(PAIRS) - 1
    turned, _ = read(path, question_column="column 2", answer_column="column 1")
    assert turned == [(a, q) for q, a in PAIRS]
    assert "--dataset.header yes" in table.notes[0]


def test_a_group_that_is_no_fact_can_be_used_all_the_same():
    _, table = read(OWN / "21-topic-called-group.tsv")
    _, columns = read_pairs(OWN / "21-topic-called-group.tsv", "t", DatasetConfig(**options_in(table.notes[0])))
    assert (columns.group, columns.group_was_named) == ("group", True)


def test_the_sheet_that_a_message_names_can_be_chosen(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, header in (("Old", ("Question", "Answer", "By")), ("New", ("Question", "Answer"))):
        sheet = book.create_sheet(title)
        for cells in (header, *PAIRS):
            sheet.append(cells)
    book.save(tmp_path / "d.xlsx")
    with pytest.raises(DatasetFormatError, match=r"'Old' \(4 rows\), 'New' \(4 rows\)") as caught:
        read(tmp_path / "d.xlsx")
    assert read(tmp_path / "d.xlsx", **options_in(str(caught.value)))[0] == PAIRS
    with pytest.raises(DatasetFormatError, match="Its sheets are: 'Old', 'New'"):
        read(tmp_path / "d.xlsx", sheet="Newest")


def test_the_text_for_declining_that_a_message_names_is_taken(tmp_path):
    _, table = read(OWN / "02-intents.json")
    config = DatasetConfig(**options_in(table.notes[0]))
    assert config.unanswerable == table.declining


def test_a_column_alone_is_told_from_one_that_is_not_separated(tmp_path):
    path = write(tmp_path / "d.csv", "question/answer\nWhen?/At nine.\nWhere?/Here.\n")
    with pytest.raises(DatasetFormatError, match=r"has one column.*--dataset\.delimiter"):
        read(path)
    assert read(path, delimiter="/")[0][0] == ("When?", "At nine.")
    with pytest.raises(DatasetFormatError, match="Questions alone teach nothing") as caught:
        read(path, delimiter=";")
    assert "--dataset.delimiter" not in str(caught.value)


def test_folders_and_archives_of_chatbots_and_of_one_file(tmp_path):
    for source in ("25-rasa", "30-dialogflow"):
        with zipfile.ZipFile(tmp_path / f"{source}.zip", "w") as archive:
            for path in sorted((OWN / source).rglob("*.*")):
                archive.write(path, f"bot/{path.relative_to(OWN / source)}")
        assert len(read(tmp_path / f"{source}.zip")[0]) == 38
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("README.md", "# About\n\nwhat")
        archive.writestr("data/faq.csv", "question,answer\nWhen?,At nine.\n")
    assert read(tmp_path / "one.zip")[0] == [("When?", "At nine.")]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "question,answer\nWhen?,At nine.\n")
        archive.writestr("b.csv", "question,answer\nWhere?,Here.\n")
    with pytest.raises(DatasetFormatError, match=r"a zip archive of 2 files .* Unpack it"):
        read(tmp_path / "two.zip")


@pytest.mark.parametrize("name", ["25-rasa", "30-dialogflow", "31-faq.md", "22-sheet.xlsx", "24-list.yaml"])
def test_the_dataset_step_takes_folders_and_files_of_every_kind(tmp_path, name):
    place = Workplace(
        Target(kind="local", region="us-east-1", hub="http://127.0.0.1:9"),
        tmp_path,
        store=ArtifactStore(tmp_path / "artifacts"),
    )
    config = DatasetConfig(source=str(OWN / name))
    dataset = fetch_dataset(config, resolve_source(config, place=place), place=place)
    train = read_rows(place.store.verify("dataset", dataset.sha256), "train")
    assert len({row.answer for row in train}) == 12
    assert dataset.rejected == 0


def test_a_folder_of_markdown_and_a_readme_is_read_without_the_readme(tmp_path):
    write(tmp_path / "in" / "README.md", "# About\n\n## What is this?\n\nA folder.\n")
    write(tmp_path / "in" / "faq.md", "## When?\n\nAt nine.\n\n## Where?\n\nHere.\n")
    assert [path.name for path in data_files(tmp_path / "in")] == ["faq.md"]
    write(tmp_path / "in" / "faq.csv", "question,answer\nWhen?,At nine.\n")
    assert [path.name for path in data_files(tmp_path / "in")] == ["faq.csv"]


def test_reading_a_small_file_loads_no_heavy_library():
    program = (
        "import sys; from askline.config import DatasetConfig; from pathlib import Path\n"
        "from tasks.fetch_dataset.readers.pairs import read_pairs\n"
        "read_pairs(Path(sys.argv[1]), 'faq', DatasetConfig())\n"
        "print(*{'pandas', 'torch', 'datasets', 'pyarrow', 'openpyxl', 'ftfy', 'markdown_it'} & set(sys.modules))"
    )
    path = OWN / "01-plain.csv"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- questions alone


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.txt", "When, if at all?\nWhere?\n"),
        ("q.txt", "question\nWhen, if at all?\nWhere?\n"),
        ("q.json", '["When, if at all?", "Where?"]'),
        ("q.json", '{"questions": [{"question": "When, if at all?"}, {"question": "Where?"}]}'),
        ("q.jsonl", '{"prompt": "When, if at all?"}\n{"prompt": "Where?"}\n'),
        ("q.json", '[{"patterns": ["When, if at all?", "Where?"], "tag": "x"}]'),
        ("q.csv", 'frage,nr\n"When, if at all?",1\nWhere?,2\n'),
    ],
)
def test_files_of_questions_are_asked_in_batches_whatever_their_shape(tmp_path, name, content):
    from tasks.batch_answer.questions import read_questions

    assert read_questions(write(tmp_path / name, content), DatasetConfig()).texts == ["When, if at all?", "Where?"]


def test_a_file_of_questions_needs_no_answers(tmp_path):
    table = read_file(write(tmp_path / "q.txt", "When?\nWhere?\n"), "q.txt", DatasetConfig(), answers=False)
    assert [row.values["question"] for row in table.rows] == ["When?", "Where?"]
