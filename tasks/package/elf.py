"""Shared objects without what no loader maps: symbol tables and debug information, which can be most of the file.

``strip`` does as much, but its output differs with its version, and it is not on every machine. What stands in the
file beside the segments of the program header is read by debuggers alone (System V ABI, chapter 5: "Program Loading"),
so it is cut off at the end, and made zeros, which deflate to nothing, where segments follow it.
"""

import struct

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian: x86-64 and aarch64
_SHARED = 3
_SECTIONS = 0x3A  # e_shentsize, e_shnum, e_shstrndx


def mapped_part(content: bytes) -> bytes:
    """Return a shared object without what is never loaded; anything else comes back as it is."""
    if not content.startswith(_MAGIC) or struct.unpack_from("<H", content, 16) != (_SHARED,):
        return content
    (table,) = struct.unpack_from("<Q", content, 0x20)
    entry, count = struct.unpack_from("<HH", content, 0x36)
    kept = [(0, 64), (table, table + entry * count)]
    for index in range(count):
        offset, _, _, size = struct.unpack_from("<QQQQ", content, table + index * entry + 8)
        kept.append((offset, offset + size))
    end = max(stop for _, stop in kept)
    if end > len(content):  # cut; the loader will say so
        return content
    slim = bytearray(end)
    for start, stop in kept:
        slim[start:stop] = content[start:stop]
    struct.pack_into("<Q", slim, 0x28, 0)  # e_shoff: there are no sections any more
    struct.pack_into("<HHH", slim, _SECTIONS, 0, 0, 0)
    return bytes(slim)
