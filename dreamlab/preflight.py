# SPDX-License-Identifier: Apache-2.0
"""What a run on pretrained models will need, said before its first step: weights, memory, disk, time.

Weights and operations are those of the model's layout, counted without memory (`guidance/layouts`); the rate of the
machine is measured by one matrix product. Estimates: the share of that rate which networks reach differs, and what a
scene adds is not in them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dreamlab.core.errors import ModelError
from dreamlab.hub import located
from dreamlab.hub.listing import human
from dreamlab.hub.preflight import supply
from dreamlab.hub.registry import registry
from dreamlab.recipe import Recipe, Stage, Term
from dreamlab.recipe.checks import seen_by
from dreamlab.recipe.models import models_of, named
from dreamlab.recipe.tables import TABLES
from guidance.latent.loading import ModelFolder, quiet
from guidance.latent.model import LatentModel, ModelSettings
from guidance.layouts import LAYOUTS
from guidance.shared.dtypes import dtype_of

REACHED = 0.4  # of a matrix product's rate, by the networks of these models
KEPT = 6.15e3  # bytes of an SD encoder's activations for each pixel, in half precision (385 MiB at 256 px)
MATRIX = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True)
class Need:
    """Of one term's model."""

    name: str
    bytes: int  # of weights in memory and of what the encoder keeps for its gradient
    flops: float  # of a step


def evaluations(cost: str) -> float:
    """Pictures that a rule's network sees per view, from what it says of its cost ("at most 2 x 10 + 2")."""
    total = 0.0
    for part in re.split(r"[+,]", cost.partition("(")[0]):
        numbers = [int(a) / int(b or 1) for a, b in re.findall(r"(\d+)(?:/(\d+))?", part)]
        product = 1.0
        for number in numbers:
            product *= number
        # Under an adapter the weights are frozen: what is trained goes forward, and back to its inputs alone.
        total += product * (2 if "trained" in part else 1) if numbers else 0.0
    return total


def needs(recipe: Recipe, device: torch.device) -> Iterator[Need]:
    """Of terms whose model's layout is known."""
    known = registry().models
    for stage in recipe.stages:
        for term in stage.terms:
            entry, settings = TABLES.guidance[term.guidance.kind], term.guidance.settings
            if isinstance(entry, type) and issubclass(entry, LatentModel) and isinstance(settings, ModelSettings):
                name = settings.model or entry.default
                layout = known[name].layout if name in known else layout_of_folder(name, entry)
                if layout in LAYOUTS:
                    yield need(stage, term, name, layout, entry, settings, device)


def layout_of_folder(name: str, entry: type[LatentModel]) -> str:
    """The layout at whose full size a user's own folder is; nothing for one file, or a model of another size."""
    try:
        config = ModelFolder(located(name, entry.takes)).config(entry.net_part)
    except ModelError:
        return ""
    for layout in LAYOUTS.values():
        for part in layout.parts:
            here = part.folder == entry.net_part and part.kind == config.get("_class_name")
            if here and all(config.get(key, value) == value for key, value in part.full.items()):
                return layout.name
    return ""


def need(
    stage: Stage, term: Term, name: str, layout: str, entry: type[LatentModel], s: ModelSettings, device: torch.device
) -> Need:
    from guidance.layouts.build import describe
    from guidance.layouts.calls import encoder_flops, flops

    parts = {part.folder: part for part in LAYOUTS[layout].parts}
    net, width = describe(layout, entry.net_part), torch.finfo(dtype_of(s.dtype, device)).bits // 8
    sample = parts[entry.net_part].full.get("sample_size", 128)
    latents = s.size // 8 if s.size else int(sample if isinstance(sample, int) else 128)
    rows, columns = entry.tiles
    if rows * columns > 1 and not s.size:
        latents = entry.trained_at // 8
    views, card = seen_by(stage, term) or stage.views, entry.card(s)
    frames = card.together if card.whole and card.folds == 1 else 1
    weights = net.parameters * width
    call = flops(layout, entry.net_part, rows * latents, columns * latents, frames)
    if entry.glance:
        call += flops(layout, entry.net_part, entry.glance // 8, entry.glance // 8)
    work = views / (rows * columns * frames) * evaluations(TABLES.systems[term.system.kind].cost) * call
    kept = 0.0
    if "vae" in parts and parts["vae"].kind == "AutoencoderKL":
        weights += describe(layout, "vae").parameters * (width if device.type == "cuda" else 4)
        work += views * encoder_flops(layout, 8 * latents, backward=True)
        kept = 0.0 if s.recompute else views * KEPT * (8 * latents) ** 2 * (1 if device.type == "cuda" else 2)
    return Need(name, int(weights + kept), work)


def rate(device: torch.device) -> float:
    """FLOP a second of a matrix product in the type that networks run in."""
    side = MATRIX[device.type]
    a = torch.randn(side, side, device=device).to(dtype_of("auto", device))
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def lines(recipe: Recipe, device: torch.device) -> list[str]:
    """What a person is told; nothing where no pretrained model is named."""
    if not models_of(recipe):
        return []
    said = supply(models_of(recipe)).lines()
    try:
        with quiet():
            found = list(needs(recipe, device))
    except ModelError as error:  # the libraries that could count it are not installed
        return [*said, str(error)]
    if not found or any(card.clip for _, _, card in named(recipe)):
        return said
    memory = sum({need.name: need.bytes for need in found}.values())
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else available()
    short = "" if memory < room else "; too little: recompute, offload or rows make it fit, each slower"
    said.append(f"memory: about {human(memory)} for the models, of {human(room)} on {device}{short}")
    work = sum(need.flops for need in found)
    seconds = work / (REACHED * rate(device))
    long = f"{seconds:.0f}" if seconds > 10 else f"{seconds:.2g}"
    said.append(f"time: about {work / 1e12:.3g} TFLOP a step, {long} s on this {device.type}")
    return said


def available() -> int:
    """Bytes of memory that the host can still give."""
    try:
        with open("/proc/meminfo", encoding="ascii") as table:  # noqa: PTH123
            found = re.search(r"MemAvailable:\s+(\d+) kB", table.read())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else 1 << 62
