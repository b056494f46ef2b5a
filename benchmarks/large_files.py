"""Time and memory of reading large files: a CSV of 200,000 rows and JSON Lines of 300 MB.

::

    python -m benchmarks.large_files [--rows 200000] [--megabytes 300]

Each file is written to a temporary folder and read by a process of its own, whose peak memory the system says.
Prints one line a file: its size, the pairs, seconds, and the peak beyond what the empty process takes.
"""

import argparse
import csv
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

_ANSWER = (
    "It is kept on shelf {0} of room {1}, and may be taken home for {2} days; ask at the desk with the number {0}."
)


def write_csv(path: Path, rows: int) -> None:
    """Write questions and answers with an id and a topic."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "question", "answer", "topic"])
        for number in range(rows):
            answer = _ANSWER.format(number, number % 90, number % 28)
            writer.writerow([number, f"Where is item {number}, and how long may I keep it?", answer, f"t{number % 50}"])


def write_json_lines(path: Path, size: int) -> None:
    """Write objects with a question, an answer and a passage until the file has ``size`` bytes."""
    number = 0
    with path.open("w", encoding="utf-8") as stream:
        while stream.tell() < size if number % 1000 == 0 else True:
            row = {
                "question": f"Where is item {number}, and how long may I keep it?",
                "answer": _ANSWER.format(number, number % 90, number % 28),
                "passage": f"Item {number} was bought in {1900 + number % 120}. " * 8,
            }
            stream.write(json.dumps(row) + "\n")
            number += 1


def _measure(path: str, pipe: object) -> None:
    from askline.config import DatasetConfig
    from tasks.fetch_dataset.readers.pairs import read_pairs

    before = _peak()
    started = time.perf_counter()
    table, _ = read_pairs(Path(path), os.path.basename(path), DatasetConfig())  # noqa: PTH119 - a name for messages
    pipe.send((len(table.rows), time.perf_counter() - started, _peak() - before))  # type: ignore[attr-defined]


def _peak() -> int:
    """Return the greatest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read(path: Path) -> tuple[int, float, int]:
    """Read a file in a process of its own; returns rows, seconds and bytes of memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(str(path), theirs))
    process.start()
    theirs.close()
    try:
        rows, seconds, peak = ours.recv()
    finally:
        process.join()
    return rows, seconds, peak


def main() -> None:
    """Print a line a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--megabytes", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table, lines = Path(folder, "rows.csv"), Path(folder, "lines.jsonl")
        write_csv(table, asked.rows)
        write_json_lines(lines, asked.megabytes * 1_000_000)
        for path in (table, lines):
            size = path.stat().st_size
            rows, seconds, peak = read(path)
            print(
                f"{path.name:<12} {size / 1e6:7.1f} MB  {rows:>9,} pairs  {seconds:6.1f} s  "
                f"{peak / 1e6:7.0f} MB of memory, {peak / size:.1f} times the file"
            )


if __name__ == "__main__":
    main()
