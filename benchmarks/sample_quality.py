"""How well the default model answers the sample's questions in wordings that it has never seen.

``python -m benchmarks.sample_quality [--splits 3]`` merges the sample's two files, holds out two of the eleven wordings
of every fact (and 60 of the out-of-scope questions) at random, trains the default recipe on the rest, and does so for
several seeds. It prints a table of every split and the mean beside the baselines, and whether the bars hold; the exit
status is 1 where one does not. It takes about two minutes a split on two cores.
"""

import argparse
import csv
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from askline.config import EvaluationConfig, TrainingConfig
from askline.records import DatasetRef, Scores, SourceRef, Target
from askline.store import ArtifactStore
from benchmarks.quality_run import line_of
from tasks.evaluate.evaluate import evaluate_model
from tasks.fine_tune.fine_tune import fine_tune
from tasks.qa.rows import Row
from tasks.workplace import Workplace

SAMPLE = Path(__file__).parents[1] / "data" / "biography"
UNANSWERABLE = "I don't know"
HELD_OUT_WORDINGS = 2
HELD_OUT_OF_SCOPE = 60
FIRST_SEED = 101


class Split(NamedTuple):
    """One split's figures."""

    seed: int
    scores: Scores
    seconds: float
    """Training and evaluation together."""


Figure = Callable[[Split], float]

FIGURES: dict[str, Figure] = {
    "train EM": lambda split: split.scores.train.exact_match,
    "unseen EM": lambda split: split.scores.test.exact_match,
    "nearest": lambda split: split.scores.baselines["nearest question"].exact_match,
    "log. regr.": lambda split: split.scores.baselines["logistic regression"].exact_match,
    "out of scope": lambda split: split.scores.out_of_scope.exact_match if split.scores.out_of_scope else 0.0,
    "o.o.s. nearest": lambda split: split.scores.out_of_scope_baselines["nearest question"].exact_match,
    "o.o.s. log. r.": lambda split: split.scores.out_of_scope_baselines["logistic regression"].exact_match,
    "false abst.": lambda split: split.scores.false_abstention,
}


def read_sample() -> list[Row]:
    """Return all rows of the sample, training and test together."""
    rows = []
    for name in ("train", "test"):
        with (SAMPLE / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                answer = line["answer"]
                rows.append(Row(line["question"], answer, line["fact"], answer != UNANSWERABLE))
    return rows


def split_by_wording(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Return (train, test): some wordings of every fact held out, and some of the out-of-scope questions."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    facts: dict[str, list[Row]] = {}
    for row in rows:
        facts.setdefault(row.group or row.question, []).append(row)
    train, test = [], []
    for wordings in facts.values():
        rng.shuffle(wordings)
        held_out = HELD_OUT_WORDINGS if wordings[0].in_scope else HELD_OUT_OF_SCOPE
        test += wordings[:held_out]
        train += wordings[held_out:]
    return train, test


def store_dataset(store: ArtifactStore, train: Sequence[Row], test: Sequence[Row]) -> DatasetRef:
    """Write the split as a ``dataset`` artifact."""
    splits = {"train": train, "test": test}
    with store.new("dataset") as draft:
        for name, rows in splits.items():
            text = "".join(json.dumps(line_of(row), ensure_ascii=False) + "\n" for row in rows)
            (draft.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        sha256 = draft.commit()
    return DatasetRef(
        sha256=sha256,
        source=SourceRef(kind="file", location=str(SAMPLE), revision=sha256),
        splits={name: len(rows) for name, rows in splits.items()},
        rejected=0,
        question_column="question",
        answer_column="answer",
        split_by="wording",
        unanswerable=UNANSWERABLE,
    )


def measure(seed: int, rows: Sequence[Row], folder: Path) -> Split:
    """Train and evaluate the default recipe on one split."""
    store = ArtifactStore(folder)
    dataset = store_dataset(store, *split_by_wording(rows, seed))
    target = Target(kind="local", region="us-east-1")

    def tell(share: float, message: str = "") -> None:
        if sys.stderr.isatty():
            print(f"\r\033[Kseed {seed}: {message}", end="", file=sys.stderr, flush=True)

    started = time.monotonic()
    model = fine_tune(TrainingConfig(), dataset, place=Workplace(target, folder, store=store, progress=tell))
    scores = evaluate_model(
        EvaluationConfig(), model, dataset, place=Workplace(target, folder, store=store, progress=tell)
    )
    tell(1.0)
    return Split(seed, scores, time.monotonic() - started)


def header() -> str:
    """Return the table's first two lines."""
    return "| split | " + " | ".join(FIGURES) + " | seconds |\n" + "|---" * (len(FIGURES) + 2) + "|"


def line(name: str, splits: Sequence[Split]) -> str:
    """Return one line of the table: the mean over ``splits``, figures in percent."""
    cells = [f"{statistics.mean(map(figure, splits)):.1%}" for figure in FIGURES.values()]
    return f"| {name} | " + " | ".join(cells) + f" | {statistics.mean(split.seconds for split in splits):.0f} |"


def bars(splits: Sequence[Split]) -> dict[str, bool]:
    """Return each bar in words, and whether it holds."""
    mean = {name: statistics.mean(map(figure, splits)) for name, figure in FIGURES.items()}
    return {
        "unseen wordings, mean >= 65 %": mean["unseen EM"] >= 0.65,
        "unseen wordings, every split >= 50 %": min(map(FIGURES["unseen EM"], splits)) >= 0.5,
        "at least 15 points over the nearest question": mean["unseen EM"] - mean["nearest"] >= 0.15,
        "not below logistic regression": mean["unseen EM"] >= mean["log. regr."],
        "training wordings >= 97 %": mean["train EM"] >= 0.97,
        "out of scope >= 60 %": mean["out of scope"] >= 0.6,
        "false abstention <= 10 %": mean["false abst."] <= 0.1,
    }


def main() -> int:
    """Measure, print the table and the bars, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--splits", type=int, default=3, help="how many splits (default: 3)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seed of the first split")
    options = parser.parse_args()
    rows = read_sample()
    splits: list[Split] = []
    print(header(), flush=True)
    for seed in range(options.first_seed, options.first_seed + options.splits):
        with tempfile.TemporaryDirectory(prefix="sample-quality-") as folder:
            splits.append(measure(seed, rows, Path(folder)))
        print(line(f"seed {seed}", splits[-1:]), flush=True)
    print(line("**mean**", splits), end="\n\n")
    held = bars(splits)
    for bar, holds in held.items():
        print(f"{'holds' if holds else 'MISSED':6s}  {bar}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
