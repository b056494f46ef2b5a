"""What every group of options is made of."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every group of options: frozen, strict about unknown keys, and with an identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    shapes_nothing: ClassVar[frozenset[str]] = frozenset()
    """Options that do not shape what is remembered of the step: where it works, who else hears of it, what is decided
    afterwards. Another value takes the same remembered result."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Refuse a name in :attr:`shapes_nothing` that is no option.

        Raises
        ------
        TypeError
            If there is one.
        """
        super().__pydantic_init_subclass__(**options)
        if unknown := sorted(cls.shapes_nothing - set(cls.model_fields)):
            raise TypeError(f"{cls.__name__}.shapes_nothing names what is no option: {', '.join(unknown)}")

    def identity(self) -> dict[str, Any]:
        """Return the options that shape the step's result: what it is remembered by."""
        return {
            name: value.identity() if isinstance(value, Section) else self.model_dump(mode="json", include={name})[name]
            for name, value in self
            if name not in self.shapes_nothing
        }


def digits_to_int(value: object) -> object:
    """Return the number that a command line's text stands for; anything else as it is."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


Fraction = Annotated[float, Field(ge=0, lt=1)]
