"""JSON as people write it: numbers as they stand, repeated keys and NaN told, one value or one a line."""

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from askline.errors import DatasetFormatError
from tasks.fetch_dataset.readers.request import Malformed
from tasks.fetch_dataset.values import Written, kind_of

_EXACT_DIGITS = 18
"""An integer of more digits is kept as text; Python reads none of more than 4,300."""


# A text, which stays; or a comma before a closing bracket or a comment, which go.
_TIDY = re.compile(
    r'("(?:[^"\\]|\\.)*")|,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]])|//[^\n]*|/\*.*?\*/',
    re.DOTALL,
)


class Object(dict[str, Any]):
    """A JSON object that names a key more than once; as usual the last one counts."""

    repeated: list[tuple[str, Any]]
    """The earlier entries of such keys, in order."""


class JsonReader:
    """A parser that counts what a person should know."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self.not_numbers = 0
        self.tidied = False
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_float=Written,
            parse_int=_integer,
            parse_constant=self._constant,
            strict=False,  # a line break inside a text is what people paste
        )

    def read(self, text: str) -> Any:
        """Read one document.

        Raises
        ------
        ValueError
            As :meth:`json.JSONDecoder.decode`.
        RecursionError
            If it is nested too deeply.
        """
        return self._decoder.decode(text)

    def read_from(self, text: str, start: int) -> tuple[Any, int]:
        """Read one value of several; returns it and where it ends."""
        return self._decoder.raw_decode(text, start)

    def notes(self, name: str) -> list[str]:
        """Say what was met."""
        notes = []
        if self.tidied:
            notes.append(f"{name}: comments, and commas before a closing bracket, are no JSON; they were passed over")
        if self.repeated:
            keys = ", ".join(map(repr, dict.fromkeys(self.repeated[:4])))
            notes.append(
                f"{name}: {len(self.repeated)} times a key stands twice in one object ({keys}); the last one counts"
            )
        if self.not_numbers:
            notes.append(f"{name}: {self.not_numbers} values are NaN, which is no JSON; they are taken for empty")
        return notes

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = {sys.intern(key): value for key, value in pairs}  # lines share the texts of their keys
        if len(values) == len(pairs):
            return values
        told = Object(pairs)
        last = {key: number for number, (key, _) in enumerate(pairs)}
        told.repeated = [pair for number, pair in enumerate(pairs) if last[pair[0]] != number]
        self.repeated += [key for key, _ in told.repeated]
        return told

    def _constant(self, text: str) -> Any:
        if text != "NaN":
            return text
        self.not_numbers += 1
        return None


def _integer(text: str) -> Any:
    return int(text) if len(text) <= _EXACT_DIGITS and text != "-0" else text


def read_json(text: str, name: str, reader: JsonReader) -> tuple[Any, list[int]]:
    """Return the document of a JSON file, and of JSON Lines under that name its items and their lines.

    Raises
    ------
    DatasetFormatError
        If it is not JSON; names the line and what was found.
    """
    try:
        return reader.read(text), []
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # several values below each other: JSON Lines under another name
            return _one_after_another(text, reader) or read_lines(text.split("\n"), reader)
        tidied = _TIDY.sub(lambda found: found[1] or "", text)
        if tidied != text:
            try:
                document = reader.read(tidied)
            except (ValueError, RecursionError):
                pass
            else:
                reader.tidied = True
                return document, []
        raise DatasetFormatError(
            f"{name}, line {error.lineno}, column {error.colno} is not JSON: {error.msg}"
        ) from None
    except RecursionError:
        raise DatasetFormatError(f"{name} cannot be read as JSON: it is nested too deeply") from None
    except ValueError as error:
        raise DatasetFormatError(f"{name} cannot be read as JSON: {error}") from None


def _one_after_another(text: str, reader: JsonReader) -> tuple[list[Any], list[int]] | None:
    """Return values that stand below each other, each over as many lines as it likes; None where one is damaged."""
    items: list[Any] = []
    lines: list[int] = []
    at, line, counted = 0, 1, 0
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == ","):
            at += 1
        if at == len(text):
            return items, lines
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = reader.read_from(text, at)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, (dict, list)):
            return None
        items.append(value)
        lines.append(line)


def read_lines(lines: Iterable[str], reader: JsonReader) -> tuple[list[Any], list[int]]:
    """Return the items of JSON Lines and their lines; a line that cannot be read becomes a :class:`Malformed`.

    Parameters
    ----------
    lines
        Split at line feeds alone: JSON may hold a Unicode line separator as it is.
    reader
        Counts repeated keys and NaN.
    """
    items: list[Any] = []
    numbers: list[int] = []
    for number, content in enumerate(lines, start=1):
        if not content.strip():
            continue
        try:
            value = reader.read(content.strip())
            if not isinstance(value, (dict, list)):
                value = Malformed(content.strip()[:2000], f"expected a JSON object, found {kind_of(value)}")
        except json.JSONDecodeError as error:
            problem = f"expected a JSON object, found text that is not JSON ({error.msg}, column {error.colno})"
            value = Malformed(content.strip()[:2000], problem)
        except (ValueError, RecursionError) as error:
            value = Malformed(
                content.strip()[:2000], f"expected a JSON object, found one that cannot be read ({error})"
            )
        items.append(value)
        numbers.append(number)
    return items, numbers
