# SPDX-License-Identifier: Apache-2.0
"""At full size, on the meta device: a call of each video model costs what its network does, and nothing besides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamlab.core.types import Condition
from guidance import GUIDANCE
from guidance.latent.clips import ClipModel
from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct


def network(layout: str, part: str, motion: str = "") -> Any:
    net = construct(LAYOUTS[layout].part(part), "full")
    if not motion:
        return net
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        return UNetMotionModel.from_unet2d(net, construct(LAYOUTS[motion].part(""), "full"), load_weights=False)


@pytest.mark.parametrize(
    ("kind", "places", "frames", "shape", "text", "tera"),
    [
        ("animatediff", ("sd15", "unet", "motion-v2"), 16, (16, 4, 64, 64), (16, 77, 768), 17.8),
        ("modelscope", ("modelscope", "unet"), 16, (16, 4, 40, 72), (16, 77, 1024), 14.3),
        ("wan", ("wan21-1.3b", "transformer"), 17, (1, 16 * 5, 60, 104), (1, 512, 4096), 31.6),
        ("cogvideox", ("cogvideox-2b", "transformer"), 49, (1, 16 * 13, 60, 90), (1, 226, 4096), 120.0),
    ],
)
def test_a_call_costs_what_was_counted_of_the_networks(
    kind: str, places: tuple[str, ...], frames: int, shape: tuple[int, ...], text: tuple[int, ...], tera: float
) -> None:
    """Of one clip told one text; counted of the networks alone, without any of this (a product and a sum are two)."""
    cls: Any = GUIDANCE[kind]
    model: ClipModel = cls.__new__(cls)  # without a folder: what is asked needs its network and its settings alone
    model.settings = cls.Settings(frames=frames)
    model.net = network(*places)
    if kind == "cogvideox":
        model.turns = None  # type: ignore[attr-defined]
    z, told = torch.zeros(shape, device="meta"), Condition({"text": torch.zeros(text, device="meta")})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert model.answer(z, torch.zeros(shape[0], device="meta"), told).shape == shape
    assert counter.get_total_flops() / 1e12 == pytest.approx(tera, rel=0.01)
