"""Answer questions inside a SageMaker container: the whole of ``model.tar.gz/code/``.

The Hugging Face inference toolkit calls :func:`model_fn` once and then :func:`input_fn`, :func:`predict_fn` and
:func:`output_fn` for each request. Nothing is imported but the standard library, torch and transformers, and the
calls to transformers are those that 4.49 and 5.23 share.

A request is JSON, ``{"inputs": "Where was she born?"}`` or a list of up to 32 questions, with an optional
``"parameters": {"max_new_tokens": 32, "num_beams": 1}``; or one question as ``text/plain``. The answer is
``{"answers": [{"answer": "Paris", "confidence": 0.97}], "model_version": "0123456789ab"}``, in the order of the
questions. A request that cannot be answered raises :class:`ValueError` with what was expected.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

MANIFEST = "askline.json"
#: Questions in one request; more would risk the 60 s that SageMaker gives a call.
MAX_QUESTIONS = 32
#: Characters in one question; what is beyond the model's own limit in tokens is truncated as in training.
MAX_CHARACTERS = 20_000
MAX_BEAMS = 4
#: The scores of a generated batch take rows × beams × tokens × vocabulary × 4 bytes, and about three times that while
#: the confidence is computed; larger batches are decoded in parts.
SCORE_BYTES = 64 * 2**20
#: Environment variable with the number of threads torch may use.
THREADS = "ASKLINE_TORCH_THREADS"


class Engine(Protocol):
    """What turns prompts into answers; the manifest's ``engine`` names one of :data:`ENGINES`."""

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, num_beams: int) -> list[tuple[str, float]]:
        """Return an answer and its confidence (0 to 1) for each prompt, in order."""


@dataclass(frozen=True)
class Request:
    """One request after its checks; ``None`` leaves the choice to the package."""

    questions: tuple[str, ...]
    max_new_tokens: int | None = None
    num_beams: int = 1


@dataclass(frozen=True)
class Answerer:
    """The loaded package: its engine, its prompt template and its limits."""

    engine: Engine
    prompt: str
    max_target_tokens: int
    model_version: str


def model_fn(model_dir: str, context: object = None) -> Answerer:
    """Load the package from the folder that the archive was unpacked into.

    Raises
    ------
    RuntimeError
        If the manifest is missing or lacks a field.
    """
    folder = Path(model_dir)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        prompt, source, target = manifest["prompt"], manifest["max_source_tokens"], manifest["max_target_tokens"]
        engine = ENGINES[manifest.get("engine", "transformers")]
    except FileNotFoundError as error:
        raise RuntimeError(
            f"{folder} holds no {MANIFEST}: the archive's files must lie at its root, not in a folder"
        ) from error
    except (KeyError, ValueError) as error:
        raise RuntimeError(f"{MANIFEST} is damaged or of another version: {error!r}") from error
    return Answerer(engine(folder, source), prompt, target, str(manifest.get("model_version", "unknown")))


def input_fn(data: str | bytes | bytearray, content_type: str | None = "application/json") -> Request:
    """Read a request.

    Raises
    ------
    ValueError
        If it is not of a known content type, not JSON, or asks for something beyond the limits.
    """
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("the request body must be text in UTF-8") from error
    kind = (content_type or "application/json").split(";")[0].strip().lower()
    if kind == "text/plain":
        return Request(questions=(_question(text),))
    if kind != "application/json":
        raise ValueError(f"content type {kind!r} is not supported: send application/json or text/plain")
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ValueError(f'the request body is not JSON ({error}): expected {{"inputs": "a question"}}') from error
    if not isinstance(body, dict) or "inputs" not in body:
        raise ValueError('expected a JSON object with "inputs": a question, or a list of questions')
    unknown = sorted(set(body) - {"inputs", "parameters"})
    if unknown:
        raise ValueError(f'unknown field {unknown[0]!r}: expected "inputs" and, optionally, "parameters"')
    inputs = body["inputs"]
    if isinstance(inputs, list):
        if not 1 <= len(inputs) <= MAX_QUESTIONS:
            raise ValueError(f'"inputs" holds {len(inputs)} questions: expected 1 to {MAX_QUESTIONS}')
    else:
        inputs = [inputs]
    return Request(questions=tuple(_question(item) for item in inputs), **_parameters(body.get("parameters")))


def predict_fn(data: Request, model: Answerer) -> dict[str, Any]:
    """Answer a request; its questions are decoded together.

    Raises
    ------
    ValueError
        If ``max_new_tokens`` is more than the model was trained for.
    """
    tokens = model.max_target_tokens if data.max_new_tokens is None else data.max_new_tokens
    if tokens > model.max_target_tokens:
        raise ValueError(f"max_new_tokens is {tokens}: this model gives at most {model.max_target_tokens}")
    # As in training: plain replacement, so that braces in a question stay, and runs of white space as one space.
    prompts = [model.prompt.replace("{question}", " ".join(question.split())) for question in data.questions]
    answers = model.engine.generate(prompts, max_new_tokens=tokens, num_beams=data.num_beams)
    return {
        "answers": [{"answer": answer, "confidence": round(confidence, 6)} for answer, confidence in answers],
        "model_version": model.model_version,
    }


