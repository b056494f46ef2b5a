"""The proof of an archive: unpacked, and asked in a clean process whether it answers as the evaluation did."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from askline.errors import PackageError
from askline.progress import Progress, quiet
from askline.records import Agreement, Measured
from tasks.package import archive
from tasks.qa.held_out import HeldOut, same_answer
from tasks.qa.same_answer import exact_match, token_f1

#: Seconds for the whole proof, after which the model counts as too large for this machine.
PROOF_SECONDS = 1800
#: Questions that are asked once more, together, to see what a batch costs.
TOGETHER = 8
#: So few wrong answers are shown.
SHOWN = 3

# Runs with -I: no PYTHONPATH, no user site, and the folder of this project not on sys.path. One JSON object a line
# goes to the descriptor that it was given, since libraries may print.
_PROGRAM = """
import importlib.util, json, os, resource, sys, time
out = os.fdopen(int(sys.argv[2]), "w")
def peak_mb():
    try:  # getrusage would count what the parent held when it forked
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
def say(**facts):
    facts["peak_mb"] = peak_mb()
    print(json.dumps(facts), file=out, flush=True)
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("inference", sys.argv[1] + "/code/inference.py")
inference = sys.modules["inference"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inference)
model = inference.model_fn(sys.argv[1])
say(seconds=time.perf_counter() - started)
for line in sys.stdin.buffer:
    started = time.perf_counter()
    request = inference.input_fn(line, "application/json")
    answer = json.loads(inference.output_fn(inference.predict_fn(request, model), "application/json"))
    say(seconds=time.perf_counter() - started, answer=answer)
"""


class Proof:
    """What the archive answered, question by question, and what it needed for it."""

    def __init__(self, questions: Sequence[HeldOut], answers: list[dict[str, Any]], measured: Measured) -> None:
        self.questions = questions
        self.answers = answers
        self.measured = measured

    @property
    def texts(self) -> list[str]:
        """The engine's own answers, those included that it would withhold for want of confidence."""
        return [str(item.get("withheld", item["answer"])) for item in self.answers]

    @property
    def differing(self) -> tuple[str, ...]:
        """The questions that are answered otherwise than in the evaluation."""
        pairs = zip(self.questions, self.answers, strict=True)
        return tuple(row.question for row, answer in pairs if not _same(row, answer))

    def agreement(self, tokens_of: Callable[[str], Sequence[int]]) -> Agreement:
        """Compare with the evaluation; ``tokens_of`` turns a text into token ids."""
        rows, texts = self.questions, self.texts
        pairs = [(tokens_of(row.prediction), tokens_of(text)) for row, text in zip(rows, texts, strict=True)]
        return Agreement(
            questions=len(rows),
            same_answers=1 - len(self.differing) / len(rows),
            same_tokens=_mean([_shared(first, second) for first, second in pairs]),
            exact_match=_mean([exact_match(text, row.answer) for row, text in zip(rows, texts, strict=True)]),
            exact_match_evaluated=_mean([exact_match(row.prediction, row.answer) for row in rows]),
            token_f1=_mean([token_f1(text, row.answer) for row, text in zip(rows, texts, strict=True)]),
            token_f1_evaluated=_mean([token_f1(row.prediction, row.answer) for row in rows]),
        )

    def shown(self) -> str:
        """Return the first answers that differ, for a message."""
        asked = zip(self.questions, self.answers, self.texts, strict=True)
        different = [(row, text) for row, answer, text in asked if not _same(row, answer)]
        return "; ".join(
            f"{row.question!r} gave {row.prediction!r} in the evaluation and {text!r} here"
            for row, text in different[:SHOWN]
        )


