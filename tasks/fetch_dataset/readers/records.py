"""Objects with a question and an answer, wherever they stand: in a list, wrapped, by category, or by their ids."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.fetch_dataset.names import plain, rank
from tasks.fetch_dataset.readers.request import Malformed, Request, shown
from tasks.fetch_dataset.tables import SourceRow, Table, columns_of
from tasks.fetch_dataset.values import is_text, kind_of, texts_of

MAX_DEPTH = 12
"""Levels below the top at which records are looked for."""
_LOOKED_AT = 50
_CATEGORY = ["name", "title", "category", "topic", "section", "group", "label", "id"]
_SPLITS = frozenset({"train", "test", "validation", "valid", "dev", "eval"})


@dataclass(frozen=True, slots=True)
class _Collection:
    """Entries that stand together."""

    entries: list[tuple[str | None, Any]]
    """Each with its key, where it has one."""
    category: str | None
    pattern: tuple[str, ...]
    """Where they stand, with what differs between categories left out."""
    top: bool


def read_records(tree: Any, request: Request) -> Table | None:
    """Read objects whose keys name a question and an answer; without such names, the largest list of objects."""
    if _is_row(tree):
        return _table([_Collection([(None, tree)], None, (), False)], request, "one object")
    named: list[_Collection] = []
    others: list[_Collection] = []
    for collection in _collections(tree, (), None, 0):
        (named if _is_named(collection, request.answers) else others).append(collection)
    if named:
        return _table(named, request, "objects whose keys name a question and an answer")
    by_place: dict[tuple[str, ...], list[_Collection]] = defaultdict(list)
    for collection in others:
        by_place[collection.pattern].append(collection)
    if not by_place:
        return None
    largest = max(by_place.values(), key=lambda found: sum(len(collection.entries) for collection in found))
    return _table(largest, request, "a list of objects")


def lifted(item: Any) -> Any:
    """Return an entry with the cells of its only inner object lifted up, where the pair stands one level below.

    So stand the fields of a database's dump (``{"pk": 1, "fields": {…}}``) and of some chatbots' exports.
    """
    if not isinstance(item, dict) or any(rank(key, "question") is not None for key in item):
        return item
    inner = [value for value in item.values() if isinstance(value, dict)]
    if len(inner) != 1 or not any(rank(key, "question") is not None for key in inner[0]):
        return item
    return {**{key: value for key, value in item.items() if not isinstance(value, dict)}, **inner[0]}


def _is_row(tree: Any) -> bool:
    """Say whether a document is itself one row, the shortest JSON Lines file."""
    return (
        isinstance(tree, dict)
        and any(rank(key, "question") is not None for key in tree)
        and not any(isinstance(value, (list, dict)) for value in tree.values())
    )


def _collections(tree: Any, pattern: tuple[str, ...], category: str | None, depth: int) -> Iterator[_Collection]:
    """Yield every list of objects, and every object of objects, that stands in no record."""
    if depth > MAX_DEPTH:
        return
    if isinstance(tree, list):
        entries: list[tuple[str | None, Any]] = [(None, lifted(item)) for item in tree]
    elif isinstance(tree, dict):
        entries = list(tree.items())
    else:
        return
    objects = [item for _, item in entries if isinstance(item, dict)]
    if objects and (isinstance(tree, list) or len(objects) == len(entries)):
        collection = _Collection(entries, category, (*pattern, "[]"), depth == 0 and isinstance(tree, list))
        yield collection
        if _is_named(collection, True):
            return
    for key, item in entries:
        if isinstance(tree, list):
            yield from _collections(item, (*pattern, "[]"), _category(item) or category, depth + 1)
        else:
            inner = isinstance(item, (list, dict)) and key is not None and len(entries) > 1
            place = key if isinstance(item, list) and plain(key or "") in _WRAPPERS else "{}"
            name = key if inner and place == "{}" else category
            yield from _collections(item, (*pattern, place or ""), name, depth + 1)


_WRAPPERS_TEXT = """
    data items entries rows records faqs faq questions qna qa list results content pairs examples children
"""
_WRAPPERS = frozenset(_WRAPPERS_TEXT.split())


def _category(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    by_name = {plain(key): key for key in item}
    return next((item[by_name[n]] for n in _CATEGORY if n in by_name and isinstance(item[by_name[n]], str)), None)


def _is_named(collection: _Collection, answers: bool) -> bool:
    """Say whether entries have a key for the question with text under it, and one for the answer."""
    found = whole = 0
    for _, item in collection.entries:
        if not isinstance(item, dict):
            continue
        asked = any(rank(key, "question") is not None and is_text(value) for key, value in item.items())
        told = any(rank(key, "answer") is not None and not _is_container(value) for key, value in item.items())
        schema = "acceptedAnswer" in item and "name" in item
        found += (asked and (told or not answers)) or schema
        whole += 1
        if whole == _LOOKED_AT:
            break
    return found * 2 >= max(whole, 1) and found > 0


def _is_container(value: Any) -> bool:
    """Say whether a value is no cell: a list or an object that holds no text itself."""
    return isinstance(value, (list, dict)) and bool(value) and not is_text(value) and not texts_of(value)


def _table(collections: list[_Collection], request: Request, why: str) -> Table:
    rows: list[SourceRow] = []
    categories = {collection.category for collection in collections}
    for collection in collections:
        for number, (key, item) in enumerate(collection.entries):
            line = request.line(number) if collection.top else None
            place = (request.name, len(rows) + 1, line)
            if isinstance(item, Malformed):
                rows.append(SourceRow(*place, {"text": item.text}, item.problem))
            elif not isinstance(item, dict):
                problem = f"expected a JSON object, found {kind_of(item)}"
                rows.append(SourceRow(*place, {"value": item}, problem))
            else:
                rows.append(SourceRow(*place, _cells(item, key, collection.category if len(categories) > 1 else None)))
    columns = columns_of(rows)
    notes = []
    splits = sorted(category for category in categories if category and plain(category) in _SPLITS)
    if len(splits) > 1:
        notes.append(
            f"{request.name}: its splits {shown(splits)} are read together; give each a file of its own to keep them"
        )
    shape = "list of objects"
    if any(key is not None for collection in collections for key, _ in collection.entries[:1]):
        shape = "objects by id"
    elif len(collections) > 1:
        shape = "objects by category"
    return Table(request.name, request.format, columns, rows, notes=notes, shape=shape, why=why)


def _cells(item: dict[str, Any], key: str | None, category: str | None) -> dict[str, Any]:
    """Return an object's cells; with schema.org's ``name`` and ``acceptedAnswer`` under their usual names."""
    schema = "acceptedAnswer" in item and "name" in item and "question" not in item
    if not schema and key is None and category is None:
        return item  # as it is: a file of hundreds of megabytes is not held twice
    cells = dict(item)
    if schema:
        cells["question"] = cells.pop("name")
        cells["answer"] = cells.pop("acceptedAnswer")
    if key is not None:
        cells.setdefault("id", key)
    if category is not None:
        cells.setdefault("category", category)
    return cells
