"""What every group of options is made of."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every group of options: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def digits_to_int(value: object) -> object:
    """Return the number that a command line's text stands for; anything else as it is."""
    return int(value) if isinstance(value, str) and value.isdigit() else value
