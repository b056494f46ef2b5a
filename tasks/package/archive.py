"""The archive itself: packed the same way every time, checked as SageMaker will read it, unpacked safely.

Nothing here knows what a model is: the names that must be there are the caller's.
"""

import errno
import io
import os
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self, cast

from isal import igzip
from isal.igzip_lib import IsalError

from askline.errors import PackageError
from tasks.package.gzip_writer import STORED_BLOCK, GzipWriter, shrinks

#: A serverless endpoint has 5 GB of disk for the unpacked archive.
MAX_UNPACKED_BYTES = 5 * 10**9
#: Far more members than any package has; each costs the reader memory.
MAX_MEMBERS = 20_000
#: What the package of a plain checkpoint holds at its root, beside the weights.
REQUIRED = ("askline.json", "code/inference.py", "config.json", "tokenizer_config.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
#: The one place for libraries, and so for machine code.
LIBRARIES = "code/lib/"
#: Endings of formats that are pickles, or may be: loading one runs what its author wrote.
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")

# A file is stored unless a sample of it deflates to less than this: weights stay above 0.8, libraries below 0.55.
_WORTH_DEFLATING = 0.7
_SAMPLE, _SAMPLES = 1 << 16, 16
_READ = 16 * STORED_BLOCK
# What a tar may hold beside its members' bytes: a header and some padding each, and the zeros at its end.
_OVERHEAD = 1 << 20
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
# Long enough not to be met by chance at the start of weights: ELF, Mach-O, a script.
_PROGRAMS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!/")
# Protocols 2 to 5 with a first instruction that pickle and torch write, and the zip that torch puts around a pickle.
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\x8a}\])(cX]|PK\x03\x04")
_DAMAGE = (OSError, EOFError, tarfile.TarError, cast("type[Exception]", IsalError))


def pack(files: Mapping[str, Path], archive: Path, progress: Callable[[float], None] = lambda share: None) -> None:
    """Write ``files`` (name in the archive to path) to ``archive``, whole or not at all.

    Nothing of this machine or this moment goes in: names are sorted, times and owners are 0, every file has mode 644.
    What a sample shows to shrink (libraries, the tokenizer) is deflated, what does not (weights) is stored.
    The bytes depend on the files and on the version of ``isal`` alone (see :mod:`tasks.package.gzip_writer`).

    Parameters
    ----------
    progress
        Called with the share of the bytes that is packed, at least once a megabyte.

    Raises
    ------
    OSError
        If a file cannot be read or the disk is full; ``archive`` is then as it was before.
    PackageError
        If a name is too long for a tar.
    """
    sizes = {name: files[name].stat().st_size for name in sorted(files)}
    total = sum(sizes.values()) or 1
    done = length = 0
    handle, draft = tempfile.mkstemp(prefix=f".{archive.name}-", dir=archive.parent)
    try:
        with os.fdopen(handle, "wb") as raw:
            with GzipWriter(raw) as zipped:
                for name, size in sizes.items():
                    zipped.deflated(_header(name, size))
                    write = zipped.deflated if _is_worth_deflating(files[name], size) else zipped.stored
                    for block in _blocks(files[name], size):
                        write(block)
                        done += len(block)
                        progress(done / total)
                    padding = -size % tarfile.BLOCKSIZE
                    zipped.deflated(bytes(padding))
                    length += tarfile.BLOCKSIZE + size + padding
                length += 2 * tarfile.BLOCKSIZE
                zipped.deflated(bytes(2 * tarfile.BLOCKSIZE + -length % tarfile.RECORDSIZE))
            raw.flush()
            os.fsync(raw.fileno())
        Path(draft).chmod(0o644)
        Path(draft).replace(archive)
    finally:
        Path(draft).unlink(missing_ok=True)
    progress(1.0)


def lint(
    archive: Path,
    *,
    max_unpacked: int = MAX_UNPACKED_BYTES,
    required: Sequence[str] = REQUIRED,
    weights: Sequence[str] = WEIGHTS,
) -> tuple[tuple[str, ...], int]:
    """Check an archive without unpacking it, in bounded memory and time whatever it claims to hold.

    Parameters
    ----------
    max_unpacked
        Bytes of disk that the unpacked files must stay below.
    required
        Names that must be there, at the root as given.
    weights
        Names of which one at least must be there; none is asked for where the sequence is empty.

    Returns
    -------
    tuple
        The members' names, and the bytes they take when unpacked.

    Raises
    ------
    PackageError
        With everything that is wrong: cut or damaged, a link or device, a path that leads out, a name twice,
        something executable (a mode bit, or a program or library outside ``code/lib/``), a pickle, a
        ``requirements.txt`` that would install at every cold start, a required file that is missing or lies in a
        folder, ``max_unpacked`` bytes or more.
    """
    expected = frozenset([*required, *weights])
    names: list[str] = []
    size = 0
    wrong: list[str] = []
    try:
        with _open(archive, max_unpacked) as (stream, tar):
            for member in tar:
                size += max(member.size, 0)
                if size >= max_unpacked or len(names) >= MAX_MEMBERS:
                    break  # neither the claimed bytes nor the rest is read
                wrong += _unsafe(member)
                if member.isreg():
                    name = PurePosixPath(member.name).as_posix()
                    names.append(name)
                    content = tar.extractfile(member)
                    wrong += _foreign(name, content.read(8) if content else b"", expected)
            else:
                _read_to_the_end(stream)
    except _DAMAGE as error:
        raise PackageError(f"{archive} is not a whole tar.gz ({error}); package the model again") from error
    if size >= max_unpacked:
        wrong.append(f"it takes {size:,} bytes unpacked, and an endpoint has {max_unpacked:,} bytes of disk")
    elif len(names) >= MAX_MEMBERS:
        wrong.append(f"it holds {MAX_MEMBERS:,} files or more")
    else:
        wrong += _disorder(names)
        wrong += [_missing(name, names) for name in required if name not in names]
        if weights and not any(name in names for name in weights):
            wrong.append(_missing(weights[0], names))
    if wrong:
        raise PackageError(f"{archive.name} cannot be served: {'; '.join(wrong)}")
    return tuple(names), size


