"""What a package may say: the texts of its known answers, as they were written, and how one of them is chosen.

``answers.jsonl`` is mapped, and a line read when it is said: twenty thousand long answers take no memory of their own.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from inference.trie import Posterior, Trie

#: So many of the most probable answers are looked at; the others are less probable than any of these.
KEPT = 256
#: Other answers that a caller is told, and how probable one must be to be worth telling.
ALTERNATIVES = 3
WORTH_TELLING = 0.01
DECLINING = -1
#: Bytes of the file that are searched for line ends at once.
_CHUNK = 2**22
_NEWLINE = 10
_ID = re.compile(rb'\{"id": "([0-9a-f]+)"')


class Verdict(NamedTuple):
    """What is to be said to one question."""

    candidates: tuple[tuple[int, float], ...]
    """Answers with their confidence, 0 to 1, the best first; none where nothing but declining was considered."""
    declined: bool
    confidence: float
    """Of what is said or, where it was declined for want of confidence, of what would have been."""
    withheld: int | None = None
    """The answer that would have been said, where it was declined for want of confidence."""
    matched_question: str | None = None
    """The known question that this one was taken for, where the package says."""


class KnownAnswers:
    """The lines of ``answers.jsonl``, and the trie of their tokens.

    Parameters
    ----------
    folder
        The unpacked archive.

    Raises
    ------
    RuntimeError
        If the file is missing, or has not as many lines as the trie has answers.
    """

    def __init__(self, folder: Path, trie: "Trie") -> None:
        path = folder / "answers.jsonl"
        try:
            self._bytes = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{path} cannot be read: {error}; unpack the archive again") from error
        chunks = range(0, len(self._bytes), _CHUNK)
        ends = [np.flatnonzero(self._bytes[start : start + _CHUNK] == _NEWLINE) + start for start in chunks]
        self._ends = np.concatenate(ends)
        self.trie = trie
        if len(self._ends) != trie.answers:
            raise RuntimeError(f"{path} has {len(self._ends)} lines, and answers.bin {trie.answers} answers")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``id``, ``text`` and ``columns`` of an answer."""
        line: dict[str, Any] = json.loads(self._line(index))
        return line

    def _line(self, index: int) -> bytes:
        start = int(self._ends[index - 1]) + 1 if index else 0
        return self._bytes[start : int(self._ends[index])].tobytes()

    @property
    def ids(self) -> list[str]:
        """The answers' ids, in order."""
        found = (_ID.match(self._line(index)) for index in range(len(self)))
        return [match[1].decode() if match else "" for match in found]


def candidates(posterior: "Posterior", probability: float) -> tuple[tuple[int, float], ...]:
    """Return the answers that are worth telling, the best first, each with its share of what the best of all has.

    Declining is not among them.

    Parameters
    ----------
    probability
        That the best of all, which may be declining, is right.
    """
    shares = probability * np.exp(posterior.log_probabilities - posterior.log_probabilities[0])
    answers = [(int(index), round(float(share), 4)) for index, share in zip(posterior.indices, shares, strict=True)]
    answers = [(index, share) for index, share in answers if index != DECLINING]
    worth = [(index, share) for index, share in answers[1:] if share >= WORTH_TELLING]
    return (*answers[:1], *worth[:ALTERNATIVES])


def draw(among: Sequence[tuple[int, float]], *, temperature: float, top_p: float, chance: Any) -> int:
    """Return the place of one of the candidates, drawn by their confidence: sharper below a temperature of 1."""
    logs = np.log(np.maximum([confidence for _, confidence in among], 1e-12))
    with np.errstate(over="ignore"):  # the coldest temperatures leave only the most likely
        shares = np.exp((logs - logs.max()) / temperature)
    order = np.argsort(-shares, kind="stable")
    sums = np.cumsum(shares[order]) / shares.sum()
    kept = int(np.searchsorted(sums, top_p)) + 1
    place = int(np.searchsorted(sums[:kept], chance.random() * sums[min(kept, len(sums)) - 1]))
    return int(order[min(place, len(order) - 1)])


def replies(
    verdicts: Sequence[Verdict], known: KnownAnswers, *, declining: str, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what callers get of each verdict: a stored text or the declining one, whatever the parameters are."""
    temperature, top_p = parameters.get("temperature", 0.0), parameters.get("top_p", 1.0)
    found = []
    for number, verdict in enumerate(verdicts):
        among = list(verdict.candidates)
        confidence = verdict.confidence
        if temperature > 0 and len(among) > 1 and not verdict.declined:
            chance = np.random.default_rng([parameters.get("seed", 0), number])
            among.insert(0, among.pop(draw(among, temperature=temperature, top_p=top_p, chance=chance)))
            confidence = among[0][1]
        told = [(known[index], share) for index, share in among]
        said, others = (None, told) if verdict.declined or not told else (told[0][0], told[1:])
        reply = {
            "answer": declining if said is None else said["text"],
            "confidence": round(confidence, 4),
            "answer_id": None if said is None else said["id"],
            "abstained": said is None,
            "alternatives": [
                {"answer": each["text"], "answer_id": each["id"], "confidence": share}
                for each, share in others[:ALTERNATIVES]
            ],
            "matched_question": verdict.matched_question,
            "columns": {} if said is None else said.get("columns") or {},
            "finish_reason": "declined" if said is None else "known",
        }
        found.append(reply)
    return found
