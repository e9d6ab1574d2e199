# SPDX-License-Identifier: Apache-2.0
"""Points as text: x y z on a line, what follows on it is left."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.files import read_bytes

MOST_FILE = 32 << 20
MOST_POINTS = 200_000
FAR = 1e6


def read_points(path: Path) -> Tensor:
    """[N, 3] of a text file; InputError in one line names the line that is none."""
    try:
        lines = read_bytes(path, "points", MOST_FILE).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"points {path}: not UTF-8 text (byte {error.start})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(_row(line, f"points {path}:{number}"))
    if not 1 <= len(rows) <= MOST_POINTS:
        raise InputError(f"points {path}: {len(rows)} points; 1 to {MOST_POINTS} lines of x y z are read")
    return torch.tensor(rows)


def _row(line: str, where: str) -> list[float]:
    try:
        x, y, z = (float(word) for word in line.split()[:3])
    except ValueError:
        raise InputError(f"{where}: {line[:40]!r} is not x y z") from None
    if not all(math.isfinite(value) and abs(value) <= FAR for value in (x, y, z)):
        raise InputError(f"{where}: {line[:40]!r} is not a place within {FAR:g} metres")
    return [x, y, z]
