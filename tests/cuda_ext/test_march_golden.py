# SPDX-License-Identifier: Apache-2.0
"""Pictures one can look at: a field marched through an occupancy grid, and slices of a hash grid.

To make them anew after a change of the definition, run this file with Python, look at them, and commit them.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cuda_ext import build
from cuda_ext.hashgrid import HashGrid, encode
from cuda_ext.march import cell_points, composite, march, occupied_cells
from dreamlab.core.cameras import turntable

GOLDEN = Path(__file__).parents[1] / "golden"
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(build.compiler() is None, reason="needs a compiler")),
]
BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def knot(points):
    """Three soft rings, red around x, green around y, blue around z."""
    squares = points.square()
    density, colour = [], torch.eye(3)
    for axis in range(3):
        flat = (squares.sum(-1) - squares[:, axis]).sqrt() - 0.6
        density.append(60 * torch.sigmoid(80 * (0.12 - (flat.square() + squares[:, axis]).sqrt())))
    density = torch.stack(density, -1)
    shares = density / density.sum(-1, keepdim=True).clamp(min=1e-9)
    return density.sum(-1), 0.15 + 0.8 * shares @ colour


def marched_rings(backend):
    """[96, 288, 3]: colour over white, depth, and distortion, side by side."""
    size, step = 96, 0.02
    origin, directions = turntable(1, elevation_deg=25.0).rays(size, size)
    directions = directions.reshape(-1, 3)
    origins = origin.expand_as(directions).contiguous()
    density = knot(cell_points((32, 32, 32), BOX))[0].reshape(1, 32, 32, 32)
    occupied = occupied_cells(torch.nn.functional.max_pool3d(density, 3, 1, 1)[0], 0.05)
    samples = march(origins, directions, occupied, BOX, step=step, backend=backend)
    got = composite(*knot(samples.points(origins, directions)), samples, backend=backend)
    depth = got.alpha * (4.0 - got.depth / got.alpha.clamp(min=1e-5)) / 2
    parts = [got.rgb + (1 - got.alpha), depth.expand(-1, 3), (2 * got.distortion).expand(-1, 3)]
    return torch.cat([part.reshape(size, size, 3) for part in parts], 1).clamp(0, 1)


def hash_slices(backend):
    """[96, 288, 3]: the plane z = 0.3 through a dense, a dense smoothstep and a hashed level of a random table."""
    axis = (torch.arange(96) + 0.5) / 96
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, 0.3)], -1).reshape(-1, 3)
    pictures = []
    for cells, smoothstep, log2_entries in ((6, False, 19), (6, True, 19), (24, False, 8)):
        grid = HashGrid(1, 4, log2_entries, cells, cells, smoothstep)
        # Knuth's multiplicative hash instead of a random generator: the same numbers in every version of torch
        noise = (torch.arange(grid.rows * 4) * 2654435761 % 2**32).double() / 2**32
        y = encode(points, noise.float().reshape(-1, 4), grid, backend=backend)
        pictures.append(y[:, :3].reshape(96, 96, 3))
    return torch.cat(pictures, 1)


PICTURES = {"march_rings": marched_rings, "hashgrid_slices": hash_slices}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PICTURES)
def test_picture(name, backend):
    expected = np.asarray(Image.open(GOLDEN / f"{name}.png")).astype(np.float64) / 255
    error = np.abs(PICTURES[name](backend).numpy() - expected)
    off = (error > 1.5 / 255).any(-1)  # half a step of the file, and one for rounding
    assert off.mean() <= 2e-3, f"{off.sum()} pixels differ"


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        picture = (draw("torch") * 255).round().to(torch.uint8).numpy()
        Image.fromarray(picture).save(GOLDEN / f"{name}.png")
        sys.stdout.write(f"{GOLDEN / name}.png\n")
