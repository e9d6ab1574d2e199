# SPDX-License-Identifier: Apache-2.0
"""Start or go on with a training of the small Stable Diffusion: `dreamlab toybox train --role sd-vae|mv|sd|sd-control`.

sd-vae comes first; mv and sd start from its run (`--start RUN`), or from one another's or from what such a run was
exported to (`--start toybox-mv`: the shipped one), whose weights they take over.
An sd-vae run that starts from another trains its decoder alone, since the U-Nets know the latents of its encoder; and
sd-control starts from a run of sd or from toybox-sd, whose U-Net it leaves as it is.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlab.core import tensors
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.files import disk_errors, write_json
from dreamlab.hub import located
from dreamlab.hub.registry import registry
from dreamlab.run.signals import catching
from dreamlab.toybox.training.sd.control import BASE, ControlCourse
from dreamlab.toybox.training.sd.course import Course, CoursePlan
from dreamlab.toybox.training.sd.folder import INDEX, read_base, read_config, read_vae, write_vae
from dreamlab.toybox.training.sd.scenes import SIDES, draw_shelf
from dreamlab.toybox.training.sd.shapes import Model, new_vae
from dreamlab.toybox.training.sd.tokens import write_tokenizer
from dreamlab.toybox.training.sd.unet import UnetCourse, UnetPlan
from dreamlab.toybox.training.sd.vae import VaeCourse, VaePlan, encoded
from dreamlab.toybox.training.trainer import PLAN, STATE
from guidance.toybox.prior import folder_of

VAE_ROLE = "sd-vae"
VIEWS = {"mv": SIDES, "sd": 1}
CONTROL = "sd-control"


def begin(
    folder: Path, role: str, *, minutes: float, resume: bool, start: str, changes: Mapping[str, int | float]
) -> int:
    """The exit code."""
    missing = [name for name in ("diffusers", "transformers") if find_spec(name) is None]
    if missing:
        raise ModelError(f"--role {role} needs {' and '.join(missing)}; install the extra `models`")
    there = (folder / STATE).is_file()
    if resume and not there:
        raise InputError(f"{folder}: nothing to resume here (no {STATE}); leave out --resume to start")
    if there and not resume:
        raise InputError(f"{folder}: holds a run already; add --resume, or choose another --out")
    torch.set_num_threads(1)  # the lanes are the threads
    course = resumed(folder, role, changes) if resume else started(folder, role, place_of(start), changes)
    with catching() as stop:
        course.train(minutes, lambda: stop.requested)
    if isinstance(course, UnetCourse):
        course.export(folder / "pipeline")
    return stop.exit_code if stop.requested else 0


def place_of(start: str) -> Path:
    """A run's folder, or that of a model which comes with the package."""
    return located(start) if start in registry().models else folder_of(start)


def started(folder: Path, role: str, start: Path, changes: Mapping[str, int | float]) -> Course:
    with disk_errors("starting a run", folder):
        folder.mkdir(parents=True, exist_ok=True)
    former = read_plan(start) if (start / PLAN).is_file() else {}
    if role == VAE_ROLE:
        decoding = VaePlan(frozen=True, small_until=0, whole_after=0)
        return planned(folder, role, decoding if former else VaePlan(), changes, start)
    if role == CONTROL:
        scale = lay_base(folder / BASE, start, former)
        for part in ("vae", "tokenizer"):
            shutil.copytree(folder / BASE / part, folder / part, dirs_exist_ok=True)
        return planned(folder, role, UnetPlan(views=1, scale=scale), changes, start)
    weights: Mapping[str, Tensor] = {}
    if former.get("role") == VAE_ROLE:
        latents, scale = folder / "latents", hand_over(start, folder)
    elif former.get("role") in VIEWS:
        latents, scale, weights = Path(former["latents"]), former["scale"], averages(start)
    elif (start / INDEX).is_file():
        latents, scale = folder / "latents", read_config(start / "vae")["scaling_factor"]
        weights = read_base(start).state_dict()
    else:
        raise InputError(
            f"--start {start}: --role {role} starts from the run folder of {', '.join((VAE_ROLE, *VIEWS))}, or from "
            "toybox-mv"
        )
    for part in ("vae", "tokenizer") if weights else ():
        shutil.copytree(start / part, folder / part, dirs_exist_ok=True)
    texts = 0 if weights else UnetPlan.texts  # who starts from another's U-Net understands what it was told
    plan = UnetPlan(views=VIEWS[role], scale=scale, latents=str(latents.resolve()), texts=texts)
    course = planned(folder, role, plan, changes, start)
    if weights:
        take_over(course, weights, start)
    return course


