"""Training rows as examples: in what words they are asked, and the same again for the same seed."""

from pathlib import Path
from typing import Any

import pytest
from support.tiny_datasets import NOWHERE, UNANSWERABLE, small_rows, write_dataset

from askline.config import TrainingConfig
from askline.store import ArtifactStore
from tasks.fine_tune.recipe import resolve_recipe
from tasks.qa.rows import Row
from tasks.workplace import Workplace

PROMPT = "question: {question} answer:"
WORDINGS = ["Who found radium?", "By whom was radium found?", "Whose discovery was radium?"]
ROWS = [Row(wording, "Marie Curie", "radium", True) for wording in WORDINGS]
ROWS += [Row("Who found tea?", UNANSWERABLE, "out-of-scope", False), Row("Who are you?", "Askline", None, True)]
POLISH = [
    Row("Kto odkrył rad?", "Maria Curie", "rad", True),
    Row("Przez kogo odkryty został rad?", "Maria Curie", "rad", True),
]


class Spelling:
    """A tokenizer whose tokens are words, so that a test can read them."""

    eos_token_id = "."

    def __call__(self, text: str | list[str], **options: Any) -> dict[str, Any]:
        return {"input_ids": text.split() if isinstance(text, str) else [each.split() for each in text]}


def examples(rows: list[Row], **changes: Any) -> Any:
    from tasks.fine_tune.examples import Examples

    recipe = resolve_recipe(TrainingConfig(), rows=len(rows), has_out_of_scope=True).model_copy(update=changes)
    return Examples(
        rows,
        Spelling(),
        recipe,
        prompt=PROMPT,
        max_source_tokens=64,
        max_target_tokens=16,
        unanswerable=UNANSWERABLE,
    )


def test_the_same_key_gives_the_same_example_in_whatever_order() -> None:
    keys = [(epoch, index) for epoch in range(100) for index in range(len(ROWS))]
    made, again = examples(ROWS), examples(ROWS)
    assert [again[key] for key in reversed(keys)] == [made[key] for key in reversed(keys)]
    assert len({tuple(made[epoch, 0]["input_ids"]) for epoch in range(100)}) > 10


def test_in_another_language_words_are_only_left_out() -> None:
    made = examples(POLISH, mixing=0.0, out_of_scope_share=0.0)
    words = set(" ".join(PROMPT.replace("{question}", row.question) for row in POLISH).split())
    assert {word for epoch in range(200) for i in range(2) for word in made[epoch, i]["input_ids"]} <= words
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
