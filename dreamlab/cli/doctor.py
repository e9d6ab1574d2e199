# SPDX-License-Identifier: Apache-2.0
"""`dreamlab doctor`: what this machine can do, and what to do about what it cannot. Nothing leaves the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from cuda_ext.packages import PACKAGES, able, lacking
from dreamlab.cli.trials import PACKAGE, remembered
from dreamlab.core.errors import OutOfMemory
from dreamlab.core.programs import INSTALL_PACKER, blender, lacking_blender, packer

NEEDED = (
    *("torch", "numpy", "scipy", "safetensors", "PyYAML", "omegaconf", "trimesh", "rich", "typer"),
    *("scikit-image", "fast-simplification", "pillow", "imageio-ffmpeg"),
)
OPTIONAL = {
    "diffusers": "pretrained models, which this version has not",
    "transformers": "CLIP scores",
    "uvunwrap": "more even texture coordinates",
    "open3d-cpu": "scene.surface: open3d",
    "usd-core": "USD files as a start",
}
STUDIO_PORT = 7860
WEIGHTS = (PACKAGE / "guidance" / "weights", PACKAGE / "dreamlab" / "metrics" / "weights")
TRIAL_S = 120


def examine(again: bool = False) -> Iterator[str]:
    """Lines that start with ok, note or fix; those that need no torch come first. `again`: kernels are tried even if
    nothing of theirs has changed."""
    for part in (_software, packages, programs, _room, lambda: weights(WEIGHTS), _disk, _port):
        yield from part()
    from cuda_ext.build import cache_folder

    yield from remembered(cache_folder(), lambda: [*_devices(), *_kernels()], again)


def _software() -> list[str]:
    from dreamlab import __version__

    lines = [f"ok    dreamlab {__version__}, Python {platform.python_version()} on {platform.platform()}"]
    for name in (*NEEDED, *OPTIONAL):
        try:
            lines.append(f"ok    {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing = f"fix   {name} is missing: pip install -c constraints.txt {name}"
            lines.append(f"note  {name} is not installed ({OPTIONAL[name]})" if name in OPTIONAL else missing)
    return lines


def packages() -> list[str]:
    """Packages that scenes may name as their backend, each with its licence."""
    from renderers import OPS

    lines = []
    for name, package in PACKAGES.items():
        use = f"`backend: {name}` of {', '.join(kind for kind, ops in OPS.items() if name in able(*ops))}"
        reason = lacking(name)
        said = f"note  {name}: {reason}" if reason else f"ok    {name}: licence {package.licence}; needs CUDA"
        lines.append(f"{said}; for {use}")
    return lines


def programs() -> list[str]:
    """Programs of others that some exports go through."""
    found, packs = blender(), packer()
    return [
        f"ok    formats fbx, abc, blend: through {found}"
        if found
        else f"note  formats fbx, abc, blend: {lacking_blender()}",
        f"ok    preset web: packed by {packs}" if packs else f"note  preset web packs nothing: {INSTALL_PACKER}",
    ]


def _room() -> list[str]:
    from dreamlab.cli.app import check_room

    try:
        check_room()
    except OutOfMemory as error:
        return [f"fix   memory: {error}"]
    return []


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
    """Whether each native op is built, and does as its twin does."""
    import torch

    from cuda_ext import build
    from dreamlab.cli.trial import TRIALS

    lines, built = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason is in the line below
        for op in build.operations():
            if build.library(op) is not None:
                built.append(op)
            else:
                lines.append(f"fix   native {op}: {build.why_not(op).splitlines()[0]}; its torch twin runs, slower")
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            where = build.machine_isa() if device == "cpu" else device
            there = [op for op in built if device == "cpu" or (build.SOURCES / f"{op}_cuda.cu").exists()]
            twins = [op for op in there if op in TRIALS]  # the others are baselines of benches, which no recipe uses
            for op, wrong in (dict.fromkeys(there, "") | tried(twins, device)).items():
                advice = f"{wrong}: a defect of ours; until it is mended, `backend: torch` of a scene avoids it"
                lines.append(f"fix   native {op} ({where}): {advice}" if wrong else f"ok    native {op} ({where})")
    return lines


def tried(ops: Sequence[str], device: str) -> dict[str, str]:
    """What is wrong with each op, "" if nothing is; in a child, which a kernel that crashes takes along. Another child
    goes on with the ops after it."""
    found: dict[str, str] = {}
    library = os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH"))))
    while left := [op for op in ops if op not in found]:
        command = [sys.executable, "-P", "-m", "dreamlab.cli.trial", device, *left]
        try:
            done = subprocess.run(
                command, env=os.environ | {"PYTHONPATH": library}, capture_output=True, text=True, timeout=TRIAL_S
            )
            out, ends = done.stdout, f"ends its process (exit code {done.returncode})"
        except subprocess.TimeoutExpired as error:
            out, ends = (error.stdout or b"").decode(), f"is not done after {TRIAL_S} s"
        found |= dict(json.loads(line) for line in out.splitlines() if line.startswith("["))
        left = [op for op in ops if op not in found]
        found |= {left[0]: ends} if left else {}
    return found


def weights(folders: Sequence[Path]) -> list[str]:
    """Whether the shipped weights are what was shipped, to the bit."""
    from dreamlab.core import digests

    lines = []
    for folder in folders:
        found = digests.wrong(folder)
        for name, wrong in found.items():
            again = "install dreamlab again (pip install --force-reinstall --no-deps), or in a clone: git checkout"
            lines.append(f"fix   weights: {folder / name} {wrong}; {again} -- {folder}")
        if not found:
            lines.append(f"ok    weights: {folder.parent.name}, {len(digests.held(folder))} files as they were shipped")
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
