# SPDX-License-Identifier: Apache-2.0
"""Every rule on a device that does not mix, before and after a checkpoint, which lies on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.prompting import Asking, Prompting
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Condition, Frames, Prompt
from systems import SYSTEMS
from systems.engine.residual import Look, distil
from systems.shape_guides import Part
from tests.device.pretend import left_behind, the_device
from tests.systems.test_residual import Linear, look
from tests.systems.test_rules import REQUIRED

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, REQUIRED.get(name, {})) for name in SYSTEMS if name not in ("video", "cloud", "vsd", "bootstrapped")),
    ("video", {"frames": 2}),
    ("cloud", {"sketch": (Part(),), "most": 8}),
    ("vsd", {"width": 8, "base": "prior", "lessons": 2}),
    ("bootstrapped", {"width": 8, "cycle": 4, "dream": 0.5, "polish": 2, "renew": 1}),
    ("cfd", {"refresh": 0.1}),
    ("cds", {"per_view": True, "weight": "mix"}),
    ("asd", {"fixed": True}),
    ("balanced", {"auto": True}),
    ("ism", {"cfg_inversion": 2.0}),
    ("csd", {"normalize": True, "clip_first": True}),
]
ASIDE = ("polished", "points")  # a cache and a list, of which a step takes a copy of what it needs


@pytest.fixture
def device() -> Iterator[str]:
    with the_device() as name:
        yield name


class Elsewhere(Linear):
    """The model of the rules' tests on a device, in float32 as models are there."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.table, self.where = self.table.to(where), where

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        found = super().condition(prompt, cameras, frames)
        return {k: Condition({n: r.float().to(self.where) for n, r in c.rows.items()}) for k, c in found.items()}


def seen_on(where: str, step: int, how: Prompting | None = None) -> Look:
    """A step whose every tensor is on the device, and its random numbers."""
    base = look(batch=4, seed=step)
    assert base.frames is not None
    cameras = orbit([10.0, 100.0, -160.0, -60.0], [5.0, 20.0, 40.0, -5.0], 3.0, 40.0).to(where)
    maps = {f.name: getattr(base.frames, f.name) for f in fields(Frames)}
    moved = {name: value.float().to(where) for name, value in maps.items() if isinstance(value, Tensor)}
    frames = replace(base.frames, **moved, visible=None)
    rgb, depth = (value.detach().clone().requires_grad_() for value in (frames.rgb, frames.depth))
    frames = replace(frames, alpha=torch.ones_like(frames.alpha), rgb=rgb, depth=depth)
    guidance = Elsewhere(where)
    told = dict(guidance.condition(Prompt("x"), cameras, frames))
    shown = {"rgb": 0.5 * rgb.detach(), "alpha": frames.alpha, "depth": depth.detach() + 0.1 * rgb.detach()[..., :1]}
    told["truth"] = Condition(shown)
    turned, table = (
        torch.tensor([0.0, 0.3, 0.6, 1.0]),
        torch.rand(8, 8, 8, 3, generator=torch.Generator().manual_seed(2)),
    )
    told["colours"] = Condition({"hidden": turned.to(where)}, {"near": table.to(where)})
    streams = torch.Generator(where).manual_seed(step + 1), torch.Generator().manual_seed(step + 2)
    clock = Progress(step, 10)
    return Look(guidance, base.z.float().to(where), told, clock, *streams, frames, cameras, Asking(how))


def told(system: Any, seen: Look) -> Tensor:
    z = seen.z.clone().requires_grad_()
    loss = distil(system, seen, z).loss
    assert seen.frames is not None
    slopes = torch.autograd.grad(loss, (z, seen.frames.depth, seen.frames.rgb), allow_unused=True)
    return torch.cat([loss.reshape(1), *(slope.flatten() for slope in slopes if slope is not None)]).detach()


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_rule_and_its_checkpoint_stay_on_the_device(device: str, name: str, settings: dict[str, Any]) -> None:
    """Four steps, a checkpoint on the host between them; the numbers are the CPU's."""
    rule = SYSTEMS[name]
    ends = []
    for where in (device, "cpu"):
        system = rule(rule.Settings(**settings))
        found = []
        for step in range(4):
            if step in (1, 3):
                kept = {key: value.cpu().clone() for key, value in system.state_dict().items()}
                system = rule(rule.Settings(**settings))
                system.load_state_dict(kept)
            found.append(told(system, seen_on(where, step)).cpu())
        ends.append(torch.cat(found))
        if where == device:  # what it works on is there, and no copy of the checkpoint stays behind
            rest = left_behind({key: value for key, value in vars(system).items() if key not in ASIDE}, name)
            assert not [each for each in rest if ".net._parameters" not in each], rest  # shapes, without numbers
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
