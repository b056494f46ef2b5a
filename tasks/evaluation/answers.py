"""Asking a model many questions: greedy, in batches of like length."""

from collections.abc import Sequence
from typing import Any

from askline.progress import Progress, quiet
from tasks.prompting import format_prompt
from tasks.threads import threads_for


def answer_questions(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    *,
    prompt: str,
    max_source_tokens: int,
    max_target_tokens: int,
    batch_size: int,
    progress: Progress = quiet,
) -> list[str]:
    """Return the model's answers, in the order of the questions.

    Greedy and in the model's own precision. Questions of like length share a batch, so that little is padded; what
    is padded is masked, so that an answer does not depend on its neighbours (in fp32, up to ties in the last bit).
    """
    import torch

    model.eval()
    prompts = [format_prompt(prompt, question) for question in questions]
    encoded = tokenizer(prompts, truncation=True, max_length=max_source_tokens)["input_ids"] if prompts else []
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = tokenizer.pad({"input_ids": [encoded[index] for index in batch]}, return_tensors="pt").to(model.device)
        with torch.inference_mode(), threads_for(model):
            generated = model.generate(**inputs, max_new_tokens=max_target_tokens, do_sample=False, num_beams=1)
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text.strip()
        done = start + len(batch)
        progress(done / len(order), f"{done}/{len(order)} questions")
    return answers
