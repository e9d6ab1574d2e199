# SPDX-License-Identifier: Apache-2.0
"""`raster` against its twin, trimesh's ray caster, closed forms and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from trimesh.ray.ray_triangle import ray_triangle_id

from cuda_ext.raster import Raster, projection, raster
from cuda_ext.reference import raster as reference
from dreamlab.core.cameras import orbit
from tests.cuda_ext.raster_scenes import assert_close_except, mesh_tensors, pixel_clip, soup, sphere, to_clip, views

SCENES = ("sphere", "dense", "soup", "behind")


def scene(name: str) -> tuple[Tensor, Tensor, tuple[int, int]]:
    generator = torch.Generator().manual_seed(3)
    if name in ("sphere", "dense"):
        size = (64, 80) if name == "sphere" else (61, 33)
        vertices, triangles = mesh_tensors(sphere(2 if name == "sphere" else 4))
        return to_clip(vertices, views(2), size), triangles, size
    clip, triangles = soup(60, generator, behind=name == "behind")
    return clip, triangles, (70, 45)


def test_projection_agrees_with_the_cameras_rays() -> None:
    cameras, size = orbit([10.0, 200.0], 30.0, 2.5, 50.0), (48, 32)
    origin, direction = cameras.rays(*size)
    forward = -cameras.camera_to_world[:, :3, 2]
    near, far = 0.5, 6.0
    for depth, z_expected in ((near, -1.0), (2.0, None), (far, 1.0)):
        along = depth / (direction * forward[:, None, None]).sum(-1, keepdim=True)
        points = (origin[:, None, None] + along * direction).flatten(1, 2)
        clip = torch.stack([to_clip(points[i], cameras[i : i + 1], size, near, far)[0] for i in range(2)])
        x = (clip[..., 0] / clip[..., 3] + 1) / 2 * size[1]
        y = (1 - clip[..., 1] / clip[..., 3]) / 2 * size[0]
        column = (torch.arange(size[1]) + 0.5).repeat(size[0])
        row = (torch.arange(size[0]) + 0.5).repeat_interleave(size[1])
        torch.testing.assert_close(x, column.expand(2, -1), atol=1e-3, rtol=0)
        torch.testing.assert_close(y, row.expand(2, -1), atol=1e-3, rtol=0)
        torch.testing.assert_close(clip[..., 3], torch.full_like(x, depth), atol=1e-4, rtol=0)
        if z_expected is not None:
            torch.testing.assert_close(clip[..., 2] / clip[..., 3], torch.full_like(x, z_expected), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="near < far"):
        projection(40.0, 1.0, 2.0, 1.0)


@pytest.mark.parametrize("name", SCENES)
def test_native_agrees_with_the_twin(name: str) -> None:
    clip, triangles, size = scene(name)
    ours, twin = (raster(clip, triangles, size, backend=backend) for backend in ("native", "torch"))
    flips = int((ours.triangle != twin.triangle).sum())
    # A depth test between surfaces that cut through each other may fall either way; coverage itself is exact.
    assert flips <= (8 if name in ("soup", "behind") else 0)
    assert int((ours.triangle > 0).ne(twin.triangle > 0).sum()) == 0
    for field in ("uv", "depth", "uv_dxy"):
        a, b = getattr(ours, field), getattr(twin, field)
        assert_close_except(a, b, flips * b[0, 0, 0].numel(), field)


@pytest.mark.parametrize("name", SCENES)
def test_gradients_agree_with_the_twin(name: str) -> None:
    clip, triangles, size = scene(name)
    results = [raster(clip.requires_grad_(), triangles, size, backend=backend) for backend in ("native", "torch")]
    same = (results[0].triangle == results[1].triangle).float()
    generator = torch.Generator().manual_seed(0)
    weight_uv = torch.randn(results[0].uv.shape, generator=generator) * same[..., None]
    weight_depth = torch.randn(results[0].depth.shape, generator=generator) * same
    grads = [torch.autograd.grad((r.uv * weight_uv).sum() + (r.depth * weight_depth).sum(), clip)[0] for r in results]
    assert float(grads[1].abs().max()) > 1
    assert_close_except(grads[0], grads[1], 0, "grad clip")


def test_gradcheck_of_the_twin() -> None:
    generator = torch.Generator().manual_seed(27)
    clip = torch.randn(1, 9, 4, generator=generator, dtype=torch.float64)
    clip[..., 3] = clip[..., 3].abs() + 0.5
    clip[0, 7, 3] = -0.4  # one corner behind the camera
    triangles = torch.arange(9).reshape(3, 3)
    triangle = reference.visible(clip, triangles, 7, 6)
    assert {1, 2, 3} <= set(triangle.unique().tolist())

    def measured(c: Tensor) -> tuple[Tensor, Tensor]:
        return reference.barycentrics(c, triangles, triangle)[:2]

    assert torch.autograd.gradcheck(measured, clip.requires_grad_(), eps=1e-7, atol=1e-5, rtol=1e-4)


def test_derivatives_per_pixel_are_finite_differences() -> None:
    """Moving the picture by a step to the left reads the barycentrics a step to the right."""
    clip, triangles, size = scene("sphere")
    clip = clip.double()
    triangle = reference.visible(clip, triangles, *size)
    _, _, slope = reference.barycentrics(clip, triangles, triangle)
    step = 1e-5
    for axis, sign in ((0, -1.0), (1, 1.0)):
        moved = []
        for direction in (1, -1):
            shifted = clip.clone()
            shifted[..., axis] += sign * direction * 2 * step / size[1 - axis] * clip[..., 3]
            moved.append(reference.barycentrics(shifted, triangles, triangle)[0])
        measured = (moved[0] - moved[1]) / (2 * step)
        # Pixels at a border, where snapping left the centre outside, sit on the rim and differ.
        inside = reference.barycentrics(clip, triangles, triangle)[0]
        rim = (inside.amin(-1) < 1e-3) | (inside.sum(-1) > 1 - 1e-3)
        error = (measured - slope[..., [axis, 2 + axis]]).abs() * ~rim[..., None]
        assert float(error.max()) < 1e-4 * float(slope.abs().max())


class BoxIndex:
    """What trimesh's ray caster asks of an R-tree, answered by looking at every box."""

    def __init__(self, triangles: np.ndarray) -> None:
        self.low, self.high = triangles.min(1), triangles.max(1)
        self.bounds = np.concatenate([self.low.min(0), self.high.max(0)])

    def intersection(self, box: np.ndarray) -> np.ndarray:
        return np.nonzero(((self.low <= box[3:]) & (self.high >= box[:3])).all(1))[0]


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_agrees_with_trimesh_ray_caster(backend: str) -> None:
    import trimesh

    size = (40, 48)
    torus = trimesh.creation.torus(0.7, 0.25, major_sections=24, minor_sections=12)
    mesh = trimesh.util.concatenate([torus, sphere(1, 0.4), trimesh.creation.box((0.3, 1.6, 0.2))])
    vertices, triangles = mesh_tensors(mesh)
    cameras = views(1, 35.0)
    ours = raster(to_clip(vertices, cameras, size), triangles, size, backend=backend)
    origin, direction = (x.double().numpy() for x in cameras.rays(*size))
    rays = direction.reshape(-1, 3)
    origins = np.repeat(origin, len(rays), 0)
    hit, ray, place = ray_triangle_id(mesh.triangles, origins, rays, tree=BoxIndex(mesh.triangles), multiple_hits=False)
    expected = np.zeros(len(rays), np.int64)
    expected[ray] = hit + 1
    flips = int((ours.triangle[0].flatten().numpy() != expected).sum())
    assert len(ray) > 500
    assert flips <= 4  # centres within rounding of an edge
    same = ours.triangle[0].flatten().numpy()[ray] == hit + 1
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[hit], place)[same]
    uv = ours.uv[0].reshape(-1, 2).numpy()[ray][same]
    assert np.abs(uv - weights[:, :2]).max() < 2e-3
    clip = to_clip(torch.tensor(place, dtype=torch.float32), cameras, size)[0].numpy()
    depth = ours.depth[0].flatten().numpy()[ray]
    assert np.abs(depth - clip[:, 2] / clip[:, 3])[same].max() < 1e-4


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_front_of_a_sphere_covers_every_pixel_once(backend: str) -> None:
    """Each triangle drawn alone, in a view of its own: the counts inside the silhouette are exactly 1."""
    size = (48, 48)
    vertices, triangles = mesh_tensors(sphere(2))
    clip = to_clip(vertices, views(1), size)[0]
    corner = clip[triangles]  # [T, 3, 4]
    xyw = corner[..., [0, 1, 3]].double()
    corner = corner[torch.linalg.det(xyw) > 0]  # counter-clockwise on the screen: towards the eye
    alone = raster(corner, torch.tensor([[0, 1, 2]]), size, backend=backend).triangle
    count = alone.sum(0)
    assert int(count.max()) == 1
    whole = raster(clip, triangles, size, backend=backend).triangle[0] > 0
    assert torch.equal(count > 0, whole)
    row, column = whole.nonzero(as_tuple=True)
    for r in row.unique():  # convex: no hole between a row's first and last pixel
        seen = column[row == r]
        assert int(seen.max() - seen.min()) + 1 == len(seen)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_centres_on_edges_and_corners_are_hit_once(offset: float, backend: str) -> None:
    """A fan whose corners and edges run exactly through pixel centres (offset 1/2) or pixel corners (0)."""
    size, middle = (16, 16), 8 + offset
    rim = [(0, 0), (middle, 0), (16, 0), (16, middle), (16, 16), (middle, 16), (0, 16), (0, middle)]
    parts = []
    for i in range(8):
        corners = [(middle, middle), rim[i], rim[(i + 1) % 8]]
        parts.append(pixel_clip(corners if i % 2 else corners[::-1], size))
    alone = raster(torch.cat(parts), torch.tensor([[0, 1, 2]]), size, backend=backend).triangle
    assert torch.equal(alone.sum(0), torch.ones(size, dtype=torch.int64))


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_ground_through_the_camera_is_cut_at_the_near_plane(backend: str) -> None:
    """A floor from behind the camera to the far plane: every ray's hit is the analytic one, and nothing else."""
    size, near, far = (32, 40), 0.3, 9.0
    cameras = orbit([0.0], 8.0, 2.0, 60.0)
    corners = [[x, -0.5, z] for x, z in ((-30.0, -30.0), (30.0, -30.0), (30.0, 30.0), (-30.0, 30.0))]
    vertices, triangles = torch.tensor(corners), torch.tensor([[0, 1, 2], [0, 2, 3]])
    ours = raster(to_clip(vertices, cameras, size, near, far), triangles, size, backend=backend)
    origin, direction = cameras.rays(*size)
    t = (-0.5 - origin[0, 1]) / direction[0, ..., 1]
    point = origin[0] + t[..., None] * direction[0]
    along = t * (direction[0] @ -cameras.camera_to_world[0, :3, 2])
    expected = (t > 0) & (along > near) & (along < far)
    border = (along - near).abs().minimum((along - far).abs()) < 0.02 * along.abs()
    seen = ours.triangle[0] > 0
    assert int((seen != expected)[~border].sum()) == 0
    assert 0 < int(seen.sum()) < seen.numel()
    uv = ours.uv[0]
    weights = torch.cat([uv, 1 - uv.sum(-1, keepdim=True)], -1)
    corner = vertices[triangles[(ours.triangle[0] - 1).clamp(min=0).long()]]
    place = (weights[..., None] * corner).sum(-2)
    assert float((place - point)[seen & ~border].abs().max()) < 0.02


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_from_inside_a_sphere_every_pixel_is_covered_once(backend: str) -> None:
    """The camera inside the mesh: many triangles pass beside it and are cut, and all of the picture is wall."""
    size = (24, 30)
    vertices, triangles = mesh_tensors(sphere(2, 1.0))
    for azimuth_deg in (3.0, 140.0):
        cameras = orbit([azimuth_deg], 20.0, 0.6, 100.0)
        corner = to_clip(vertices, cameras, size, 0.02)[0][triangles]
        assert bool((corner[..., 3] < 0).any(-1).logical_and((corner[..., 3] > 0).any(-1)).any())
        alone = raster(corner, torch.tensor([[0, 1, 2]]), size, backend=backend).triangle
        assert torch.equal(alone.sum(0), torch.ones(size, dtype=torch.int64))


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_nearer_wins_and_ties_go_to_the_lower_index(backend: str) -> None:
    size = (8, 8)
    square = [(0, 0), (16, 0), (0, 16)]
    clip = torch.cat([pixel_clip(square, size, z) for z in (0.5, -0.5, -0.5, 1.5)], 1)
    triangles = torch.arange(12).reshape(4, 3)
    assert raster(clip, triangles, size, backend=backend).triangle.unique().tolist() == [2]
    order = [3, 0]  # alone, what lies beyond the far plane is not seen
    assert raster(clip, triangles[order], size, backend=backend).triangle.unique().tolist() == [2]
    assert raster(clip, triangles[[3]], size, backend=backend).triangle.unique().tolist() == [0]


