"""Reading the members of a request, strictly: an MLKey is one, and a text is what somebody can have written.

The limits stand in ``openapi.json`` too, to the letter: what that document allows is taken, the rest is refused.
"""

import re
import unicodedata
from collections.abc import Mapping

from lambda_handler.problem import Problem

#: The names that callers may use. With the prefix of the endpoint names it keeps within SageMaker's 63 characters.
MLKEY = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
MAX_MLKEY_CHARACTERS = 46

#: Control characters but tab and line breaks, as they stand in a character class.
CONTROLS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"
#: A text that may be empty. The same in Python and in JSON Schema, which has no word for halves of surrogate pairs.
TEXT = re.compile(f"^[^{CONTROLS}]*$")

_NEVER_MEANT = re.compile(f"[{CONTROLS}\ud800-\udfff]")
_LINE_BREAK_OR_TAB = re.compile(r"\r\n|[\r\n\t]")


def string(fields: Mapping[str, object], name: str) -> str:
    """Return a member that must be there, as the string that it must be.

    Raises
    ------
    Problem
        ``invalid-request`` if it is not.
    """
    value = fields.get(name)
    if value is None:
        raise Problem("invalid-request", f"{name} is missing.")
    if not isinstance(value, str):
        raise Problem("invalid-request", f"{name} must be a string.")
    return value


def mlkey(fields: Mapping[str, object]) -> str:
    """Return the member ``MLKey``, whose form has then been checked.

    Raises
    ------
    Problem
        ``invalid-request`` if it is missing or has another form.
    """
    value = string(fields, "MLKey")
    if len(value) > MAX_MLKEY_CHARACTERS or MLKEY.fullmatch(value) is None:
        raise Problem(
            "invalid-request",
            f"MLKey must be 1 to {MAX_MLKEY_CHARACTERS} letters, digits and hyphens, a letter or digit at each end.",
        )
    return value


def tidy(value: str, name: str, *, limit: int) -> str:
    """Return a text in Unicode's composed form (NFC), stripped, each tab and line break in it a space.

    Parameters
    ----------
    name
        What the text is called in what is said about it.
    limit
        The most code points that it may have as it was sent.

    Raises
    ------
    Problem
        ``invalid-request`` if it is too long or holds characters that cannot be meant.
    """
    if len(value) > limit:
        raise Problem("invalid-request", f"{name} has {len(value):,} characters; at most {limit:,} are read.")
    if _NEVER_MEANT.search(value):
        raise Problem(
            "invalid-request", f"{name} holds control characters or halves of surrogate pairs; leave them out."
        )
    return _LINE_BREAK_OR_TAB.sub(" ", unicodedata.normalize("NFC", value)).strip()
