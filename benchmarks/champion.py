"""Only a better model is promoted: five challengers against a deployed champion, on the same held-out questions.

``python -m benchmarks.champion`` runs the whole pipeline five times in a temporary state folder, on some facts of
the sample: a champion that is trained on a few wordings, the same again, one trained on shuffled answers, one that
differs by its seed alone, and one trained on all wordings. It prints what was found and done each time, and the exit
status is 1 where a model was promoted, or not, that should not have been. What the seed alone does is shown and bars
nothing: it is noise, and now and then noise looks like proof. It takes about five minutes on two cores.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from askline.records import PipelineReport

SAMPLE = Path(__file__).parents[1] / "data" / "biography"
MLKEY = "champion-benchmark"
UNANSWERABLE = "I don't know"
Rows = list[dict[str, str]]


class Challenger(NamedTuple):
    """One run of the pipeline."""

    name: str
    folder: str
    seed: int
    expected: str | None
    """The state that the run must end in; None where chance decides."""


CHALLENGERS = (
    Challenger("first, few wordings", "few", 42, "Promoted"),
    Challenger("the same again", "few", 42, "Promoted"),
    Challenger("shuffled answers", "shuffled", 42, "NotPromoted"),
    Challenger("another seed", "few", 43, None),
    Challenger("all wordings", "all", 42, "Promoted"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the challengers and print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=24, help="facts of the sample (default %(default)s)")
    parser.add_argument("--few", type=int, default=2, help="wordings that the first learns (default %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of a training (default %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="askline-champion-") as name:
        root = Path(name)
        write_datasets(root, facts=options.facts, few=options.few)
        try:
            return _compare(root, options.steps)
        finally:
            _call("local_cloud", "down", "--state-dir", str(root / "state"))


def write_datasets(root: Path, *, facts: int, few: int) -> None:
    """Write the folders ``few``, ``shuffled`` and ``all``, each with its ``train.csv`` and the same ``test.csv``."""
    by_fact: dict[str, Rows] = defaultdict(list)
    for row in _read("train"):
        by_fact[row["fact"]].append(row)
    chosen = [fact for fact, rows in by_fact.items() if rows[0]["answer"] != UNANSWERABLE][:facts]
    test = [row for row in _read("test") if row["fact"] in chosen]
    everything = [row for fact in chosen for row in by_fact[fact]]
    answers = [row["answer"] for row in everything]
    random.Random(1).shuffle(answers)  # noqa: S311 - a benchmark
    datasets = {
        "few": [row for fact in chosen for row in by_fact[fact][:few]],
        "shuffled": [row | {"answer": answer} for row, answer in zip(everything, answers, strict=True)],
        "all": everything,
    }
    for name, rows in datasets.items():
        (root / name).mkdir()
        _write(root / name / "train.csv", rows)
        _write(root / name / "test.csv", test)


def _read(split: str) -> Rows:
    with (SAMPLE / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _write(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["question", "answer", "fact"])
        writer.writeheader()
        writer.writerows(rows)


def _compare(root: Path, steps: int) -> int:
    heads = ("challenger", "exact match", "champion", "verdict", "p", "difference, 90 %", "ended as")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)
    wrong = []
    for challenger in CHALLENGERS:
        report = _run(root, challenger, steps)
        print("| " + " | ".join(_row(challenger, report)) + " |", flush=True)
        if challenger.expected not in (None, report.state):
            wrong.append(f"{challenger.name} ended as {report.state}, not {challenger.expected}")
    print("\n".join(wrong) if wrong else "Each ended as it should.")
    return 1 if wrong else 0


def _run(root: Path, challenger: Challenger, steps: int) -> PipelineReport:
    state = root / "state"
    options = ["--state-dir", str(state), "--deploy.mlkey", MLKEY, "--dataset.source", str(root / challenger.folder)]
    # Floors that all pass: what is looked at is the comparison.
    options += ["--evaluation.min-exact-match", "0", "--evaluation.beat-base", "false"]
    options += ["--training.max-steps", str(steps), "--training.batch-size", "16"]
    options += ["--training.seed", str(challenger.seed), "--api.enabled", "false", "--hub.push", "never"]
    done = _call("flows.full_pipeline", *options)
    if done.returncode not in (0, 3):
        raise SystemExit(f"the run of {challenger.name!r} failed:\n{done.stdout}\n{done.stderr}")
    newest = max((state / "runs").glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    return PipelineReport.model_validate(json.loads(newest.read_text(encoding="utf-8")))


def _call(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


def _row(challenger: Challenger, report: PipelineReport) -> list[str]:
    row = [challenger.name, f"{report.scores.test.exact_match:.1%}"]
    found = report.gate.comparison
    if found is None:
        return [*row, "none", "–", "–", "–", report.state]
    if found.overall is None:
        return [*row, found.champion.model_version, found.verdict, "–", "–", report.state]
    each = found.overall
    p = min(each.p_better, each.p_worse)
    interval = f"{100 * each.low:+.1f} to {100 * each.high:+.1f} points"
    return [*row, f"{each.champion:.1%}", found.verdict, f"{p:.2g}", interval, report.state]


if __name__ == "__main__":
    sys.exit(main())
