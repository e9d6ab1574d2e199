# SPDX-License-Identifier: Apache-2.0
"""`python -m dreamlab.cli.trial DEVICE OP...`: each native op against its torch twin, forwards and backwards, on inputs
small enough for `doctor`. A process of its own, for a kernel that fails may take its process along.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext import (
    adam,
    antialias,
    attend,
    density,
    hashgrid,
    interpolate,
    march,
    modulate,
    project,
    raster,
    sdf,
    seen,
    sky,
    splat,
    texture,
    volume,
)
from dreamlab.core.cameras import orbit

CLOSE = 2e-3  # of the largest value of a result; float32 sums in another order differ by far less
OUTLIERS = 0.02  # share of entries: a pixel at a silhouette may be on its other side
BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
Results = list[Tensor]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(outputs: Results, leaves: Results) -> Results:
    loss = torch.stack([(x * rand(*x.shape, seed=i).to(x)).sum() for i, x in enumerate(outputs)]).sum()
    return [*outputs, *torch.autograd.grad(loss, leaves)]


def try_adam(device: str, backend: str) -> Results:
    param, first, second = (rand(30, 3, seed=seed).to(device) for seed in range(3))
    step = torch.tensor(3, device=device)
    visible = torch.arange(30, device=device) % 3 == 0
    adam.adam(param, rand(30, 3, seed=4).to(device), first, second, step, lr=0.1, visible=visible, backend=backend)
    return [param, first, second]


def try_attend(device: str, backend: str) -> Results:
    query, told = rand(2, 5, 32).to(device), rand(2, 9, 64, seed=1).to(device)
    return [attend.attend(query - 0.5, told - 0.5, heads=2, backend=backend)]


def try_density(device: str, backend: str) -> Results:
    turns = torch.linalg.qr(rand(30, 3, 3)).Q
    given = (12 * rand(30, 3, seed=1), turns, 0.6 + rand(30, 3, seed=2), rand(30, 4, seed=3))
    places, turns, widths, weights = (each.to(device) for each in given)
    return [density.density(places, turns, widths, weights, (12, 9, 14), backend=backend)]


def try_hashgrid(device: str, backend: str) -> Results:
    grid = hashgrid.HashGrid(3, 2, 8, 3, 29, True)
    x, table = rand(40, 3).to(device), rand(grid.rows, 2, seed=1).to(device).requires_grad_()
    return with_gradients([hashgrid.encode(x, table, grid, backend=backend)], [table])


def try_march(device: str, backend: str) -> Results:
    origins = torch.tensor([[0.0, 0.0, 3.0]]).expand(30, 3).contiguous().to(device)
    directions = torch.nn.functional.normalize(rand(30, 3) - torch.tensor([0.5, 0.5, 2.5]), dim=-1).to(device)
    found = march.march(
        origins, directions, (rand(8, 8, 8, seed=1) > 0.5).to(device), BOX, step=0.1, jitter=None, backend=backend
    )
    count = len(found.t_start)
    sigma, colour = (rand(count, n, seed=2).to(device).squeeze(-1).requires_grad_() for n in (1, 3))
    summed = march.composite(sigma, colour, found, backend=backend)
    return [found.t_start, *with_gradients([summed.rgb, summed.alpha, summed.depth], [sigma, colour])]


def _octahedron(device: str) -> tuple[Tensor, Tensor]:
    """Clip-space corners [1, 6, 4] that need gradients, and triangles [8, 3]."""
    ends = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    near = torch.cat([0.7 * ends[:, :2] + 0.05, 0.3 * ends[:, 2:], torch.ones(6, 1)], -1)[None]
    faces = torch.tensor([(x, 2 + y, 4 + z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    return near.to(device).requires_grad_(), faces.to(device)


def _surface(device: str, backend: str, wanted: str) -> Results:
    """What one op of a picture of an octahedron makes of the twins' results."""
    clip, faces = _octahedron(device)
    seen = raster.raster(clip, faces, (18, 22), backend=backend if wanted == "raster" else "torch")
    if wanted == "raster":
        return [seen.triangle, *with_gradients([seen.uv], [clip])]
    corners = rand(6, 2, seed=1).to(device).requires_grad_()
    if wanted == "interpolate":
        values, _ = interpolate.interpolate(corners, seen, faces, derivatives=True, backend=backend)
        return with_gradients([values], [corners])
    if wanted == "texture":
        image = rand(9, 8, 3, seed=2).to(device).requires_grad_()
        uv = rand(1, 18, 22, 2, seed=3).to(device)
        return with_gradients([texture.texture(image, uv, backend=backend)], [image])
    picture = rand(1, 18, 22, 3, seed=4).to(device)
    return with_gradients([antialias.antialias(picture, seen, clip, faces, backend=backend)], [clip])


def try_modulate(device: str, backend: str) -> Results:
    x, told = rand(2, 7, 40).to(device).requires_grad_(), rand(2, 80, seed=1).to(device).requires_grad_()
    return with_gradients([modulate.modulate(x, told, silu=True, backend=backend)], [x, told])


