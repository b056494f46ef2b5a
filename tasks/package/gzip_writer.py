"""A gzip file in which some stretches are deflated and others stored, with the same bytes on every machine.

Weights hardly shrink and a cold start pays for inflating them; shared libraries shrink to a third. Deflate (RFC 1951)
lets both stand in one stream, so the result is an ordinary gzip file of one member, which every reader knows.

Stored blocks are written here, and depend on nothing. Deflated ones depend on the version of ISA-L, that is of the
pinned ``isal``, and its levels 0 to 2 take the same path on every x86-64 with SSE4.2 (compared for Nehalem, Sandy
Bridge, Haswell and an AVX-512 machine); level 3 does not, and zlib's output depends on the build of Python.
"""

import struct
from types import TracebackType
from typing import Any, BinaryIO, Self

from isal import isal_zlib

#: The highest level whose output is the same on every processor.
LEVEL = 2
#: What one stored block can hold (RFC 1951, 3.2.4).
STORED_BLOCK = 65535
# The header of RFC 1952: deflate, no flags, no time, no level, no system. It holds nothing of this machine.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class GzipWriter:
    """Writes one gzip member to ``raw``; leaving the ``with`` block without an error completes it.

    The bytes depend on how the data is cut into calls: cut it the same way every time.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._deflate: Any = None
        self._crc = 0
        self._size = 0
        raw.write(_HEADER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()

    def deflated(self, data: bytes) -> None:
        """Write ``data`` deflated."""
        if self._deflate is None:
            # A new one each time: its window must not reach back over the stored bytes, which it has not seen.
            self._deflate = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
        self._count(data)
        self._raw.write(self._deflate.compress(data))

    def stored(self, data: bytes) -> None:
        """Write ``data`` as it is, in blocks of at most 65,535 bytes."""
        if self._deflate is not None:
            self._raw.write(self._deflate.flush(isal_zlib.Z_SYNC_FLUSH))  # ends on a whole byte
            self._deflate = None
        self._count(data)
        view = memoryview(data)
        for start in range(0, len(view), STORED_BLOCK):
            block = view[start : start + STORED_BLOCK]
            self._raw.write(struct.pack("<BHH", 0, len(block), len(block) ^ 0xFFFF))
            self._raw.write(block)

    def _count(self, data: bytes) -> None:
        self._crc = isal_zlib.crc32(data, self._crc)
        self._size += len(data)

    def _close(self) -> None:
        last = b"\x01\x00\x00\xff\xff" if self._deflate is None else self._deflate.flush(isal_zlib.Z_FINISH)
        self._raw.write(last + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))


def shrinks(sample: bytes, to: float) -> bool:
    """Say whether deflating ``sample`` leaves less than the share ``to`` of it."""
    return len(isal_zlib.compress(sample, LEVEL, -isal_zlib.MAX_WBITS)) < to * len(sample)
