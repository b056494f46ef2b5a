"""The API's description of itself, for people, client generators and tests: ``openapi.json``, kept by hand.

What is served is that document with the address and the options of this deployment: where it is, how callers prove who
they are, and nothing that is switched off.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

#: The scheme in the document of each way to authorise (``ASKLINE_AUTH``: API Gateway's own names, and "KEY").
SCHEMES: Final = {"NONE": None, "AWS_IAM": "sigv4", "KEY": "apiKey", "COGNITO_USER_POOLS": "jwt"}

_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d{1,5})?")


@lru_cache(maxsize=8)
def document(server: str | None = None, auth: str | None = None, *, feedback: bool = True) -> str:
    """Return the OpenAPI document as JSON. The file is read when somebody first asks for it.

    Parameters
    ----------
    server
        The API's address; the default is wherever the document was read.
    auth
        One of ``SCHEMES``; others, and None, leave all of them in the document.
    feedback
        Whether this API takes verdicts on answers.
    """
    text = Path(__file__).with_name("openapi.json").read_text(encoding="utf-8")
    if server is None and auth not in SCHEMES and feedback:
        return text
    api: dict[str, Any] = json.loads(text)
    if server is not None:
        api["servers"] = [{"url": server}]
    if auth in SCHEMES:
        scheme = SCHEMES[auth]
        schemes = api["components"].pop("securitySchemes")
        api["security"] = []
        if scheme is not None:
            api["security"] = [{scheme: []}]
            api["components"]["securitySchemes"] = {scheme: schemes[scheme]}
    if not feedback:
        del api["paths"]["/feedback"]
    return json.dumps(api, ensure_ascii=False)


def address(event: Any) -> str | None:
    """Return the address at which a gateway's request reached this API, with a slash at its end.

    API Gateway gives the path with the stage, or with what a domain of one's own maps here, in ``requestContext``. None
    where an event does not say, or was sent to a bare address of the embedded cloud, which has the API further down.
    """
    host, path = event["headers"].get("host", ""), event["path"]
    whole = event["requestContext"].get("path")
    if not isinstance(whole, str) or not whole.endswith(path) or not _HOST.fullmatch(host):
        return None
    if re.fullmatch(r"[\d.]+(:\d+)?", host):
        return None
    here = host.partition(":")[0].endswith(".localhost")
    scheme = event["headers"].get("x-forwarded-proto", "http" if here else "https")
    return f"{'http' if scheme == 'http' else 'https'}://{host}{whole.removesuffix(path)}/"
