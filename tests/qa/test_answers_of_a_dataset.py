"""The known answers of a dataset: which they are, their ids, their file, and the trie of a real tokenizer."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_package import MAX_TARGET, PROMPT, QUESTIONS, Tiny, tiny  # noqa: F401

from askline.errors import ArtifactError, DatasetError
from tasks.qa import answers as module
from tasks.qa.answers import answer_id, answer_trie, declining_text, known_answers, read_answers, write_answers
from tasks.qa.rows import Row


def rows(*texts: str, in_scope: bool = True) -> list[Row]:
    return [Row(f"question {number}", text, None, in_scope) for number, text in enumerate(texts)]


def test_answers_are_the_same_where_every_letter_is() -> None:
    found = known_answers(
        [*rows("5", "-5", "5 ", "rm -rf /tmp", "rm rf /tmp", "a\nb"), *rows("No idea", in_scope=False)]
    )
    assert [answer.text for answer in found] == ["5", "-5", "rm -rf /tmp", "rm rf /tmp", "a\nb"]
    assert len({answer.id for answer in found}) == 5
    assert found[0].id == answer_id(" 5\n")
    assert declining_text(rows("No idea ", in_scope=False)) == "No idea"
    assert declining_text(rows("5")) is None


def test_a_dataset_without_answers_or_with_too_many_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="no answer that is not its text for declining"):
        known_answers(rows("No idea", in_scope=False))
    monkeypatch.setattr(module, "MAX_ANSWERS", 2)
    with pytest.raises(DatasetError, match=r"3 different answers.*at most 2 known answers.*training\.answers free"):
        known_answers(rows("a", "b", "c"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).map(str.strip).filter(bool), min_size=1, unique=True))
def test_texts_of_any_script_come_back_letter_by_letter(texts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        answers = known_answers(rows(*texts))
        write_answers(answers, path)
        assert read_answers(path) == answers
        assert [answer.text for answer in answers] == texts


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": "1"}) + "\n")
    with pytest.raises(ArtifactError, match=r"answers\.jsonl is not a list of known answers"):
        read_answers(tmp_path / "answers.jsonl")


def test_the_tokens_are_those_of_training_and_cut_where_it_cuts(tiny: Tiny) -> None:  # noqa: F811
    from transformers import T5Tokenizer

    folder = tiny.store.path("model", tiny.model.sha256)
    tokenizer = T5Tokenizer.from_pretrained(folder)
    long = " ".join(["Warsaw"] * 40)
    texts = [*dict.fromkeys(QUESTIONS.values()), "Warsaw, Paris", long, long + " radium", "two\nlines", "{ünknown} 文"]
    trie = answer_trie(known_answers(rows(*texts)), folder / "tokenizer.json", max_target_tokens=MAX_TARGET)
    expected = tokenizer(texts, truncation=True, max_length=MAX_TARGET)["input_ids"]
    for node in range(len(trie.token)):
        depth, above = 0, node
        prefix: list[int] = []
        while above:
            prefix.insert(0, int(trie.token[above]))
            above = next(n for n in range(len(trie.token)) if above in trie.children(n))
            depth += 1
        assert all(expected[index][:depth] == prefix for index in trie.below(node))
    shared = [texts.index(long), texts.index(long + " radium")]
    assert any(trie.leaf(node) and sorted(trie.below(node)) == shared for node in range(len(trie.token)))


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text(max_size=30).filter(str.strip), min_size=1, max_size=20))
def test_any_texts_make_a_trie_in_which_each_stands_once(tiny: Tiny, texts: list[str]) -> None:  # noqa: F811
    folder = tiny.store.path("model", tiny.model.sha256)
    answers = known_answers(rows(*(text.encode(errors="replace").decode() for text in texts)))
    trie = answer_trie(answers, folder / "tokenizer.json", max_target_tokens=MAX_TARGET)
    assert sorted(trie.order) == list(range(len(answers)))
