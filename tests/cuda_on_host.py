# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels without a GPU: the host compiler takes the same `.cu` files, and `launch` runs them as
`cuda_ext.nvrtc.launch` does on a device.

That checks indexing, launch sizes, barriers and arithmetic; not streams, the memory model or what atomics do to sums.
"""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from cuda_ext import build

HEADER = Path(__file__).parent / "cuda_on_host.h"
KERNEL = re.compile(r'extern "C" __global__ void\s*(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(')


WATCHED = ("-DCUDA_TRAFFIC", "-fsanitize=thread", "-fno-tree-slp-vectorize", "-fno-tree-vectorize")


@functools.cache
def library(op: str, watched: bool = False) -> ctypes.CDLL:
    """The kernels of `op` as C functions host_<kernel>(grid, threads, arguments); `watched` by cuda_traffic.h."""
    compiler = build.compiler()
    if compiler is None:
        pytest.skip("no host compiler")
    source = build.SOURCES / f"{op}_cuda.cu"
    text = source.read_text()
    kernels = KERNEL.findall(text)
    assert len(kernels) == text.count('extern "C" __global__')
    together = str("__sync" in text or "_sync(" in text).lower()
    # common.h first: its own definitions for the host hold, the CUDA words come after.
    lines = ['#include "common.h"', f'#include "{HEADER}"', f'#include "{source}"']
    for kernel in kernels:
        arguments = "const unsigned* grid, unsigned threads, void** a"
        body = f"host::launch<{kernel}>({kernel}, grid, threads, a, {together});"
        lines.append(f'extern "C" __attribute__((visibility("default"))) void host_{kernel}({arguments}) {{ {body} }}')
    folder = Path(tempfile.mkdtemp(prefix="cuda-on-host-"))
    (folder / f"{op}.cpp").write_text("\n".join(lines))
    flags = ["-std=c++17", "-O2", "-w", "-fPIC", "-fno-strict-aliasing", "-fvisibility=hidden", "-U_FORTIFY_SOURCE"]
    flags += WATCHED * watched
    compiled = [
        compiler[0],
        *flags,
        "-c",
        f"-I{build.SOURCES}",
        str(folder / f"{op}.cpp"),
        "-o",
        str(folder / f"{op}.o"),
    ]
    linked = [compiler[0], "-shared", str(folder / f"{op}.o"), "-o", str(folder / f"{op}.so")]
    for command in (compiled, linked):  # apart: the sanitizer's own library is not wanted
        answer = subprocess.run(command, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr[:3000]
    return ctypes.CDLL(str(folder / f"{op}.so"))


def launch(
    op: str,
    kernel: str,
    device: torch.device,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    arguments: list[Any],
    shared_bytes: int = 0,
) -> None:
    """As `nvrtc.launch`. `arguments` are ctypes values."""
    del device
    assert block[1:] == (1, 1) and grid[2] == 1 and shared_bytes == 0
    if min(grid) == 0:
        return
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    run = getattr(library(op, _watching is not None), f"host_{kernel}")
    if _watching is not None:
        _watching.begin(library(op, True))
    run((ctypes.c_uint * 3)(*grid), ctypes.c_uint(block[0]), pointers)
    if _watching is not None:
        _watching.end(library(op, True), kernel)


class Counts(ctypes.Structure):
    """`Counts` of cuda_traffic.h: by what was done (read, write, add) unless said."""

    _fields_ = [
        *((name, ctypes.c_int64 * 3) for name in ("requests", "sectors", "bytes", "fresh")),
        ("shared", ctypes.c_int64),
        ("rounds", ctypes.c_int64),
    ]

    def moved(self, name: str = "fresh") -> int:
        """Bytes read, written and added to."""
        return sum(getattr(self, name)) * (32 if name == "sectors" else 1)


class Traffic:
    """What kernels have asked of the memory, each launch by itself."""

    def __init__(self, memory: Callable[[], list[tuple[int, int]]]) -> None:
        self.memory = memory  # ranges of the device's memory: [first, end)
        self.launches: list[tuple[str, Counts]] = []

    def begin(self, lib: ctypes.CDLL) -> None:
        flat = [address for pair in self.memory() for address in pair]
        lib.host_traffic_begin((ctypes.c_size_t * len(flat))(*flat), ctypes.c_int64(len(flat) // 2))

    def end(self, lib: ctypes.CDLL, kernel: str) -> None:
        self.launches.append((kernel, Counts()))
        lib.host_traffic_end(ctypes.byref(self.launches[-1][1]))

    def of(self, kernel: str) -> Counts:
        (found,) = [counts for name, counts in self.launches if name == kernel]
        return found


_watching: Traffic | None = None


@contextmanager
def traffic(memory: Callable[[], list[tuple[int, int]]]) -> Iterator[Traffic]:
    """Kernels launched in the block are watched (ten times slower)."""
    global _watching
    _watching = Traffic(memory)
    try:
        yield _watching
    finally:
        _watching = None