def lay_base(folder: Path, start: Path, former: Mapping[str, Any]) -> float:
    """The pipeline that a control network stands beside, from a run of sd or from such a folder; its latents' scale."""
    if former.get("role") == "sd":
        base = resumed(start, "sd", {})
        assert isinstance(base, UnetCourse)
        base.export(folder)
    elif (start / INDEX).is_file() and not read_config(start / "unet").get("class_embed_type"):
        shutil.copytree(start, folder, dirs_exist_ok=True)
    else:
        raise InputError(f"--start {start}: --role {CONTROL} starts from the run folder of sd, or from toybox-sd")
    return float(read_config(folder / "vae")["scaling_factor"])


def planned(folder: Path, role: str, plan: CoursePlan, changes: Mapping[str, int | float], start: Path) -> Course:
    """The course of a plan with changes, both written down."""
    unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(plan)})
    if unknown:
        raise RecipeError(f"--{unknown[0].replace('_', '-')}: --role {role} has no such setting")
    plan = dataclasses.replace(plan, **changes)  # type: ignore[arg-type]
    with disk_errors("writing the plan", folder):
        write_json(folder / PLAN, {"role": role} | dataclasses.asdict(plan))
    if isinstance(plan, UnetPlan):
        return ControlCourse(folder, plan) if role == CONTROL else UnetCourse(folder, plan)
    assert isinstance(plan, VaePlan)
    return VaeCourse(folder, plan, averaged_vae(start) if plan.frozen else None)


def resumed(folder: Path, role: str, changes: Mapping[str, int | float]) -> Course:
    known = read_plan(folder)
    if known.pop("role", role) != role:
        raise InputError(f"{folder}: not a run of --role {role}")
    kind = VaePlan if role == VAE_ROLE else UnetPlan
    try:
        plan = kind(**known)
    except TypeError as error:
        raise InputError(f"{folder / PLAN}: not a plan of this version ({error}); start in another --out") from None
    course = planned(folder, role, plan, changes, folder)
    course.restore()
    return course


def read_plan(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / PLAN}: not a plan of a training ({error})") from None
    return found


def averaged_vae(start: Path) -> Model:
    """The average of an sd-vae run."""
    _, held = tensors.unpacked(start / STATE, "counters")
    vae = new_vae()
    vae.load_state_dict({n.removeprefix("ema.vae."): v for n, v in held.items() if n.startswith("ema.vae.")})
    return vae


def hand_over(start: Path, folder: Path) -> float:
    """What an sd-vae run leaves for the next: vae/ and tokenizer/; the scale of its latents."""
    write_vae(folder / "vae", averaged_vae(start), 1.0)
    scale = 1 / encoded(read_vae(folder / "vae").eval(), draw_shelf(0, 0, 64)).std().item()
    write_vae(folder / "vae", averaged_vae(start), scale)
    write_tokenizer(folder / "tokenizer")
    return scale


def averages(start: Path) -> dict[str, Tensor]:
    """Of a U-Net's run."""
    _, held = tensors.unpacked(start / STATE, "counters")
    return {name.removeprefix("ema."): value for name, value in held.items() if name.startswith("ema.")}


def take_over(course: Course, weights: Mapping[str, Tensor], start: Path) -> None:
    """The weights of another U-Net; a camera that only one of them has is left out, or begins anew."""
    for net in (course.net, course.ema):
        missing, unexpected = net.load_state_dict(weights, strict=False)
        if any("class_embedding" not in name for name in (*missing, *unexpected)):
            raise InputError(f"{start}: its weights do not fit")
