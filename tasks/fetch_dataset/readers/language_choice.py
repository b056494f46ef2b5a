"""A document that holds the same in several languages becomes the document of one."""

from collections import defaultdict
from typing import Any

from tasks.fetch_dataset.languages import by_language, choose_language, is_language
from tasks.fetch_dataset.names import rank
from tasks.fetch_dataset.readers.request import Request

_DEPTH = 12


def in_one_language(tree: Any, request: Request) -> Any:
    """Return the document with every object of languages replaced by what stands in the chosen one.

    Raises
    ------
    DatasetFormatError
        If there are several languages and none is chosen.
    """
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    _count(tree, "", counts, 0)
    if not counts:
        return tree
    most = max(counts.values(), key=lambda found: sum(found.values()))
    chosen = choose_language(most, request.config, request.name)
    return _choose(tree, "", chosen, 0)


def _count(tree: Any, key: str, counts: dict[str, dict[str, int]], depth: int) -> None:
    if depth > _DEPTH:
        return
    if _by_language(tree, key):
        for language, value in tree.items():
            counts[key][language] += len(value) if isinstance(value, (list, dict)) else bool(str(value).strip())
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if isinstance(value, (list, dict)):
                _count(value, name, counts, depth + 1)
    elif isinstance(tree, list):
        for item in tree:
            _count(item, key, counts, depth + 1)


def _by_language(tree: Any, key: str) -> bool:
    """Say whether an object holds languages; one alone is told by the key above it, of a question or an answer."""
    if by_language(tree):
        return True
    if not isinstance(tree, dict) or len(tree) != 1 or not is_language(next(iter(tree))):
        return False
    return any(rank(key, role) in (0, 2) for role in ("question", "answer"))


def _choose(tree: Any, key: str, language: str, depth: int) -> Any:
    if depth > _DEPTH:
        return tree
    if _by_language(tree, key):
        return tree.get(language)
    if isinstance(tree, dict) and any(isinstance(value, (list, dict)) for value in tree.values()):
        return {name: _choose(value, name, language, depth + 1) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_choose(item, key, language, depth + 1) for item in tree]
    return tree
