# SPDX-License-Identifier: Apache-2.0
"""Pictures of programs: colour, alpha, depth, normals and part ids from any camera under any light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext import sdf as op
from cuda_ext import sdf_layout as layout
from dreamlab.core.cameras import Cameras
from dreamlab.toybox.program import Program

Vec3 = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """A soft world light (linear RGB) and a lamp at the camera, so that no side of an object is lost in the dark."""

    towards_key: Vec3 = (0.35, 0.75, 0.56)  # world, from the object to the light
    key: Vec3 = (0.50, 0.49, 0.46)
    sky: Vec3 = (0.46, 0.47, 0.50)
    ground: Vec3 = (0.22, 0.21, 0.20)
    head: float = 0.26
    occlusion: float = 0.6

    def packed(self) -> Tensor:
        key = torch.tensor(self.towards_key)
        rest = [*self.key, *self.sky, *self.ground, self.head, self.occlusion]
        return torch.cat([key / key.norm(), torch.tensor(rest)])


@dataclass(frozen=True)
class Pictures:
    """B views of each of K objects; the colour is premultiplied, without background."""

    rgb: Tensor  # [K, B, H, W, 3] sRGB times alpha
    alpha: Tensor  # [K, B, H, W, 1]
    depth: Tensor  # [K, B, H, W, 1] camera z of the surface, 0 where there is none
    normal: Tensor  # [K, B, H, W, 3] world
    part: Tensor  # [K, B, H, W] int, -1 where there is none

    def over(self, background: Tensor | float) -> Tensor:
        """[K, B, H, W, 3]: composited over a colour or over pictures."""
        return self.rgb + (1 - self.alpha) * background

    def material(self, programs: Program) -> Tensor:
        """[K, B, H, W, 2] roughness and metallic of what is seen (0 where there is nothing)."""
        finish = programs.parts[..., [layout.ROUGHNESS, layout.METALLIC]]
        index = self.part.clamp(min=0).flatten(1)[..., None].expand(-1, -1, 2).long()
        seen = finish.gather(1, index).reshape(*self.part.shape, 2)
        return seen * (self.part >= 0)[..., None]


def draw(
    programs: Program,
    cameras: Cameras,
    size: int,
    *,
    light: Light | None = None,
    supersample: int = 2,
    per_program: bool = False,
) -> Pictures:
    """Square pictures of every program from every camera.

    `per_program`: the cameras are K groups of B, one group for each program (else all programs share the B cameras).
    """
    count, total = len(programs), len(cameras)
    if per_program and (count == 0 or total % count):
        raise ValueError(f"draw: {total} cameras cannot be shared out to {count} programs; pass a multiple of {count}")
    pose, focal = cameras.camera_to_world, cameras.focal_px(size)
    if per_program:
        pose, focal = pose.reshape(count, -1, 4, 4), focal.reshape(count, -1)
    else:
        pose, focal = pose.expand(count, -1, -1, -1), focal.expand(count, -1)
    table = (light or Light()).packed().to(programs.rows)
    tables = (programs.rows, programs.parts, programs.bound, pose.to(programs.rows), focal.to(programs.rows), table)
    return Pictures(*op.draw(*tables, size, size, supersample))
