"""Objects whose keys are the questions, flat or by category; and objects of parallel lists."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from tasks.fetch_dataset.content import asks
from tasks.fetch_dataset.names import rank
from tasks.fetch_dataset.readers.json_text import Object
from tasks.fetch_dataset.readers.request import Pairs, Request
from tasks.fetch_dataset.tables import SourceRow, Table
from tasks.fetch_dataset.values import texts_of

_DEPTH = 6


def read_map(tree: Any, request: Request) -> Table | None:
    """Read ``{question: answer}``, wrapped or by category, where the keys read as text."""
    found = list(_maps(tree, None, 0))
    if not found:
        return None
    pairs = Pairs(request, "map of questions", "an object whose keys are the questions", ("category",))
    for category, entries in found:
        keys_ask = sum(asks(key) for key in entries)
        values_ask = sum(all(map(asks, texts_of(value)[:3])) for value in entries.values() if isinstance(value, list))
        turned = values_ask > max(keys_ask, len(entries) / 2)
        for key, value in _entries(entries):
            texts = _answers(value)
            if turned:
                pairs.add(texts, [key], key, category=category)
            elif key.strip():
                pairs.add([key], texts, key, category=category)
    if len({category for category, _ in found}) < 2:
        for row in pairs.rows:
            row.values.pop("category")
        pairs.more = ()
    return pairs.table()


def read_keyword_map(tree: Any, request: Request) -> Table | None:
    """Read ``{keyword: answer}``: an object of at least three texts, most of them more than one word."""
    if not isinstance(tree, dict):
        return None
    entries = tree
    if len(tree) == 1 and isinstance(inner := next(iter(tree.values())), dict):
        entries = inner
    texts = [value for value in entries.values() if isinstance(value, str)]
    if (
        len(texts) < 3
        or len(texts) != len(entries)
        or sum(len(text.split()) > 1 for text in texts) * 3 < 2 * len(texts)
    ):
        return None
    pairs = Pairs(request, "map of keywords", "an object whose keys are short and whose values are texts")
    for key, value in _entries(entries):
        pairs.add([key] if key.strip() else [], texts_of(value), key)
    pairs.notes.append(
        f"{request.name}: its keys are no whole questions; each was taken as one. Questions as people ask them, "
        "several for each answer, would teach the model more"
    )
    return pairs.table()


def read_parallel(tree: Any, request: Request) -> Table | None:
    """Read an object of columns: lists of one length, or objects with the same keys, as data frames are written."""
    if not isinstance(tree, dict):
        return None
    inner = next(iter(tree.values())) if len(tree) == 1 else None
    candidates = [tree] + ([inner] if isinstance(inner, dict) else [])
    for columns in candidates:
        lists: dict[str, list[Any]] = {}
        for name, column in columns.items():
            cells = list(column.values()) if isinstance(column, dict) else column
            if isinstance(cells, list) and cells and not any(isinstance(cell, dict) for cell in cells):
                lists[name] = cells
        asked = [name for name in lists if rank(name, "question") is not None]
        told = [name for name in lists if rank(name, "answer") is not None]
        if not asked or not told or asked == told or len(lists[asked[0]]) < 2:
            continue
        count = len(lists[asked[0]])
        whole = {name: cells for name, cells in lists.items() if len(cells) == count}
        if told[0] not in whole:
            continue
        rows = [
            SourceRow(request.name, number + 1, None, {name: cells[number] for name, cells in whole.items()})
            for number in range(count)
        ]
        why = f"lists of {count} entries each under {asked[0]!r} and {told[0]!r}"
        return Table(request.name, request.format, tuple(whole), rows, shape="lists side by side", why=why)
    return None


def _maps(tree: Any, category: str | None, depth: int) -> Iterator[tuple[str | None, dict[str, Any]]]:
    if depth > _DEPTH:
        return
    if isinstance(tree, list):
        for item in tree:
            yield from _maps(item, category, depth + 1)
    elif isinstance(tree, dict) and _is_map(tree):
        yield category, tree
    elif isinstance(tree, dict):
        for key, item in tree.items():
            if isinstance(item, (list, dict)):
                yield from _maps(item, key, depth + 1)


def _is_map(entries: dict[str, Any]) -> bool:
    if not entries or sum(_reads_as_text(key) for key in entries) * 2 < len(entries):
        return False
    return all(_answers(value) or value in (None, "") for value in entries.values())


@lru_cache(maxsize=4096)
def _reads_as_text(key: str) -> bool:
    key = key.strip()
    wide = sum("\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7af" for c in key)
    return asks(key) or len(key.split()) > 2 or wide >= 4


def _answers(value: Any) -> list[str]:
    """Return the texts of a map's value: a text, a list of texts, or an object with a key for its answer."""
    if isinstance(value, dict):
        if any(rank(key, "question") == 0 for key in value):
            return []
        key = next((key for key in value if rank(key, "answer") in (0, 2) or key == "text"), None)
        return texts_of(value[key]) if key is not None else []
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return []
    return texts_of(value)


def _entries(entries: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(entries, Object):  # a question that stands twice is asked twice
        yield from entries.repeated
    yield from entries.items()
