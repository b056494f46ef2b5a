"""What the question log leaves out of a text before it is written.

The patterns find what has a form: addresses, numbers, secrets. They do not find names, nor anything else that only a
reader recognises as personal. Where that is not enough, ``text`` keeps no text at all.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

_DATE_OR_YEARS = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}|\d{4} ?[-\u2013/] ?\d{4}")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_number(text: str) -> bool:
    return _DATE_OR_YEARS.fullmatch(text) is None


def _always(_: str) -> bool:
    return True


#: In this order: a later pattern sees what the earlier ones left, so an address inside a link goes with the link.
_PATTERNS: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]] = (
    # user:password@host, or a query string, which carries session ids and reset tokens
    ("[link]", re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://(?:[^\s/@?#]+@\S*|[^\s?#]*\?\S+)", re.IGNORECASE), _always),
    ("[e-mail]", re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), _always),
    # access keys and tokens by the prefixes that their issuers give them, and JSON web tokens
    (
        "[secret]",
        re.compile(
            r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{20,}"
            r"|xox[abprs]-[\w-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{4,})"
        ),
        _always,
    ),
    # an IBAN: country, two check digits, 11 to 30 characters, often in groups of four
    ("[account]", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), _always),
    (
        "[ip-address]",
        re.compile(r"(?<![\w:.])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:]+)(?!\w)"),
        _is_address,
    ),
    # telephone, card, insurance and passport numbers: seven digits or more, however they are grouped
    ("[number]", re.compile(r"(?<![\w,.])[+(]{0,2}\d(?:[ ().\-/\u00a0\u2010-\u2015]{0,3}\d){6,}(?!\w)"), _is_number),
)


def redact(text: str) -> tuple[str, int]:
    """Replace what looks personal by a placeholder in square brackets; return the text and how many were replaced."""
    replaced = 0
    for placeholder, pattern, applies in _PATTERNS:

        def replace(
            match: re.Match[str], placeholder: str = placeholder, applies: Callable[[str], bool] = applies
        ) -> str:
            nonlocal replaced
            if not applies(match[0]):
                return match[0]
            replaced += 1
            return placeholder

        text = pattern.sub(replace, text)
    return text, replaced
