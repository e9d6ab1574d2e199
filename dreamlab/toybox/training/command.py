# SPDX-License-Identifier: Apache-2.0
"""Start or go on with a training run: what `dreamlab toybox train` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.run.signals import catching
from dreamlab.toybox.training import hollow, reader, student
from dreamlab.toybox.training.trainer import STATE, Folder, Trainer, new_plan, train
from guidance.toybox.prior import folder_of
from guidance.toybox.store import load

SHIPPED_PRIOR = "toybox"  # what other roles start from
READER, STUDENT, HOLLOW = "reader", "student", "hollow"  # not roles of the prior, but trained beside it
LATENT = ("sd-vae", "mv", "sd", "sd-control")  # of the small Stable Diffusion, see `dreamlab.toybox.training.sd`


def begin(
    out: Path,
    *,
    role: str = "image",
    minutes: float = 180.0,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = False,
    start: str = SHIPPED_PRIOR,
    changes: Mapping[str, int | float] | None = None,
) -> int:
    """Train until the plan's end, the time, or a signal; the exit code. `changes` are fields of the plan;
    another role than image starts from the prior `start`."""
    if threads:
        torch.set_num_threads(threads)
    given = {name: value for name, value in (changes or {}).items() if not (resume and name == "seed")}
    if role == READER:
        if torch.device(device).type != "cpu":
            raise RecipeError(f"--device {device}: the reader is trained on the CPU, in 20 minutes; leave out --device")
        other = None if start == SHIPPED_PRIOR else folder_of(start)
        return reader.begin(out, minutes=minutes, resume=resume, changes=given, start=other)
    if role == STUDENT:
        if torch.device(device).type != "cpu":
            raise RecipeError(f"--device {device}: the student is trained on the CPU; leave out --device")
        return student.begin(out, minutes=minutes, resume=resume, start=start, changes=given)
    if role == HOLLOW:
        if torch.device(device).type != "cpu":
            raise RecipeError(f"--device {device}: the insides are learnt on the CPU, in minutes; leave out --device")
        return hollow.begin(out, minutes=minutes, resume=resume, changes=given)
    if role in LATENT:
        if torch.device(device).type != "cpu":
            raise RecipeError(f"--device {device}: --role {role} is trained on the CPU; leave out --device")
        from dreamlab.toybox.training.sd import command

        return command.begin(out, role, minutes=minutes, resume=resume, start=start, changes=given)
    folder = Folder(out)
    if resume:
        plan, words = folder.resumed(**given)
    elif (out / STATE).exists():
        raise InputError(f"{out}: holds a run already; add --resume, or choose another --out")
    else:
        stored = None if role == "image" else load(folder_of(start))
        plan, words = new_plan(device, role, stored, **given)
    folder.start(plan)
    trainer = Trainer(plan, words, device)
    if not resume and stored is not None:
        trainer.start_from(stored)
    folder.restore(trainer)
    with catching() as stop:
        train(trainer, folder, minutes, lambda: stop.requested)
    return stop.exit_code if stop.requested else 0
