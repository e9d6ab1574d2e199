# SPDX-License-Identifier: Apache-2.0
"""What one distillation step asks of a family's networks at full size, counted on the meta device through the family
itself: what performance.md 3 says, and nothing hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dreamlab.core.files import Json
from dreamlab.core.types import Condition
from guidance.latent.codec import Codec
from guidance.latent.loading import ModelFolder
from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct
from guidance.mvdream import MultiViewDream
from guidance.sd import StableDiffusion
from guidance.sdxl import StableDiffusionXL

pytest.importorskip("diffusers")
META = torch.device("meta")


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


def step(kind: Any, name: str, rows: Mapping[str, tuple[int, ...]], views: int, way: str = "exact") -> float:
    """10^12 operations of: pictures to latents, both halves of the guidance, the gradient back to the pictures."""
    model = kind(kind.Settings(dtype="float32"), MetaFolder(Path(name), name=name)).to(META)
    if way != "exact":
        tiny = construct(LAYOUTS["taesd"].part(""), "full").requires_grad_(False)
        model.codec = Codec(model.codec.vae, tiny, way)
        model.codec._judged = True  # the cosine of gradients is one picture's, once in a run
    with META, FlopCounterMode(display=False) as counter:
        rgb = torch.rand(views, model.side, model.side, 3, requires_grad=True)
        z = model.encode(rgb)
        together = {"group": torch.empty(views)} if kind is MultiViewDream else {}
        told = Condition({key: torch.randn(2 * views, *shape) for key, shape in rows.items()}, together)
        t = torch.zeros(2 * views, dtype=torch.long)
        eps = model.predict(z.detach().repeat(2, 1, 1, 1), t, told)
        z.backward(eps[:views])
    return float(counter.get_total_flops()) / 1e12


XL = {"text": (77, 2048), "pooled": (1280,), "sizes": (6,)}


@pytest.mark.parametrize(
    ("kind", "name", "rows", "views", "way", "expected"),
    [
        (StableDiffusion, "sd15", {"text": (77, 768)}, 1, "exact", 3.87),
        (StableDiffusion, "sd15", {"text": (77, 768)}, 1, "tiny", 1.85),
        (StableDiffusion, "sd15", {"text": (77, 768)}, 1, "hybrid", 2.97),
        (StableDiffusion, "sd21", {"text": (77, 1024)}, 1, "exact", 3.87),
        (MultiViewDream, "mvdream", {"text": (77, 1024), "camera": (16,)}, 4, "exact", 3.86),
        (StableDiffusionXL, "sdxl", XL, 1, "exact", 23.8),
        (StableDiffusionXL, "sdxl", XL, 1, "tiny", 14.5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_step_costs_what_its_parts_do(
    kind: Any, name: str, rows: dict[str, tuple[int, ...]], views: int, way: str, expected: float
) -> None:
    assert step(kind, name, rows, views, way) == pytest.approx(expected, rel=0.02)
