# SPDX-License-Identifier: Apache-2.0
"""`dreamlab doctor`: what this machine can do, and what to do about what it cannot. Nothing leaves the machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import tempfile
import warnings
from pathlib import Path

PACKAGES = ("torch", "numpy", "diffusers", "transformers", "safetensors", "omegaconf", "trimesh", "gradio", "gsplat")
STUDIO_PORT = 7860


def examine() -> list[str]:
    """Lines that start with ok, note or fix."""
    return [*_software(), *_devices(), *_kernels(), *_disk(), *_port()]


def _software() -> list[str]:
    from dreamlab import __version__

    lines = [f"ok    dreamlab {__version__}, Python {platform.python_version()} on {platform.platform()}"]
    for name in PACKAGES:
        try:
            lines.append(f"ok    {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(
                f"note  {name} is not installed (optional)" if name in ("gradio", "gsplat") else _missing(name)
            )
    return lines


def _missing(name: str) -> str:
    return f"fix   {name} is missing: pip install -c constraints.txt {name}"


def _devices() -> list[str]:
    import torch

    threads = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    lines = [f"ok    CPU: {os.cpu_count()} cores, torch uses {threads}"]
    if torch.version.cuda is None:
        lines.append("note  CUDA: this torch is a CPU build; everything runs on the CPU")
    elif not torch.cuda.is_available():
        lines.append("fix   CUDA: torch has it but sees no device; check the driver with nvidia-smi")
    else:
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            lines.append(f"ok    CUDA {i}: {properties.name}, {properties.total_memory >> 30} GiB")
    return lines


def _kernels() -> list[str]:
    from cuda_ext import build

    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason is in the line below
        for op in build.operations():
            if build.library(op) is not None:
                lines.append(f"ok    native {op} ({build.machine_isa()})")
            else:
                lines.append(f"fix   native {op}: {build.why_not(op).splitlines()[0]}; its torch twin runs, slower")
    return lines


def _disk() -> list[str]:
    free = shutil.disk_usage(Path.cwd()).free >> 20
    word = "ok  " if free > 1024 else "fix "
    lines = [f"{word}  disk: {free} MiB free here; a run needs about 50 MiB"]
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            lines.append(f"ok    disk: {Path.cwd()} can be written")
    except OSError as error:
        lines.append(f"fix   disk: {Path.cwd()} cannot be written ({error.strerror}); use --out")
    return lines


def _port() -> list[str]:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", STUDIO_PORT))
        except OSError:
            return [f"note  port {STUDIO_PORT} on 127.0.0.1 is taken by another program"]
    return [f"ok    port {STUDIO_PORT} on 127.0.0.1 is free"]
