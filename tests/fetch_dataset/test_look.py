"""What is understood of a source before anything is trained, and the program that says it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from askline.config import DatasetConfig, PipelineConfig
from askline.records import Target
from askline.records.look import Look
from flows.look import look, main
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.fetch_dataset.look import text, two_lines
from tasks.fetch_dataset.writable import base_named, indistinct
from tasks.report.words import words
from tasks.workplace import Workplace

FAQ = """question,answer
When is the library open?,Tuesday to Friday from 10:00 to 18:30.
How do I get a library card?,Bring an identity card to the desk.
"How do I get a card, please?",Bring an identity card to the desk.
Where are the rooms?,https://example.org/rooms
What is the meaning of life?,I don't know
How do I get a library card?,Bring an identity card to the desk.
,nothing was asked
"""


def look_at(tmp_path: Path, content: str, base: str = "auto", name: str = "faq.csv") -> Look:
    (tmp_path / name).write_text(content, encoding="utf-8")
    config = PipelineConfig.model_validate(
        {"dataset": {"source": str(tmp_path / name)}, "training": {"base": base}, "state_dir": tmp_path / "state"}
    )
    return look(config)


def test_what_is_understood_is_counted_and_shown(tmp_path):
    found = look_at(tmp_path, FAQ)
    assert (found.pairs, found.answers, found.facts, found.out_of_scope) == (5, 3, 3, 1)
    assert found.language == "en"
    assert found.first[0] == ("When is the library open?", "Tuesday to Friday from 10:00 to 18:30.")
    assert found.test_questions == {"made": 6, "wording": 1}
    assert "1 rows: blank question" in found.left_out
    assert any("only repeat another one" in warning for warning in found.warnings)
    assert found.warnings[0].startswith("the pipeline would stop here: 1 of 7 rows (14%) were rejected")
    (links,) = found.findings
    assert (links.what, links.rows, links.examples) == (
        "answers that are only a link",
        1,
        ("https://example.org/rooms",),
    )
    said = text(found)
    for part in ("5 pairs, 3 facts", "→ Tuesday to Friday", "Longest answers", "Most useful now", "about"):
        assert part in said


def test_signs_that_t5_lacks_make_answers_alike_only_where_nothing_else_tells_them_apart(tmp_path):
    rows = "question,answer\nGo home?,cd ~/\nGo to the end?,cd ^/\nWhat is it?,{x} is a value\n"
    found = look_at(tmp_path, rows)
    (alike,) = found.findings
    assert (alike.rows, set(alike.examples)) == (2, {"cd ~/", "cd ^/"})
    assert "said as they are stored" in alike.remedy
    assert not look_at(tmp_path, rows, base="scratch").findings
    assert not look_at(tmp_path, rows, base="google/mt5-small").findings


def test_a_script_that_the_base_cannot_read_is_the_most_useful_thing_to_mend(tmp_path):
    rows = "question,answer\n開館時間は何時ですか？,火曜日から金曜日です。\n駐車場はありますか？,ありません。\n"
    found = look_at(tmp_path, rows)
    assert found.language == "ja"
    assert found.findings[0].share == 1.0
    assert "--training.base google/mt5-small, or scratch" in found.advice
    assert not look_at(tmp_path, rows, base="scratch").findings


def test_a_folder_of_a_base_is_asked_by_its_own_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = {piece: number for number, piece in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxyz", "-"])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="<unk>"))
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    base = base_named(str(tmp_path))
    assert base.counted == "counted with the base's own tokenizer"
    assert (base.lacks("rm -rf ~"), base.lacks("rm -rf")) == ("~", "")
    assert base.tokens("abc de") == 5
    assert indistinct(["ls ~", "ls ^", "ls -"], base) == ["ls ~", "ls ^"]


def test_questions_of_the_same_words_with_other_answers_and_damaged_letters_are_told(tmp_path):
    rows = "question,answer\nCan dogs eat cats?,No.\nCan cats eat dogs?,Never.\nWhen?,GeÃ¶ffnet ab zehn Uhr\n"
    kinds = {finding.what for finding in look_at(tmp_path, rows).findings}
    assert kinds == {"rows with damaged letters", "questions of the same words that are answered differently"}


def test_the_program_prints_text_or_json_and_one_message_for_what_it_cannot_use(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faq.csv").write_text(FAQ, encoding="utf-8")
    assert main(["faq.csv"]) == 0
    assert "5 pairs" in capsys.readouterr().out
    assert main(["faq.csv", "--json", "--dataset.seed", "3"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"shape", "pairs", "answers", "language", "left_out", "warnings"} <= set(said)
    assert main([]) == 0  # the sample
    assert "askline" not in capsys.readouterr().err
    assert main(["nowhere.csv"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["faq.csv", "--dataset.split-by", "luck"]) == 2


def test_the_pipeline_says_it_in_two_lines_and_keeps_it(tmp_path):
    (tmp_path / "faq.csv").write_text(FAQ, encoding="utf-8")
    config = DatasetConfig(source=str(tmp_path / "faq.csv"), max_rejected=0.5)
    place = Workplace(Target(kind="local", region="us-east-1", hub="http://127.0.0.1:9"), tmp_path / "state")
    dataset = fetch_dataset(config, resolve_source(config, place=place), place=place)
    kept = Look.model_validate_json((place.store.verify("dataset", dataset.sha256) / "look.json").read_text())
    assert dataset.look == two_lines(kept)
    first, second = dataset.look.split("\n")
    assert "5 pairs, 3 facts, 3 answers, en; test: 6 made, 1 wording" in first
    assert second == kept.advice
    assert [line.strip() for line in words(dataset).split("\n")[1:]] == [first, second]


@pytest.mark.parametrize("module", ["torch", "transformers", "prefect", "datasets", "boto3"])
def test_looking_at_a_file_loads_nothing_heavy(tmp_path, module):
    (tmp_path / "faq.csv").write_text(FAQ, encoding="utf-8")
    program = (
        "import sys; from flows.look import main; "
        f"assert main([{str(tmp_path / 'faq.csv')!r}]) == 0; assert {module!r} not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
