"""What is read, with no option, of files in the shapes in which people keep their questions and answers.

::

    python -m benchmarks.shapes [FOLDER]

FOLDER holds the files and an ``expected.json``: by file ``pairs`` and ``answers``, or ``choose`` where one question has
to be asked first. The default is the project's own stock in ``tests/fetch_dataset/shapes``. Prints a line a file; the
exit status is 1 where one is read otherwise.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from askline.config import DatasetConfig
from askline.errors import AsklineError
from tasks.fetch_dataset.layout import find_splits
from tasks.fetch_dataset.readers.pairs import read_pairs
from tasks.fetch_dataset.values import cell_text

OWN = Path(__file__).resolve().parents[1] / "tests" / "fetch_dataset" / "shapes"


def pairs_of(path: Path, config: DatasetConfig) -> tuple[list[tuple[str, str]], str]:
    """Return the distinct pairs of a file or folder, letter by letter, and its shape."""
    files = [path]
    if path.is_dir():
        with tempfile.TemporaryDirectory() as cache:
            splits, _ = find_splits(path, None, cache=Path(cache))
        files = [file for split in splits.values() for file in split]
    pairs: dict[tuple[str, str], None] = {}
    shapes: dict[str, None] = {}
    for file in files:
        table, columns = read_pairs(file, file.name, config)
        shapes[table.shape] = None
        for row in table.rows:
            if row.problem is None:
                texts = [cell_text(row.values.get(c), config.unanswerable) for c in (columns.question, columns.answer)]
                if all(text.strip() for text in texts):
                    pairs[texts[0].strip(), texts[1].strip()] = None
    return list(pairs), ", ".join(shapes)


def look(path: Path, expected: dict[str, Any]) -> tuple[bool, str]:
    """Read one file and compare; returns whether it is as expected, and the line to print."""
    try:
        pairs, shape = pairs_of(path, DatasetConfig())
    except AsklineError as error:
        told = " ".join(str(error).split())
        return "choose" in expected and "--dataset." in told, f"asks: {told}"
    answers = len({answer for _, answer in pairs})
    wanted = f"{expected.get('pairs', '-')} pairs, {expected.get('answers', '-')} answers"
    fits = (len(pairs), answers) == (expected.get("pairs"), expected.get("answers"))
    return fits, f"{len(pairs)} pairs, {answers} answers (expected: {wanted}) as {shape}"


def main() -> None:
    """Print a line a file, and how many are as expected."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=OWN)
    folder = parser.parse_args().folder
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    right = 0
    for name, wanted in expected.items():
        fits, line = look(folder / name, wanted)
        right += fits
        print(f"{'ok  ' if fits else 'NOT '} {name:<38} {line}")
    print(f"{right} of {len(expected)} as expected")
    sys.exit(right != len(expected))


if __name__ == "__main__":
    main()