def try_project(device: str, backend: str) -> Results:
    layer = project.pack(rand(20, 24, 3, 3, seed=1).to(device) - 0.5, rand(20, seed=2).to(device))
    return [project.project(rand(2, 4, 6, 24).to(device), layer, normed=True, act="silu", backend=backend)]


def try_sdf(device: str, backend: str) -> Results:
    from dreamlab.toybox.shapes import program

    points = (2 * rand(1, 12, 3) - 1).to(device)
    return [*sdf.sdf(program("ball").rows.to(device), points, backend=backend)]


def try_seen(device: str, backend: str) -> Results:
    cameras, size = orbit([0.0, 110.0], 20.0), 12
    points = 0.6 * (rand(40, 3) - 0.5)
    layers = torch.cat([rand(2, size, size, 3, seed=1), torch.tensor([3.2, 1.0]).expand(2, size, size, 2)], -1)
    known = (cameras.camera_to_world[:, :3, 3], cameras.world_to_camera()[:, :3], cameras.focal_px(size))
    given = (points, torch.nn.functional.normalize(points, dim=-1), layers, *known)
    return [seen.seen(*(each.to(device) for each in given), grazing=0.15, behind=1.5, backend=backend)]


def try_sky(device: str, backend: str) -> Results:
    turns = torch.linalg.qr(rand(6, 3, 3)).Q
    corners, points = (rand(8, 3, seed=seed) - 0.5 for seed in (1, 2))
    faces = torch.tensor([(i, (i + 3) % 8, (i + 5) % 8) for i in range(8)])
    given = (each.to(device) for each in (corners, faces, points, torch.nn.functional.normalize(points, dim=-1), turns))
    return [sky.sky(*given, pixels=24, slack=0.05, backend=backend)]


def try_splat(device: str, backend: str) -> Results:
    cameras = orbit([0.0, 110.0], 20.0).to(device=device)
    means, scales = 0.8 * rand(40, 3) - 0.4, 0.02 + 0.1 * rand(40, 3, seed=1)
    quats = torch.nn.functional.normalize(rand(40, 4, seed=2) - 0.5, dim=-1)
    given = (means, quats, scales, rand(40, seed=3), rand(40, 3, seed=4))
    at, turn, size, opacity, colour = leaves = [t.to(device).requires_grad_() for t in given]
    pose, focal = cameras.camera_to_world, cameras.focal_px(20)
    out = splat.splat(at, turn, size, opacity, colour, pose, focal, (20, 20), backend=backend)
    return with_gradients([out.rgb, out.alpha], leaves)


def try_volume(device: str, backend: str) -> Results:
    grid = rand(2, 4, 4, 4, 7).to(device).requires_grad_()
    near, direction = (rand(2, 15, 3, seed=seed).to(device) - 0.5 for seed in (1, 2))
    row = torch.tensor([1, 0]).to(device)
    unit = torch.nn.functional.normalize(direction, dim=-1)
    return with_gradients([volume.volume(grid, row, near, unit, samples=8, backend=backend)], [grid])


TRIALS: dict[str, Callable[[str, str], Results]] = {
    "adam": try_adam,
    "antialias": lambda device, backend: _surface(device, backend, "antialias"),
    "attend": try_attend,
    "density": try_density,
    "hashgrid": try_hashgrid,
    "interpolate": lambda device, backend: _surface(device, backend, "interpolate"),
    "march": try_march,
    "modulate": try_modulate,
    "project": try_project,
    "raster": lambda device, backend: _surface(device, backend, "raster"),
    "sdf": try_sdf,
    "seen": try_seen,
    "sky": try_sky,
    "splat": try_splat,
    "texture": lambda device, backend: _surface(device, backend, "texture"),
    "volume": try_volume,
}


def complaint(op: str, device: str) -> str:
    """What is wrong with an op on a device, "" when it does as its twin does."""
    try:
        ours, twin = (TRIALS[op](device, backend) for backend in ("native", "torch"))
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0][:200]
    for mine, other in zip(ours, twin, strict=True):
        if mine.shape != other.shape:
            return f"gives {list(mine.shape)} where its torch twin gives {list(other.shape)}"
        apart = (mine.detach().double() - other.detach().double()).abs()
        wrong = ~(apart <= CLOSE * other.detach().double().abs().amax().clamp(min=1e-6))
        if other.numel() and float(wrong.double().mean()) > OUTLIERS:
            worst = float(apart.nan_to_num(math.inf).max())
            return f"differs from its torch twin by up to {worst:.2g}"
    return ""


def main() -> int:
    """A line of JSON per op, in their order; a process that ends early failed at the next one."""
    device, *ops = sys.argv[1:]
    torch.set_num_threads(2)
    for op in ops:
        print(json.dumps([op, complaint(op, device)]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
