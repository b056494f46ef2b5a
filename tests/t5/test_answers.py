"""Batched answers: the tokens of ``generate``, whoever shares the batch, with rows that leave early."""

import logging
import random
from typing import Any

import pytest
import torch

from tasks.qa.prompt import format_prompt
from tasks.t5 import decoding
from tasks.t5.activation import one_kernel_gelu
from tasks.t5.decoding import answer_questions, answer_with_confidence

PROMPT = "q: {question} a:"
WORDS = ["who", "what", "when", "where", "paris", "london", "curie", "born", "died", "wrote", "radium", "1867", "1934"]


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    """A T5 with random weights whose answers end after different numbers of tokens."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    pieces = ["▁q", ":", "▁a", *(f"▁{word}" for word in WORDS)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -3.0) for piece in ["▁", *pieces])]
    vocabulary += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=100)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        initializer_factor=4.0,
    )
    model = T5ForConditionalGeneration(config).eval()
    # Some words end an answer as well: random weights would never write the end mark.
    model.generation_config.eos_token_id = [1, *range(5, len(tokenizer), 4)]
    return model, tokenizer


def questions(number: int) -> list[str]:
    rng = random.Random(3)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(number)]


def ask(network: tuple[Any, Any], asked: list[str], **options: Any) -> list[Any]:
    given = {"prompt": PROMPT, "max_source_tokens": 32, "max_target_tokens": 12, "batch_size": 16} | options
    return answer_with_confidence(*network, asked, **given)


def test_the_answers_are_those_of_generate_one_by_one(network: tuple[Any, Any]) -> None:
    model, tokenizer = network
    asked = questions(40)
    lengths = set()
    for question, answer in zip(asked, ask(network, asked), strict=True):
        inputs = tokenizer(format_prompt(PROMPT, question), return_tensors="pt")
        found = model.generate(
            **inputs,
            max_new_tokens=12,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = found.sequences[0, 1:]
        lengths.add(len(tokens))
        assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True).strip()
        logs = torch.stack(found.logits)[:, 0].log_softmax(-1)[range(len(tokens)), tokens]
        assert answer.confidence == pytest.approx(float(logs.mean().exp()), rel=1e-4)
    assert len(lengths) > 2, "answers of one length would not show that rows leave"


def test_neither_the_order_nor_the_batch_matters(network: tuple[Any, Any]) -> None:
    asked = questions(40)
    given = ask(network, asked)
    for batch_size in (1, 7, 64):
        assert [a.text for a in ask(network, asked, batch_size=batch_size)] == [a.text for a in given]
    turned = ask(network, asked[::-1])[::-1]
    assert [answer.text for answer in turned] == [answer.text for answer in given]
    for one, other in zip(turned, given, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4)


def test_bf16_gives_the_answers_of_fp32_since_unsure_ones_are_asked_for_again(
    network: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = questions(600)
    wanted = ask(network, asked)
    told: list[float] = []
    with caplog.at_level(logging.INFO, logger="askline.evaluate"):
        found = ask(network, asked, precision="bf16", progress=lambda share, message="": told.append(share))
    assert [answer.text for answer in found] == [answer.text for answer in wanted]
    assert told == sorted(told)
    assert told[-1] == 1.0
    in_fp32 = int(caplog.messages[-1].split(";")[1].split()[0])
    assert decoding.COMPARED < in_fp32 <= 600, "random weights are sure of little"
    monkeypatch.setattr(decoding, "SURE", 0.0)
    rough = ask(network, asked, precision="bf16")
    assert [answer.text for answer in rough] != [answer.text for answer in wanted], "there was nothing to be mended"
    assert ask(network, [], precision="bf16") == []
    assert network[0].dtype == torch.float32


def test_an_answer_stops_at_the_limit_and_nothing_is_asked_of_nobody(network: tuple[Any, Any]) -> None:
    assert ask(network, []) == []
    model, tokenizer = network
    options: dict[str, Any] = {"prompt": PROMPT, "max_source_tokens": 32, "batch_size": 8}
    for limit in (1, 3):
        texts = answer_questions(model, tokenizer, questions(9), max_target_tokens=limit, **options)
        assert all(len(text.split()) <= limit for text in texts)


def test_progress_ends_at_one(network: tuple[Any, Any]) -> None:
    told: list[float] = []
    ask(network, questions(20), batch_size=6, progress=lambda share, message="": told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_one_kernel_computes_the_same_activation_and_puts_the_old_one_back(network: tuple[Any, Any]) -> None:
    model, _ = network
    ids = torch.tensor([[5, 6, 7, 1]])
    before = [module.act for module in model.modules() if hasattr(module, "act")]
    plain = model(input_ids=ids, labels=ids).logits
    with one_kernel_gelu(model):
        assert all(isinstance(module.act, torch.nn.GELU) for module in model.modules() if hasattr(module, "act"))
        torch.testing.assert_close(model(input_ids=ids, labels=ids).logits, plain, rtol=1e-4, atol=1e-4)
    assert [module.act for module in model.modules() if hasattr(module, "act")] == before
    assert torch.equal(model(input_ids=ids, labels=ids).logits, plain)
