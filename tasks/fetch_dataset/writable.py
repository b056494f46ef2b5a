"""What a base can read and write, and how many tokens a text takes: by its own tokenizer, or by what is known of it."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

#: The characters that the vocabulary of T5 and Flan-T5 has beside ASCII; everything else becomes <unk>.
T5_BEYOND_ASCII = frozenset("£«­®°»ÉÎÜßàáâäçèéêîóôöùûüăşţșțавдеиклмнорсту–—‘’“”„•′€")
#: What it lacks of ASCII. A newline, a tabulator and a second space become one space.
T5_LACKS = frozenset("<\\^`{}~")
_T5_HAS = (frozenset(map(chr, range(128))) - T5_LACKS) | T5_BEYOND_ASCII
#: Characters of one token, on average: what T5's own tokenizer takes for English, and what it takes in other scripts.
CHARACTERS_A_TOKEN = 3.8


class Base(NamedTuple):
    """What is known of a base without loading it."""

    name: str
    counted: str
    """How its tokens are counted."""
    lacks: Callable[[str], str]
    """Return the characters of a text that it has no token for, each once."""
    tokens: Callable[[str], int]


def base_named(name: str) -> Base:
    """Return what is known of the base that ``training.base`` names.

    A folder is asked by its own tokenizer. Of the Hub's the vocabulary's gaps are known: T5 and Flan-T5 have one
    vocabulary, mT5's writes every script, and the small T5 from scratch has a piece for every character of its data.
    """
    tokenizer = Path(name).expanduser() / "tokenizer.json"
    if tokenizer.is_file():
        return _of_file(name, tokenizer)
    if name == "scratch" or "mt5" in name.lower():
        return Base(name, _ESTIMATED, lambda text: "", _estimate)
    return Base(name, _ESTIMATED, _t5_lacks, _estimate)


_ESTIMATED = "estimated from the characters: the base's tokenizer is not on this machine"


def _of_file(name: str, path: Path) -> Base:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    unknown = tokenizer.token_to_id("<unk>")

    def lacks(text: str) -> str:
        if unknown not in tokenizer.encode(text, add_special_tokens=False).ids:
            return ""
        return "".join(c for c in dict.fromkeys(text) if unknown in tokenizer.encode(c, add_special_tokens=False).ids)

    return Base(name, "counted with the base's own tokenizer", lacks, lambda text: len(tokenizer.encode(text).ids))


def _t5_lacks(text: str) -> str:
    """T5 reads a text in NFKC, which makes "2" of "²"."""
    lacking = set(unicodedata.normalize("NFKC", text)) - _T5_HAS
    return "".join(sorted(character for character in lacking if not character.isspace()))


def _estimate(text: str) -> int:
    """Count about so many tokens as T5 takes: four letters of ASCII in one, of every other character one."""
    ascii_characters = len(text.encode("ascii", "ignore"))
    return round(ascii_characters / CHARACTERS_A_TOKEN) + (len(text) - ascii_characters) + 1


def indistinct(answers: Sequence[str], base: Base) -> list[str]:
    """Return the answers that the base writes like another one, since it lacks what tells the two apart."""
    written: dict[str, list[str]] = {}
    for answer in answers:
        gone = frozenset(base.lacks(answer))
        shown = " ".join("".join("\ufffd" if c in gone else c for c in unicodedata.normalize("NFKC", answer)).split())
        written.setdefault(shown, []).append(answer)
    return [answer for alike in written.values() if len(alike) > 1 for answer in alike]
