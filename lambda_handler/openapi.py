"""The API's description of itself, for people, client generators and tests: ``openapi.json``, kept by hand."""

from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def document() -> str:
    """Return the OpenAPI document as JSON. It is read when somebody first asks for it."""
    return Path(__file__).with_name("openapi.json").read_text(encoding="utf-8")
