# SPDX-License-Identifier: Apache-2.0
"""What a scene looks like to a surface that stands for it: pictures with a hard silhouette and the colours inside.

Gaussians and fields are soft at the rim, where their pictures mix them with the background; an opaque surface cannot be
that. So the object is where its alpha is above a half, and its colour there is its own, without the background. Both
are averaged over the pixels of a finer picture, and a surface is drawn with the same kind of pictures beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext.texture import texture
from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Frames, Mesh, Scene
from renderers.surface.draw import Surface, View, look
from renderers.surface.views import Kept, all_around, background, device_of, psnr, silhouette_iou

CHUNK = 8  # views drawn at once
PIXELS = 1 << 19  # of a surface's pictures, drawn at once
COARSEST = 4  # mip level: beyond it charts run into one another
FINER = 2  # pixels along a side of each pixel compared
SOLID = 0.5  # alpha of what counts as the object


class Shots(NamedTuple):
    """B views over white, on the host."""

    cameras: Cameras
    rgb: Tensor  # [B, S, S, 3] sRGB
    alpha: Tensor  # [B, S, S, 1] share of a pixel that the object covers

    @property
    def size(self) -> int:
        return self.rgb.shape[1]

    def take(self, index: list[int]) -> Shots:
        return Shots(self.cameras[index], self.rgb[index], self.alpha[index])

    def pooled(self, times: int) -> Shots:
        """Averaged over squares of `times` pixels a side."""
        if times == 1:
            return self
        return Shots(self.cameras, averaged(self.rgb, times), averaged(self.alpha, times))


def hardened(frames: Frames) -> tuple[Tensor, Tensor]:
    """Colours over white and alpha, of pictures over black."""
    solid = (frames.alpha > SOLID).to(frames.rgb)
    own = (frames.rgb[..., :3] / frames.alpha.clamp(min=SOLID)).clamp(0, 1)
    return own * solid + (1 - solid), solid


def taken_of(scene: Scene, count: int, size: int) -> Shots:
    """`count` views from all around, `size` pixels a side; not pooled."""
    return Shots(all_around(count), *hardened(over_black(scene, count, size)))


def over_black(scene: Scene, count: int, size: int) -> Frames:
    """Colours and alpha of them as the scene draws them, on the host."""
    cameras, parts = all_around(count).to(device_of(scene)), []
    with torch.no_grad():
        for start in range(0, count, CHUNK):
            some = cameras[start : start + CHUNK]
            drawn = scene.render(some, size, torch.zeros_like(background(some)))
            parts.append((drawn.rgb[..., :3].cpu(), drawn.alpha.cpu()))
    rgb, alpha = (torch.cat(each) for each in zip(*parts, strict=True))
    return Frames(rgb, alpha, alpha, torch.zeros(count, 3))


def averaged(pictures: Tensor, times: int) -> Tensor:
    """[B, H, W, C] over squares of `times` pixels a side."""
    high, wide = (side // times * times for side in pictures.shape[1:3])
    total = pictures[:, 0:high:times, 0:wide:times].clone()
    for i in range(1, times**2):  # a sixth of the time of avg_pool2d, which wants channels first
        total += pictures[:, i // times : high : times, i % times : wide : times]
    return total / times**2


def joined_by_place(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices of equal place as one: places [P, 3], faces [F, 3] of them, and the place of each vertex [V]."""
    import numpy as np

    rows = vertices.detach().float().cpu().numpy() + 0.0  # -0 is 0
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    fresh = np.ones(len(rows), bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(1)
    back = np.empty(len(rows), np.int64)
    back[order] = fresh.cumsum() - 1
    first = torch.from_numpy(order[fresh]).to(vertices.device)  # the sort keeps the order of equals
    place = torch.from_numpy(back).to(vertices.device)
    return vertices[first], place[faces], place


@dataclass(frozen=True)
class Drawable:
    """A surface that is drawn again and again. Corners of one place are one vertex to the silhouettes: seams are
    none."""

    mesh: Mesh

    @cached_property
    def joined(self) -> tuple[Surface, Tensor]:
        """With silhouettes of its own, and the row in it of each vertex."""
        places, faces, row = joined_by_place(self.mesh.vertices, self.mesh.faces)
        return Surface.of(places, faces), row

    def views(self, cameras: Cameras, size: int) -> Iterator[tuple[slice, View]]:
        """All of them, some at a time."""
        step = max(PIXELS // size**2, 1)
        for start in range(0, len(cameras), step):
            some = slice(start, min(start + step, len(cameras)))
            yield some, look(self.joined[0], cameras[some], size)

    def base(self, view: View) -> Tensor:
        """[M, 3] its own colour at the pixels of a view, of its texture or of its vertices, without light."""
        mesh = self.mesh
        if mesh.textures is None or mesh.uv is None:
            return view.read(mesh.colours, mesh.faces)
        return fetch(view, mesh, mesh.uv, [mesh.textures.base])[0]

    def pictures(self, cameras: Cameras, size: int, background: Tensor) -> tuple[Tensor, Tensor]:
        """Colours over `background` [B, 3] and alpha, [B, S, S, 3] and [B, S, S, 1]."""
        parts = []
        with torch.no_grad():
            for some, view in self.views(cameras, size):
                ground = background[some]
                blank = torch.cat([ground, ground.new_zeros(len(ground), 1)], 1)
                parts.append(view.over(F.pad(self.base(view), (0, 1), value=1.0), blank))
        whole = torch.cat(parts)
        return whole[..., :3], whole[..., 3:]


def fetch(view: View, mesh: Mesh, uv: Tensor, layers: Sequence[Tensor]) -> list[Tensor]:
    """Textures as the pixels of a view see them."""
    where, slope = view.texture_coordinates(uv, mesh.faces)
    return [
        texture(each, where[None, None], uv_dxy=slope[None, None], boundary="clamp", max_level=COARSEST)[0, 0]
        for each in layers
    ]


def drawn(mesh: Mesh, cameras: Cameras, size: int) -> Shots:
    """A surface by its base colour."""
    rgb, alpha = Drawable(mesh).pictures(cameras, size, background(cameras))
    return Shots(cameras, rgb.clamp(0, 1), alpha.clamp(0, 1))


def likeness(truth: Shots, other: Shots) -> Kept:
    """PSNR on the object's pixels (those where one of both has it), mean over views, and IoU of the silhouettes."""
    either = ((truth.alpha > SOLID) | (other.alpha > SOLID)).flatten(1)
    error = (truth.rgb - other.rgb).square().mean(-1).flatten(1)
    mean = (error * either).sum(1) / either.sum(1).clamp(min=1)
    return Kept(psnr(mean.sqrt()[:, None], torch.zeros(len(mean), 1)), silhouette_iou(truth.alpha, other.alpha),
                len(mean))  # fmt: skip
