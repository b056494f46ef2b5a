"""A few hundred everyday questions that hardly any file of answers is about: what "none of these" looks like.

They stand in ``data/everyday``, a file a language, written for this project. One half teaches the linear layer, the
other asks: a question of the first half would be recognised because it was seen. Questions that a file's own rows ask
are left out.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[2] / "data" / "everyday"


class Everyday(NamedTuple):
    """The pool in two halves without a common question."""

    fitting: list[str]
    asking: list[str]


def everyday(known: Iterable[str] = (), *, folder: Path = FOLDER) -> Everyday:
    """Return the pool without the questions that are known, each half in the order of the files.

    Which half a question falls into goes by its own text, so that a new question moves no other.

    Parameters
    ----------
    known
        The data's own questions; where a file answers "Who painted the Mona Lisa?", it is no question out of scope.
    """
    own = {_plain(question) for question in known}
    fitting: list[str] = []
    asking: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        for question in path.read_text(encoding="utf-8").split("\n"):
            if question and _plain(question) not in own:
                first = hashlib.sha256(question.encode()).digest()[0] % 2
                (fitting if first else asking).append(question)
    return Everyday(fitting, asking)


def _plain(question: str) -> str:
    return "".join(character for character in question.casefold() if character.isalnum())
