"""Rasa: the wordings stand in nlu.yml, the answers in domain.yml, and which belong together in rules and stories."""

import re
from collections.abc import Iterator
from typing import Any

from askline.errors import DatasetFormatError
from tasks.fetch_dataset.readers.request import Pairs, Request
from tasks.fetch_dataset.readers.yaml_text import read_yaml
from tasks.fetch_dataset.tables import Table
from tasks.fetch_dataset.values import texts_of

_ENTITY = re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\{[^}]*\})")
_MARKDOWN_INTENT = re.compile(r"^##\s*intent:\s*(\S+)\s*$")
_KEYS = frozenset({"nlu", "responses", "templates", "rules", "stories"})


def is_rasa(tree: Any) -> bool:
    """Say whether a YAML document is a part of a Rasa bot."""
    if not isinstance(tree, dict):
        return False
    nlu = tree.get("nlu")
    if isinstance(nlu, list) and any(isinstance(item, dict) and "intent" in item for item in nlu):
        return True
    replies = tree.get("responses", tree.get("templates"))
    return isinstance(replies, dict) and any(str(key).startswith("utter_") for key in replies)


def read_rasa_tree(tree: Any, request: Request) -> Table | None:
    """Read a single file of a Rasa bot, which holds everything or is told what is missing."""
    documents = tree if isinstance(tree, list) and tree and all(map(is_rasa, tree)) else [tree]
    return _read(documents, request) if is_rasa(documents[0]) else None


def is_rasa_folder(names: list[str]) -> bool:
    """Say whether files may be a Rasa bot, by their names."""
    last = {name.rsplit("/", 1)[-1].lower() for name in names}
    return bool(last & {"nlu.yml", "nlu.yaml", "domain.yml", "domain.yaml", "nlu.md"})


def read_rasa(files: dict[str, bytes], request: Request) -> Table | None:
    """Read a bot's folder.

    Raises
    ------
    DatasetFormatError
        If a file of it is not YAML, or one half of the bot is missing.
    """
    if not is_rasa_folder(list(files)):
        return None
    documents: list[Any] = []
    for name, data in files.items():
        text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
        if name.lower().endswith((".yml", ".yaml")):
            tree = read_yaml(text, f"{request.name}/{name}")
            documents += [part for part in (tree if isinstance(tree, list) else [tree]) if isinstance(part, dict)]
        elif name.lower().endswith(".md") and "## intent:" in text:
            documents.append({"nlu": list(_markdown(text))})
    documents = [document for document in documents if _KEYS & set(document)]
    return _read(documents, request) if any(map(is_rasa, documents)) else None


def _markdown(text: str) -> Iterator[dict[str, str]]:
    """Yield the intents of Rasa 1's ``nlu.md`` in the form of ``nlu.yml``."""
    intent = ""
    examples: list[str] = []
    for line in [*text.split("\n"), "## end"]:
        found = _MARKDOWN_INTENT.match(line)
        if line.startswith("##"):
            if intent:
                yield {"intent": intent, "examples": "\n".join(examples)}
            intent, examples = found[1] if found else "", []
        elif line.lstrip().startswith(("-", "*")):
            examples.append(line)


def _read(documents: list[Any], request: Request) -> Table | None:
    wordings: dict[str, list[str]] = {}
    replies: dict[str, list[str]] = {}
    follows: dict[str, str] = {}
    for document in documents:
        for item in document.get("nlu") or []:
            if isinstance(item, dict) and isinstance(item.get("intent"), str):
                wordings.setdefault(item["intent"], []).extend(_examples(item.get("examples")))
        answers = document.get("responses", document.get("templates"))
        for key, value in answers.items() if isinstance(answers, dict) else []:
            replies.setdefault(str(key), []).extend(texts_of(value))
        for story in [*(document.get("rules") or []), *(document.get("stories") or [])]:
            _follow(story, follows)
    if wordings and not replies:
        raise DatasetFormatError(
            f"{request.name} holds what users say to a Rasa bot, but not what the bot answers: domain.yml is missing. "
            "Give the bot's folder, with domain.yml and data/nlu.yml, as --dataset.source"
        )
    if replies and not any(wordings.values()):
        raise DatasetFormatError(
            f"{request.name} holds what a Rasa bot answers, but not what users ask: data/nlu.yml is missing. "
            "Give the bot's folder, with domain.yml and data/nlu.yml, as --dataset.source"
        )
    pairs = Pairs(request, "Rasa bot", "intents with examples in nlu, and utter_ responses in the domain", ("intent",))
    used: set[str] = set()
    for intent, examples in wordings.items():
        action = next((name for name in (follows.get(intent, ""), f"utter_{intent}") if name in replies), None)
        if action:
            used.add(action)
        pairs.add(examples, replies[action] if action else [], intent, intent=intent)
    for action in replies.keys() - used:
        if any(word in action for word in ("default", "fallback", "rephrase", "out_of_scope", "unknown")):
            pairs.add([], replies[action], action)
    return pairs.table()


def _examples(examples: Any) -> list[str]:
    if isinstance(examples, list):
        lines = [text for item in examples for text in texts_of(item)]
    else:
        lines = examples.split("\n") if isinstance(examples, str) else []
    texts = [_ENTITY.sub(r"\1", line.strip().removeprefix("-").removeprefix("*").strip()) for line in lines]
    return [text for text in texts if text]


def _follow(story: Any, follows: dict[str, str]) -> None:
    """Remember which reply comes first after each intent."""
    intent = None
    for step in (story.get("steps") or []) if isinstance(story, dict) else []:
        if not isinstance(step, dict):
            continue
        if isinstance(step.get("intent"), str):
            intent = step["intent"]
        action = step.get("action")
        if intent and isinstance(action, str) and action.startswith("utter_"):
            follows.setdefault(intent, action)
            intent = None
