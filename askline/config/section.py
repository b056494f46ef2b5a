"""What every group of options is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every group of options: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def digits_to_int(value: object) -> object:
    """Return the number that a command line's text stands for; anything else as it is."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


Fraction = Annotated[float, Field(ge=0, lt=1)]