def output_fn(prediction: dict[str, Any], accept: str | None = "application/json") -> str:
    """Write the answers as JSON or, for ``text/plain``, one to a line.

    Raises
    ------
    ValueError
        If the caller accepts neither.
    """
    wanted = [part.split(";")[0].strip().lower() for part in (accept or "").split(",")]
    for kind in wanted:
        if kind in ("", "*/*", "application/*", "application/json"):
            return json.dumps(prediction, ensure_ascii=False)
        if kind in ("text/*", "text/plain"):
            return "\n".join(item["answer"] for item in prediction["answers"])
    raise ValueError(f"cannot answer as {accept!r}: accept application/json or text/plain")


def _question(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a question must be a text that is not blank, not {str(value)[:80]!r}")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"a question has {len(value)} characters: expected at most {MAX_CHARACTERS}")
    return value.strip()


def _parameters(value: object) -> dict[str, int]:
    bounds = {"max_new_tokens": (1, 1024), "num_beams": (1, MAX_BEAMS)}
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f'"parameters" must be an object with any of {", ".join(bounds)}')
    for name, given in value.items():
        if name not in bounds:
            raise ValueError(f"unknown parameter {name!r}: expected any of {', '.join(bounds)}")
        low, high = bounds[name]
        if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
            raise ValueError(f"{name} is {given!r}: expected a whole number from {low} to {high}")
    return value


class TransformersEngine:
    """The checkpoint through transformers, in fp32, without sampling.

    Parameters
    ----------
    folder
        Where ``config.json``, the safetensors weights and the tokenizer lie.
    max_source_tokens
        A longer prompt is truncated.
    score_bytes
        Bytes that the scores of one generated batch may take; a larger batch is decoded in parts.
    """

    def __init__(self, folder: Path, max_source_tokens: int, *, score_bytes: int = SCORE_BYTES) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        if os.environ.get(THREADS):
            torch.set_num_threads(int(os.environ[THREADS]))
        self._max_source_tokens = max_source_tokens
        self._score_bytes = score_bytes
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        # Safetensors only: the other format is a pickle. float(): 5.x keeps the checkpoint's own precision.
        self._model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), use_safetensors=True, **options).float().eval()
        self._may_pad = masks_padding(self._model, self._tokenizer)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, num_beams: int) -> list[tuple[str, float]]:
        """Return an answer and exp(mean token log-probability) for each prompt, in order."""
        tokens = self._tokenizer(list(prompts), truncation=True, max_length=self._max_source_tokens)["input_ids"]
        rows = max(1, self._score_bytes // (num_beams * max_new_tokens * self._model.config.vocab_size * 4))
        answers = [("", 0.0)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(tokens[index]))
        for _, same in groupby(order, key=lambda index: 0 if self._may_pad else len(tokens[index])):
            group = list(same)
            for start in range(0, len(group), rows):
                batch = group[start : start + rows]
                given = self._generate([tokens[index] for index in batch], max_new_tokens, num_beams)
                for index, answer in zip(batch, given, strict=True):
                    answers[index] = answer
        return answers

    def _generate(self, tokens: list[list[int]], max_new_tokens: int, num_beams: int) -> list[tuple[str, float]]:
        import torch

        batch = self._tokenizer.pad({"input_ids": tokens}, return_tensors="pt")
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
            # Beam search keeps log-probabilities already, greedy search keeps logits.
            scores = self._model.compute_transition_scores(
                output.sequences,
                output.scores,
                beam_indices=getattr(output, "beam_indices", None),
                normalize_logits=num_beams == 1,
            )
        generated = output.sequences[:, -scores.shape[1] :]
        # A row that ends early is padded: count its tokens up to and with the end mark.
        is_end = generated == self._tokenizer.eos_token_id
        counted = is_end.long().cumsum(dim=1) - is_end.long() == 0
        mean = torch.where(counted, scores, 0.0).sum(dim=1) / counted.sum(dim=1)
        texts = self._tokenizer.batch_decode(
            output.sequences, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [(text.strip(), float(value)) for text, value in zip(texts, mean.exp().clamp(max=1.0), strict=True)]


def masks_padding(model: Any, tokenizer: Any) -> bool:
    """Say whether a padded question gets the scores that it gets alone.

    In transformers 4.49, which a SageMaker image holds, generation lets T5's decoder look at the padding (mended
    upstream after that), and a question's answer then depends on its neighbours in the batch. There, only questions of
    equal length may share one.
    """
    import torch

    ids = tokenizer("Is this padded?", return_tensors="pt")["input_ids"]
    padding = torch.full((1, 8), tokenizer.pad_token_id)
    first = []
    for extra in (padding[:, :0], padding):
        padded = torch.cat([ids, extra], dim=1)
        mask = torch.cat([torch.ones_like(ids), torch.zeros_like(extra)], dim=1)
        with torch.inference_mode():
            output = model.generate(
                input_ids=padded,
                attention_mask=mask,
                max_new_tokens=1,
                num_beams=1,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        first.append(output.scores[0])
    # Rounding differs in the fourth digit; what the decoder makes of padding, in the first or second.
    return bool(torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-2))


ENGINES: dict[str, Callable[[Path, int], Engine]] = {"transformers": TransformersEngine}
