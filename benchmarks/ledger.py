# SPDX-License-Identifier: Apache-2.0
"""What a distillation step asks of a family's networks at full size: every operation of the family's own calls, under
the rule itself, counted on the meta device, which holds no numbers. Part of `bench step`.

Beside each rule stands the same step as the loops of the field write it (benchmarks/incumbent.py): a picture decoded
for nothing, the trained copy of VSD asked twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dreamlab.core.cameras import turntable
from dreamlab.core.files import Json
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Condition
from dreamlab.metrics.figures import Check
from guidance.controlnet import ControlNet
from guidance.latent.codec import Codec
from guidance.latent.loading import ModelFolder, quiet
from guidance.latent.model import LatentModel
from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct
from guidance.layouts.calls import encoder_flops, flops
from guidance.mvdream import MultiViewDream
from guidance.sd import StableDiffusion
from guidance.sdxl import StableDiffusionXL
from systems.engine.residual import Look, distil
from systems.ism import ISM
from systems.sds import SDS
from systems.vsd import VSD

META = torch.device("meta")
TERA = 1e12
FAR = 0.95  # of the table: where ISM's inversion has all of its five steps


@dataclass(frozen=True)
class MetaFolder(ModelFolder):
    """A layout's networks at full size, without weights."""

    name: str = ""

    def index(self) -> Mapping[str, Json]:
        return {}

    def config(self, part: str) -> Any:
        layout = LAYOUTS[self.name]
        return layout.scheduler if part == "scheduler" else layout.part(part).full

    def network(self, part: str, kinds: Sequence[str], dtype: torch.dtype) -> nn.Module:
        return construct(LAYOUTS[self.name].part(part), "full").to(dtype).requires_grad_(False)


@dataclass(frozen=True)
class Entry:
    """A step of a family under a rule."""

    kind: type[LatentModel]
    layout: str
    rows: Mapping[str, tuple[int, ...]]  # what a row is told
    rule: str = "sds"
    views: int = 1
    encoder: str = "exact"

    @property
    def name(self) -> str:
        way = "" if self.encoder == "exact" else f"_{self.encoder}"
        control = "_controlnet" if self.kind is ControlNet else ""
        return f"flops_{self.layout}{control}_{self.rule}{way}"


L, H = {"text": (77, 768)}, {"text": (77, 1024)}
XL = {"text": (77, 2048), "pooled": (1280,), "sizes": (6,)}
ENTRIES = (  # and 10^12 operations by the sums of performance.md's section 3
    (Entry(StableDiffusion, "sd15", L), 3.87),
    (Entry(StableDiffusion, "sd15", L, encoder="tiny"), 1.85),
    (Entry(StableDiffusion, "sd15", L, encoder="hybrid"), 2.97),
    (Entry(StableDiffusion, "sd15", L, "vsd"), 7.09 - 0.803),  # without the trained copy's half that scale 1 ignores
    (Entry(StableDiffusion, "sd15", L, "ism"), 8.69),
    (Entry(StableDiffusion, "sd21", H), 3.87),
    (Entry(MultiViewDream, "mvdream", {**H, "camera": (16,)}, views=4), 3.86),
    (Entry(StableDiffusionXL, "sdxl", XL), 23.8),
    (Entry(StableDiffusionXL, "sdxl", XL, encoder="tiny"), 14.5),
    (Entry(ControlNet, "sd15", {**L, "shown0": (3, 512, 512)}), 3.87 + 2 * 0.283),
)


def rule_of(name: str) -> Any:
    if name == "vsd":
        return VSD(VSD.Settings(net="adapter"))
    if name == "ism":
        return ISM(ISM.Settings(t_min=constant(FAR), t_max=constant(FAR + 0.01)))
    return SDS(SDS.Settings())


@contextmanager
def without_numbers() -> Iterator[None]:
    """What no network computes and meta tensors cannot do: the update of an adapter's parameters; and a control network
    is one of the layout."""

    def network(name: str, *_: object) -> nn.Module:
        return construct(LAYOUTS[name].part(""), "full").requires_grad_(False)

    with mock.patch("systems.engine.trained.adam"), mock.patch("guidance.controlnet.network", network), quiet():
        yield


def model_of(entry: Entry) -> LatentModel:
    told = {"controls": ("controlnet-sd15",)} if entry.kind is ControlNet else {}
    settings = entry.kind.Settings(dtype="float32", **told)  # type: ignore[attr-defined]
    model = entry.kind(settings, MetaFolder(Path(entry.layout), name=entry.layout)).to(META)
    if entry.encoder != "exact":
        tiny = construct(LAYOUTS["taesd"].part(""), "full").requires_grad_(False)
        model.codec = Codec(model.codec.vae, tiny, entry.encoder)
        model.codec._judged = True  # the cosine of gradients is one picture's, once in a run
    return model


def counted(entry: Entry) -> float:
    """10^12 operations of: pictures to latents, the rule's gradient, the way back to the pictures."""
    with without_numbers():
        model, rule = model_of(entry), rule_of(entry.rule)
        generator = torch.Generator().manual_seed(0)
        shared = {"group": torch.empty(entry.views, device=META)} if entry.kind is MultiViewDream else {}

        def told() -> Condition:
            rows = {name: torch.empty(entry.views, *shape, device=META) for name, shape in entry.rows.items()}
            return Condition(rows, shared)

        said, cameras = {"text": told(), "null": told()}, turntable(entry.views)
        with FlopCounterMode(display=False) as counter:
            rgb = torch.empty(entry.views, model.side, model.side, 3, device=META, requires_grad=True)
            z: Tensor = model.encode(rgb)
            clock = (Progress(0, 10), generator, generator)
            look = Look(model, z.detach(), said, *clock, cameras=cameras, at_once=model.together)
            distil(rule, look, z).loss.backward()
    return float(counter.get_total_flops()) / TERA


def incumbent(entry: Entry) -> float:
    """The same step with what the loops of the field do beside it."""
    net = entry.kind.net_part
    side = LAYOUTS[entry.layout].part(net).full["sample_size"]
    side = 32 if entry.kind is MultiViewDream else int(str(side))
    more = entry.views * encoder_flops(entry.layout, 8 * side, way="decode")
    if entry.rule == "vsd":
        more += entry.views * flops(entry.layout, net, side, side)
    return counted(entry) + more / TERA


def checks() -> list[Check]:
    """No operation that the sums do not name; and what the incumbents' steps have beside ours."""
    found = []
    for entry, expected in ENTRIES:
        mine = counted(entry)
        note = f"TFLOP a step, {entry.views} view{'s' * (entry.views > 1)}; by its parts {expected:.3g}"
        details: dict[str, object] = {"by_parts": round(expected, 3)}
        if entry.encoder == "exact":
            theirs = incumbent(entry)
            details |= {"incumbent": round(theirs, 3), "ratio": round(theirs / mine, 3)}
            note += f"; as the incumbents do it {theirs:.3g}, {theirs / mine:.2f} times"
        found.append(Check(entry.name, round(mine, 3), "TFLOP", round(1.02 * expected, 3), "lower", note, details))
    return found