def test_shapes_dtypes_and_one_view() -> None:
    clip, triangles, size = scene("sphere")
    one = raster(clip[0], triangles.int(), size)
    many = raster(clip, triangles, size)
    assert isinstance(one, Raster) and one.triangle.dtype == torch.int32
    for a, b in zip(one, many, strict=True):
        assert a.shape[0] == 1 and torch.equal(a[0], b[0])
    assert raster(clip.double(), triangles, size).uv.dtype == torch.float64


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_empty_inputs(backend: str) -> None:
    none = torch.zeros(0, 3, dtype=torch.int64)
    for clip in (torch.zeros(2, 5, 4), torch.zeros(2, 0, 4), torch.zeros(0, 5, 4)):
        out = raster(clip.requires_grad_(), none, (6, 7), backend=backend)
        assert out.triangle.shape == (len(clip), 6, 7)
        assert not any(x.any() for x in out)


def test_wrong_inputs_are_named() -> None:
    clip, triangles, size = scene("sphere")
    for arguments, message in (
        ((clip[..., :3], triangles, size), r"clip must be \[B, V, 4\]"),
        ((clip, triangles.float(), size), "int32 or int64"),
        ((clip, triangles + 5, size), "index rows 5"),
        ((clip.half(), triangles, size), "float32 or float64"),
        ((clip, triangles, (0, 4)), "size"),
        ((clip, triangles, (4, 40000)), "at most"),
    ):
        with pytest.raises(ValueError, match=message):
            raster(*arguments)


