# SPDX-License-Identifier: Apache-2.0
"""Builds an op's CPU code at first use: one plain C library per `csrc/<op>_cpu.cpp`, cached by content.

The name of a library is a hash of its source, of every header it includes, of the flags and of the compiler, so a
stale one is never loaded and nothing is ever deleted under a running process. It is compiled under a temporary
name and renamed: two processes that build at once both succeed. One library is built per instruction set; the
machine that loads it picks its own, so a cache shared by different machines is safe. Nothing is loaded that another
user may have written.

`python -m cuda_ext.build [--isa NAME|all]` builds ahead.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlab.core.errors import RecipeError

if TYPE_CHECKING:  # to find the cache needs no torch
    from torch import Tensor

SOURCES = Path(__file__).parent / "csrc"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-w")
ISAS: dict[str, tuple[str, ...]] = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "portable": (),
}


def machine_isa() -> str:
    """The widest instruction set this machine and torch agree on; DREAMLAB_ISA overrides it."""
    asked = os.environ.get("DREAMLAB_ISA")
    if asked:
        if asked not in ISAS:
            raise RecipeError(f"DREAMLAB_ISA={asked} is not one of {', '.join(ISAS)}; unset it for this machine's own")
        return asked
    import torch

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "portable"
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "portable")


def cache_folder() -> Path:
    """$DREAMLAB_CACHE, else the user's cache folder; a private temporary one where that is not this user's alone."""
    base = os.environ.get("DREAMLAB_CACHE")
    if base is None and sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches" / "dreamlab")
    if base is None:
        base = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamlab")
    folder = Path(base) / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = foreign(folder) or ("" if os.access(folder, os.W_OK) else f"{folder} cannot be written")
    except OSError:
        reason = f"{folder} cannot be written"
    return _private_folder(reason) if reason else folder


def foreign(path: Path) -> str:
    """One line that says why another user may have made or changed a file or folder; empty when none can have."""
    if os.name != "posix":
        return ""
    found = path.stat()
    if found.st_uid != os.geteuid():
        return f"{path} belongs to another user"
    return f"{path} can be written by others (chmod go-w)" if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def place(name: str) -> Path:
    """Where a compiled file is or belongs: in the cache, or in a private folder when the one there is not ours."""
    path = cache_folder() / name
    reason = foreign(path) if path.exists() else ""
    return _private_folder(reason) / name if reason else path


@functools.cache
def _private_folder(reason: str) -> Path:
    warnings.warn(f"{reason}: native code is rebuilt in every process; set DREAMLAB_CACHE", stacklevel=4)
    return Path(tempfile.mkdtemp(prefix="dreamlab-native-"))


@functools.cache
def compiler() -> tuple[str, str] | None:
    """(path, version line) of the host compiler: $CXX or the first found of COMPILERS."""
    for name in filter(None, (os.environ.get("CXX"), *COMPILERS)):
        path = shutil.which(name)
        if path is None:
            continue
        answer = subprocess.run([path, "--version"], capture_output=True, text=True)
        if answer.returncode == 0:
            return path, answer.stdout.splitlines()[0]
    return None


def included(source: Path) -> list[Path]:
    """`source` and every file it includes by a quoted name, in a fixed order."""
    seen: dict[Path, None] = {}
    todo = [source]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen[path] = None
        names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        todo += [path.parent / name for name in names if (path.parent / name).exists()]
    return sorted(seen)


def content_key(files: list[Path], *words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def operations() -> list[str]:
    return sorted(path.name.removesuffix("_cpu.cpp") for path in SOURCES.glob("*_cpu.cpp"))


def build(op: str, isa: str | None = None) -> Path:
    """The library of `op`, compiled if it is not in the cache. Raises RuntimeError that says what to do."""
    isa = isa or machine_isa()
    found = compiler()
    if found is None:
        raise RuntimeError("no C++ compiler found: install g++ or clang++, or set CXX")
    path, version = found
    source = SOURCES / f"{op}_cpu.cpp"
    flags = (*FLAGS, *ISAS[isa])
    target = place(f"{op}-{isa}-{content_key(included(source), version, platform.machine(), *flags)}.so")
    if target.exists():
        return target
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{op}-", suffix=".tmp")
    os.close(handle)
    try:
        command = [path, *flags, str(source), "-o", temporary, "-lm"]
        answer = subprocess.run([*command, "-fopenmp"], capture_output=True, text=True)
        if answer.returncode and "openmp" in answer.stderr.lower():  # Apple's clang: one thread is better than none
            answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{answer.stderr[:2000]}")
        Path(temporary).chmod(0o755)  # whatever the umask: a library that a group can write is not loaded again
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


@functools.cache
def library(op: str) -> ctypes.CDLL | None:
    """The loaded library of `op`, or None (with one warning) when it cannot be built; see `why_not`."""
    try:
        return ctypes.CDLL(str(build(op)))
    except (RuntimeError, OSError) as error:
        _reasons[op] = str(error)
        warnings.warn(f"native {op} is not available, its torch twin runs instead (slower): {error}", stacklevel=2)
        return None


_reasons: dict[str, str] = {}


def why_not(op: str) -> str:
    """Why `library(op)` is None."""
    return _reasons.get(op, "")


def pointer(tensor: Tensor | None) -> int | None:
    """What a C function gets for a tensor; absent tensors are null. The tensor must be contiguous and stay alive."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def address(tensor: Tensor | None) -> int | None:
    """The same for one whose strides the C function is told."""
    return None if tensor is None else tensor.data_ptr()


def threads() -> int:
    """Thread count handed to every launcher: what torch uses."""
    import torch

    return torch.get_num_threads()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cuda_ext.build", description="Build the native CPU ops ahead.")
    parser.add_argument("--isa", choices=[*ISAS, "all"], default=None, help="instruction set (default: this machine's)")
    parser.add_argument("ops", nargs="*", metavar="op", help=f"default: all ({', '.join(operations())})")
    options = parser.parse_args()
    if unknown := set(options.ops) - set(operations()):
        parser.error(f"no op {sorted(unknown)[0]!r}; ops are {', '.join(operations())}")
    try:
        isas = list(ISAS) if options.isa == "all" else [options.isa or machine_isa()]
    except RecipeError as error:
        parser.error(str(error))
    jobs = [(op, name) for op in options.ops or operations() for name in isas]
    start = time.perf_counter()
    failed = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for job, future in [(job, pool.submit(build, *job)) for job in jobs]:
            try:
                print(future.result())
            except RuntimeError as error:
                failed += 1
                print(f"{'/'.join(job)}: {error}", file=sys.stderr)
    print(f"{len(jobs) - failed} of {len(jobs)} built in {time.perf_counter() - start:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
