"""Checks a request against botocore's own model of the service, and words what is wrong as AWS does."""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import regex

from local_cloud.sagemaker.errors import ApiError

_SURROGATES = (r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")

_JSON_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "string": ("a string", (str,)),
    "blob": ("a base64 string", (str,)),
    "integer": ("an integer", (int,)),
    "long": ("an integer", (int,)),
    "float": ("a number", (int, float)),
    "double": ("a number", (int, float)),
    "boolean": ("a boolean", (bool,)),
    "timestamp": ("a number of seconds since 1970", (int, float)),
    "structure": ("an object", (dict,)),
    "map": ("an object", (dict,)),
    "list": ("an array", (list,)),
}


@cache
def service_model(service: str) -> Any:
    """Return botocore's model of ``service`` (``sagemaker``, ``service-quotas`` …)."""
    import botocore.session

    return botocore.session.get_session().get_service_model(service)


def validate(shape: Any, value: object, *, code: str = "ValidationException") -> None:
    """Check ``value`` against a botocore shape: required members, types, lengths, patterns, enums, ranges.

    Members that the model does not know are ignored, as AWS ignores them.

    Raises
    ------
    ApiError
        ``SerializationException`` for a wrong JSON type, else ``code`` with one sentence for each broken constraint.
    """
    found = list(_violations(shape, value, ""))
    if found:
        noun = "error" if len(found) == 1 else "errors"
        raise ApiError(code, f"{len(found)} validation {noun} detected: {'; '.join(found)}")


def _violations(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    expected, types = _JSON_TYPES[kind]
    json_type = type(value)
    if not issubclass(json_type, types) or (json_type is bool and kind != "boolean"):
        where = path or "the request"
        raise ApiError("SerializationException", f"{where} must be {expected}, not {json_type.__name__}")
    limits = shape.metadata
    if kind == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                yield _sentence(None, _join(path, name), "Member must not be null")
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _violations(member, value[name], _join(path, name))
        return
    if kind in ("list", "map", "string", "blob"):
        yield from _length(value, path, limits)
    if kind == "list":
        for number, item in enumerate(value, start=1):
            yield from _violations(shape.member, item, f"{path}.{number}.member")
    elif kind == "map":
        for key, item in value.items():
            yield from _violations(shape.key, key, f"{path}.{key}.key")
            yield from _violations(shape.value, item, f"{path}.{key}.value")
    elif kind == "string":
        pattern = limits.get("pattern")
        if limits.get("enum") and value not in limits["enum"]:
            yield _sentence(value, path, f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]")
        # Java's way to write what is beyond U+FFFF, as pairs of surrogates.
        if pattern and not regex.fullmatch(pattern.replace(*_SURROGATES), value, timeout=5):
            yield _sentence(value, path, f"Member must satisfy regular expression pattern: {pattern}")
    elif kind in ("integer", "long", "float", "double"):
        if not math.isfinite(value):
            raise ApiError("SerializationException", f"{path} must be a finite number")
        if "min" in limits and value < limits["min"]:
            yield _sentence(value, path, f"Member must have value greater than or equal to {limits['min']}")
        if "max" in limits and value > limits["max"]:
            yield _sentence(value, path, f"Member must have value less than or equal to {limits['max']}")


def _length(value: Any, path: str, limits: dict[str, Any]) -> Iterator[str]:
    if "min" in limits and len(value) < limits["min"]:
        yield _sentence(value, path, f"Member must have length greater than or equal to {limits['min']}")
    if "max" in limits and len(value) > limits["max"]:
        yield _sentence(value, path, f"Member must have length less than or equal to {limits['max']}")


def _sentence(value: Any, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


def _join(path: str, name: str) -> str:
    name = name[:1].lower() + name[1:]
    return f"{path}.{name}" if path else name