def test_a_package_that_cannot_run_is_explained() -> None:
    clip, triangles, size = scene("sphere")
    with pytest.raises(ValueError, match=r"nvdiffrast' is not available: .*(non-commercial|CUDA only)"):
        raster(clip, triangles, size, backend="nvdiffrast")
    with pytest.raises(ValueError, match="backend 'fast' is not one of"):
        raster(clip, triangles, size, backend="fast")


def test_same_bits_on_any_number_of_threads() -> None:
    clip, triangles, size = scene("dense")
    before, outputs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 5):
            torch.set_num_threads(threads)
            leaf = clip.clone().requires_grad_()
            out = raster(leaf, triangles, size, backend="native")
            (out.uv.sum() + out.depth.sum()).backward()
            outputs.append((*out, leaf.grad))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(outputs[1], outputs[2], strict=True):
        assert torch.equal(a, b)
    for other in (outputs[0], outputs[3]):  # sums over pixels are grouped by thread, all else is not
        assert all(torch.equal(a, b) for a, b in zip(outputs[1][:4], other[:4], strict=True))


def test_many_views_of_many_triangles() -> None:
    """More than is binned at once: each view is what it is alone, and tiles keep their triangles in order."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(400_000, 1, 2, generator=generator) * 2 - 1
    corner = torch.zeros(400_000, 3, 4)
    corner[..., :2] = centre + 0.01 * torch.randn(400_000, 3, 2, generator=generator)
    corner[..., 2], corner[..., 3] = torch.rand(400_000, 1, generator=generator) - 0.5, 1
    clip, triangles, size = (
        corner.reshape(1, -1, 4),
        torch.arange(1_200_000, dtype=torch.int32).reshape(-1, 3),
        (100, 90),
    )
    alone = torch.ops.dreamlab.raster_visible(clip, triangles, *size)
    together = torch.ops.dreamlab.raster_visible(clip.repeat(3, 1, 1), triangles, *size)
    assert int((alone > 0).sum()) > 0.95 * alone.numel()
    assert torch.equal(together, alone.expand(3, -1, -1))


def test_registered_ops_are_sound() -> None:
    clip, triangles, size = scene("sphere")
    clip, triangles, ops = clip.requires_grad_(), triangles.int(), torch.ops.dreamlab
    triangle = ops.raster_visible(clip.detach(), triangles, *size)
    torch.library.opcheck(ops.raster_visible, (clip.detach(), triangles, *size))
    torch.library.opcheck(ops.raster_barycentrics, (clip, triangles, triangle))
    assert not ops.raster_barycentrics(clip, triangles, triangle)[2].requires_grad
