"""Languages side by side in one file: which keys name languages, and which one is read."""

import re
from collections.abc import Mapping
from typing import Any

from askline.config import DatasetConfig
from askline.errors import DatasetFormatError

# ISO 639-1, without those that are English words or usual keys ("id", "no", "is", "to", "as", "so", "or", "am", "my").
_CODES_TEXT = """
    af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy it ja jp ka kk km kn ko
    ky lo lt lv mk ml mn mr ms mt nb ne nl nn pa pl ps pt ro ru rw sk sl sq sr sv sw ta te tg th tk tl tr uk ur uz
    vi xh yo zh zu
"""
_CODES = frozenset(_CODES_TEXT.split())
_UNSURE = frozenset(["id", "no", "is", "to", "as", "so", "or", "am", "my", "in", "an", "at", "be"])
_NAMES_TEXT = """
    english german french spanish italian portuguese dutch polish romanian russian ukrainian turkish arabic hebrew
    hindi chinese japanese korean swedish danish norwegian finnish czech slovak hungarian greek bulgarian serbian
    croatian deutsch français francais español espanol italiano português portugues nederlands polski română romana
    русский українська türkçe turkce svenska dansk norsk suomi čeština magyar ελληνικά 中文 日本語 한국어
"""
_NAMES = frozenset(_NAMES_TEXT.split())
_CODE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z]{2,4})?")


def is_language(key: str) -> bool:
    """Say whether a key names a language: ``en``, ``pt-BR``, ``german``, ``Deutsch``."""
    if key.casefold() in _NAMES:
        return True
    code = _CODE.fullmatch(key)
    return code is not None and code[1].lower() in _CODES


def by_language(value: Any) -> bool:
    """Say whether an object holds the same in several languages: every key names one, all values are of one kind."""
    if not isinstance(value, dict) or len(value) < 2:
        return False
    unsure = sum(key.lower() in _UNSURE for key in value)
    if not all(is_language(key) or key.lower() in _UNSURE for key in value) or unsure >= len(value) / 2:
        return False
    kinds = {type(item) for item in value.values()}
    return len(kinds) == 1 and kinds <= {list, dict, str}


def choose_language(counts: Mapping[str, int], config: DatasetConfig, file: str) -> str:
    """Return the language that the config names, or the only one that holds anything.

    Parameters
    ----------
    counts
        Languages as the file spells them, each with how many pairs it holds.
    config
        ``language`` is used.
    file
        For the message.

    Raises
    ------
    DatasetFormatError
        If one has to be chosen, or the chosen one is not there; lists them and names the option.
    """
    filled = {language: count for language, count in counts.items() if count}
    listed = ", ".join(f"{language} ({count})" for language, count in filled.items())
    if config.language is not None:
        wanted = config.language.casefold().replace("_", "-")
        spelled = {language: language.casefold().replace("_", "-") for language in filled}
        exact = [language for language, name in spelled.items() if name == wanted]
        alike = [language for language, name in spelled.items() if name.split("-")[0] == wanted.split("-")[0]]
        if len(exact) == 1 or len(alike) == 1:
            return (exact or alike)[0]
        raise DatasetFormatError(
            f"{file} holds nothing in the language --dataset.language {config.language!r}. There are, with the number "
            f"of pairs: {listed}."
        )
    if len(filled) == 1:
        return next(iter(filled))
    example = max(filled, key=lambda language: filled[language], default=next(iter(counts)))
    raise DatasetFormatError(
        f"{file} holds its questions and answers in {len(filled)} languages side by side, with the number of pairs: "
        f"{listed}. One model answers in one language; choose with --dataset.language {example}."
    )
