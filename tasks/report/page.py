"""A run as one page that needs nothing else: ``report.html``, beside ``report.json`` with the same content.

The page asks for nothing from outside, and its own policy forbids it to. What comes from the dataset is text there,
never markup.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from askline.records import RunReport
from askline.store import ArtifactStore
from tasks.report import sections

_HERE = Path(__file__).parent


def page(report: RunReport, store: ArtifactStore) -> str:
    """Return the page of a run, however it ended; what an artifact that is gone would have told is left out.

    Raises
    ------
    jinja2.UndefinedError
        If the template asks for something that is not there.
    """
    script = _script()
    found = sections.sections(report, store)
    return str(
        _template().render(
            report=report,
            mlkey=report.config.get("deploy", {}).get("mlkey", ""),
            headline=sections.headline(report),
            reasons=sections.reasons(report),
            figures=sections.figures(report),
            sections=found,
            style=(_HERE / "page.css").read_text(encoding="utf-8"),
            script=script,
            # The one script that may run is this one, by its hash: markup that slipped in could not run another.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _script() -> str:
    return (_HERE / "page.js").read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