def prove(
    packed: Path, questions: Sequence[HeldOut], progress: Progress = quiet, *, scratch: Path | None = None
) -> Proof:
    """Unpack an archive into an empty folder and ask it, in a clean process, through the container's contract.

    Each question is asked alone, as an endpoint is asked.

    Parameters
    ----------
    scratch
        Where to unpack; the default is the system's folder for temporary files.

    Raises
    ------
    PackageError
        If the process fails, takes too long, or its answers have another form.
    """
    with tempfile.TemporaryDirectory(prefix="askline-proof-", dir=scratch) as home:
        folder = Path(home, "model")
        archive.unpack(packed, folder)
        bodies: list[Any] = [{"inputs": row.question} for row in questions]
        bodies.append({"inputs": [row.question for row in questions[:TOGETHER]]})
        said = _run(folder, Path(home), bodies, progress)
    first, alone, together = said[0], said[1:-1], said[-1]
    try:
        # The first version's form is the bare text.
        answers = [
            {"answer": item["answer"]} if isinstance(item["answer"], str) else item["answer"]["answers"][0]
            for item in alone
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise PackageError(f"the unpacked archive's answers have another form than expected: {alone[:1]}") from error
    durations = sorted(item["seconds"] for item in alone)
    measured = Measured(
        load_seconds=round(first["seconds"], 3),
        load_peak_mb=round(first["peak_mb"], 1),
        peak_mb=round(together["peak_mb"], 1),
        first_answer_seconds=round(alone[0]["seconds"], 4),
        answer_seconds=round(durations[len(durations) // 2], 4),
        answer_seconds_p95=round(durations[int(0.95 * (len(durations) - 1))], 4),
        batch_seconds=round(together["seconds"], 4),
        batch_questions=min(TOGETHER, len(questions)),
        processor=_processor(),
    )
    return Proof(questions, answers, measured)


def _run(folder: Path, home: Path, bodies: list[Any], progress: Progress) -> list[dict[str, Any]]:
    ours = ("ASKLINE_", "PREFECT_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"HF_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    given = home / "questions"
    given.write_text("".join(json.dumps(body) + "\n" for body in bodies), encoding="utf-8")
    reading, writing = os.pipe()
    said: list[dict[str, Any]] = []
    with given.open("rb") as questions, (home / "errors").open("w+b") as errors, os.fdopen(reading) as answers:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, str(folder), str(writing)],
            stdin=questions,
            stdout=errors,
            stderr=errors,
            cwd=home,
            env=environment,
            pass_fds=(writing,),
        )
        os.close(writing)
        watchdog = _Watchdog(process)
        try:
            for line in answers:
                said.append(json.loads(line))
                progress(len(said) / (len(bodies) + 1), f"asked {len(said) - 1} held-out questions")
            process.wait()
        finally:
            too_long = watchdog.stop()
            process.kill()
            process.wait()
        if too_long:
            raise PackageError(
                f"the unpacked archive had answered {len(said) - 1} of {len(bodies)} requests after {PROOF_SECONDS} s; "
                "the model is too large for this machine"
            )
        if process.returncode != 0 or len(said) != len(bodies) + 1:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-8:]
            reason = f"signal {-process.returncode}" if process.returncode < 0 else "\n".join(last)
            raise PackageError(f"the unpacked archive fails in a clean process: {reason}")
    return said


class _Watchdog:
    """Ends a process that takes too long, and says whether it had to."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        from threading import Timer

        self._ended = False
        self._process = process
        self._timer = Timer(PROOF_SECONDS, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        self._ended = True
        self._process.kill()

    def stop(self) -> bool:
        self._timer.cancel()
        return self._ended


def _same(row: HeldOut, answer: dict[str, Any]) -> bool:
    """Say whether the evaluation's answer was given: the same known answer, whatever its text is by now."""
    if row.answer_id is not None and "withheld_id" in answer:
        return bool(answer["withheld_id"] == row.answer_id)
    if row.answer_id is not None and answer.get("answer_id") is not None:
        return bool(answer["answer_id"] == row.answer_id)
    return same_answer(row.prediction, str(answer.get("withheld", answer["answer"])))


def _shared(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the share of tokens that two answers have in common, in order: 1 where they are the same."""
    return 1.0 if list(first) == list(second) else SequenceMatcher(None, first, second, autojunk=False).ratio()


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        import platform

        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kinds = [kind for kind in ("avx512_vnni", "avx512f", "avx_vnni", "avx2") if kind in facts.get("flags", "").split()]
    return f"{facts.get('model name', 'unknown')}{f' ({kinds[0]})' if kinds else ''}"
