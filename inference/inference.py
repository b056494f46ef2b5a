"""Answer questions inside a SageMaker container: what the Hugging Face inference toolkit, or any server, calls.

:func:`model_fn` is called once, and then :func:`input_fn`, :func:`predict_fn` and :func:`output_fn` for each request.
Beside this file lie the engines, one of which the manifest names, and under ``lib`` the libraries that it needs.
Nothing else is imported but the standard library.

A request is JSON, ``{"inputs": "Where was she born?"}`` or a list of up to 32 questions, with optional ``"parameters"``
(:data:`BOUNDS`); or one question as ``text/plain``; or one question to a line as ``text/csv``. The answer is
``{"answers": [{"answer": "Paris", "confidence": 0.97, …}], "model_version": "0123456789ab", "seconds": 0.2}``, in the
order of the questions. A request that cannot be answered raises :class:`ValueError` with what was expected.

Where the package carries known answers, nothing else is ever said but one of them, letter by letter, or the text for
declining, whatever the parameters are: a temperature draws among known answers, beams and lengths have no say.
"""

import csv
import hashlib
import importlib
import importlib.util
import io
import json
import math
import os
import re
import reprlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

MANIFEST = "askline.json"
#: Questions in one request; more would risk the 60 s that SageMaker gives a call.
MAX_QUESTIONS = 32
#: Characters in one question; what is beyond the model's own limit in tokens is truncated as in training.
MAX_CHARACTERS = 20_000
#: Least and greatest value of each parameter; an upper bound is a whole number where only whole numbers are taken.
BOUNDS: dict[str, tuple[float, float]] = {
    "max_new_tokens": (1, 1024),
    "num_beams": (1, 4),
    "temperature": (0.0, 2.0),
    "top_p": (0.01, 1.0),
    "seed": (0, 2**31 - 1),
}
_FRACTIONS = ("temperature", "top_p")
CSV_HEADINGS = ("question", "inputs")
#: Environment variables with the number of threads that the engine may use; the second is the name of old.
THREADS = ("ASKLINE_THREADS", "ASKLINE_TORCH_THREADS")
MAX_THREADS = 256
#: A smaller network is slower on several threads than on one: they wait for each other longer than they compute.
ONE_THREAD_PARAMETERS = 20_000_000
#: Files at the archive's root of up to so many bytes are compared with the manifest while loading, in milliseconds. For
#: larger weights that would take longer than mapping them; there ONNX Runtime looks at the length.
CHECKED_BYTES = 16 * 2**20
#: How a value that is refused is shown: cut, however long or deep it is.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class Engine(Protocol):
    """What turns prompts into answers; the manifest's ``engine`` names one of :data:`ENGINES`."""

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        num_beams: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[tuple[str, float, int]]:
        """Return an answer, its mean token probability (0 to 1) and its tokens for each prompt, in order."""

    def known(self, prompts: Sequence[str], trie: Any, k: int | None = None) -> list[Any]:
        """Return the posterior over the known answers for each prompt, in order."""


@dataclass(frozen=True)
class Request:
    """One request after its checks; a parameter that is not named is left to the package."""

    questions: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answerer:
    """The loaded package: its engine, its prompt template and its limits."""

    engine: Engine
    prompt: str
    max_target_tokens: int
    model_version: str
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """``a``, ``b`` and ``clip`` of the map from token probability to the probability of being right; and ``threshold``,
    below which the answer is replaced by ``unanswerable``. Empty: as it is, and never."""
    unanswerable: str = ""
    known: Any = None
    """The :class:`~inference.known_answers.KnownAnswers` that it says and nothing else; None writes freely."""
    second_opinion: Any = None
    """The :class:`~inference.second_opinion.SecondOpinion` on the questions, where the package has one."""
    judgement: Mapping[str, Any] | None = None
    """How the opinions are judged together; see :func:`inference.judgement.judge`. None: by the calibration."""
    bare_answers: bool = False
    """Answer as the first version's endpoint did: with the text alone, as a JSON string."""


