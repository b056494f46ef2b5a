"""YAML as text: every scalar stays as it was written, and anchors cannot explode.

PyYAML's parser gives the events; what they mean is put together here, because its loaders turn ``no`` into False,
``1_000`` into 1000, ``12:30`` into 750 and ``2024-01-01`` into a date, and follow every alias.
"""

from typing import Any

from askline.errors import DatasetFormatError

MAX_DEPTH = 100
MAX_VALUES = 5_000_000
"""Values of a document with every alias written out; a file of ten nested anchors can stand for billions."""


def read_yaml(text: str, name: str) -> Any:
    """Return the document of a YAML file; of several documents, a list of them.

    Raises
    ------
    DatasetFormatError
        If it is not YAML, is nested too deeply, or its aliases stand for too much; names the line.
    """
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    documents: list[Any] = []
    try:
        _compose(yaml, yaml.parse(text, Loader=loader), documents, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DatasetFormatError(f"{name}{where} is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise DatasetFormatError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    return documents[0] if len(documents) == 1 else documents


def _compose(yaml: Any, events: Any, documents: list[Any], name: str) -> None:
    """Put the events together without recursion, counting what the aliases stand for."""
    stack: list[tuple[Any, list[Any], str | None]] = []  # the collection, what a mapping waits for, its anchor
    anchors: dict[str, tuple[Any, int]] = {}
    sizes = [0]
    for event in events:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            value, size, anchor = event.value, 1, event.anchor
            if event.implicit[0] and value in ("~", "null", "Null", "NULL", ""):
                value = None
        elif kind is yaml.AliasEvent:
            if event.anchor not in anchors:
                line = event.start_mark.line + 1
                raise DatasetFormatError(f"{name}, line {line}: the alias *{event.anchor} stands for nothing before it")
            (value, size), anchor = anchors[event.anchor], None
        elif kind in (yaml.SequenceStartEvent, yaml.MappingStartEvent):
            if len(stack) >= MAX_DEPTH:
                line = event.start_mark.line + 1
                raise DatasetFormatError(f"{name}, line {line}: nested more than {MAX_DEPTH} levels deep")
            stack.append(([] if kind is yaml.SequenceStartEvent else {}, [], event.anchor))
            sizes.append(1)
            continue
        elif kind in (yaml.SequenceEndEvent, yaml.MappingEndEvent):
            value, _, anchor = stack.pop()
            size = sizes.pop()
        else:
            if kind is yaml.DocumentStartEvent:
                anchors.clear()
            continue
        if anchor is not None:
            anchors[anchor] = (value, size)
        sizes[-1] += size
        if sum(sizes) > MAX_VALUES:
            line = event.start_mark.line + 1
            raise DatasetFormatError(
                f"{name}, line {line}: its aliases stand for more than {MAX_VALUES:,} values; write out what is meant"
            )
        if not stack:
            documents.append(value)
        else:
            _put(stack[-1], value)


def _put(top: tuple[Any, list[Any], str | None], value: Any) -> None:
    collection, waiting, _ = top
    if isinstance(collection, list):
        collection.append(value)
    elif not waiting:
        waiting.append(value)
    else:
        key = waiting.pop()
        if key == "<<" and isinstance(value, dict):
            for inherited, content in value.items():
                collection.setdefault(inherited, content)
        else:
            collection[key if isinstance(key, str) else "" if key is None else str(key)] = value
