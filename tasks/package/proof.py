"""The proof of an archive: unpacked, and asked in a clean process whether it answers as the evaluation did."""

import tempfile
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from askline.errors import PackageError
from askline.progress import Progress, quiet
from askline.records import Agreement, Measured
from tasks.ask.package import PackagedEngine, Reply
from tasks.package import archive
from tasks.qa.held_out import HeldOut, same_answer
from tasks.qa.same_answer import exact_match, token_f1

#: Seconds for the whole proof, after which the model counts as too large for this machine.
PROOF_SECONDS = 1800
#: Questions that are asked once more, together, to see what a batch costs.
TOGETHER = 8
#: So few wrong answers are shown.
SHOWN = 3


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
        loaded, alone, together = _run(folder, Path(home), [row.question for row in questions], progress)
    try:
        # The first version's form is the bare text.
        answers = [
            {"answer": each.document} if isinstance(each.document, str) else each.document["answers"][0]
            for each in alone
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise PackageError(f"the unpacked archive's answers have another form than expected: {alone[:1]}") from error
    durations = sorted(each.seconds for each in alone)
    measured = Measured(
        load_seconds=round(loaded.seconds, 3),
        load_peak_mb=round(loaded.peak_mb, 1),
        peak_mb=round(together.peak_mb, 1),
        first_answer_seconds=round(alone[0].seconds, 4),
        answer_seconds=round(durations[len(durations) // 2], 4),
        answer_seconds_p95=round(durations[int(0.95 * (len(durations) - 1))], 4),
        batch_seconds=round(together.seconds, 4),
        batch_questions=min(TOGETHER, len(questions)),
        processor=_processor(),
    )
    return Proof(questions, answers, measured)


def _run(folder: Path, home: Path, questions: list[str], progress: Progress) -> tuple[Reply, list[Reply], Reply]:
    """Return what loading took, the replies to the questions one by one, and that to the first few together."""
    alone: list[Reply] = []
    try:
        with PackagedEngine(folder, cache=home / "cache", deadline_seconds=PROOF_SECONDS) as engine:
            for question in questions:
                alone.append(engine.reply(question))
                progress(len(alone) / (len(questions) + 1), f"asked {len(alone)} held-out questions")
            return engine.loaded, alone, engine.reply(questions[:TOGETHER])
    except PackageError as error:
        raise PackageError(
            f"the unpacked archive fails in a clean process after {len(alone)} of {len(questions)} questions: {error}"
        ) from error


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
