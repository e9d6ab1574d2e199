# SPDX-License-Identifier: Apache-2.0
"""`interpolate` against its twin, the camera's rays and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_ext.interpolate import interpolate
from cuda_ext.raster import Raster, raster
from tests.cuda_ext.raster_scenes import assert_close_except, mesh_tensors, sphere, to_clip, views

SIZE = (45, 52)


@pytest.fixture(scope="module")
def scene() -> tuple[Raster, Tensor, Tensor]:
    vertices, triangles = mesh_tensors(sphere(2))
    return raster(to_clip(vertices, views(2), SIZE), triangles, SIZE, backend="native"), vertices, triangles


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_positions_lie_on_the_rays(scene: tuple[Raster, Tensor, Tensor], backend: str) -> None:
    """Perspective-correct: the interpolated position of a pixel is where its ray meets the triangle."""
    seen, vertices, triangles = scene
    place, _ = interpolate(vertices, seen, triangles, backend=backend)
    cameras = views(2)
    origin, direction = cameras.rays(*SIZE)
    offset = place - origin[:, None, None]
    away = torch.linalg.cross(offset, direction, dim=-1).norm(dim=-1)
    hit = seen.triangle > 0
    # On the rim of a triangle the centre may be 1/512 pixel outside, about 1e-4 here.
    assert float((away * hit).max()) < 3e-4
    assert not place[~hit].any()


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_derivatives_follow_the_rays(scene: tuple[Raster, Tensor, Tensor], backend: str) -> None:
    """The change of the position per pixel is that of the ray's hit on the triangle's plane."""
    seen, vertices, triangles = scene
    _, slope = interpolate(vertices, seen, triangles, derivatives=True, backend=backend)
    assert slope is not None
    cameras, (height, width) = views(2), SIZE
    origin, _ = cameras.rays(height, width)
    corner = vertices[triangles[(seen.triangle - 1).clamp(min=0).long()]].double()
    normal = torch.linalg.cross(corner[..., 1, :] - corner[..., 0, :], corner[..., 2, :] - corner[..., 0, :], dim=-1)
    focal = cameras.focal_px(height).double()[:, None, None]

    def hit(dx: float, dy: float) -> Tensor:
        x = torch.arange(width).double() + 0.5 + dx - width / 2
        y = height / 2 - torch.arange(height).double() - 0.5 - dy
        local = torch.stack([x.expand(2, height, -1) / focal, y[:, None].expand(2, -1, width) / focal,
                             -torch.ones(2, height, width)], -1)  # fmt: skip
        ray = torch.einsum("bij,bhwj->bhwi", cameras.camera_to_world[:, :3, :3].double(), local)
        start = origin.double()[:, None, None]
        t = ((corner[..., 0, :] - start) * normal).sum(-1) / (ray * normal).sum(-1)
        return start + t[..., None] * ray

    step = 1e-4
    mask = (seen.triangle > 0) & (seen.uv.amin(-1) > 1e-3) & (seen.uv.sum(-1) < 0.999)
    for axis, (dx, dy) in enumerate(((step, 0.0), (0.0, step))):
        expected = (hit(dx, dy) - hit(-dx, -dy)) / (2 * step)
        error = (slope[..., axis] - expected).abs().amax(-1)
        assert float((error / expected.norm(dim=-1).clamp(min=1e-6))[mask].max()) < 5e-3


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shared", [True, False])
def test_native_agrees_with_the_twin(scene: tuple[Raster, Tensor, Tensor], channels: int, shared: bool) -> None:
    seen, vertices, triangles = scene
    attributes = draw(*(() if shared else (2,)), len(vertices), channels)
    results = []
    for backend in ("native", "torch"):
        leaves = [attributes.clone().requires_grad_(), seen.uv.clone().requires_grad_()]
        picture = seen._replace(uv=leaves[1])
        value, slope = interpolate(leaves[0], picture, triangles, derivatives=True, backend=backend)
        assert slope is not None
        loss = (value * draw(*value.shape, seed=1)).sum() + (slope * draw(*slope.shape, seed=2)).sum()
        results.append((value, slope, *torch.autograd.grad(loss, leaves)))
    for name, a, b in zip(("value", "slope", "grad attributes", "grad uv"), *results, strict=True):
        assert float(b.detach().abs().max()) > 0.1
        assert_close_except(a, b, 0, name, 1e-5)


def test_gradcheck_of_the_twin(scene: tuple[Raster, Tensor, Tensor]) -> None:
    seen, vertices, triangles = scene
    small = Raster(*(x[:1, 12:18, 20:26].double() if x.is_floating_point() else x[:1, 12:18, 20:26] for x in seen))
    used = triangles[(small.triangle - 1).clamp(min=0).long()].unique()
    attributes = draw(len(vertices), 2).double()

    def both(a: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
        table = attributes.index_copy(0, used, a)
        value, slope = interpolate(table, small._replace(uv=uv), triangles, derivatives=True)
        assert slope is not None
        return value, slope

    inputs = (attributes[used].clone().requires_grad_(), small.uv.clone().requires_grad_())
    assert torch.autograd.gradcheck(both, inputs)


def test_gradient_reaches_clip_positions() -> None:
    """Through `raster` and `interpolate` together, native against twin."""
    vertices, triangles = mesh_tensors(sphere(2))
    grads = []
    for backend in ("native", "torch"):
        clip = to_clip(vertices, views(2), SIZE).requires_grad_()
        value, _ = interpolate(vertices, raster(clip, triangles, SIZE, backend=backend), triangles, backend=backend)
        grads.append(torch.autograd.grad((value * draw(*value.shape)).sum(), clip)[0])
    assert_close_except(grads[0], grads[1], 0, "grad clip")


def test_other_triangles_index_other_attributes(scene: tuple[Raster, Tensor, Tensor]) -> None:
    """One attribute row per corner, as with texture seams, gives what shared rows give."""
    seen, vertices, triangles = scene
    split, _ = interpolate(vertices[triangles].flatten(0, 1), seen, torch.arange(triangles.numel()).reshape(-1, 3))
    assert torch.equal(split, interpolate(vertices, seen, triangles)[0])


def test_wrong_inputs_are_named(scene: tuple[Raster, Tensor, Tensor]) -> None:
    seen, vertices, triangles = scene
    with pytest.raises(ValueError, match="attributes have 3 views, the raster 2"):
        interpolate(vertices.expand(3, -1, -1), seen, triangles)
    with pytest.raises(ValueError, match="162 vertices"):
        interpolate(vertices, seen, triangles + 1)
    with pytest.raises(ValueError, match="same dtype"):
        interpolate(vertices.double(), seen, triangles)


def test_same_bits_for_the_same_threads(scene: tuple[Raster, Tensor, Tensor]) -> None:
    seen, vertices, triangles = scene
    before, grads = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            leaf = vertices.clone().requires_grad_()
            value, _ = interpolate(leaf, seen, triangles, backend="native")
            grads.append(torch.autograd.grad((value * draw(*value.shape)).sum(), leaf)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(grads[1], grads[2])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-4)


def test_registered_ops_are_sound(scene: tuple[Raster, Tensor, Tensor]) -> None:
    seen, vertices, triangles = scene
    leaf, uv = vertices[None].clone().requires_grad_(), seen.uv.clone().requires_grad_()
    for slope in (None, seen.uv_dxy.contiguous()):
        torch.library.opcheck(torch.ops.dreamlab.interpolate, (leaf, triangles.int(), seen.triangle, uv, slope))
