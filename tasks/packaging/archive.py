"""``model.tar.gz``: written so that the same files give the same bytes, and checked before anyone unpacks it."""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from askline.errors import PackageError

#: A serverless endpoint has 5 GB of disk for the unpacked archive.
MAX_UNPACKED_BYTES = 5 * 10**9
#: What every package holds at its root, beside the weights.
REQUIRED = ("askline.json", "code/inference.py", "config.json", "tokenizer_config.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_BLOCK = 1 << 20


def pack(files: Mapping[str, Path], archive: Path, progress: Callable[[float], None] = lambda share: None) -> None:
    """Write ``files`` (name in the archive to path) to ``archive``.

    Nothing of this machine or this moment goes in: names are sorted, times and owners are 0, every file has mode 644.
    Weights hardly compress (to 0.92), and a cold start pays for unpacking them: so they are stored, not deflated.
    The blocks that reach gzip have one size whatever the Python version, since stored output depends on it.
    """
    total = sum(path.stat().st_size for path in files.values()) or 1
    done = 0
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=0, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|", format=tarfile.USTAR_FORMAT, bufsize=_BLOCK) as tar,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = files[name].stat().st_size
            member.mode = 0o644
            with files[name].open("rb") as stream:
                tar.addfile(member, stream)
            done += member.size
            progress(done / total)


def lint(archive: Path, *, max_unpacked: int = MAX_UNPACKED_BYTES) -> tuple[tuple[str, ...], int]:
    """Check an archive without unpacking it.

    Returns
    -------
    tuple
        The members' names, and the bytes they take when unpacked.

    Raises
    ------
    PackageError
        With everything that is wrong: cut or damaged, a link or device, a path that leads out, a name twice, a
        required file that is missing or lies in a folder, ``max_unpacked`` bytes or more.
    """
    names: list[str] = []
    size = 0
    wrong: list[str] = []
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    if not (member.isreg() or member.isdir()):
                        wrong.append(f"{member.name} is a link or a device")
                    if path.is_absolute() or ".." in path.parts:
                        wrong.append(f"{member.name} leads out of the archive")
                    if member.isreg():
                        names.append(path.as_posix())
                        size += member.size
            while stream.read(_BLOCK):  # the tar's end mark stands before gzip's checksum, which is compared at its end
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise PackageError(f"{archive} is not a whole tar.gz ({error}); package the model again") from error
    wrong += [f"{name} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    wrong += [_missing(name, names) for name in REQUIRED if name not in names]
    if not any(name in names for name in WEIGHTS):
        wrong.append(_missing(WEIGHTS[0], names))
    if size >= max_unpacked:
        wrong.append(f"it takes {size:,} bytes unpacked, and an endpoint has {max_unpacked:,} bytes of disk")
    if wrong:
        raise PackageError(f"{archive.name} cannot be served: {'; '.join(wrong)}")
    return tuple(names), size


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive, refusing links and paths that lead out of ``folder``.

    Raises
    ------
    PackageError
        If the archive is damaged or holds such a member.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter="data")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise PackageError(f"{archive} cannot be unpacked: {error}") from error


def _missing(name: str, names: list[str]) -> str:
    nested = [other for other in names if other.endswith("/" + name)]
    return f"{name} lies in a folder ({nested[0]}), not at the root" if nested else f"{name} is missing"
