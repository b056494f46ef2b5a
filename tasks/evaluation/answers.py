"""Asking a model many questions: greedy, in batches of like length, and how sure it was of each answer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from askline.progress import Progress, quiet
from tasks.prompting import format_prompt
from tasks.threads import threads_for


class Answered(NamedTuple):
    """One answer of the model."""

    text: str
    confidence: float
    """exp of the mean log-probability of the generated tokens up to and with the end mark: 0 to 1, not calibrated."""


def answer_questions(model: Any, tokenizer: Any, questions: Sequence[str], **options: Any) -> list[str]:
    """Return the texts alone of :func:`answer_with_confidence`, which says what the options are."""
    return [answer.text for answer in answer_with_confidence(model, tokenizer, questions, **options)]


def answer_with_confidence(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    *,
    prompt: str,
    max_source_tokens: int,
    max_target_tokens: int,
    batch_size: int,
    progress: Progress = quiet,
) -> list[Answered]:
    """Return the model's answers, in the order of the questions.

    Greedy and in the model's own precision. Questions of like length share a batch, so that little is padded; what
    is padded is masked, so that an answer does not depend on its neighbours (in fp32, up to ties in the last bit; the
    confidence, up to its sixth digit or so).
    """
    import torch

    model.eval()
    prompts = [format_prompt(prompt, question) for question in questions]
    encoded = tokenizer(prompts, truncation=True, max_length=max_source_tokens)["input_ids"] if prompts else []
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    answers = [Answered("", 0.0)] * len(prompts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = tokenizer.pad({"input_ids": [encoded[index] for index in batch]}, return_tensors="pt").to(model.device)
        chosen = _Chosen()
        with torch.inference_mode(), threads_for(model):
            generated = model.generate(
                **inputs, max_new_tokens=max_target_tokens, do_sample=False, num_beams=1, logits_processor=[chosen]
            )
            # The first column is the decoder's start token, which was not generated.
            confidences = chosen.confidences(generated[:, 1:], tokenizer.eos_token_id)
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for index, text, confidence in zip(batch, texts, confidences, strict=True):
            answers[index] = Answered(text.strip(), confidence)
        done = start + len(batch)
        progress(done / len(order), f"{done}/{len(order)} questions")
    return answers


class _Chosen:
    """Listens to a greedy generation and keeps the log-probability of each token that it chooses.

    It stands last among the logits processors and hands the scores on as they are. Keeping one number a token instead
    of a row of the vocabulary makes the memory independent of the answers' length.
    """

    def __init__(self) -> None:
        self._steps: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        # Greedy search takes the token of the highest score, so its log-probability is the largest.
        self._steps.append(scores.log_softmax(dim=-1).amax(dim=-1))
        return scores

    def confidences(self, generated: Any, end: int) -> list[float]:
        """Return exp(mean log-probability) of each row of ``generated`` (rows, tokens).

        A row that ended early is padded: its tokens count up to and with the end mark.
        """
        import torch

        is_end = generated == end
        counted = is_end.long().cumsum(dim=1) - is_end.long() == 0
        scores = torch.stack(self._steps, dim=1)
        mean = torch.where(counted, scores, 0.0).sum(dim=1) / counted.sum(dim=1)
        return [float(value) for value in mean.exp().clamp(max=1.0)]
