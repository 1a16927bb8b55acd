"""Keep the C library from giving large buffers back to the system after every operation."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
LIMIT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Reuse freed blocks of up to 1 GiB; True where the C library can be told so (glibc).

    By default glibc maps every block above 32 MiB anew and unmaps it when freed, so training on the
    CPU pays a page fault for each 4 KiB of each activation in each step.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    trimmed, mapped = (
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1),
        libc.mallopt(M_MMAP_THRESHOLD, LIMIT_BYTES),
    )
    return bool(trimmed and mapped)
