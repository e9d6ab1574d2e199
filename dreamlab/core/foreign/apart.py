# SPDX-License-Identifier: Apache-2.0
"""Other people's parsers in a process of their own, with bounded memory and time; arrays come back as safetensors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from dreamlab.core.errors import InputError

SECONDS = 120
MEMORY = 4 << 30  # bytes of address space
REFUSED, NO_MEMORY = 3, 5  # how the child ends when it says why, and when memory ran out
_ROOT = Path(__file__).parents[3]


def parsed(kind: str, path: Path, what: str, seconds: float = SECONDS) -> dict[str, np.ndarray]:
    """What `child.PARSERS[kind]` finds in a file; InputError in one line if it is none, or too much."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    # -P: a module of the folder that the command is called in must not stand in for one of ours.
    command = [sys.executable, "-P", "-m", "dreamlab.core.foreign.child", kind, str(path.absolute())]
    library = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = os.environ | one | {"PYTHONPATH": library, "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise InputError(f"{what} {path}: not read after {seconds:.0f} s; save it smaller or simpler") from None
    if done.returncode == REFUSED:
        raise InputError(f"{what} {path}: {done.stderr.decode('utf-8', 'replace').strip()}")
    if done.returncode == NO_MEMORY:
        raise InputError(f"{what} {path}: reading it takes more than {MEMORY >> 30} GiB; save it smaller or simpler")
    try:
        if done.returncode == 0:
            return dict(load(done.stdout))
    except SafetensorError:
        pass
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    said = f"exit code {done.returncode}" + "".join(f", {line[:200]}" for line in last)
    raise InputError(f"{what} {path}: the program that reads it failed ({said}); is the file damaged?")
