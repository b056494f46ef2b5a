"""Asking a model many questions: greedy, in batches of like length, and how sure it was of each answer.

``generate`` keeps every row of a batch until the last one is finished, and looks at its options again at every token.
Here the encoder and the decoder are called directly: questions are encoded in pieces that fit the processor's caches,
many of them are decoded together, and rows that are finished leave. ``docs/training-speed.md`` has the figures.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from askline.progress import Progress, quiet
from tasks.qa.prompt import format_prompt
from tasks.t5.activation import one_kernel_gelu
from tasks.t5.threads import threads_for

if TYPE_CHECKING:
    from inference.trie import Posterior, Trie

#: Tokens, padding included, that the encoder of a small network takes at once on a CPU: what one layer writes then
#: stays in the caches. Larger pieces were measured to be slower, 4,000 tokens by a fifth and 20,000 by two thirds.
ENCODED_TOGETHER = 1024
#: Finished rows leave once they are so large a share of the batch: leaving copies what is kept of the others.
LEAVING_SHARE = 0.125
#: An answer in bf16 is taken where every token led the next best one by so many times the largest error that bf16 makes
#: in such a lead; the others are asked for again in fp32.
SURE = 3.0
#: So many questions are answered both in bf16 and in fp32, which shows the error.
COMPARED = 128

_log = logging.getLogger("askline.evaluate")


Precision = Literal["fp32", "bf16"]


class Answered(NamedTuple):
    """One answer of the model."""

    text: str
    confidence: float
    """exp of the mean log-probability of the generated tokens up to and with the end mark: 0 to 1, not calibrated."""
    posterior: "Posterior | None" = None
    """Over the known answers, where the model chose among them; the confidence is then of the tokens it chose by."""


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
    precision: Precision = "fp32",
    progress: Progress = quiet,
) -> list[Answered]:
    """Return the model's answers, in the order of the questions.

    Greedy: the tokens that ``generate`` gives with ``num_beams=1``. Questions of like length share a batch, so that
    little is padded; what is padded is masked, so that an answer does not depend on its neighbours (in fp32, up to ties
    in the last bit; the confidence, up to its sixth digit or so).

    Parameters
    ----------
    model
        A ``T5ForConditionalGeneration`` in fp32; its ``generation_config`` says where an answer begins and ends.
    batch_size
        Most questions that are decoded together, which bounds the memory.
    precision
        In "bf16" a copy of the model in bf16 answers. The model itself answers :data:`COMPARED` of the questions, from
        which the copy's error is learnt, and those of which the copy is then not :data:`SURE`. Answers are the same, as
        far as that sample can tell; confidences are, to two digits or so.
    """
    encoded = _encoded(tokenizer, questions, prompt, max_source_tokens)

    def answer(network: Any, rows: Sequence[Sequence[int]], *, leads: bool) -> list[tuple[Answered, float]]:
        return _answer(network, tokenizer, rows, max_new_tokens=max_target_tokens, leads=leads)

    return _ask(model, encoded, answer, lambda given: given.text, batch_size, precision, progress)


def answer_known(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    trie: "Trie",
    *,
    prompt: str,
    max_source_tokens: int,
    batch_size: int,
    precision: Precision = "fp32",
    k: int | None = None,
    progress: Progress = quiet,
) -> "list[Posterior]":
    """Return the ``k`` most probable known answers of each question (all by default), in the order of the questions.

    The search is that of the package's engines; the parameters are those of :func:`answer_with_confidence`. In "bf16"
    the copy's answer is taken where its probability led the next best one's far enough.
    """
    encoded = _encoded(tokenizer, questions, prompt, max_source_tokens)

    def answer(network: Any, rows: Sequence[Sequence[int]], *, leads: bool) -> "list[tuple[Posterior, float]]":
        found = _through(network, tokenizer, rows, trie, k if k is None else max(k, 2))
        leading = [float(np.subtract(*each.log_probabilities[:2])) if len(each.indices) > 1 else inf for each in found]
        return [
            (each._replace(indices=each.indices[:k], log_probabilities=each.log_probabilities[:k]), lead)
            for each, lead in zip(found, leading, strict=True)
        ]

    return _ask(model, encoded, answer, lambda given: int(given.indices[0]), batch_size, precision, progress)


def _ask(
    model: Any,
    encoded: Sequence[Sequence[int]],
    answer: Callable[..., list[tuple[Any, float]]],
    gist: Callable[[Any], Any],
    batch_size: int,
    precision: Precision,
    progress: Progress,
) -> list[Any]:
    """Return what ``answer(network, rows, leads=)`` gives for the rows, in batches of like length.

    In bf16 the rough copy's are taken where they led by enough, and where two differ in their ``gist``, the error was
    as large as both leads.
    """
    model.eval()
    order = _by_length(encoded)
    answers: list[Any] = [None] * len(order)

    def ask(network: Any, order: Sequence[int], report: Callable[[int], None], *, leads: bool) -> list[float]:
        """Fill in the answers; return by how much each one's least sure token led."""
        led: list[float] = []
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = answer(network, [encoded[index] for index in batch], leads=leads)
            for index, (given, lead) in zip(batch, found, strict=True):
                answers[index] = given
                led.append(lead)
            report(start + len(batch))
        return led

    def report(done: int) -> None:
        progress(done / len(order), f"{done}/{len(order)} questions")

    if precision == "fp32" or not order:
        ask(model, order, report, leads=False)
        return answers
    import torch

    rough = copy.deepcopy(model).to(torch.bfloat16)
    # Questions of every length.
    sample = order[:: -(-len(order) // COMPARED)]
    taken = set(sample)
    rest = [index for index in order if index not in taken]
    led_roughly = ask(rough, sample, lambda done: None, leads=True)
    said_roughly = [gist(answers[index]) for index in sample]
    led = ask(model, sample, report, leads=True)
    same = [said == gist(answers[index]) for said, index in zip(said_roughly, sample, strict=True)]
    # Where another token won, the error was both leads together.
    error = max(abs(a - b) if kept else a + b for a, b, kept in zip(led_roughly, led, same, strict=True))
    led = ask(rough, rest, lambda done: report(len(sample) + done), leads=True)
    again = [index for index, lead in zip(rest, led, strict=True) if not lead >= SURE * error]  # NaN is unsure too
    _log.info(
        "bf16 was wrong by %.3g in a lead; %d of %d questions are answered in fp32",
        error,
        len(sample) + len(again),
        len(order),
    )
    ask(model, again, lambda done: progress(1.0, f"{done}/{len(again)} unsure questions again"), leads=False)
    return answers


def _answer(
    model: Any, tokenizer: Any, encoded: Sequence[Sequence[int]], *, max_new_tokens: int, leads: bool
) -> list[tuple[Answered, float]]:
    """Return each row's answer, and by how much its least sure token led; see :func:`_decode`."""
    import torch

    ids, mask = _padded(encoded, tokenizer.pad_token_id)
    with torch.inference_mode(), threads_for(model), one_kernel_gelu(model):
        generated, confidences, led = _decode(
            model, ids.to(model.device), mask.to(model.device), max_new_tokens=max_new_tokens, leads=leads
        )
    texts = tokenizer.batch_decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [
        (Answered(text.strip(), confidence), lead)
        for text, confidence, lead in zip(texts, confidences, led, strict=True)
    ]


def cut_for_workers(
    tokenizer: Any, questions: Sequence[str], *, prompt: str, max_source_tokens: int, batch_size: int, parts: int
) -> list[list[int]]:
    """Return which questions each of ``parts`` parts holds, so that together they are as much as the whole.

    A part is a number of the batches that :func:`answer_with_confidence` would make of all questions, in their order,
    and so makes of the part: an answer has the same neighbours, and its confidence the same last bit, in either. Every
    part has long questions and short ones; there are fewer parts where there are fewer batches.
    """
    order = _by_length(_encoded(tokenizer, questions, prompt, max_source_tokens))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [
        [index for batch in batches[number::parts] for index in batch] for number in range(min(parts, len(batches)))
    ]


def _encoded(tokenizer: Any, questions: Sequence[str], prompt: str, max_source_tokens: int) -> list[list[int]]:
    prompts = [format_prompt(prompt, question) for question in questions]
    # The tokenizer takes no empty list.
    return list(tokenizer(prompts, truncation=True, max_length=max_source_tokens)["input_ids"]) if prompts else []


def _by_length(encoded: Sequence[Sequence[int]]) -> list[int]:
    return sorted(range(len(encoded)), key=lambda index: len(encoded[index]))


def _padded(encoded: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Return ids and mask, (rows, tokens of the longest row)."""
    import torch

    length = max(map(len, encoded))
    ids = [[*row, *[pad] * (length - len(row))] for row in encoded]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in encoded]
    return torch.tensor(ids), torch.tensor(mask)


def _decode(
    model: Any, ids: Any, mask: Any, *, max_new_tokens: int, leads: bool
) -> tuple[list[list[int]], list[float], list[float]]:
    """Return each row's tokens, exp of their mean log-probability, and their least lead; ``ids`` (rows, source tokens).

    A token leads the next best one by a difference of log-probabilities; without ``leads``, by inf.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    settings = model.generation_config
    ends = torch.tensor(settings.eos_token_id, device=ids.device).reshape(-1)
    cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    hidden = torch.cat(list(_encode(model, ids, mask)))
    rows = torch.arange(len(ids), device=ids.device)
    token = torch.full((len(ids), 1), settings.decoder_start_token_id, device=ids.device)
    finished = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    # The end mark, which decoding leaves out, stands wherever a row wrote nothing.
    generated = ends[0].repeat(len(ids), max_new_tokens)
    total = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    count = torch.zeros_like(total)
    least = torch.full_like(total, float("inf"))
    for number in range(max_new_tokens):
        scores = _logits(model, token, hidden, mask, cache)
        best, chosen = scores.max(dim=-1)
        writing = ~finished
        written = rows[writing]
        generated[written, number] = chosen[writing]
        total[written] += (best - scores.logsumexp(dim=-1))[writing].double()
        count[written] += 1
        if leads:
            lead = best - scores.scatter(1, chosen[:, None], float("-inf")).amax(dim=-1)
            least[written] = least[written].minimum(lead[writing].double())
        finished = finished | torch.isin(chosen, ends)
        left = len(rows) - int(finished.sum())
        if left == 0:
            break
        if left <= (1 - LEAVING_SHARE) * len(rows):
            kept = (~finished).nonzero()[:, 0]
            rows, chosen, hidden, mask, finished = rows[kept], chosen[kept], hidden[kept], mask[kept], finished[kept]
            cache.batch_select_indices(kept)
        token = chosen[:, None]
    confidences = (total / count).exp().clamp(max=1.0)
    return generated[:, : int(count.max())].tolist(), confidences.tolist(), least.tolist()


def _through(
    model: Any, tokenizer: Any, encoded: Sequence[Sequence[int]], trie: "Trie", k: int | None
) -> "list[Posterior]":
    """Return each row's most probable known answers."""
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    ids, mask = _padded(encoded, tokenizer.pad_token_id)
    ids, mask = ids.to(model.device), mask.to(model.device)
    search = trie.search(len(ids))
    cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    with torch.inference_mode(), threads_for(model), one_kernel_gelu(model):
        hidden = torch.cat(list(_encode(model, ids, mask)))
        token = torch.full((len(ids), 1), model.generation_config.decoder_start_token_id, device=ids.device)
        while True:
            scores = _logits(model, token, hidden, mask, cache)
            search.step(scores.cpu().numpy(), scores.double().logsumexp(dim=-1).cpu().numpy())
            if not len(search.questions):
                return search.posteriors(k)
            rows = torch.as_tensor(search.parents, device=ids.device)
            if not torch.equal(rows, torch.arange(len(token), device=ids.device)):
                hidden, mask = hidden[rows], mask[rows]
                cache.batch_select_indices(rows)
            token = torch.as_tensor(search.tokens, device=ids.device)[:, None]


def _logits(model: Any, token: Any, hidden: Any, mask: Any, cache: Any) -> Any:
    """Return what the decoder says after each row's newest token, (rows, vocabulary) in fp32."""
    output = model.decoder(
        input_ids=token,
        encoder_hidden_states=hidden,
        encoder_attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    if model.config.scale_decoder_outputs:
        output = output * model.model_dim**-0.5
    return model.lm_head(output).float()


def _encode(model: Any, ids: Any, mask: Any) -> Iterator[Any]:
    """Yield the encoder's output in pieces of so many rows as it takes best."""
    small = model.device.type == "cpu"
    together = max(1, ENCODED_TOGETHER // ids.shape[1]) if small else len(ids)
    for start in range(0, len(ids), together):
        piece = slice(start, start + together)
        yield model.encoder(input_ids=ids[piece], attention_mask=mask[piece]).last_hidden_state
