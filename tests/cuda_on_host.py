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
from pathlib import Path
from typing import Any

import pytest
import torch

from cuda_ext import build

HEADER = Path(__file__).parent / "cuda_on_host.h"
KERNEL = re.compile(r'extern "C" __global__ void\s*(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(')


@functools.cache
def library(op: str) -> ctypes.CDLL:
    """The kernels of `op` as C functions host_<kernel>(grid, threads, arguments)."""
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
    flags = ["-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE"]
    command = [compiler[0], *flags, f"-I{build.SOURCES}", str(folder / f"{op}.cpp"), "-o", str(folder / f"{op}.so")]
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
    getattr(library(op), f"host_{kernel}")((ctypes.c_uint * 3)(*grid), ctypes.c_uint(block[0]), pointers)
