# SPDX-License-Identifier: Apache-2.0
"""Reconstruction: the frames against known pictures. The loss of Kerbl et al. 2023 (arXiv:2308.04079), eq. 7, with a
choice of norm, and masks and normals where the target knows them. No diffusion model has a say.

Every part is a mean over pixels and channels, so weights mean the same at every resolution and number of views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from dreamlab.core.cards import RuleCard
from dreamlab.core.errors import InputError
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from dreamlab.core.types import Frames
from systems.engine.depth_terms import out_of_order, unlike
from systems.engine.residual import Look
from systems.engine.rule import Rule, RuleSettings

NORMS = ("l2", "l1")


class Photometric(Rule["Photometric.Settings"]):
    """Make the frames equal to known pictures of the same cameras."""

    paper: ClassVar[str] = "Kerbl et al. 2023, arXiv:2308.04079, eq. 7"
    cost: ClassVar[str] = "0"
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    @dataclass(frozen=True)
    class Settings(RuleSettings):
        norm: str = setting("l2", choices=NORMS, help="of the difference in colour")
        rgb: Schedule = setting(constant(1.0), low=0)
        ssim: Schedule = setting(constant(0.0), low=0, help="weight of 1 - SSIM; the paper has 0.2 beside l1 at 0.8")
        mask: Schedule = setting(constant(0.0), low=0, help="squared difference of alpha")
        normal: Schedule = setting(constant(0.0), low=0, help="squared difference of premultiplied world normals")
        depth: Schedule = setting(constant(0.0), low=0, help="1 - correlation of the depths (DreamCraft3D): no scale")
        rank: Schedule = setting(constant(0.0), low=0, help="pairs of pixels whose depths are in the wrong order")

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        weights = {"depth": (settings.depth, settings.rank), "normal": (settings.normal,)}
        maps = frozenset(name for name, of in weights.items() if max(max(weight.values) for weight in of) > 0)
        return replace(super().card(settings), colours=True, normals="normal" in maps, maps=maps)

    def loss(self, look: Look) -> Tensor:
        s, frames, truth = self.settings, look.frames, look.conditions["truth"].rows
        if frames is None:
            raise ValueError("photometric: needs the frames, give them to Look")
        difference = frames.rgb - truth["rgb"]
        distance = difference.square() if s.norm == "l2" else difference.abs()
        total = s.rgb.at(look.progress) * distance.mean()
        if (weight := s.ssim.at(look.progress)) > 0:
            total = total + weight * (1 - ssim(frames.rgb, truth["rgb"]).mean())
        if (weight := s.mask.at(look.progress)) > 0:
            total = total + weight * (frames.alpha - known(truth, "alpha")).square().mean()
        if (weight := s.normal.at(look.progress)) > 0:
            if frames.normal is None:
                raise ValueError("photometric: this scene renders no normals; set `normal: 0`")
            total = total + weight * (frames.normal - known(truth, "normal")).square().mean()
        if (weight := s.depth.at(look.progress)) > 0:
            total = total + weight * unlike(frames.depth, known(truth, "depth"), in_both(frames, truth))
        if (weight := s.rank.at(look.progress)) > 0:
            both = in_both(frames, truth)
            total = total + weight * out_of_order(frames.depth, known(truth, "depth"), both, look.noise_stream)
        return total


def known(truth: Mapping[str, Tensor], name: str) -> Tensor:
    """A map of the known pictures, which need not have all."""
    if name not in truth:
        raise InputError(f"photometric: the known picture has no {name}; leave out the weight of what compares it")
    return truth[name]


def in_both(frames: Frames, truth: Mapping[str, Tensor]) -> Tensor:
    """[B, H, W, 1] bool: pixels that both cover."""
    return (truth["alpha"] > 0.5) & (frames.alpha.detach() > 0.5)


def ssim(a: Tensor, b: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:  # [B, H, W, C] twice
    """Structural similarity per pixel and channel (Wang et al. 2004, eq. 13), [B, C, H, W], for pictures in [0, 1].

    Gaussian window; beyond the border pictures count as 0, as in the splatting code everyone compares with.
    """
    x = torch.arange(window, dtype=a.dtype, device=a.device) - window // 2
    line = torch.exp(-0.5 * (x / sigma) ** 2)
    line = line / line.sum()

    def blur(image: Tensor) -> Tensor:
        flat = pad(image.flatten(0, 1)[:, None], [window // 2] * 4)
        wide = conv2d(conv2d(flat, line[None, None, None]), line[None, None, :, None])
        return wide.reshape(image.shape)

    a, b = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    mean_a, mean_b, aa, bb, ab = blur(torch.cat([a, b, a * a, b * b, a * b], 1)).chunk(5, 1)
    var_a, var_b, cov = aa - mean_a.square(), bb - mean_b.square(), ab - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    up = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return up / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))
