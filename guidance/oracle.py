# SPDX-License-Identifier: Apache-2.0
"""The oracle: the exact score of a known distribution of pictures, to test a rule against what must happen.

For each camera the world shows K pictures mu_k with probabilities pi_k, each blurred by a normal of deviation s0:
p(x0) = sum_k pi_k N(mu_k, s0^2 I). Noised to z_t = a x0 + s n it stays a mixture, with variance v = a^2 s0^2 + s^2, so
the posterior mean has a closed form (Bayes and the product of two normals):

    r_k   = softmax_k( log pi_k - |z_t - a mu_k|^2 / 2v )
    x0hat = mu + (a s0^2 / v) (z_t - a mu),   mu = sum_k r_k mu_k,       eps = (z_t - a x0hat) / s
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core import pixels
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError
from dreamlab.core.noise import TABLES
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.shared.known import InPixels
from guidance.shared.worlds import World, Worlds

PLAIN = frozenset({"text", "null", "negative"})
STYLED, KNOWN, GRIDS = ("content", "style"), ("control", "control_null", "category"), ("grid", "grid_null")
BLIND = ("blind", "blind_null", "front", "side", "back", "overhead")  # what a camera-blind model can be told


class Oracle(InPixels):
    """Exact eps of a finite mixture of pictures per camera; pixel space, pictures scaled to [-1, 1]."""

    paper: ClassVar[str] = "closed form (posterior mean of a finite mixture)"

    @dataclass(frozen=True)
    class Settings:
        table: str = setting("cosine", choices=TABLES, help="noise table")
        spread: float = setting(0.05, above=0, high=2, help="deviation s0 of each picture, on the scale [-1, 1]")
        others: int = setting(3, low=0, high=64, help="objects in the world besides the prompt's")
        instances: int = setting(1, low=1, high=16, help="instances of the prompt's object")
        sides: int = setting(
            0, low=0, high=36, help="> 0: also a model that does not know the camera, and has seen so many azimuths"
        )
        grids: bool = setting(False, help="also a model of four views in one picture")
        clip: int = setting(0, low=0, high=64, help="> 0: so many views in a row are one clip, of one object")
        style: str = setting("", help="prompt of a picture whose colours are a style: also a model that knows it")

    @staticmethod
    def card(settings: Settings) -> GuidanceCard:
        """Its conditions are also those of a camera-blind model, of a model of grids, of one that knows a style
        picture; and, where the prompt has several instances, of one that has seen the very first (`control`)."""
        s = settings
        more = {BLIND: s.sides > 0, GRIDS: s.grids, STYLED: s.style != "", KNOWN: s.instances > 1}
        return GuidanceCard(
            PLAIN.union(*(names for names, there in more.items() if there)),
            together=max(s.clip, 1),
            clip=s.clip > 0,
            world=True,
            quotes={"style": s.style} if s.style else {},
        )

    @staticmethod
    def build(settings: Settings, worlds: Worlds | None) -> Oracle:
        assert worlds is not None
        return Oracle(settings, cache(lambda prompt: worlds.mixture(prompt, settings)))

    def __init__(self, settings: Settings, worlds: Callable[[Prompt], World]) -> None:
        self.settings = settings
        super().__init__(settings.table)
        self._worlds = worlds
        self._world: tuple[Prompt, World] | None = None

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        """The world drawn from these cameras, over the same background as the frames."""
        if self.settings.clip and len(cameras) % self.settings.clip:
            raise InputError(f"oracle: {len(cameras)} views are not clips of {self.settings.clip}; set views and clip")
        if self._world is None or self._world[0] != prompt:
            self._world = (prompt, self._worlds(prompt))
        world = self._world[1]
        with torch.no_grad():
            views = world.look(cameras, frames.rgb.shape[1])
            shown = views.rgb + (1 - views.alpha) * frames.background[None, :, None, None, :]
            pictures = self.encode(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])  # [K, B, C, H, W]
        view = torch.arange(len(cameras), device=pictures.device)
        named = {"text": world.log_text, "null": world.log_null, "negative": world.log_negative}
        made = asked(pictures, view, {**named, **world.more})
        if self.settings.grids and len(cameras) % 4 == 0:
            halved = F.avg_pool2d(pictures.flatten(0, 1), 2).unflatten(0, pictures.shape[:2])
            four = torch.stack([pixels.tiled(views) for views in halved])
            made |= asked(four, view // 4, {"grid": world.log_text, "grid_null": world.log_null})
        return made

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        view, log_prior = condition.rows["view"], condition.rows["log_prior"]
        centre, offset = condition.shared["centre"][view], condition.shared["offset"][view]
        flat = z_t.flatten(1)
        a, s = self.table.signal_noise(t_index, flat)
        together = max(self.settings.clip, 1)
        return mixture_eps(flat, a, s, centre, offset, log_prior, self.settings.spread, together).reshape(z_t.shape)


def asked(pictures: Tensor, view: Tensor, named: Mapping[str, Tensor]) -> dict[str, Condition]:
    """A condition for each named prior [K] over the pictures [K, V, C, H, W]; row b is shown those of `view[b]`."""
    centre, offset = centred(pictures.transpose(0, 1).flatten(2))
    shared = {"centre": centre, "offset": offset}
    return {
        name: Condition({"view": view, "log_prior": log.to(pictures).expand(len(view), -1)}, shared)
        for name, log in named.items()
    }


def centred(means: Tensor) -> tuple[Tensor, Tensor]:  # [B, K, D] -> [B, D], [B, K, D]
    """The pictures' centre and what each adds to it.

    Distances are taken about the centre, where float32 keeps the digits in which the pictures differ.
    """
    centre = means.mean(1)
    return centre, means - centre[:, None]


def mixture_eps(
    z_t: Tensor,  # [M, D]
    a: Tensor,  # [M, 1] signal scale
    s: Tensor,  # [M, 1] noise scale
    centre: Tensor,  # [M, D]
    offset: Tensor,  # [M, K, D]
    log_prior: Tensor,  # [M, K]
    spread: float,
    together: int = 1,  # rows in a row that show one object: frames of a clip
) -> Tensor:  # [M, D]
    """E[n | z_t] of the mixture whose pictures are centre + offset; any float type."""
    variance = a.square() * spread**2 + s.square()
    # |z_t - a centre|^2 is common to all k and falls out of the softmax.
    inner = torch.bmm(offset, (z_t - a * centre)[:, :, None])[:, :, 0]
    evidence = (a * inner - 0.5 * a.square() * offset.square().sum(-1)) / variance
    if together > 1:
        evidence = evidence.unflatten(0, (-1, together)).sum(1).repeat_interleave(together, 0)
    log_r = log_prior + evidence
    mean = centre + torch.bmm(log_r.softmax(-1)[:, None], offset)[:, 0]
    shrink = a * spread**2 / variance  # x0 = mean + shrink (z_t - a mean)
    return (z_t * (1 - a * shrink) - (a - a.square() * shrink) * mean) / s
