"""How fast the held-out questions are answered: ``trainer.predict`` at its defaults beside the project's own way."""

import statistics
import tempfile
from typing import Any, NamedTuple

from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from benchmarks.training_ways import Setting, clock
from tasks.qa.prompt import format_prompt
from tasks.t5.decoding import Precision, answer_questions
from tasks.t5.threads import threads_for


class Answering(NamedTuple):
    """Both ways over the same questions; medians over the rounds."""

    questions: int
    predict: float
    """Questions a second of ``trainer.predict``."""
    ours: float
    different: int
    """Questions that were answered differently."""

    @property
    def ratio(self) -> float:
        """Ours over ``trainer.predict``."""
        return self.ours / self.predict


def compare(
    model: Any, setting: Setting, *, questions: int, tokens: int, batch: int, rounds: int, precision: Precision
) -> Answering:
    """Answer ``questions`` from all of the sample both ways in turn, greedily, with at most ``tokens`` tokens."""
    asked = [row.question for row in setting.rows[:: len(setting.rows) // questions]][:questions]
    taken: dict[str, list[float]] = {"predict": [], "ours": []}
    model.eval()
    with threads_for(model):
        _predict(model, setting, asked[:16], tokens)
        _ours(model, setting, asked[:16], tokens, batch, precision)
        for _ in range(rounds):
            started = clock(setting.device)
            theirs = _predict(model, setting, asked, tokens)
            taken["predict"].append(clock(setting.device) - started)
            started = clock(setting.device)
            own = _ours(model, setting, asked, tokens, batch, precision)
            taken["ours"].append(clock(setting.device) - started)
    return Answering(
        len(asked),
        len(asked) / statistics.median(taken["predict"]),
        len(asked) / statistics.median(taken["ours"]),
        sum(a != b for a, b in zip(theirs, own, strict=True)),
    )


def _ours(model: Any, setting: Setting, asked: list[str], tokens: int, batch: int, precision: Precision) -> list[str]:
    return answer_questions(
        model,
        setting.tokenizer,
        asked,
        prompt=setting.settings.prompt,
        max_source_tokens=setting.settings.max_source_tokens,
        max_target_tokens=tokens,
        batch_size=batch,
        precision=precision,
    )


def _predict(model: Any, setting: Setting, asked: list[str], tokens: int) -> list[str]:
    """Answer with the trainer's defaults: eight at a time, in the order in which they come."""
    tokenizer = setting.tokenizer
    prompts = [format_prompt(setting.settings.prompt, question) for question in asked]
    encoded = tokenizer(prompts, truncation=True, max_length=setting.settings.max_source_tokens)
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [1]} for ids in encoded["input_ids"]]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(
                output_dir=folder,
                predict_with_generate=True,
                generation_max_length=tokens + 1,  # the start token counts
                report_to="none",
                disable_tqdm=True,
                use_cpu=setting.device == "cpu",
            ),
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        )
        found = trainer.predict(rows).predictions  # type: ignore[arg-type]
    found[found < 0] = tokenizer.pad_token_id
    texts = tokenizer.batch_decode(found, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]
