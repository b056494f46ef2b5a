"""What is said to questions in a person's other words, by files with one wording of a fact and with several.

::

    python -m benchmarks.new_wordings FOLDER [FILE ...]

FOLDER holds files of the same facts and ``new-wordings.csv``, whose ``question,answer`` rows ask for them in words that
none of the files has; a row with the text for declining is a question that none answers. Each file is fetched, trained
on and judged by the pipeline's own cores, half a minute to three minutes each. Prints a line a file: the questions in
scope that are answered rightly, wrongly and not at all, the questions outside that are declined, and what the best
answer would be if nothing were declined. Files that do not have all the facts, letter by letter, are left out.
"""

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

from askline.config import DatasetConfig, EvaluationConfig, TrainingConfig
from askline.errors import AsklineError
from askline.records import Target
from askline.store import ArtifactStore
from benchmarks.whole_way import NO_SOURCE
from inference.judgement import judge
from tasks.evaluate.evaluate import answer, evaluate_model, load
from tasks.fetch_dataset.fetch_dataset import fetch_dataset, resolve_source
from tasks.fine_tune.fine_tune import fine_tune
from tasks.qa.answers import known_of
from tasks.qa.rows import read_rows
from tasks.second_opinion.second_opinion import fit_second_opinion, open_second_opinion
from tasks.workplace import Workplace

QUESTIONS = "new-wordings.csv"


def measure(source: Path, asked: list[tuple[str, str]], state: Path) -> str:
    """Train on a file, judge the questions, and return the line to print."""
    store = ArtifactStore(state / "artifacts")
    place = Workplace(Target(kind="local", region="us-east-1"), state, store=store)
    config, training = DatasetConfig(source=str(source)), TrainingConfig()
    dataset = fetch_dataset(config, resolve_source(config, place=place), place=place)
    folder = store.verify("dataset", dataset.sha256)
    train, rows = read_rows(folder, "train"), [row for split in dataset.splits for row in read_rows(folder, split)]
    texts = {row.answer.strip() for row in rows if row.in_scope}
    inside = [(question, text) for question, text in asked if text != dataset.unanswerable]
    if any(text.strip() not in texts for _, text in inside):
        return "has other facts"
    model = fine_tune(training, dataset, place=place)
    second = fit_second_opinion("auto", model, dataset, place=place)
    scores = evaluate_model(EvaluationConfig(), model, dataset, place=place, answers="known", second=second)
    if scores.judgement is None:
        return "has no second opinion"
    weights = store.verify("model", model.sha256)
    known = known_of(
        rows,
        train,
        weights / "tokenizer.json",
        max_target_tokens=model.max_target_tokens,
        declining=dataset.unanswerable,
    )
    questions = [question for question, _ in asked]
    options: dict[str, Any] = {"batch_size": 64, "precision": "fp32", "trie": known.trie}
    given = answer(load("tuned", weights, model, place=place), model, questions, **options)
    opinions = open_second_opinion(second, [each.id for each in known.answers], place).opinion(questions)
    verdicts = [judge(each.posterior, opinion, scores.judgement) for each, opinion in zip(given, opinions, strict=True)]
    right = wrong = best = away = 0
    for (_, text), verdict in zip(asked, verdicts, strict=True):
        if text == dataset.unanswerable:
            away += verdict.answer is None
            continue
        best += known.answers[verdict.best].text == text.strip()
        if verdict.answer is not None:
            hit = known.answers[verdict.answer].text == text.strip()
            right, wrong = right + hit, wrong + (not hit)
    count = max(len(inside), 1)
    shares = [right / count, wrong / count, 1 - (right + wrong) / count]
    told = "".join(f"{share:>10.0%}" for share in shares)
    return f"{told}{f'{away} of {len(asked) - len(inside)}':>12}{best / count:>8.0%}"


def main() -> None:
    """Print a line a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.new_wordings", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="FILE", help="some of its files; the default is all")
    given = parser.parse_args()
    with (given.folder / QUESTIONS).open(encoding="utf-8", newline="") as stream:
        asked = [(row["question"], row["answer"]) for row in csv.DictReader(stream)]
    sources = [given.folder / name for name in given.names]
    sources = sources or sorted(path for path in given.folder.iterdir() if path.name not in NO_SOURCE)
    print(f"{'file':<36}{'right':>10}{'wrong':>10}{'declined':>10}{'outside':>12}{'best':>8}", flush=True)
    with tempfile.TemporaryDirectory() as state:
        for source in sources:
            try:
                said = measure(source, asked, Path(state))
            except AsklineError as error:
                said = " ".join(str(error).split())[:120]
            print(f"{source.name:<36}{said}", flush=True)


if __name__ == "__main__":
    main()