def unpack(archive: Path, folder: Path, *, max_unpacked: int = MAX_UNPACKED_BYTES) -> None:
    """Unpack an archive into a new or empty folder, whole or not at all.

    Raises
    ------
    PackageError
        If the archive is damaged, holds a link or a path that leads out of ``folder``, or takes ``max_unpacked``
        bytes or more; if the folder holds something; if the disk is full. The folder is then as it was before.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PackageError(f"{archive} cannot be unpacked into {folder}: it is not empty; choose a new folder")
    size = 0

    def accept(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal size
        size += max(member.size, 0)
        wrong = _unsafe(member)
        if size >= max_unpacked:
            wrong.append(f"it takes {max_unpacked:,} bytes or more")
        if wrong:
            raise PackageError(f"{archive} cannot be unpacked: {'; '.join(wrong)}")
        return tarfile.data_filter(member, path)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch,
            _open(archive, max_unpacked) as (stream, tar),
        ):
            tar.extractall(Path(scratch, "whole"), filter=accept)  # noqa: S202 - the filter is what S202 asks for
            _read_to_the_end(stream)
            Path(scratch, "whole").replace(folder)
    except _DAMAGE as error:
        raise PackageError(f"{archive} cannot be unpacked: {error}") from error


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    try:
        return member.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise PackageError(f"{name!r} cannot stand in a tar archive: {error}; give it a shorter name") from error


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    """Read ``size`` bytes in blocks of one size, on which the deflated bytes depend."""
    with path.open("rb") as stream:
        while size:
            block = stream.read(min(_READ, size))
            if not block:
                raise OSError(errno.EIO, "the file became shorter while it was packed", str(path))
            size -= len(block)
            yield block


def _is_worth_deflating(path: Path, size: int) -> bool:
    with path.open("rb") as stream:
        if size <= _SAMPLE * _SAMPLES:
            return shrinks(stream.read(), _WORTH_DEFLATING)
        sample = b""
        for part in range(_SAMPLES):
            stream.seek(part * (size - _SAMPLE) // (_SAMPLES - 1))
            sample += stream.read(_SAMPLE)
    return shrinks(sample, _WORTH_DEFLATING)


class _Bounded(io.RawIOBase):
    """What a compressed stream holds, up to a limit: a few megabytes can claim to be terabytes."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size if 0 <= size <= _READ else _READ)
        self._left -= len(block)
        if self._left < 0:
            raise tarfile.ReadError("it inflates to more than an endpoint's disk")
        return block


class _Member(tarfile.TarInfo):
    """A member whose extended header is small: tarfile reads that into memory, whatever size it claims."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > _OVERHEAD:
            raise tarfile.ReadError("it has an extended header of more than a megabyte")
        return member


@contextmanager
def _open(archive: Path, max_unpacked: int) -> Iterator[tuple["_Bounded", tarfile.TarFile]]:
    with igzip.IGzipFile(archive, "rb") as raw:  # type: ignore[no-untyped-call]
        stream = _Bounded(cast(BinaryIO, raw), max_unpacked + MAX_MEMBERS * 2 * tarfile.BLOCKSIZE + _OVERHEAD)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:
            yield stream, tar


def _read_to_the_end(stream: _Bounded) -> None:
    """Read what follows the tar's end mark: the padding, and gzip's checksum, which is compared there."""
    beyond = 0
    while block := stream.read(_READ):
        beyond += len(block)
        if beyond > _OVERHEAD or any(block):
            raise tarfile.ReadError("something follows the end of the tar")


def _unsafe(member: tarfile.TarInfo) -> list[str]:
    """Say what about a member could do harm while it is unpacked."""
    wrong = []
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()):
        wrong.append(f"{member.name} is a link or a device")
    elif member.issparse():
        wrong.append(f"{member.name} is a sparse file")
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not member.name.isprintable():
        wrong.append(f"{member.name!r}"[1:-1] + " leads out of the archive, or is no plain path")
    if member.isreg() and member.mode & 0o7111:
        wrong.append(f"{member.name} is executable (mode {member.mode:o})")
    return wrong


def _foreign(name: str, start: bytes, expected: frozenset[str]) -> list[str]:
    """Say what a file is, by its name and first bytes, that has no place in a package."""
    path = PurePosixPath(name)
    wrong = []
    if not name.startswith(LIBRARIES):
        if path.suffix == ".so" or ".so." in path.name or (start.startswith(_PROGRAMS) and name not in expected):
            wrong.append(f"{name} is a program or a library outside {LIBRARIES}")
        if path.name == "requirements.txt":
            wrong.append(f"{name} would have the container install packages at every cold start")
    if name not in expected and (path.suffix in PICKLES or _PICKLE.match(start)):
        wrong.append(f"{name} is a pickle, or may be one")
    return wrong


def _disorder(names: list[str]) -> list[str]:
    found = [f"{name} is there twice" for name, count in sorted(Counter(names).items()) if count > 1]
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    return found + [f"{name} is a file and a folder" for name in sorted(folders.intersection(names))]


def _missing(name: str, names: list[str]) -> str:
    nested = [other for other in names if other.endswith("/" + name)]
    return f"{name} lies in a folder ({nested[0]}), not at the root" if nested else f"{name} is missing"
