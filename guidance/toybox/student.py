# SPDX-License-Identifier: Apache-2.0
"""A student of the embedded prior: a clean picture in one call of the network, or in four, where the prior takes eight
times two. Guidance is in its weights, so nobody is asked what nothing would look like.

It is the prior's own network with small differences to its weights: of every large matrix a product of low rank (Hu et
al. 2021, LoRA, arXiv:2106.09685), of the small ones the whole difference. They are added once, when it is read, so that
it runs as fast as the prior; differences of zero are the prior to the bit.

It was taught at the times TIMES alone (`dreamlab.toybox.training.student`), and its table has no others. One call draws
from pure noise at the last of them; more look again, each at what was seen in fresh noise of an earlier time (Song et
al. 2023, arXiv:2303.01469, algorithm 1), which forgives more than the deterministic way that it was taught on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamlab.core import tensors
from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import ModelError
from dreamlab.core.noise import NoiseTable
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.toybox.net import Prior
from guidance.toybox.prior import Toybox, folder_of
from guidance.toybox.store import AGAIN, Stored, load

TIMES = (250, 500, 749, 999)  # of the prior's table; each an eighth of its sampler's way, so that its states are ours
ROUTES = {1: (3,), 2: (3, 0), 4: (3, 2, 1, 0)}  # number of calls -> where in TIMES they are
FILE, FORMAT = "student.safetensors", 1
SMALL = 3_000  # numbers of a weight up to which its whole difference is learnt
UNTAUGHT = ("encoder.", "volume.", "hint_", "moment.", "across.", "camera", "time.", "summary.")
UP, DOWN, WHOLE = "up", "down", "more"


class Differences:
    """What is learnt beside the weights of a frozen prior, by name; it starts as nothing."""

    def __init__(self, net: Prior, rank: int) -> None:
        self.rank = rank
        self.frozen = {n: p for n, p in net.named_parameters() if not n.startswith(UNTAUGHT)}

    def start(self) -> dict[str, Tensor]:
        """The same every time."""
        generator, found = torch.Generator().manual_seed(0), {}
        for name, weight in self.frozen.items():
            if weight.numel() <= SMALL:
                found[f"{name}.{WHOLE}"] = torch.zeros(weight.shape)
                continue
            inputs = weight.numel() // len(weight)
            found[f"{name}.{DOWN}"] = torch.randn(self.rank, inputs, generator=generator) / inputs**0.5
            found[f"{name}.{UP}"] = torch.zeros(len(weight), self.rank)
        return found

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of all of them in a row."""
        shapes = {name: value.shape for name, value in self.start().items()}
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    def added(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> the weight with its difference, differentiable in `params`."""
        made = {}
        for name, weight in self.frozen.items():
            if (more := params.get(f"{name}.{WHOLE}")) is None:
                more = (params[f"{name}.{UP}"] @ params[f"{name}.{DOWN}"]).view(weight.shape)
            made[name] = weight + more
        return made


def packed(flat: Tensor, rank: int, of: str, facts: Mapping[str, Any]) -> bytes:
    """A student's file: all differences in a row. `of`: SHA-256 of the weights that they are added to."""
    header = {"format": FORMAT, "rank": rank, "of": of, "facts": dict(facts)}
    return tensors.packed({"flat": flat.to("cpu", torch.float16)}, "student", header)


def taught(stored: Stored, name: str) -> Stored:
    """A prior with the differences of a shipped student, or of a folder's."""
    again = AGAIN.replace("train`", "train --role student`")

    def build(header: tensors.Header, held: dict[str, Tensor]) -> Prior:
        if header["of"] != stored.digest:
            raise ModelError(f"{path}: a student of another prior than the one beside it; {again}")
        net = copy.deepcopy(stored.net)
        with torch.no_grad():
            more = Differences(net, header["rank"])
            net.load_state_dict(more.added(more.named(held["flat"])), strict=False)
        return net

    path = folder_of(name) / FILE
    return replace(stored, net=tensors.network(path, "student", FORMAT, again, build))


class ToyboxStudent(Toybox):
    """The prior taught to draw in one call, or four; it points at whole pictures, and is no score."""

    paper: ClassVar[str] = "paths of the teacher's own sampler, as in Luhman & Luhman 2021, arXiv:2101.02388"

    @dataclass(frozen=True)
    class Settings(Toybox.Settings):
        student: str = setting("toybox-student", file="weights", help="its differences from `weights`: as these")

    def __init__(self, settings: Settings, stored: Stored | None = None) -> None:
        stored = stored or taught(load(folder_of(settings.weights)), settings.student)
        super().__init__(settings, stored)
        self.table = NoiseTable(self.table.alpha_bar[torch.tensor(TIMES, device=self.table.alpha_bar.device)])

    def clean(self, z: Tensor, at: int, told: Condition) -> Tensor:
        """The picture [B, 3, S, S] that it sees in states z at TIMES[at]. By v alone: where the noise is all, the way
        over eps would lose three digits."""
        bar = self.table.alpha_bar[at].expand(len(z))
        v = self.velocity(z.permute(0, 2, 3, 1), bar, self.text_of(told), told).permute(0, 3, 1, 2)
        return (bar[0].sqrt() * z - (1 - bar[0]).sqrt() * v).clamp(-1, 1)

    @torch.no_grad()
    def draw(self, told: Condition, chance: torch.Generator, calls: int = 1, alike: bool = False) -> Tensor:
        """[B, 3, S, S] in [-1, 1] of what is told, in so many calls as ROUTES has; `alike`: all from the same noise."""
        camera, bar = told.rows["camera"], self.table.alpha_bar
        x0 = torch.zeros(len(camera), 3, self.size, self.size, device=camera.device)
        for call, at in enumerate(ROUTES[calls]):
            noise = torch.randn((1 if alike else len(x0), *x0.shape[1:]), generator=chance).to(x0)
            z = bar[at].sqrt() * x0 + (1 - bar[at]).sqrt() * noise if call else noise.expand_as(x0)
            x0 = self.clean(z, at, told)
        return x0

    @torch.no_grad()
    def imagine(self, prompt: Prompt, cameras: Cameras, seed: int = 0, calls: int = 1) -> Tensor:  # [B, S, S, 3]
        """What it takes a prompt for, from some cameras; all views from one noise, so that they stand before one
        colour."""
        device, rows = self.net.place.device, len(cameras)
        blank = torch.zeros(rows, self.size, self.size, 1, device=device)
        frames = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(rows, 3, device=device))
        told = self.condition(prompt, cameras.to(device), frames)["text"]
        chance = torch.Generator().manual_seed(seed)
        return self.decode(self.draw(told, chance, calls, alike=True)).clamp(0, 1)
