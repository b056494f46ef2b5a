"""How tasks/ is laid out: its rooms, the floors that they lie on, what imports what, and how long the whole is.

::

    python -m benchmarks.house                # the working tree
    python -m benchmarks.house --at v0.1      # the same of another commit
    python -m benchmarks.house --rooms        # and the rooms floor by floor, with what each imports

A room is a folder or a module of ``tasks``. The floor of a room is one above the highest of those that it imports;
rooms that import each other in a circle share one. Imports inside functions count.
"""

import argparse
import ast
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tasks.identity import ROOT

#: What is shipped: everything but tests and benchmarks.
PRODUCT = ("askline", "deployments", "flows", "inference", "lambda_handler", "local_cloud", "tasks")
#: A function with so many parameters is counted.
MANY_PARAMETERS = 7

Imports = dict[str, set[str]]


def modules_in(root: Path, packages: Collection[str] = PRODUCT) -> dict[str, Path]:
    """Return every module of some packages by its dotted name."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_in(root: Path, packages: Collection[str] = PRODUCT) -> Imports:
    """Return which modules of some packages each of them imports, at its top or in its functions."""
    modules = modules_in(root, packages)
    return {name: set(_imported(name, path, modules)) for name, path in modules.items()}


def _imported(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            candidates = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for candidate in candidates:
            found = candidate if candidate in modules else candidate.rpartition(".")[0]
            if found in modules and found != name:
                yield found


def closure(imports: Imports, start: str, leave_out: Collection[str] = ()) -> set[str]:
    """Return the modules that ``start`` needs, itself among them; what is left out is not followed either."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in found or any(f"{name}.".startswith(f"{other}.") for other in leave_out):
            continue
        found.add(name)
        waiting += imports[name]
    return found


def room_of(module: str) -> str | None:
    """Return the room of tasks/ that a module is in, or None."""
    parts = module.split(".")
    return parts[1] if parts[0] == "tasks" and len(parts) > 1 else None


def rooms_in(imports: Imports) -> Imports:
    """Return which rooms of tasks/ each of them imports."""
    rooms: Imports = {room: set() for room in map(room_of, imports) if room is not None}
    for module, imported in imports.items():
        room = room_of(module)
        if room is not None:
            rooms[room] |= {other for other in map(room_of, imported) if other not in (None, room)}  # type: ignore[arg-type]
    return rooms


def circles(rooms: Imports) -> list[set[str]]:
    """Return the groups of rooms that import each other in a circle."""
    reach = {room: _reached(rooms, room) for room in rooms}
    found: list[set[str]] = []
    for room in sorted(rooms):
        circle = {other for other in reach[room] if room in reach[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reached(rooms: Imports, start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(rooms[start])
    while waiting:
        room = waiting.pop()
        if room not in found:
            found.add(room)
            waiting += rooms[room]
    return found


def floors(rooms: Imports) -> dict[str, int]:
    """Return the floor of every room; those that import no other are on floor 1."""
    together = {room: frozenset(circle) for circle in circles(rooms) for room in circle}
    found: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in found:
            members = together.get(room, frozenset({room}))
            below = {other for member in members for other in rooms[member]} - members
            height = 1 + max((floor(other) for other in below), default=0)
            found.update(dict.fromkeys(members, height))
        return found[room]

    return {room: floor(room) for room in rooms}


def long_signatures(root: Path) -> list[str]:
    """Return the product's functions with many parameters, beside ``self``: where, which, how many."""
    found = []
    for path in modules_in(root).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
                count = sum(argument.arg not in ("self", "cls") for argument in named)
                if count >= MANY_PARAMETERS:
                    found.append(f"{path.relative_to(root)}:{node.lineno} {node.name} ({count})")
    return found


def lines_in(root: Path, package: str) -> int:
    """Return the number of lines of a package's Python."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (root / package).rglob("*.py"))


def show(root: Path, *, in_full: bool) -> None:
    """Print the figures of the project in ``root``."""
    imports = imports_in(root)
    rooms = rooms_in(imports)
    height = floors(rooms)
    knots = circles(rooms)
    arrows = sum(len(imported) for imported in rooms.values())
    outside = sorted(
        {
            f"{module} -> {other}"
            for module, imported in imports.items()
            for other in imported
            if module.startswith("tasks.") and other.split(".")[0] in ("deployments", "flows", "local_cloud")
        }
    )
    signatures = long_signatures(root)
    print(f"rooms of tasks/       {len(rooms)} on {max(height.values())} floors")
    print(f"arrows between them   {arrows}")
    print(f"circles               {len(knots)}" + "".join(f"\n  {', '.join(sorted(knot))}" for knot in knots))
    print(f"imports of what stands above tasks/   {len(outside)}" + "".join(f"\n  {each}" for each in outside))
    print(f"functions with {MANY_PARAMETERS} or more parameters   {len(signatures)}")
    lines = {package: lines_in(root, package) for package in PRODUCT}
    print(f"product lines         {sum(lines.values()):,}")
    for package, count in lines.items():
        print(f"  {package:<18}{count:>8,}")
    if not in_full:
        return
    print()
    for number in sorted(set(height.values()), reverse=True):
        for room in sorted(name for name in rooms if height[name] == number):
            print(f"floor {number}  {room:<18} {', '.join(sorted(rooms[room]))}")
    print()
    print("\n".join(signatures))


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; with ``--at`` those of another commit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__.partition("\n")[0])
    parser.add_argument("--at", metavar="REV", help="a commit; the default is the working tree")
    parser.add_argument("--rooms", action="store_true", help="also every room, and every long signature")
    options = parser.parse_args(arguments)
    if options.at is None:
        show(ROOT, in_full=options.rooms)
        return 0
    packed = subprocess.run(["git", "archive", options.at], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode != 0:
        print(packed.stderr.decode().strip(), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        show(Path(folder), in_full=options.rooms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
