# SPDX-License-Identifier: Apache-2.0
"""Start or go on with a training run; what `dreamlab toybox train` and `python -m dreamlab.toybox.training` do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from dreamlab.core.errors import InputError
from dreamlab.signals import catching
from dreamlab.toybox.training.trainer import STATE, Folder, Trainer, new_plan, train


def start(
    out: Path,
    *,
    role: str = "image",
    minutes: float = 180.0,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = False,
    changes: Mapping[str, int | float] | None = None,
) -> int:
    """Train until the plan's end, the time, or a signal; the exit code. `changes` are fields of the plan."""
    if threads:
        torch.set_num_threads(threads)
    given = {name: value for name, value in (changes or {}).items() if not (resume and name == "seed")}
    folder = Folder(out)
    if resume:
        plan, words = folder.resumed(**given)
    elif (out / STATE).exists():
        raise InputError(f"{out}: holds a run already; add --resume, or choose another --out")
    else:
        plan, words = new_plan(device, role=role, **given)
    folder.start(plan)
    trainer = Trainer(plan, words, device)
    folder.restore(trainer)
    with catching() as stop:
        train(trainer, folder, minutes, lambda: stop.requested)
    return stop.exit_code if stop.requested else 0
