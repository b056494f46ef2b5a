"""Memory that the C library keeps between two steps of a training on the CPU."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# glibc, malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_DEFAULT_TRIM, _DEFAULT_MMAPS = 128 * 1024, 65536


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have glibc keep freed memory for the length of the block, instead of giving large tensors back to the kernel.

    Otherwise every large activation and gradient is mapped anew in every step, and the kernel clears each of its pages:
    at flan-t5-base's shape that is a fifth of the CPU time of a step. What is kept goes back at the end of the block.
    Nothing is done where the C library is another one.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_MAX, _DEFAULT_MMAPS)
        library.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