def model_fn(model_dir: str, context: object = None) -> Answerer:
    """Load the package from the folder that the archive was unpacked into.

    Raises
    ------
    RuntimeError
        If the manifest is missing or lacks a field, a file is not the packed one, or the engine's libraries are not
        there.
    """
    folder = Path(model_dir)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        prompt, source, target = manifest["prompt"], manifest["max_source_tokens"], manifest["max_target_tokens"]
        build, parameters = ENGINES[manifest.get("engine", "transformers")], int(manifest.get("parameters") or 0)
        files = dict(manifest.get("files") or {})
    except FileNotFoundError as error:
        raise RuntimeError(
            f"{folder} holds no {MANIFEST}: the archive's files must lie at its root, not in a folder"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise RuntimeError(f"{MANIFEST} is damaged or of another version: {error!r}") from error
    _check_files(folder, files)
    threads, judgement = _threads(parameters), manifest.get("judgement")
    engine = build(folder, source, target, threads)
    known, second_opinion = _load_known(folder, threads, judgement) if manifest.get("known_answers") else (None, None)
    return Answerer(
        engine=engine,
        prompt=prompt,
        max_target_tokens=target,
        model_version=str(manifest.get("model_version", "unknown")),
        calibration=manifest.get("calibration") or {},
        unanswerable=str(manifest.get("unanswerable") or ""),
        known=known,
        second_opinion=second_opinion,
        judgement=judgement,
        bare_answers=manifest.get("answers") == "bare",
    )


def input_fn(data: str | bytes | bytearray, content_type: str | None = "application/json") -> Request:
    """Read a request.

    Raises
    ------
    ValueError
        If it is not of a known content type, not what that type should hold, or asks for something beyond the limits.
    """
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("the request body must be text in UTF-8") from error
    kind = (content_type or "application/json").split(";")[0].strip().lower()
    if kind == "text/plain":
        return Request(questions=(_question(text),))
    if kind == "text/csv":
        return Request(questions=_questions(_question_column(text)))
    if kind != "application/json":
        raise ValueError(f"content type {kind!r} is not supported: send application/json, text/csv or text/plain")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'the request body is not JSON ({error}): expected {{"inputs": "a question"}}') from error
    if not isinstance(body, dict) or "inputs" not in body:
        raise ValueError('expected a JSON object with "inputs": a question, or a list of questions')
    unknown = sorted(set(body) - {"inputs", "parameters"})
    if unknown:
        raise ValueError(f'unknown field {_SHORT.repr(unknown[0])}: expected "inputs" and, optionally, "parameters"')
    inputs = body["inputs"] if isinstance(body["inputs"], list) else [body["inputs"]]
    return Request(questions=_questions(inputs), parameters=_parameters(body.get("parameters")))


def predict_fn(data: Request, model: Answerer) -> dict[str, Any]:
    """Answer a request; its questions are decoded together.

    Raises
    ------
    ValueError
        If ``max_new_tokens`` is more than the model was trained for.
    """
    options = {"max_new_tokens": model.max_target_tokens, **data.parameters}
    if options["max_new_tokens"] > model.max_target_tokens:
        given = options["max_new_tokens"]
        raise ValueError(f"max_new_tokens is {given}: this model gives at most {model.max_target_tokens}")
    questions = [_without_first_version_suffix(q) if model.bare_answers else q for q in data.questions]
    started = time.perf_counter()
    if model.known is None:
        found = model.engine.generate(_prompts(questions, model), **options)
        answers = [_answer(*each, model, most_tokens=options["max_new_tokens"]) for each in found]
    else:
        answers = _known(questions, model, data.parameters)
    seconds = time.perf_counter() - started
    if model.bare_answers:
        return {"bare": [item["answer"] for item in answers]}
    return {"answers": answers, "model_version": model.model_version, "seconds": round(seconds, 4)}


def _prompts(questions: Sequence[str], model: Answerer) -> list[str]:
    # As in training: plain replacement, so that braces in a question stay, and runs of white space as one space.
    return [model.prompt.replace("{question}", " ".join(question.split())) for question in questions]


def output_fn(prediction: dict[str, Any], accept: str | None = "application/json") -> str:
    """Write the answers as JSON; for ``text/plain`` one to a line; for ``text/csv`` with their confidence.

    Raises
    ------
    ValueError
        If the caller accepts none of these.
    """
    wanted = [part.split(";")[0].strip().lower() for part in (accept or "").split(",")]
    for kind in wanted:
        if kind in ("", "*/*", "application/*", "application/json"):
            bare = prediction.get("bare")
            whole = prediction if bare is None else bare[0] if len(bare) == 1 else bare
            return json.dumps(whole, ensure_ascii=False)
        if kind in ("text/*", "text/plain"):
            return "\n".join(prediction["bare"] if "bare" in prediction else _texts(prediction))
        if kind == "text/csv" and "bare" not in prediction:
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(("answer", "confidence"))
            writer.writerows((item["answer"], item["confidence"]) for item in prediction["answers"])
            return table.getvalue()
    raise ValueError(f"cannot answer as {accept!r}: accept application/json, text/csv or text/plain")


