# SPDX-License-Identifier: Apache-2.0
"""Memory that a step gives back is kept for the next: glibc otherwise returns large blocks to the system at once, and
every page that comes back is filled with zeros by the kernel, thousands of them a step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT = 512 << 20  # bytes free at the top of the heap before any is given back
LARGEST = 32 << 20  # bytes of a block that still comes from the heap; the most that glibc takes here


def keep_memory() -> bool:
    """For this process and those it forks; false where the C library has no such thing."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_MMAP_THRESHOLD, LARGEST))
