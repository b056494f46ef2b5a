"""What each quality measure is worth: exact match on unseen wordings without it and with it, over datasets and seeds.

``python -m benchmarks.quality`` trains what ``benchmarks/results/quality.json`` does not hold yet, adds it there, and
prints the tables that ``docs/training-quality.md`` quotes. ``--table`` prints them without training. Every seed splits
the dataset anew and trains from other weights; before and after share split and weights.

A training takes a minute or two of one core; ``--jobs N`` runs N at a time, each in a process with one thread.
``--device cuda`` shares a GPU among them, ``--device cuda:8,cpu:8`` splits them.

    python -m benchmarks.quality --seeds 3 --jobs 2 --docs
    python -m benchmarks.quality --only no-mixing,label-smoothing --datasets biography --minutes 20
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.quality_data import FOLDERS
from benchmarks.quality_measures import VARIANTS
from benchmarks.quality_run import prepare, run
from benchmarks.quality_table import tables

RESULTS = Path(__file__).parent / "results" / "quality.json"
PAGE = Path(__file__).parents[1] / "docs" / "training-quality.md"
FIRST_SEED = 101

Job = tuple[str, tuple[str, ...], int]
"""Dataset, variants that share one training, seed."""


def jobs_for(
    variants: Sequence[str], datasets: Sequence[str], seeds: Sequence[int], done: Sequence[dict[str, Any]]
) -> list[Job]:
    """Return the trainings that are missing, a seed at a time, so that what is cut off early is whole seeds."""
    known = {(row["dataset"], row["variant"], row["seed"]) for row in done}
    groups: dict[str, list[str]] = {}
    for name in variants:
        # What is only asked otherwise needs no training of its own.
        groups.setdefault(str(VARIANTS[name]._replace(beams=1)), []).append(name)
    jobs = []
    for seed in seeds:
        for names in groups.values():
            for dataset in datasets:
                missing = tuple(name for name in names if (dataset, name, seed) not in known)
                if missing:
                    jobs.append((dataset, missing, seed))
    return jobs


def work(
    jobs: Sequence[Job], devices: Sequence[str], deadline: float, keep: Callable[[list[dict[str, Any]]], None]
) -> int:
    """Do the jobs, one at a time on each of the devices, and return how many were begun.

    ``keep`` is given each job's figures as they come. After the deadline (``time.monotonic()``) none is begun.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Manager().Queue()
    for device in devices:
        queue.put(device)
    left = list(reversed(jobs))
    running: dict[Future[list[dict[str, Any]]], Job] = {}
    started = time.monotonic()
    with ProcessPoolExecutor(len(devices), mp_context=context, initializer=prepare, initargs=(queue,)) as pool:
        while left or running:
            while left and len(running) < len(devices) and time.monotonic() < deadline:
                job = left.pop()
                running[pool.submit(run, *job)] = job
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                dataset, names, seed = running.pop(future)
                try:
                    keep(future.result())
                except Exception as error:  # noqa: BLE001 - the others' figures are worth having all the same
                    print(f"{dataset} {'+'.join(names)} seed {seed} failed: {error!r}", file=sys.stderr, flush=True)
                minutes = (time.monotonic() - started) / 60
                told = f"{minutes:5.1f} min  {dataset} {'+'.join(names)} seed {seed}; {len(left)} to begin"
                print(told, file=sys.stderr, flush=True)
    return len(jobs) - len(left)


def parse_devices(text: str, jobs: int) -> list[str]:
    """Return a device for each process: "cpu" and "cuda" for all, or as many as "cuda:8,cpu:8" says."""
    if ":" not in text:
        return [text] * jobs
    devices: list[str] = []
    for part in text.split(","):
        name, _, count = part.partition(":")
        devices += [name] * int(count)
    return devices


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the kept rows, or none."""
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one row a line, sorted, under a temporary name first."""
    order = sorted(rows, key=lambda row: (list(FOLDERS).index(row["dataset"]), row["variant"], row["seed"]))
    text = "[\n" + ",\n".join(json.dumps(row) for row in order) + "\n]\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def update_page(page: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Put the tables where the page has comments with their names: ``<!-- exact-match -->`` to ``<!-- end -->``."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables(rows).items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ValueError(
                f"{page} has no place for the table {name!r}: <!-- {name} --> in a line, then <!-- end -->"
            )
        text = f"{before}{mark}{table}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> int:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", action="store_true", help="print what is kept, and train nothing")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into docs/{PAGE.name} as well")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default: 3)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    trained = [name for name, variant in VARIANTS.items() if not variant.retired]
    parser.add_argument("--only", default=",".join(trained), help=f"of {', '.join(trained)}")
    parser.add_argument("--datasets", default=",".join(FOLDERS), help=f"of {', '.join(FOLDERS)}")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or both: cuda:8,cpu:8 (default: cpu)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so many")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what is kept (default: %(default)s)")
    options = parser.parse_args()
    variants, datasets = options.only.split(","), options.datasets.split(",")
    for names, known in ((variants, trained), (datasets, list(FOLDERS))):
        for name in names:
            if name not in known:
                parser.error(f"{name!r} is none of {', '.join(known)}")
    rows = read_results(options.results)
    if not options.table:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        jobs = jobs_for(variants, datasets, seeds, rows)

        def keep(found: list[dict[str, Any]]) -> None:
            rows.extend(found)
            write_results(options.results, rows)

        deadline = time.monotonic() + 60 * options.minutes
        begun = work(jobs, parse_devices(options.device, options.jobs), deadline, keep)
        if begun < len(jobs):
            print(f"{len(jobs) - begun} of {len(jobs)} trainings not begun", file=sys.stderr)
    print("\n\n".join(tables(rows).values()))
    if options.docs:
        update_page(PAGE, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
