# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels without a toolkit: NVRTC compiles `csrc/<op>_cuda.cu` at first use, the driver launches it.

NVRTC comes with torch's CUDA wheels (package nvidia-cuda-nvrtc); everything is reached through ctypes and nothing
is loaded before the first kernel is asked for. Cubins are cached by content hash and architecture next to the CPU
libraries. NVRTC sees no system headers, so `csrc/*.h` include none when `__CUDACC_RTC__` is defined.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from cuda_ext import build

OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--fmad=true", "-lineinfo")


def unavailable(op: str) -> str:
    """One line that says why CUDA kernels of `op` cannot run; empty when they can."""
    if not (build.SOURCES / f"{op}_cuda.cu").exists():
        return f"{op} has no CUDA kernels"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return "" if compiler_library() is not None else "libnvrtc was not found (pip install nvidia-cuda-nvrtc)"


@functools.cache
def compiler_library() -> ctypes.CDLL | None:
    """libnvrtc, from the wheel next to torch or from the system."""
    names = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]
    try:
        import nvidia
    except ImportError:
        roots: list[str] = []
    else:
        roots = list(nvidia.__path__)
    for root in roots:
        folders = sorted(Path(root).glob("*/lib"))
        for folder in folders:
            # The compiler finds its built-ins by soname only: load them first.
            for built_in in sorted(folder.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(built_in), mode=ctypes.RTLD_GLOBAL)
        names = [str(path) for folder in folders for path in sorted(folder.glob("libnvrtc.so*"))] + names
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def compile_cubin(op: str, arch: str) -> bytes:
    """The kernels of `op` for `arch` (e.g. "sm_90"), from the cache or compiled now."""
    source = build.SOURCES / f"{op}_cuda.cu"
    files = build.included(source)
    target = build.cache_folder() / f"{op}-{arch}-{build.content_key(files, arch, *OPTIONS)}.cubin"
    if target.exists():
        return target.read_bytes()
    cubin = _compile(source, [path for path in files if path != source], arch)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(cubin)
    Path(file.name).replace(target)
    return cubin


def _compile(source: Path, headers: list[Path], arch: str) -> bytes:
    lib = compiler_library()
    if lib is None:
        raise RuntimeError("libnvrtc was not found: pip install nvidia-cuda-nvrtc")

    def check(code: int) -> None:
        if code:
            lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"NVRTC, {source.name}: {lib.nvrtcGetErrorString(code).decode()}\n{log()}")

    def text(size: Any, get: Any) -> bytes:
        length = ctypes.c_size_t()
        size(program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        get(program, buffer)
        return buffer.raw

    def log() -> str:
        return text(lib.nvrtcGetProgramLogSize, lib.nvrtcGetProgramLog).rstrip(b"\0").decode(errors="replace")

    program = ctypes.c_void_p()
    bodies = (ctypes.c_char_p * len(headers))(*(path.read_bytes() for path in headers))
    names = (ctypes.c_char_p * len(headers))(*(path.name.encode() for path in headers))
    check(
        lib.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), source.name.encode(), len(headers), bodies, names
        )
    )
    options = [f"--gpu-architecture={arch}", *OPTIONS]
    try:
        check(
            lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(os.fsencode, options)))
        )
        return text(lib.nvrtcGetCUBINSize, lib.nvrtcGetCUBIN)
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


@functools.cache
def driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: Any) -> None:
    code = getattr(driver(), name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"{name} failed: {(text.value or b'unknown error').decode()}")


@functools.cache
def function(op: str, kernel: str, device_index: int) -> ctypes.c_void_p:
    """The kernel `kernel` of `op`, loaded into the primary context torch uses on that device."""
    major, minor = torch.cuda.get_device_capability(device_index)
    with torch.cuda.device(device_index):
        torch.cuda.current_stream().synchronize()  # makes sure the primary context is current
        module, handle = _module(op, f"sm_{major}{minor}", device_index), ctypes.c_void_p()
        _call("cuModuleGetFunction", ctypes.byref(handle), module, kernel.encode())
    return handle


@functools.cache
def _module(op: str, arch: str, device_index: int) -> ctypes.c_void_p:
    del device_index  # part of the key: a module belongs to one context
    module = ctypes.c_void_p()
    _call("cuModuleLoadData", ctypes.byref(module), compile_cubin(op, arch))
    return module


def launch(
    op: str,
    kernel: str,
    device: torch.device,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    arguments: list[Any],
    shared_bytes: int = 0,
) -> None:
    """Launch on torch's current stream of `device`. `arguments` are ctypes values (structs, pointers, numbers)."""
    index = device.index if device.index is not None else torch.cuda.current_device()
    if min(grid) == 0:
        return
    handle = function(op, kernel, index)
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    stream = ctypes.c_void_p(torch.cuda.current_stream(index).cuda_stream)
    with torch.cuda.device(index):
        _call("cuLaunchKernel", handle, *grid, *block, shared_bytes, stream, pointers, None)
