# SPDX-License-Identifier: Apache-2.0
"""Small pictures one can look at, in tests/golden/. `python tests/cuda_ext/test_raster_golden.py` draws them anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from cuda_ext.antialias import antialias
from cuda_ext.interpolate import interpolate
from cuda_ext.raster import raster
from cuda_ext.texture import texture
from dreamlab.core.cameras import orbit
from tests.cuda_ext.raster_scenes import mesh_tensors, sphere, to_clip, views

GOLDEN = Path(__file__).parents[1] / "golden"
SIZE = (96, 128)


def shapes(backend: str) -> Tensor:
    """Barycentrics as colours left, Lambert shading with smoothed silhouettes right: torus, ball and box."""
    torus = trimesh.creation.torus(0.7, 0.25, major_sections=32, minor_sections=16)
    mesh = trimesh.util.concatenate([torus, sphere(2, 0.4), trimesh.creation.box((0.3, 1.7, 0.2))])
    vertices, triangles = mesh_tensors(mesh)
    clip = to_clip(vertices, views(1, 35.0), SIZE)
    seen = raster(clip, triangles, SIZE, backend=backend)
    hit = (seen.triangle > 0)[..., None]
    weights = torch.cat([seen.uv, 1 - seen.uv.sum(-1, keepdim=True)], -1) * hit
    normals = torch.tensor(mesh.vertex_normals, dtype=torch.float32)
    normal, _ = interpolate(normals, seen, triangles, backend=backend)
    light = torch.nn.functional.normalize(torch.tensor([0.5, 0.8, 0.4]), dim=0)
    shade = 0.25 + 0.75 * (torch.nn.functional.normalize(normal, dim=-1) @ light).clamp(min=0)
    color = torch.where(hit, shade[..., None] * torch.tensor([0.9, 0.55, 0.35]), torch.tensor([0.2, 0.25, 0.3]))
    smooth = antialias(color, seen, clip, triangles, backend=backend)
    return torch.cat([weights, smooth], 2)[0]


def floor(backend: str) -> Tensor:
    """A checkered floor to the horizon: bilinear left, mip-mapped right. It begins behind the camera."""
    corners = torch.tensor([[-40.0, -1.0, -40.0], [40.0, -1.0, -40.0], [40.0, -1.0, 40.0], [-40.0, -1.0, 40.0]])
    uv = torch.tensor([[0.0, 0.0], [20.0, 0.0], [20.0, 20.0], [0.0, 20.0]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    clip = to_clip(corners, orbit([15.0], 12.0, 3.0, 60.0), SIZE, far=100.0)
    seen = raster(clip, triangles, SIZE, backend=backend)
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    check = ((row // 8 + column // 8) % 2).float()[..., None]
    image = check * torch.tensor([0.9, 0.85, 0.7]) + (1 - check) * torch.tensor([0.15, 0.3, 0.4])
    image[:4, :32] = torch.tensor([0.8, 0.1, 0.1])  # the start of row 0: v = 0, u = 0
    place, slope = interpolate(uv, seen, triangles, derivatives=True, backend=backend)
    assert slope is not None
    hit = (seen.triangle > 0)[..., None]
    sharp = texture(image, place, backend=backend)
    mipped = texture(image, place, uv_dxy=slope.flatten(-2), backend=backend)
    sky = torch.tensor([0.6, 0.7, 0.8])
    return torch.cat([torch.where(hit, sharp, sky), torch.where(hit, mipped, sky)], 2)[0]


PICTURES = {"raster_shapes": shapes, "raster_floor": floor}


def as_bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().byte().numpy()


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("name", PICTURES)
def test_picture(name: str, backend: str) -> None:
    drawn = as_bytes(PICTURES[name](backend)).astype(int)
    golden = np.asarray(Image.open(GOLDEN / f"{name}.png")).astype(int)
    assert drawn.shape == golden.shape
    assert int((np.abs(drawn - golden).max(-1) > 2).sum()) <= 4


if __name__ == "__main__":
    for picture, draw in PICTURES.items():
        Image.fromarray(as_bytes(draw("native"))).save(GOLDEN / f"{picture}.png")
