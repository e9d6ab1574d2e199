# SPDX-License-Identifier: Apache-2.0
"""Blocks that are taken and given back again and again cost the kernel pages once, not every time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from dreamlab.core.allocator import keep_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert keep_memory()
def work():
    for _ in range(10):
        [torch.ones(4 << 20) for _ in range(6)]  # 16 MiB each, all of them at once
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
    assert counts["plain"] > 20_000 and counts["kept"] < 200, counts
