"""Dialogflow ES exports: replies in ``intents/<name>.json``, wordings in ``<name>_usersays_<language>.json``."""

import json
import re
from typing import Any

from tasks.fetch_dataset.languages import choose_language
from tasks.fetch_dataset.readers.request import Pairs, Request
from tasks.fetch_dataset.tables import Table

_USER_SAYS = re.compile(r"(?P<intent>.*)_usersays_(?P<language>[A-Za-z-]+)\.json")


def is_dialogflow(names: list[str]) -> bool:
    """Say whether files are an export of Dialogflow, by their names."""
    return any(_USER_SAYS.fullmatch(name.rsplit("/", 1)[-1]) for name in names)


def read_dialogflow(files: dict[str, bytes], request: Request) -> Table | None:
    """Read an export's intents; several replies: the first text is the answer.

    Raises
    ------
    DatasetFormatError
        If it holds several languages and none is chosen.
    """
    if not is_dialogflow(list(files)):
        return None
    wordings: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for name in files:
        if found := _USER_SAYS.fullmatch(name):
            wordings.setdefault(found["language"], {})[found["intent"]] = _load(files[name])
    for language, intents in wordings.items():
        counts[language] = sum(len(_questions(says)) for says in intents.values())
    language = next(iter(wordings))
    if any(counts.values()):
        language = choose_language(counts, request.config, request.name)
    pairs = Pairs(request, "Dialogflow export", "files of the form <intent>_usersays_<language>.json", ("intent",))
    known = dict.fromkeys([name.removesuffix(".json") for name in files if _is_intent(name)] + list(wordings[language]))
    for place in sorted(known):
        intent = _load(files.get(f"{place}.json", b"{}"))
        intent = intent if isinstance(intent, dict) else {}
        named = intent.get("name")
        called = named if isinstance(named, str) else place.rsplit("/", 1)[-1]
        pairs.add(_questions(wordings[language].get(place)), _answers(intent, language), called, intent=called)
    return pairs.table()


def _is_intent(name: str) -> bool:
    parts = name.split("/")
    return "intents" in parts[:-1] and name.endswith(".json") and not _USER_SAYS.fullmatch(name)


def _load(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _questions(says: Any) -> list[str]:
    """Return the wordings of one intent; each is written in parts, between which parameters are marked."""
    questions = []
    for entry in says if isinstance(says, list) else []:
        parts = entry.get("data") if isinstance(entry, dict) else None
        texts = [part.get("text") for part in parts or [] if isinstance(part, dict)] if isinstance(parts, list) else []
        question = "".join(text for text in texts if isinstance(text, str))
        if question.strip():
            questions.append(question)
    return questions


def _answers(intent: dict[str, Any], language: str) -> list[str]:
    texts: list[str] = []
    for response in intent.get("responses") or []:
        messages = response.get("messages") if isinstance(response, dict) else None
        for message in messages if isinstance(messages, list) else []:
            if not isinstance(message, dict) or message.get("lang", language) not in (language, ""):
                continue
            speech = message.get("speech") or []
            texts += [text for text in ([speech] if isinstance(speech, str) else speech) if isinstance(text, str)]
    return [text for text in texts if text.strip()]
