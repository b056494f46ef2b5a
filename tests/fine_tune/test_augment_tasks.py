"""Further tasks made of training questions: what they ask, how often, and the same again for the same seed."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.tiny_datasets import NOWHERE, UNANSWERABLE, small_rows, write_dataset

from askline.config import TrainingConfig
from askline.store import ArtifactStore
from tasks.fine_tune.auxiliary import ASK_FOR, HIDDEN, REPHRASE, ask_for, denoise, rephrase
from tasks.fine_tune.recipe import Recipe, resolve_recipe
from tasks.qa.rows import Row
from tasks.workplace import Workplace

PROMPT = "question: {question} answer:"
SENTINEL = re.compile(r"<extra_id_(\d+)>")
WORDINGS = ["Who found radium?", "By whom was radium found?", "Whose discovery was radium?"]


def rng(seed: int = 1) -> random.Random:
    return random.Random(seed)


def test_denoising_puts_back_what_it_hides() -> None:
    text = "question: Who found radium in a shed in Paris? answer: Marie Curie"
    for seed in range(200):
        prompt, _, answer = text.rpartition(" answer: ")
        pair = denoise(f"{prompt} answer:", answer, rng(seed))
        parts = SENTINEL.split(pair.target)
        assert parts[0] == ""
        assert parts[-1] == ""
        hidden = {f"<extra_id_{number}>": part.strip() for number, part in zip(parts[1::2], parts[2::2], strict=True)}
        assert " ".join(hidden.get(word, word) for word in pair.source.split()) == text
        assert sum(len(words.split()) for words in hidden.values()) >= round(HIDDEN * len(text.split()))


def test_denoising_of_one_word_hides_it() -> None:
    assert denoise("Radium", "", rng()) == ("<extra_id_0>", "<extra_id_0> Radium <extra_id_1>")


def test_asking_for_a_question_gives_one_of_those_of_the_answer() -> None:
    pairs = {ask_for("Marie Curie", WORDINGS, rng(seed)) for seed in range(50)}
    assert pairs == {(f"{ASK_FOR} Marie Curie", wording) for wording in WORDINGS}


def test_rephrasing_never_asks_for_the_same_words() -> None:
    pairs = {rephrase(WORDINGS[0], WORDINGS, rng(seed)) for seed in range(50)}
    assert pairs == {(f"{REPHRASE} {WORDINGS[0]}", wording) for wording in WORDINGS[1:]}


class Spelling:
    """A tokenizer whose tokens are words, so that a test can read them."""

    eos_token_id = "."

    def __call__(self, text: str | list[str], **options: Any) -> dict[str, Any]:
        return {"input_ids": text.split() if isinstance(text, str) else [each.split() for each in text]}


def examples(rows: list[Row], **shares: Any) -> Any:
    from tasks.fine_tune.examples import Examples

    return Examples(
        rows,
        Spelling(),
        recipe(rows, **shares),
        prompt=PROMPT,
        max_source_tokens=64,
        max_target_tokens=16,
        unanswerable=UNANSWERABLE,
    )


def recipe(rows: list[Row], **changes: Any) -> Recipe:
    found = resolve_recipe(TrainingConfig(), rows=len(rows), has_out_of_scope=True)
    return found.model_copy(update=changes)


ROWS = [Row(wording, "Marie Curie", "radium", True) for wording in WORDINGS]
ROWS += [Row("Who found tea?", UNANSWERABLE, "out-of-scope", False), Row("Who are you?", "Askline", None, True)]


def test_shares_are_kept_and_the_same_key_gives_the_same_example() -> None:
    made = examples(ROWS, ask_for=0.2, rephrase=0.2, denoise=0.2)
    keys = [(epoch, index) for epoch in range(400) for index in range(len(ROWS))]
    kinds: dict[int, Counter[str]] = {index: Counter() for index in range(len(ROWS))}
    for epoch, index in keys:
        source = made[epoch, index]["input_ids"]
        marked = [word for word in source if SENTINEL.fullmatch(word)]
        kind = "question" if not marked else "denoise" if source[0] not in (ASK_FOR, REPHRASE) else source[0]
        kinds[index][kind] += 1
    for index in range(3):
        assert all(55 < kinds[index][kind] < 105 for kind in (ASK_FOR, REPHRASE, "denoise"))
    # What is out of scope has no question to ask for, and one wording alone has no other.
    assert set(kinds[3]) == {"question", "denoise"}
    assert set(kinds[4]) == {"question", "denoise", ASK_FOR}
    again = examples(ROWS, ask_for=0.2, rephrase=0.2, denoise=0.2)
    assert [again[key] for key in reversed(keys)] == [made[key] for key in reversed(keys)]


def test_without_synonyms_words_are_only_left_out_or_mixed() -> None:
    made = examples(ROWS, synonyms=False, mixing=0.0, out_of_scope_share=0.0)
    words = set(" ".join(PROMPT.replace("{question}", row.question) for row in ROWS).split())
    assert {word for epoch in range(200) for i in range(5) for word in made[epoch, i]["input_ids"]} <= words
    assert any(len(made[epoch, 0]["input_ids"]) < 5 for epoch in range(200))


@pytest.mark.slow
def test_what_a_cpu_trains_in_bf16_is_stored(tmp_path: Path) -> None:
    """The reloaded checkpoint computes in fp32; the trainer leaves the trained one in autocast."""
    from tasks.fine_tune.fine_tune import fine_tune

    store = ArtifactStore(tmp_path)
    model = fine_tune(
        TrainingConfig(max_steps=1, batch_size=2, precision="bf16"),
        write_dataset(store, small_rows()),
        place=Workplace(NOWHERE, tmp_path, store=store),
    )
    assert model.precision == "bf16"
    assert (store.verify("model", model.sha256) / "model.safetensors").is_file()


def test_shares_of_nothing_draw_nothing() -> None:
    with_field, without = examples(ROWS, denoise=0.0), examples(ROWS)
    assert [with_field[3, index] for index in range(5)] == [without[3, index] for index in range(5)]
    assert pytest.approx(0.0) == recipe(ROWS).denoise
