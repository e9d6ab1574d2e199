# SPDX-License-Identifier: Apache-2.0
"""`antialias` against exact areas, closed-form gradients of moving edges, and its twin."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from cuda_ext.antialias import antialias, edge_neighbours
from cuda_ext.interpolate import interpolate
from cuda_ext.raster import raster
from cuda_ext.reference import antialias as reference
from cuda_ext.texture import texture
from tests.cuda_ext.raster_scenes import assert_close_except, mesh_tensors, pixel_clip, soup, sphere, to_clip, views

BACKENDS = ("native", "torch")


def coverage(clip: Tensor, triangles: Tensor, size: tuple[int, int], backend: str) -> Tensor:
    """[B, H, W] antialiased silhouette, white on black."""
    seen = raster(clip, triangles, size, backend=backend)
    white = (seen.triangle > 0).to(clip)[..., None]
    return antialias(white, seen, clip, triangles, backend=backend)[..., 0]


def half_plane(angle_deg: float, offset: float, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A square of 40 x 40 pixels, one side of which crosses the picture; corners and the exact area per pixel."""
    angle = math.radians(angle_deg)
    normal, along = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
    cx, cy = size[1] / 2 + offset * normal[0], size[0] / 2 + offset * normal[1]
    corners = [
        (cx + s * 40 * along[0] - d * 40 * normal[0], cy + s * 40 * along[1] - d * 40 * normal[1])
        for s, d in ((-1, 0), (1, 0), (1, 1), (-1, 1))
    ]
    fine = 64
    x = (torch.arange(size[1] * fine) + 0.5) / fine - cx
    y = (torch.arange(size[0] * fine) + 0.5) / fine - cy
    inside = (x[None] * normal[0] + y[:, None] * normal[1] <= 0).float()
    return pixel_clip(corners, size), inside.reshape(size[0], fine, size[1], fine).mean((1, 3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("angle_deg", [0, 90, 180, 270, 20, 44, 70, 110, 200, 314])
def test_half_plane_covers_its_exact_area(angle_deg: float, backend: str) -> None:
    size, triangles = (16, 20), torch.tensor([[0, 1, 2], [0, 2, 3]])
    for offset in (0.1, 0.37, 0.74):
        clip, exact = half_plane(angle_deg, offset, size)
        ours = coverage(clip, triangles, size, backend)[0]
        error = (ours - exact).abs()[1:-1, 1:-1]  # a pixel at the border lacks the neighbour it would blend with
        if angle_deg % 90 == 0:
            assert float(error.max()) < 0.01  # the reference counts 64 x 64 points
            continue
        # A slanted edge is a staircase of one pixel per row or column where the exact ramp is up to two wide: exact
        # in sum, off by at most 1/8 in a pixel (near 45 degrees); the reference counts 64 x 64 points.
        assert float(error.max()) < 1 / 8 + 1 / 64
        steep = abs(math.cos(math.radians(angle_deg))) > abs(math.sin(math.radians(angle_deg)))
        sums, sums_exact = (x.sum(1 if steep else 0) for x in (ours, exact))
        length = size[1 if steep else 0]
        whole = (sums_exact > 1.5) & (sums_exact < length - 1.5)  # the edge does not leave through the side here
        assert int(whole.sum()) >= 8
        assert float((sums - sums_exact).abs()[whole].max()) < 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_a_moving_quad_is_the_length_of_its_edge(backend: str) -> None:
    """Sum of the picture = height x (right - left) x contrast for a quad `height` whole rows high."""
    size, triangles = (24, 32), torch.tensor([[0, 1, 2], [0, 2, 3]])
    left, right, top, bottom = 5.3, 22.8, 4.0, 19.0
    # Different w per corner: the same picture, and the chain rule through the division.
    w = torch.tensor([1.0, 2.0, 0.5, 3.0])
    quad = pixel_clip([(left, top), (right, top), (right, bottom), (left, bottom)], size)
    clip = (quad * w[None, :, None]).requires_grad_()
    seen = raster(clip, triangles, size, backend=backend)
    color, background = torch.tensor([0.9, 0.2, 0.4]), torch.tensor([0.1, 0.5, 0.3])
    flat = torch.where((seen.triangle > 0)[..., None], color, background)
    picture = antialias(flat, seen, clip, triangles, backend=backend)
    area = (right - left) * (bottom - top)
    expected = background * (size[0] * size[1] - area) + color * area
    torch.testing.assert_close(picture.sum((0, 1, 2)), expected, rtol=1e-4, atol=1e-3)
    for channel in range(3):
        (grad,) = torch.autograd.grad(picture[..., channel].sum(), clip, retain_graph=True)
        contrast = float(color[channel] - background[channel])
        per_x = grad[0, :, 0] * w * 2 / size[1]  # per pixel that a corner moves
        rows = torch.arange(top, bottom) + 0.5
        share = ((rows - top) / (bottom - top)).sum()  # of the lower corner; the upper one has the rest
        count = bottom - top
        torch.testing.assert_close(per_x[2], contrast * share, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(per_x[1], contrast * (count - share), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(per_x[0] + per_x[3], torch.tensor(-contrast * count), rtol=1e-3, atol=1e-3)
        # The point x / w does not change along the corner's own ray.
        along_ray = (grad[0] * clip[0].detach()).sum(-1)
        assert float(along_ray.abs().max()) < 1e-2
        assert not grad[..., 2].any()


@pytest.mark.parametrize(("subdivisions", "backend"), [(3, "native"), (3, "torch"), (5, "native")])
def test_area_of_a_sphere_and_its_gradient(subdivisions: int, backend: str) -> None:
    """Area of the projected disc and its derivative by the radius; at 5 subdivisions triangles are below a pixel."""
    size, distance, radius = (64, 64), 3.0, 0.8
    vertices, triangles = mesh_tensors(sphere(subdivisions, 1.0))
    scale = torch.tensor(radius, requires_grad=True)
    cameras = views(1, 20.0, distance)
    area = coverage(to_clip(vertices * scale, cameras, size), triangles, size, backend).sum()
    (grad,) = torch.autograd.grad(area, scale)
    disc = float(cameras.focal_px(size[0])[0]) * radius / math.sqrt(distance**2 - radius**2)
    mesh = 0.01 if subdivisions == 3 else 0.001  # how much flatter the mesh is than the ball
    assert float(area.detach()) == pytest.approx(math.pi * disc**2, rel=mesh + 0.002)
    # Edges count by rows or by columns; where that changes, at eight places, up to half a row is lost or counted twice.
    pairs = 4 * math.sqrt(2) * disc
    exact = 2 * math.pi * disc**2 / radius * distance**2 / (distance**2 - radius**2)
    assert float(grad) == pytest.approx(exact, rel=mesh + 4 / pairs)


def scene(name: str) -> tuple[Tensor, Tensor, tuple[int, int]]:
    size = (50, 64)
    if name == "soup":
        clip, triangles = soup(40, torch.Generator().manual_seed(1))
        return clip, triangles, size
    if name == "behind":
        clip, triangles = soup(40, torch.Generator().manual_seed(2), behind=True)
        return clip, triangles, size
    torus = trimesh.creation.torus(0.7, 0.25, major_sections=40, minor_sections=20)
    mesh = trimesh.util.concatenate([torus, sphere(2, 0.4), trimesh.creation.box((0.3, 1.6, 0.2))])
    vertices, triangles = mesh_tensors(mesh)
    if name == "mixed winding":
        triangles[::3] = triangles[::3].flip(1)
    return to_clip(vertices, views(2, 35.0), size), triangles, size


@pytest.mark.parametrize("name", ["torus", "mixed winding", "soup", "behind"])
def test_native_agrees_with_the_twin(name: str) -> None:
    clip, triangles, size = scene(name)
    seen = raster(clip, triangles, size, backend="native")
    color = torch.rand(*seen.triangle.shape, 3, generator=torch.Generator().manual_seed(0))
    neighbours = edge_neighbours(triangles)
    pairs = [
        torch.ops.dreamlab.antialias_silhouettes(seen.triangle, seen.depth, clip, triangles.int(), neighbours),
        reference.silhouettes(seen.triangle, seen.depth, clip, triangles, neighbours),
    ]
    # Two edges crossed at the same place, or a crossing exactly at the other centre, may be decided either way.
    flips = int((pairs[0] != pairs[1]).sum())
    assert flips <= 0.01 * int((pairs[1] > 0).sum())
    pairs[0] = torch.where(pairs[0] == pairs[1], pairs[0], 0)
    results = []
    for blend in (torch.ops.dreamlab.antialias_blend, reference.blend):
        leaves = [color.clone().requires_grad_(), clip.clone().requires_grad_()]
        out = blend(*leaves, triangles.int(), pairs[0])
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        results.append((out, *torch.autograd.grad((out * weight).sum(), leaves)))
    for field, a, b in zip(("out", "grad color", "grad clip"), *results, strict=True):
        assert_close_except(a, b, 0, field, 2e-5)
    if flips == 0:
        both = [antialias(color, seen, clip, triangles, neighbours=neighbours, backend=backend) for backend in BACKENDS]
        assert_close_except(*both, 0, "antialias", 2e-5)


def test_gradcheck_of_the_twin() -> None:
    generator = torch.Generator().manual_seed(4)
    size, triangles = (6, 7), torch.tensor([[0, 1, 2], [2, 1, 3]])
    points = [(1.2, 0.9), (5.7, 1.6), (0.8, 4.9), (5.1, 5.2)]
    w = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    clip = pixel_clip(points, size).double() * w[None, :, None]
    seen = raster(clip, triangles, size)
    neighbours = edge_neighbours(triangles)
    pairs = reference.silhouettes(seen.triangle, seen.depth, clip, triangles, neighbours)
    assert int((pairs > 0).sum()) > 10
    color = torch.rand(1, *size, 2, generator=generator, dtype=torch.float64)

    def blended(c: Tensor, p: Tensor) -> Tensor:
        return reference.blend(c, p, triangles, pairs)

    assert torch.autograd.gradcheck(blended, (color.requires_grad_(), clip.requires_grad_()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_inside_of_a_surface_is_left_alone(backend: str) -> None:
    """Only pixels next to another surface change, however small the triangles are."""
    size = (40, 40)
    vertices, triangles = mesh_tensors(sphere(3))
    clip = to_clip(vertices, views(1), size)
    seen = raster(clip, triangles, size, backend=backend)
    color = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(0))
    out = antialias(color, seen, clip, triangles, backend=backend)
    hit = (seen.triangle > 0).float()[:, None]
    near_border = (torch.nn.functional.max_pool2d(hit, 3, 1, 1) + torch.nn.functional.max_pool2d(-hit, 3, 1, 1))[
        :, 0
    ] != 0
    assert torch.equal(out[~near_border], color[~near_border])
    assert float((out - color).abs()[near_border].max()) > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_fold_in_front_of_the_same_mesh_is_a_silhouette(backend: str) -> None:
    """A ribbon folded back over itself: the fold is smoothed although both sides belong to one closed surface."""
    size = (16, 16)
    front = pixel_clip([(2, 2), (9.3, 2), (9.3, 14), (2, 14)], size, -0.5)
    back = pixel_clip([(15, 2), (15, 14)], size, 0.5)
    clip = torch.cat([front, back], 1)
    # The fold is the edge 1-2; the far sheet goes on behind the near one and out to x = 15.
    lower = pixel_clip([(3, 2), (3, 14)], size, 0.4)
    clip = torch.cat([clip, lower], 1)
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 6, 2], [6, 7, 2], [6, 4, 7], [4, 5, 7]])
    seen = raster(clip, triangles, size, backend=backend)
    white = (seen.triangle > 0) & (seen.triangle <= 2)
    out = antialias(white.float()[..., None], seen, clip, triangles, backend=backend)[0, ..., 0]
    torch.testing.assert_close(out[6, 8:11], torch.tensor([1.0, 0.3, 0.0]), atol=1e-3, rtol=0)


def test_neighbours_of_a_closed_mesh_are_mutual() -> None:
    _, triangles = mesh_tensors(sphere(2))
    neighbours = edge_neighbours(triangles)
    assert neighbours.dtype == torch.int32 and int(neighbours.min()) >= 0
    flat = neighbours.flatten().long()
    assert torch.equal(flat[flat], torch.arange(len(flat)))
    start, end = triangles[:, [1, 2, 0]].flatten(), triangles[:, [2, 0, 1]].flatten()
    assert torch.equal(start[flat], end) and torch.equal(end[flat], start)


def test_neighbours_of_broken_meshes() -> None:
    fan = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4], [2, 1, 5], [6, 6, 7]])
    neighbours = edge_neighbours(fan)
    expected = torch.full((5, 3), -1)
    expected[0, 0], expected[3, 2] = 11, 0  # edge 1-2 alone joins two; 0-1 joins three, 6-6 has no length
    expected[4] = torch.tensor([5, 4, 3]) * 0 - 1
    degenerate = neighbours[4].clone()
    assert torch.equal(neighbours[:4].long(), expected[:4])
    assert int(degenerate[2]) == -1
    assert edge_neighbours(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_see(backend: str) -> None:
    none, clip = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(2, 4, 4)
    color = torch.rand(2, 5, 6, 3)
    seen = raster(clip, none, (5, 6), backend=backend)
    assert torch.equal(antialias(color, seen, clip, none, backend=backend), color)


def test_wrong_inputs_are_named() -> None:
    clip, triangles, size = scene("torus")
    seen = raster(clip, triangles, size)
    color = torch.zeros(*seen.triangle.shape, 3)
    with pytest.raises(ValueError, match=r"color must be \[2, 50, 64, C\]"):
        antialias(color[:1], seen, clip, triangles)
    with pytest.raises(ValueError, match="neighbours must be"):
        antialias(color, seen, clip, triangles, neighbours=edge_neighbours(triangles)[:5])
    with pytest.raises(ValueError, match="must be int32"):
        antialias(color, seen, clip, triangles, neighbours=edge_neighbours(triangles).long())


def test_same_bits_for_the_same_threads() -> None:
    clip, triangles, size = scene("torus")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            seen = raster(clip, triangles, size, backend="native")
            leaves = [torch.sin(torch.arange(seen.uv.numel()) * 0.7).reshape(seen.uv.shape).requires_grad_(),
                      clip.clone().requires_grad_()]  # fmt: skip
            out = antialias(leaves[0], seen, leaves[1], triangles, backend="native")
            results.append((out, *torch.autograd.grad((out * out).sum(), leaves)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(results[1], results[2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(results[0][:2], results[1][:2], strict=True))


def test_registered_ops_are_sound() -> None:
    clip, triangles, size = scene("torus")
    clip, triangles, ops = clip[:1], triangles.int(), torch.ops.dreamlab
    seen = raster(clip, triangles, size, backend="native")
    inputs = (seen.triangle, seen.depth, clip, triangles, edge_neighbours(triangles))
    torch.library.opcheck(ops.antialias_silhouettes, inputs)
    color = torch.rand(1, *size, 2).requires_grad_()
    torch.library.opcheck(
        ops.antialias_blend, (color, clip.requires_grad_(), triangles, ops.antialias_silhouettes(*inputs))
    )


def test_the_whole_family_is_traced_without_a_break() -> None:
    vertices, triangles = mesh_tensors(sphere(1))
    size, triangles = (12, 12), triangles.int()
    clip, neighbours = to_clip(vertices, views(1), size), edge_neighbours(triangles)
    image = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))

    def draw(c: Tensor) -> Tensor:
        seen = raster(c, triangles, size, backend="native")
        uv, slope = interpolate(vertices[:, :2], seen, triangles, derivatives=True, backend="native")
        assert slope is not None
        color = texture(image, uv, uv_dxy=slope.flatten(-2), backend="native")
        return antialias(color, seen, c, triangles, neighbours=neighbours, backend="native").square().sum()

    grads = []
    for run in (draw, torch.compile(draw, backend="aot_eager", fullgraph=True)):
        leaf = clip.clone().requires_grad_()
        grads.append(torch.autograd.grad(run(leaf), leaf)[0])
    assert torch.equal(grads[0], grads[1])
