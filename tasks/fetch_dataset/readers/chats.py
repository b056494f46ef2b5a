"""Chats as models are tuned on: objects with a list of messages, each with who speaks and what is said."""

from typing import Any

from tasks.fetch_dataset.readers.request import Malformed, Pairs, Request
from tasks.fetch_dataset.tables import Table
from tasks.fetch_dataset.values import cell_text, kind_of

_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "contents", "chat")
_ROLES = ("role", "from", "speaker", "sender", "author")
_SAYS = ("content", "value", "text", "parts", "message", "utterance")
_ASKING_TEXT = """
    user human customer client visitor questioner prompter patient student caller
"""
_ASKING = frozenset(_ASKING_TEXT.split())
_ANSWERING_TEXT = """
    assistant gpt bot model agent chatgpt system_answer chatbot operator answerer support
"""
_ANSWERING = frozenset(_ANSWERING_TEXT.split())


def read_chats(tree: Any, request: Request) -> Table | None:
    """Read chats in the form of OpenAI (``messages``), ShareGPT (``conversations``), Gemini (``contents``) and kin."""
    items = tree if isinstance(tree, list) else None
    if isinstance(tree, dict):
        if _messages(tree) is not None:
            items = [tree]
        else:
            lists = [value for value in tree.values() if isinstance(value, list) and value]
            items = next((value for value in lists if _messages(value[0]) is not None), None)
    if not items:
        return None
    whole = [item for item in items if not isinstance(item, Malformed)]
    if not whole or sum(_messages(item) is not None for item in whole) * 2 < len(whole):
        return None
    pairs = Pairs(request, "chat", "a list of messages, each with who speaks; what the user says is the question")
    later = after = 0
    systems: set[str] = set()
    for number, item in enumerate(items):
        line = request.line(number) if items is tree else None
        if isinstance(item, Malformed):
            pairs.malformed(item.text, item.problem, line)
            continue
        messages = _messages(item)
        if messages is None:
            pairs.malformed(item, f"expected an object with a list of messages, found {kind_of(item)}", line)
            continue
        turns, system = _turns(messages)
        systems |= system
        for turn, (question, answer) in enumerate(turns):
            pairs.add([question], [answer], question, line=line)
            later += turn > 0
        after += len(turns) > 1
        if not turns:
            pairs.malformed(item, "expected a message of the user and one of the assistant after it", line)
    if later:
        pairs.notes.append(
            f"{request.name}: {after} chats have several turns; each turn is a row of its own ({later} rows after the "
            "first turn). A question that only makes sense after the one before is better written out"
        )
    if len(systems) > 1:
        pairs.left_out.append(f"{request.name}: {len(systems)} different system messages are not read")
    return pairs.table()


def _messages(item: Any) -> list[Any] | None:
    """Return an item's messages; None where it has none that say who speaks."""
    candidates = [item] if isinstance(item, list) else []
    if isinstance(item, dict):
        candidates = [item[key] for key in _LISTS if isinstance(item.get(key), list)]
    for messages in candidates:
        if messages and all(isinstance(message, dict) and _role(message) is not None for message in messages):
            return list(messages)
    return None


def _role(message: dict[str, Any]) -> str | None:
    role = next((message[key] for key in _ROLES if isinstance(message.get(key), str)), None)
    return role.casefold() if role is not None else None


def _said(message: dict[str, Any]) -> str:
    content = next((message[key] for key in _SAYS if message.get(key) is not None), "")
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        try:
            texts.append(cell_text(part, ""))
        except ValueError:
            continue
    return "\n".join(text for text in texts if text)


def _turns(messages: list[Any]) -> tuple[list[tuple[str, str]], set[str]]:
    turns: list[tuple[str, str]] = []
    systems: set[str] = set()
    speakers = list(dict.fromkeys(_role(message) for message in messages))
    known = any(role in _ASKING for role in speakers) or any(role in _ANSWERING for role in speakers)
    question = ""
    for message in messages:
        role, text = _role(message), _said(message)
        if role in ("system", "developer"):
            systems.add(text)
        elif role in _ASKING or (not known and role == speakers[0]):
            question = f"{question}\n{text}" if question and text else question or text
        elif (role in _ANSWERING or (not known and role in speakers[1:2])) and text.strip() and question.strip():
            turns.append((question, text))
            question = ""
    return turns, systems
