"""The whole way of a file: from what somebody keeps to an API, with nothing but its path and an MLKey.

::

    python -m benchmarks.whole_way FOLDER                    # every file in it
    python -m benchmarks.whole_way FOLDER 01-plain.csv 25-rasa

Runs the pipeline on each file with ``--dataset.source`` and ``--deploy.mlkey`` alone, against an embedded cloud in a
folder of its own, and then asks the API every question that stands in the file. Prints a line a file: how the run
ended, the minutes that it took, and how many of its own questions were answered letter by letter. The exit status is 1
where one is not Promoted or one question is answered otherwise.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from askline.records import RunReport
from askline.store import ArtifactStore
from tasks.qa.rows import Row, read_rows

#: What a folder of files holds beside them.
NO_SOURCE = frozenset({"README.md", "expected.json", "new-wordings.csv"})
TIMEOUT_SECONDS = 60


class Way(NamedTuple):
    """How far one file came."""

    name: str
    state: str
    minutes: float
    asked: int = 0
    right: int = 0
    said: str = ""

    @property
    def whole(self) -> bool:
        """Whether it was promoted and answers all that it was trained on."""
        return self.state == "Promoted" and self.right == self.asked > 0


def go(source: Path, state_dir: Path) -> Way:
    """Run the pipeline on one file and ask the API its own questions."""
    mlkey = re.sub(r"[^a-z0-9]+", "-", source.name.lower()).strip("-")[:32]
    started = time.monotonic()
    # The command line as a person types it.
    command = [sys.executable, "-m", "flows.full_pipeline", "--state-dir", str(state_dir)]
    command += ["--dataset.source", str(source), "--deploy.mlkey", mlkey]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    minutes = (time.monotonic() - started) / 60
    errors = done.stderr.strip().splitlines()
    reports = sorted((state_dir / "runs").glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    report = RunReport.model_validate_json(reports[-1].read_text(encoding="utf-8")) if reports else None
    if report is None or report.config["deploy"]["mlkey"] != mlkey:
        return Way(source.name, "no run", minutes, said=errors[-1] if errors else "")
    if report.api is None or report.dataset is None:
        reasons = report.gate.reasons if report.gate is not None else ()
        return Way(source.name, report.state, minutes, said="; ".join(reasons) or str(report.error or ""))
    store = ArtifactStore(state_dir / "artifacts")
    rows = [row for row in read_rows(store.verify("dataset", report.dataset.sha256), "train") if row.in_scope]
    wrong = [row for row in rows if ask(report.api.url, mlkey, row) != row.answer]
    said = f"for example {wrong[0].question!r}" if wrong else ""
    return Way(source.name, report.state, minutes, len(rows), len(rows) - len(wrong), said)


def ask(url: str, mlkey: str, row: Row) -> str:
    """Return what the API answers; the message of a refusal counts as an answer."""
    query = urllib.parse.urlencode({"MLKey": mlkey, "question": row.question})
    host = urllib.parse.urlsplit(url).netloc
    # Not every resolver knows that *.localhost is this machine.
    here = re.sub(r"^(https?://)[^/:]+\.localhost\b", r"\g<1>127.0.0.1", url)
    request = urllib.request.Request(f"{here}?{query}", headers={"Host": host})  # noqa: S310 - our own API
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:  # noqa: S310 - our own API
            return str(json.load(reply).get("answer"))
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode(errors='replace')[:200]}"


def main() -> int:
    """Run the benchmark and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_way", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="FILE", help="some of its files; the default is all")
    parser.add_argument("--state-dir", type=Path, help="default: a folder that is removed at the end")
    given = parser.parse_args()
    sources = [given.folder / name for name in given.names]
    sources = sources or sorted(path for path in given.folder.iterdir() if path.name not in NO_SOURCE)
    with tempfile.TemporaryDirectory() as own:
        state_dir = given.state_dir or Path(own)
        print(f"{'file':<36}{'end':<13}{'minutes':>8}{'own questions':>15}", flush=True)
        ways = []
        try:
            for source in sources:
                way = go(source, state_dir)
                ways.append(way)
                answered = f"{way.right} of {way.asked}"
                line = f"{way.name:<36}{way.state:<13}{way.minutes:>8.1f}{answered:>15}  {way.said}"
                print(line.rstrip(), flush=True)
        finally:
            stop = [sys.executable, "-m", "local_cloud", "down", "--state-dir", str(state_dir)]
            subprocess.run(stop, capture_output=True, check=False)
    print(f"{sum(way.whole for way in ways)} of {len(ways)} came the whole way and answer every question of their own")
    return 0 if all(way.whole for way in ways) else 1


if __name__ == "__main__":
    sys.exit(main())
