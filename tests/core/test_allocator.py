# SPDX-License-Identifier: Apache-2.0
"""Blocks that are taken and given back again and again cost the kernel pages once, not every time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from dreamlab.core.allocator import keep_memory
c, size = ctypes.CDLL(None), 24 << 20
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "kept":
    assert keep_memory()
def work():
    for _ in range(5):
        blocks = [c.malloc(size) for _ in range(6)]
        for block in blocks:
            ctypes.memset(block, 1, size)
        for block in reversed(blocks):
            c.free(block)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_pages_are_asked_for_once() -> None:
    counts = {}
    for way in ("plain", "kept"):
        done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
        counts[way] = int(done.stdout)
    assert counts["plain"] > 50_000 and counts["kept"] < 200, counts
