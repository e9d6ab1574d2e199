# SPDX-License-Identifier: Apache-2.0
"""From values on a surface to texels: where each texel lies, what is seen there from around, what fills the gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext.interpolate import interpolate
from cuda_ext.raster import Raster, raster
from cuda_ext.texture import texture
from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Frames
from renderers.surface.atlas import Atlas
from renderers.surface.draw import Surface, look

CHUNK = 8  # views in memory at once


class Texels(NamedTuple):
    """The M texels of a square texture that a surface covers: the atlas, drawn as a picture."""

    size: int
    raster: Raster  # of the M covered texels alone, in a row: [1, 1, M]
    hit: Tensor  # [M] of size * size

    def read(self, values: Tensor, faces: Tensor) -> Tensor:
        """[M, C] of values at corners; `faces` are the surface's, or the atlas' own."""
        return interpolate(values, self.raster, faces)[0][0, 0]

    def picture(self, values: Tensor) -> Tensor:
        """[size, size, C] of values [M, C]; texels outside all charts take the nearest value inside."""
        flat = values.new_zeros(self.size**2, values.shape[1]).index_copy(0, self.hit, values)
        return flat[self.nearest()].reshape(self.size, self.size, -1)

    def nearest(self) -> Tensor:
        """[size * size] the covered texel that is nearest to each; a covered one itself."""
        from scipy.ndimage import distance_transform_edt

        empty = torch.ones(self.size**2, dtype=torch.bool)
        empty[self.hit.cpu()] = False
        row, column = distance_transform_edt(
            empty.reshape(self.size, self.size).numpy(), return_distances=False, return_indices=True
        )
        return torch.from_numpy(row.astype("int64") * self.size + column).reshape(-1).to(self.hit.device)


def texels(atlas: Atlas, size: int) -> Texels:
    """Which texels the charts cover, and where in which triangle they lie."""
    across = 2 * atlas.uv - 1
    clip = torch.stack([across[:, 0], -across[:, 1], torch.zeros_like(across[:, 0]), torch.ones_like(across[:, 0])], 1)
    seen = raster(clip, atlas.faces, (size, size))
    hit = (seen.triangle.reshape(-1) > 0).nonzero()[:, 0]
    row = Raster(*(each.flatten(0, 2)[hit][None, None] for each in seen))
    return Texels(size, row, hit)


def project(
    surface: Surface, points: Tensor, normals: Tensor, cameras: Cameras, size: int, show: Callable[[Cameras], Frames]
) -> tuple[Tensor, Tensor]:
    """Colours [M, 3] of surface points as pictures show them, and how well they were seen [M, 1].

    A picture counts with cos^3 between the normal and the eye, where the surface itself does not hide the point and
    the picture is opaque; straight views so outweigh grazing ones.
    """
    total = points.new_zeros(len(points), 3)
    seen = points.new_zeros(len(points), 1)
    for start in range(0, len(cameras), CHUNK):
        some = cameras[start : start + CHUNK]
        frames, view = show(some), look(surface, some, size)
        world_to_camera, focal = some.world_to_camera(), some.focal_px(size)
        local = points @ world_to_camera[:, :3, :3].transpose(1, 2) + world_to_camera[:, None, :3, 3]  # [B, M, 3]
        depth = -local[..., 2].clamp(max=-1e-6)
        x = focal[:, None] * local[..., 0] / depth / size + 0.5
        y = 0.5 - focal[:, None] * local[..., 1] / depth / size
        uv = torch.stack([x, y], -1)[:, :, None]  # [B, M, 1, 2]
        nearest = view.depth.masked_fill(view.depth <= 0, 1e6)
        premultiplied = frames.rgb - (1 - frames.alpha) * frames.background[:, None, None]
        layers = torch.cat([premultiplied, frames.alpha, nearest], -1)
        read = texture(layers, uv, boundary="clamp")[:, :, 0]  # [B, M, 5]
        to_eye = torch.nn.functional.normalize(some.camera_to_world[:, None, :3, 3] - points, dim=-1)
        cos = (to_eye * normals).sum(-1).clamp(min=0)
        inside = ((uv[:, :, 0] > 0) & (uv[:, :, 0] < 1)).all(-1)
        open_view = (depth < read[..., 4] + 0.01 * depth) & inside & (read[..., 3] > 0.9)
        weight = (cos**3 * open_view)[..., None]
        total = total + (weight * read[..., :3] / read[..., 3:4].clamp(min=0.9)).sum(0)
        seen = seen + weight.sum(0)
    return total / seen.clamp(min=1e-6), seen
