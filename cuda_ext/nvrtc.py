# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels without a toolkit: NVRTC compiles `csrc/<op>_cuda.cu` at first use, the driver launches it.

NVRTC comes with torch's CUDA wheels (package nvidia-cuda-nvrtc); everything is reached through ctypes and nothing
is loaded before the first kernel is asked for. Cubins are cached by content hash and architecture next to the CPU
libraries. A GPU newer than this NVRTC gets PTX for the newest architecture it knows, which the driver compiles.
NVRTC sees no system headers, so `csrc/*.h` include none when `__CUDACC_RTC__` is defined.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from cuda_ext import build

OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--fmad=true", "-lineinfo")


def unavailable(op: str, device_index: int | None = None) -> str:
    """One line that says why CUDA kernels of `op` cannot run on a device; empty when they can."""
    if not (build.SOURCES / f"{op}_cuda.cu").exists():
        return f"{op} has no CUDA kernels"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return _failure(op, torch.cuda.current_device() if device_index is None else device_index)


@functools.cache
def _failure(op: str, device_index: int) -> str:
    """Why the kernels of `op` do not compile or load for a device, with one warning; they are loaded by this."""
    try:
        _module(op, device_index)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"CUDA {op} is not available, its torch twin runs instead (slower): {reason}", stacklevel=2)
        return reason
    return ""


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


def target(lib: ctypes.CDLL, capability: tuple[int, int]) -> str:
    """What to compile for: "sm_90" where this NVRTC knows the GPU, else PTX of the newest older one, "compute_90"."""
    count = ctypes.c_int()
    lib.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    lib.nvrtcGetSupportedArchs(known)
    wanted = 10 * capability[0] + capability[1]
    older = [arch for arch in known if arch <= wanted]
    if not older:
        raise RuntimeError(
            f"{compiler_version(lib)} knows sm_{min(known, default=0)} and newer, the GPU is sm_{wanted}; "
            "install an older nvidia-cuda-nvrtc"
        )
    return f"sm_{wanted}" if wanted in older else f"compute_{max(older)}"


def compile_for(op: str, capability: tuple[int, int]) -> bytes:
    """The kernels of `op` for a GPU, a cubin or PTX."""
    return compile_cubin(op, target(_compiler(), capability))


def _compiler() -> ctypes.CDLL:
    lib = compiler_library()
    if lib is None:
        raise RuntimeError("libnvrtc was not found (pip install nvidia-cuda-nvrtc)")
    return lib


def compile_cubin(op: str, arch: str) -> bytes:
    """The kernels of `op` for `arch` (e.g. "sm_90", or "compute_90" for PTX), from the cache or compiled now."""
    source = build.SOURCES / f"{op}_cuda.cu"
    files = build.included(source)
    lib = _compiler()
    place = build.place(f"{op}-{arch}-{build.content_key(files, arch, compiler_version(lib), *OPTIONS)}.cubin")
    if place.exists():
        return place.read_bytes()
    cubin = _compile(lib, source, [path for path in files if path != source], arch)
    with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
        file.write(cubin)
    Path(file.name).replace(place)
    return cubin


def compiler_version(lib: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    if lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)):
        raise RuntimeError("libnvrtc does not tell its version")
    return f"nvrtc {major.value}.{minor.value}"


def _compile(lib: ctypes.CDLL, source: Path, headers: list[Path], arch: str) -> bytes:
    def check(code: int) -> None:
        if code:
            lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            what, said = lib.nvrtcGetErrorString(code).decode(), log()
            first = next((line.strip() for line in said.splitlines() if "error" in line), "")
            raise RuntimeError(f"NVRTC, {source.name} for {arch}: {what} {first}\n{said}")

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
        if arch.startswith("compute_"):
            return text(lib.nvrtcGetPTXSize, lib.nvrtcGetPTX)
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
    module, handle = _module(op, device_index), ctypes.c_void_p()
    with torch.cuda.device(device_index):
        _call("cuModuleGetFunction", ctypes.byref(handle), module, kernel.encode())
    return handle


@functools.cache
def _module(op: str, device_index: int) -> ctypes.c_void_p:
    """The kernels of `op`, for the device's architecture, in its primary context."""
    code, module = compile_for(op, torch.cuda.get_device_capability(device_index)), ctypes.c_void_p()
    if torch.cuda.is_current_stream_capturing():
        raise ValueError(f"{op}: its kernels are not loaded yet; run it once before capturing a graph")
    with torch.cuda.device(device_index):
        torch.cuda.current_stream().synchronize()  # makes sure the primary context is current
        try:
            _call("cuModuleLoadData", ctypes.byref(module), code)
        except RuntimeError as error:
            raise RuntimeError(f"{error} ({op}, {compiler_version(_compiler())}, {_driver_version()})") from None
    return module


def _driver_version() -> str:
    version = ctypes.c_int()
    driver().cuDriverGetVersion(ctypes.byref(version))
    return f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"


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
