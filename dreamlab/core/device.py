# SPDX-License-Identifier: Apache-2.0
"""The device that a run is asked to use, before anything is built for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamlab.core.errors import InputError, RecipeError

if TYPE_CHECKING:
    import torch


def known_device(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`, if this machine has it."""
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and number.isdigit())):
        raise RecipeError(f"--device {name!r}: cpu or cuda (cuda:N for one of several)")
    import torch  # which takes longer than to see that a name is none

    if kind == "cuda" and not torch.cuda.is_available():
        build = "this torch has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise InputError(f"--device cuda: {build}; use --device cpu, or see `dreamlab doctor`")
    if number and int(number) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    return torch.device(name)
