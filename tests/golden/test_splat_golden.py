# SPDX-License-Identifier: Apache-2.0
"""Pictures of a mushroom made of splats, to be looked at; run this file to draw them again after an intended change.

Each PNG shows, for two views one above the other: rgb over a background, alpha, depth, world normal.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cuda_ext import build
from cuda_ext.splat import splat
from dreamlab.core.cameras import orbit

FOLDER = Path(__file__).parent
SIZE = (96, 96)


def mushroom(with_sh):
    """A red cap with white dots on a white stem: flat splats that lie in the surface."""
    g = torch.Generator().manual_seed(11)
    direction = torch.nn.functional.normalize(torch.randn(1400, 3, generator=g), dim=-1)
    direction[:, 1] = direction[:, 1].abs()
    cap = direction * torch.tensor([0.75, 0.5, 0.75]) + torch.tensor([0.0, 0.05, 0.0])
    spots = torch.nn.functional.normalize(
        torch.tensor([[0.0, 0.6, 0.8], [0.8, 0.6, 0.1], [-0.7, 0.6, 0.4], [0.1, 1.0, 0.0], [0.2, 0.5, -0.9]]), dim=-1
    )
    dotted = ((direction @ spots.T).amax(1) > 0.95)[:, None]
    cap_colour = torch.where(dotted, torch.tensor([0.95, 0.95, 0.9]), torch.tensor([0.8, 0.08, 0.06]))
    angle, height = 6.2832 * torch.rand(500, generator=g), torch.rand(500, generator=g)
    outward = torch.stack([angle.sin(), torch.zeros(500), angle.cos()], 1)
    stem = 0.2 * outward + torch.stack([torch.zeros(500), 0.1 - 0.9 * height, torch.zeros(500)], 1)
    stem_colour = torch.tensor([0.9, 0.85, 0.75]) * (1 - 0.3 * height[:, None])
    normal = torch.cat([torch.nn.functional.normalize(direction / torch.tensor([0.75, 0.5, 0.75]), dim=-1), outward])
    # The rotation that takes z to the normal: (1 + n_z, z x n), or half a turn about x for -z.
    quats = torch.stack([1 + normal[:, 2], -normal[:, 1], normal[:, 0], torch.zeros(len(normal))], 1)
    quats = torch.where(quats.norm(dim=1, keepdim=True) < 1e-4, torch.tensor([0.0, 1.0, 0.0, 0.0]), quats)
    colours = torch.cat([cap_colour, stem_colour])
    scene = {
        "means": torch.cat([cap, stem]),
        "quats": quats,
        "scales": torch.tensor([[0.045, 0.045, 0.006]]).expand(1900, 3).contiguous(),
        "opacities": torch.full((1900,), 0.9),
        "colors": colours,
    }
    if with_sh:  # darker from the right (+x), brighter from the left
        sh = torch.zeros(1900, 4, 3)
        sh[:, 0] = (colours - 0.5) / 0.28209479
        sh[:, 3] = -0.6
        scene |= {"colors": None, "sh": sh}
    return scene


def draw(name, backend):
    scene = mushroom(name == "mushroom_sh")
    first = [scene.pop(k) for k in ("means", "quats", "scales", "opacities", "colors")]
    cameras = orbit([0.0, 60.0], 15.0)
    background = torch.tensor([[0.75, 0.85, 0.95], [0.2, 0.2, 0.25]])
    poses, focal = cameras.camera_to_world, cameras.focal_px(SIZE[0])
    out = splat(*first, poses, focal, SIZE, background=background, backend=backend, **scene)
    depth = ((out.depth - 2) / 2).expand(-1, -1, -1, 3) * out.alpha
    strip = torch.cat([out.rgb, out.alpha.expand(-1, -1, -1, 3), depth, 0.5 + 0.5 * out.normal], 2)
    return (torch.cat(list(strip)).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


NAMES = ("mushroom", "mushroom_sh")


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("name", NAMES)
def test_picture(name, backend):
    if backend == "native" and build.compiler() is None:
        pytest.skip("needs a C++ compiler (g++ or clang++)")
    drawn = draw(name, backend).astype(int)
    golden = np.asarray(Image.open(FOLDER / f"splat_{name}.png")).astype(int)
    assert drawn.shape == golden.shape
    assert (abs(drawn - golden) > 1).mean() < 1e-3


if __name__ == "__main__":
    for each in NAMES:
        Image.fromarray(draw(each, "torch")).save(FOLDER / f"splat_{each}.png", optimize=True)