def _texts(prediction: dict[str, Any]) -> list[str]:
    return [item["answer"] for item in prediction["answers"]]


def _answer(text: str, probability: float, tokens: int, model: Answerer, *, most_tokens: int) -> dict[str, Any]:
    """Return one answer with its confidence, or the unanswerable text where that is below the package's threshold."""
    confidence, threshold = calibrated(probability, model.calibration), model.calibration.get("threshold")
    answer = {"answer": text, "confidence": confidence, "token_probability": round(probability, 6), "tokens": tokens}
    if threshold is not None and confidence < threshold:
        return answer | {"answer": model.unanswerable, "abstained": True, "withheld": text, "finish_reason": "declined"}
    return answer | {"finish_reason": "free" if tokens < most_tokens else "length"}


def _known(questions: Sequence[str], model: Answerer, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the known answers to the questions, with what a free answer comes with."""
    module = _module("known_answers")
    posteriors = model.engine.known(_prompts(questions, model), model.known.trie, module.KEPT)
    second = model.second_opinion
    opinions = [None] * len(questions) if second is None else second.opinion(questions)
    verdicts = [_verdict(*each, model) for each in zip(posteriors, opinions, strict=True)]
    replies = module.replies(verdicts, model.known, declining=model.unanswerable, parameters=parameters)
    answers = []
    for reply, verdict, posterior in zip(replies, verdicts, posteriors, strict=True):
        answer = reply | {"token_probability": round(posterior.token_probability, 6), "tokens": posterior.steps}
        if verdict.withheld is not None:
            withheld = model.known[verdict.withheld]
            answer |= {"withheld": withheld["text"], "withheld_id": withheld["id"]}
        answers.append(answer)
    return answers


def _verdict(posterior: Any, opinion: Any, model: Answerer) -> Any:
    """Judge by both opinions where the package says how; else by the model's alone: below the threshold it declines."""
    module = _module("known_answers")
    if model.judgement is not None:
        found = _module("judgement").judge(posterior, opinion, model.judgement)
        matched, declined = found.matched_question, found.answer is None
        return module.Verdict(
            candidates=found.alternatives if declined else ((found.answer, found.confidence), *found.alternatives),
            declined=declined,
            confidence=found.confidence,
            # Declining is the verdict that was evaluated, and withholds nothing; the best answer is an alternative.
            withheld=None,
            matched_question=None if matched is None else model.second_opinion.questions[matched],
        )
    confidence = calibrated(posterior.token_probability, model.calibration)
    threshold = model.calibration.get("threshold")
    candidates = module.candidates(posterior, confidence)
    means_to = bool(posterior.indices[0] == module.DECLINING)
    unsure = threshold is not None and confidence < threshold
    return module.Verdict(
        candidates=candidates,
        declined=means_to or unsure,
        confidence=confidence,
        withheld=candidates[0][0] if unsure and not means_to else None,
    )


def _load_known(folder: Path, threads: int, judgement: Any) -> tuple[Any, Any]:
    """Return the known answers and, where the package has one, the second opinion on them."""
    trie = _module("trie").Trie.load(folder / "answers.bin")
    known = _module("known_answers").KnownAnswers(folder, trie)
    if judgement is None or not (folder / "second_opinion.onnx").is_file():
        return known, None
    with _carried_libraries(folder):
        return known, _module("second_opinion").SecondOpinion(folder, known.ids, threads=threads)


def calibrated(probability: float, calibration: Mapping[str, Any]) -> float:
    """Return the probability that an answer of this mean token probability is right (Platt scaling)."""
    if not calibration:
        return round(probability, 6)
    clip = calibration["clip"]
    kept = min(max(probability, clip), 1 - clip)
    return round(1 / (1 + math.exp(-(calibration["a"] * math.log(kept / (1 - kept)) + calibration["b"]))), 4)


def _question(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a question must be a text that is not blank, not {_SHORT.repr(value)}")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"a question has {len(value)} characters: expected at most {MAX_CHARACTERS}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a question holds half of a surrogate pair, which is no character: {error}") from error
    return value.strip()


def _questions(values: Sequence[object]) -> tuple[str, ...]:
    if not 1 <= len(values) <= MAX_QUESTIONS:
        raise ValueError(f'"inputs" holds {len(values)} questions: expected 1 to {MAX_QUESTIONS}')
    return tuple(_question(item) for item in values)


def _question_column(text: str) -> list[str]:
    """Return the questions of a CSV: its only column or, of several, the one headed ``question`` or ``inputs``."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"the request body is not CSV ({error}): expected one question to a line") from error
    headings = [cell.strip().lower() for cell in rows[0]] if rows else []
    place = next((place for place, heading in enumerate(headings) if heading in CSV_HEADINGS), None)
    if place is not None:
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != (1 if place is None else len(headings)):
            raise ValueError(
                f"question {number} of the CSV stands in a line of {len(row)} columns: put it in double quotes if it "
                f"holds a comma, or head its column with {' or '.join(map(repr, CSV_HEADINGS))}"
            )
    return [row[place or 0] for row in rows]


def _parameters(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f'"parameters" must be an object with any of {", ".join(BOUNDS)}')
    for name, given in value.items():
        if name not in BOUNDS:
            raise ValueError(f"unknown parameter {_SHORT.repr(name)}: expected any of {', '.join(BOUNDS)}")
        low, high = BOUNDS[name]
        number = isinstance(given, int | float) if name in _FRACTIONS else isinstance(given, int)
        if isinstance(given, bool) or not number or not low <= given <= high:
            kind = "number" if name in _FRACTIONS else "whole number"
            raise ValueError(f"{name} is {_SHORT.repr(given)}: expected a {kind} from {low} to {high}")
    if value.get("num_beams", 1) > 1 and value.get("temperature", 0) > 0:
        raise ValueError("num_beams above 1 and a temperature above 0 exclude each other: search, or draw")
    return value


def _without_first_version_suffix(question: str) -> str:
    """Undo what the first version's Lambda did to a question: it sent ``<question> answer:``."""
    return re.sub(r"\s*answer:\s*\Z", "", question) or question


def _threads(parameters: int) -> int:
    for name in THREADS:
        given = os.environ.get(name, "").strip()
        if given:
            if not given.isdecimal() or not 1 <= int(given) <= MAX_THREADS:
                raise RuntimeError(f"{name} is {given!r}: expected a whole number from 1 to {MAX_THREADS}")
            return int(given)
    if 0 < parameters < ONE_THREAD_PARAMETERS:
        return 1
    # The processors that this process may use, where the system tells; a container often has fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_files(folder: Path, sha256: Mapping[str, str]) -> None:
    for name, expected in sha256.items():
        if "/" in name:  # the code and its libraries: Python says what is wrong with these
            continue
        path = folder / name
        if not path.is_file():
            raise RuntimeError(f"{path} is missing: the archive was not unpacked whole")
        if path.stat().st_size <= CHECKED_BYTES and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise RuntimeError(f"{path} is not the one that was packed (its sha256 differs): unpack the archive again")


@contextmanager
def _carried_libraries(folder: Path) -> Iterator[None]:
    """Put the archive's own libraries first on the path while they are imported, and only then.

    So the engine has those that it was proved with, and nothing else of the container finds them.

    Raises
    ------
    RuntimeError
        If they cannot be imported.
    """
    carried = folder / "code" / "lib" / f"cp{sys.version_info.major}{sys.version_info.minor}"
    sys.path.insert(0, str(carried))
    try:
        yield
    except ImportError as error:
        there = sorted(path.name for path in carried.parent.glob("cp*")) or "none"
        raise RuntimeError(
            f"the engine's libraries cannot be imported: {error}. The archive carries them for {there}, and this is "
            f"Python {sys.version_info.major}.{sys.version_info.minor}; package the model for it (package.python)"
        ) from error
    finally:
        sys.path.remove(str(carried))


def _onnx(folder: Path, max_source_tokens: int, max_target_tokens: int, threads: int) -> Engine:
    with _carried_libraries(folder):
        engine: Engine = _module("engine_onnx").OnnxEngine(
            folder, max_source_tokens, max_target_tokens, threads=threads
        )
    return engine


def _transformers(folder: Path, max_source_tokens: int, max_target_tokens: int, threads: int) -> Engine:
    engine: Engine = _module("engine_transformers").TransformersEngine(folder, max_source_tokens, threads=threads)
    return engine


def _module(name: str) -> Any:
    """Import a file beside this one, under a name that no other package has, whatever folders are on the path."""
    if __package__:
        return importlib.import_module(f"{__package__}.{name}")
    own = f"askline_{name}"
    if own not in sys.modules:
        spec = importlib.util.spec_from_file_location(own, Path(__file__).with_name(f"{name}.py"))
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{name}.py cannot be loaded: the archive was not unpacked whole")
        module = importlib.util.module_from_spec(spec)
        sys.modules[own] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[own]
            raise
    return sys.modules[own]


ENGINES = {"onnxruntime": _onnx, "transformers": _transformers}
