"""The datasets of the quality benchmark, and how each is split anew for every seed: unseen wordings of seen facts."""

import csv
import random
from pathlib import Path

from tasks.qa.rows import Row

UNANSWERABLE = "I don't know"
#: So many wordings of every fact are held out.
HELD_OUT_WORDINGS = 2
#: Share of the out-of-scope questions that is held out.
HELD_OUT_OF_SCOPE = 0.4

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "biography": ROOT / "data" / "biography",
    "elements": ROOT / "benchmarks" / "datasets" / "elements",
    "computing": ROOT / "benchmarks" / "datasets" / "computing",
}


def read_dataset(name: str) -> list[Row]:
    """Return all rows of a dataset, training and test together."""
    rows = []
    for split in ("train", "test"):
        with (FOLDERS[name] / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                answer = line["answer"]
                rows.append(Row(line["question"], answer, line["fact"], answer != UNANSWERABLE))
    return rows


def split_by_wording(name: str, seed: int) -> tuple[list[Row], list[Row]]:
    """Return (train, test) of a dataset: two wordings of every fact held out, and 40 % of what is out of scope.

    The elements are asked for in sentences that differ in the element alone. There the same two sentences of a kind
    of fact (symbol, atomic number …) are held out for all elements, or else no sentence would be unseen.
    """
    rng = random.Random(f"{name}/{seed}")  # noqa: S311 - not a secret
    facts: dict[str, list[Row]] = {}
    outside = []
    for row in read_dataset(name):
        if row.in_scope:
            facts.setdefault(row.group or row.question, []).append(row)
        else:
            outside.append(row)
    held: dict[str, list[int]] = {}
    train: list[Row] = []
    test: list[Row] = []
    for fact, wordings in facts.items():
        kind = fact.partition("-")[2] if name == "elements" else fact
        if kind not in held:
            held[kind] = rng.sample(range(len(wordings)), HELD_OUT_WORDINGS)
        for number, row in enumerate(wordings):
            (test if number in held[kind] else train).append(row)
    rng.shuffle(outside)
    cut = round(HELD_OUT_OF_SCOPE * len(outside))
    return train + outside[cut:], test + outside[:cut]
