"""What packing costs, and what unpacking it costs a cold start: gzip in several ways, stored, and the archive's own.

``python -m benchmarks.packing [--megabytes 250] [--rounds 3]`` makes a package of int8-like weights (normal numbers,
rounded to a byte) and the installed ONNX Runtime, and packs it with every method in turn, round after round, so that
a busy moment of the machine falls on all of them. It prints medians of the processor's seconds and the sizes, and
whether two packs of the same files at two times gave the same bytes. Unpacking is timed with the standard library and
with GNU tar, which is what containers have.
"""

import argparse
import gzip
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from pathlib import Path

from askline.store import sha256_of_file
from tasks.package import archive

Files = Mapping[str, Path]
BLOCK = 16 << 20


def make_files(folder: Path, megabytes: int) -> dict[str, Path]:
    """Write weights and take libraries: what a package with an engine of its own holds."""
    import numpy as np

    weights = folder / "weights.data"
    rng = np.random.default_rng(0)
    with weights.open("wb") as stream:
        for _ in range(max(1, megabytes * 10**6 // BLOCK)):
            stream.write(np.clip(rng.normal(0, 28, BLOCK).round(), -127, 127).astype(np.int8).tobytes())
    files = {"weights.data": weights}
    for name in ("onnxruntime", "tokenizers"):
        for file in distribution(name).files or []:
            path = Path(str(file.locate()))
            if path.suffix in (".so", ".py") and path.is_file():
                files[f"code/lib/{file.as_posix()}"] = path
    return files


def with_tarfile(level: int) -> Callable[[Files, Path], None]:
    """Return a packer that is the standard library's, at a level of zlib."""

    def pack(files: Files, target: Path) -> None:
        with gzip.open(target, "wb", compresslevel=level) as zipped:
            _tar(files, zipped)

    return pack


def with_isal(level: int) -> Callable[[Files, Path], None]:
    """Return a packer that deflates everything with ISA-L."""

    def pack(files: Files, target: Path) -> None:
        from isal import igzip

        with igzip.open(target, "wb", compresslevel=level) as zipped:  # type: ignore[no-untyped-call]
            _tar(files, zipped)

    return pack


def _tar(files: Files, zipped: object) -> None:
    with tarfile.open(fileobj=zipped, mode="w|", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
        for name in sorted(files):
            tar.add(files[name], name)


METHODS: dict[str, Callable[[Files, Path], None]] = {
    "tarfile, gzip level 6": with_tarfile(6),
    "tarfile, gzip level 1": with_tarfile(1),
    "tarfile, stored": with_tarfile(0),
    "isal level 1, all": with_isal(1),
    "ours": archive.pack,
}


def seconds(work: Callable[[], object]) -> float:
    """Return the processor's seconds that ``work`` took, its child processes included."""
    before = _used()
    work()
    return _used() - before


def _used() -> float:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, whose))


def unpack_with_python(packed: Path, folder: Path) -> None:
    """Unpack with the standard library, as a Python container does."""
    with tarfile.open(packed, "r:gz") as tar:
        tar.extractall(folder, filter="data")


def unpack_with_tar(packed: Path, folder: Path) -> None:
    """Unpack with GNU tar and gzip."""
    folder.mkdir()
    subprocess.run(["tar", "xzf", str(packed), "-C", str(folder)], check=True)


def measure(files: Files, scratch: Path, rounds: int) -> tuple[dict[str, list[list[float]]], dict[str, set[str]]]:
    """Return the seconds (pack, unpack with Python, unpack with tar) and the hashes of each method's archives."""
    times: dict[str, list[list[float]]] = {name: [[], [], []] for name in METHODS}
    hashes: dict[str, set[str]] = {name: set() for name in METHODS}
    target, folder = scratch / "model.tar.gz", scratch / "unpacked"
    for _ in range(rounds):
        for name, pack in METHODS.items():
            times[name][0].append(seconds(lambda pack=pack: pack(files, target)))  # type: ignore[misc]
            for column, unpack in enumerate((unpack_with_python, unpack_with_tar), start=1):
                times[name][column].append(seconds(lambda unpack=unpack: unpack(target, folder)))  # type: ignore[misc]
                shutil.rmtree(folder)
            hashes[name].add(f"{target.stat().st_size} {sha256_of_file(target)}")
    return times, hashes


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit status is 1 where our own archive is not the same every time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--megabytes", type=int, default=250, help="size of the weights (default 250)")
    parser.add_argument("--rounds", type=int, default=3, help="packs of every method (default 3)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="askline-packing-") as name:
        scratch = Path(name)
        files = make_files(scratch, options.megabytes)
        total = sum(path.stat().st_size for path in files.values())
        print(f"{total / 1e6:.0f} MB in {len(files)} files; processor seconds, medians of {options.rounds} rounds")
        times, hashes = measure(files, scratch, options.rounds)
    print(f"{'method':<24}{'pack':>8}{'size, MB':>10}{'unpack, Python':>16}{'unpack, tar':>13}{'archives':>10}")
    for method, columns in times.items():
        pack, by_python, by_tar = (statistics.median(column) for column in columns)
        size = int(min(hashes[method]).split()[0]) / 1e6
        print(f"{method:<24}{pack:>8.2f}{size:>10.1f}{by_python:>16.2f}{by_tar:>13.2f}{len(hashes[method]):>10}")
    same = len(hashes["ours"]) == 1
    print(f"ours: {'the same bytes every time' if same else 'NOT the same bytes every time'} ({os.uname().machine})")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
