"""Zip archives, opened with a guard: what one unpacks to is known before anything is unpacked."""

import io
import zipfile
from pathlib import Path, PurePosixPath

from askline.errors import DatasetFormatError

MAX_UNPACKED_BYTES = 1 << 30
MAX_MEMBERS = 20_000
MAX_RATIO = 300
"""Of a member above :data:`_SMALL_BYTES`: text shrinks to a tenth, repetitive sheets to a fiftieth."""
_SMALL_BYTES = 32 << 20


def open_zip(data: bytes, name: str) -> zipfile.ZipFile:
    """Open an archive whose members are few and small enough.

    Raises
    ------
    DatasetFormatError
        If it is damaged, encrypted, or would unpack to too much.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise DatasetFormatError(f"{name} is a damaged zip archive: {error}") from None
    if any(member.flag_bits & 1 for member in members):
        raise DatasetFormatError(f"{name} is encrypted; save it without a password")
    size = sum(member.file_size for member in members)
    bomb = [m for m in members if m.file_size > _SMALL_BYTES and m.file_size > MAX_RATIO * max(m.compress_size, 1)]
    if size > MAX_UNPACKED_BYTES or len(members) > MAX_MEMBERS or bomb:
        raise DatasetFormatError(
            f"{name} would unpack to {size / 2**20:,.0f} MiB in {len(members):,} files, from "
            f"{len(data) / 2**20:,.1f} MiB; at most {MAX_UNPACKED_BYTES >> 20:,} MiB in {MAX_MEMBERS:,} files are "
            "unpacked. Unpack it yourself, and give the file that holds the questions and answers"
        )
    return archive


def members_of(archive: zipfile.ZipFile, name: str) -> dict[str, bytes]:
    """Return the files of an archive in memory, by their paths; hidden ones are left out.

    Raises
    ------
    DatasetFormatError
        If one is damaged.
    """
    files: dict[str, bytes] = {}
    left = MAX_UNPACKED_BYTES
    for member in archive.infolist():
        parts = PurePosixPath(member.filename).parts
        if member.is_dir() or any(part.startswith((".", "__")) for part in parts):
            continue
        try:
            with archive.open(member) as stream:
                content = stream.read(left + 1)  # what the archive says of itself need not be so
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise DatasetFormatError(f"{name}: {member.filename} is damaged: {error}") from None
        except Exception as error:  # noqa: BLE001 - zlib and lzma have errors of their own
            raise DatasetFormatError(f"{name}: {member.filename} is damaged: {error}") from None
        left -= len(content)
        if left < 0:
            raise DatasetFormatError(f"{name} unpacks to more than it says; it is not read")
        files["/".join(parts)] = content
    return files


def members_of_folder(folder: Path) -> dict[str, bytes]:
    """Return the JSON and YAML files of a folder in memory, by their paths in it; hidden ones are left out."""
    files: dict[str, bytes] = {}
    left = MAX_UNPACKED_BYTES
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() in (".json", ".yml", ".yaml", ".md") and not any(
            p.startswith((".", "__")) for p in parts
        ):
            if not path.is_file() or (left := left - path.stat().st_size) < 0:
                continue
            files["/".join(parts)] = path.read_bytes()
    return files
