# SPDX-License-Identifier: Apache-2.0
"""What a scene looks like to a surface that stands for it: pictures with a hard silhouette and the colours inside.

Gaussians and fields are soft at the rim, where their pictures mix them with the background; an opaque surface cannot be
that. So the object is where its alpha is above a half, and its colour there is its own, without the background. Both
are averaged over the pixels of a finer picture, and a surface is drawn with the same kind of pictures beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext.texture import texture
from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Frames, Mesh, Scene
from renderers.surface.draw import Surface, compose, look
from renderers.surface.views import Kept, all_around, background, device_of, psnr, silhouette_iou

CHUNK = 8  # views drawn at once
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
    cameras, parts = all_around(count).to(device_of(scene)), []
    with torch.no_grad():
        for start in range(0, count, CHUNK):
            some = cameras[start : start + CHUNK]
            pictures = hardened(scene.render(some, size, torch.zeros_like(background(some))))
            parts.append(tuple(each.cpu() for each in pictures))
    rgb, alpha = (torch.cat(each) for each in zip(*parts, strict=True))
    return Shots(cameras.to("cpu"), rgb, alpha)


def averaged(pictures: Tensor, times: int) -> Tensor:
    """[B, H, W, C] over squares of `times` pixels a side."""
    small = torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2), times)
    return small.permute(0, 2, 3, 1).contiguous()


def joined_by_place(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices of equal place as one: places [P, 3], faces [F, 3] of them, and the place of each vertex [V]."""
    import numpy as np

    rows = np.ascontiguousarray(vertices.detach().float().cpu().numpy() + 0.0)  # -0 is 0
    keys = rows.view([("x", "f4"), ("y", "f4"), ("z", "f4")])[:, 0]
    _, first, back = np.unique(keys, return_index=True, return_inverse=True)
    place = torch.from_numpy(back.reshape(-1)).to(vertices.device)
    return vertices[torch.from_numpy(first).to(vertices.device)], place[faces], place


def drawn(mesh: Mesh, cameras: Cameras, size: int) -> Shots:
    """A surface by its base colour, of its texture or of its vertices, without light."""
    places, faces, _ = joined_by_place(mesh.vertices, mesh.faces)
    surface, parts = Surface.of(places, faces), []
    with torch.no_grad():
        for start in range(0, len(cameras), CHUNK):
            some = cameras[start : start + CHUNK]
            view = look(surface, some, size)
            if mesh.textures is not None and mesh.uv is not None:
                uv, slope = view.texture_coordinates(mesh.uv, mesh.faces)
                rgb = texture(mesh.textures.base, uv[None, None], uv_dxy=slope[None, None], boundary="clamp")[0, 0]
            else:
                rgb = view.read(mesh.colours, mesh.faces)
            parts.append(compose(view, rgb, torch.zeros_like(rgb), background(some)))
    frames = replace(Frames.cat(parts), normal=None)
    return Shots(cameras, frames.rgb.clamp(0, 1), frames.alpha.clamp(0, 1))


def likeness(truth: Shots, other: Shots) -> Kept:
    """PSNR on the object's pixels (those where one of both has it), mean over views, and IoU of the silhouettes."""
    either = ((truth.alpha > SOLID) | (other.alpha > SOLID)).flatten(1)
    error = (truth.rgb - other.rgb).square().mean(-1).flatten(1)
    mean = (error * either).sum(1) / either.sum(1).clamp(min=1)
    return Kept(psnr(mean.sqrt()[:, None], torch.zeros(len(mean), 1)), silhouette_iou(truth.alpha, other.alpha),
                len(mean))  # fmt: skip
