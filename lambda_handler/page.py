"""The page to try the API in a browser: one HTML file with its own style and script, and nothing from elsewhere."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

_HTML: Final = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def html() -> str:
    """Return the page. It is read once, when the function starts."""
    return _HTML


def _hashes(element: str) -> str:
    """Return the sources of a Content-Security-Policy that allow exactly the page's own inline elements."""
    contents = re.findall(rf"<{element}>(.*?)</{element}>", _HTML, re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


#: Sent with the page. Its script and style are allowed by their hashes; it may call this API and nothing else, send no
#: form and stand in no frame.
HEADERS: Final[dict[str, str]] = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes('script')}",
            f"style-src {_hashes('style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    # The same address answers JSON to other clients.
    "Vary": "Accept",
}
