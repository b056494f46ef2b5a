"""Intents: entries with several wordings and several replies, as chatbots' files, nlp.js and QnABot keep them."""

from collections.abc import Iterator
from typing import Any

from tasks.fetch_dataset.names import plain
from tasks.fetch_dataset.readers.records import lifted
from tasks.fetch_dataset.readers.request import Malformed, Pairs, Request
from tasks.fetch_dataset.tables import Table
from tasks.fetch_dataset.values import is_text, kind_of, texts_of

_WORDINGS_TEXT = """
    patterns pattern utterances utterance examples training_phrases user_says usersays phrases samples q
"""
_WORDINGS = _WORDINGS_TEXT.split()
_REPLIES = ["responses", "response", "answers", "answer", "replies", "reply", "bot_says", "output", "outputs", "a"]
_TAGS = ["tag", "intent", "intent_name", "qid", "name", "id", "key", "title"]
_SEVERAL = 5
"""Levels below the top at which the list of intents is looked for."""


def read_intents(tree: Any, request: Request) -> Table | None:
    """Read entries such as ``{"tag": …, "patterns": […], "responses": […]}``, under whatever key they stand."""
    found = next(_lists(tree, 0), None)
    if found is None:
        return None
    entries, wordings, replies = found
    shape = {
        ("patterns", "responses"): "intents.json",
        ("utterances", "answers"): "nlp.js corpus",
        ("q", "a"): "QnABot export",
    }.get((plain(wordings), plain(replies)), "intents")
    pairs = Pairs(request, shape, f"entries with {wordings!r} and {replies!r}; every wording is a question", ("tag",))
    top = isinstance(tree, list)
    for number, (key, entry) in enumerate(entries):
        line = request.line(number) if top else None
        if isinstance(entry, Malformed):
            pairs.malformed(entry.text, entry.problem, line)
        elif not isinstance(entry, dict):
            pairs.malformed(
                entry, f"expected an object with {wordings!r} and {replies!r}, found {kind_of(entry)}", line
            )
        else:
            tag = key or next((texts_of(entry[k])[0] for k in _keys(entry, _TAGS) if texts_of(entry[k])), "")
            asked, told = _first_key(entry, _WORDINGS), _first_key(entry, _REPLIES)
            name = tag or f"entry {number + 1}"
            questions = texts_of(entry[asked]) if asked else []
            pairs.add(questions, texts_of(entry[told]) if told else [], name, line=line, tag=tag or None)
    return pairs.table()


def _lists(tree: Any, depth: int) -> Iterator[tuple[list[tuple[str, Any]], str, str]]:
    """Yield lists (or objects by name) of intents: most entries have wordings, at least one of them as a list."""
    if depth > _SEVERAL or not isinstance(tree, (list, dict)):
        return
    if isinstance(tree, list):
        entries: list[tuple[str, Any]] = [("", lifted(item)) for item in tree]
    else:
        entries = list(tree.items())
    objects = [item for _, item in entries if isinstance(item, dict)]
    if objects and len(objects) * 2 >= len(entries):
        names = [(_first_key(item, _WORDINGS), _first_key(item, _REPLIES)) for item in objects]
        whole = [(asked, told) for asked, told in names if asked and told]
        lists = any(
            isinstance(item.get(asked or ""), list) or (isinstance(item.get(told or ""), list) and asked != "q")
            for item, (asked, told) in zip(objects, names, strict=True)
        )
        if whole and len(whole) * 2 >= len(objects) and lists:
            yield entries, whole[0][0], whole[0][1]
            return
    for _, item in entries:
        if isinstance(item, (list, dict)):
            yield from _lists(item, depth + 1)


def _keys(entry: dict[str, Any], names: list[str]) -> list[str]:
    by_name = {plain(key): key for key in entry}
    return [by_name[name] for name in names if name in by_name]


def _first_key(entry: dict[str, Any], names: list[str]) -> str | None:
    keys = _keys(entry, names)
    return next((key for key in keys if is_text(entry[key])), keys[0] if keys else None)
