# SPDX-License-Identifier: Apache-2.0
"""`sky`: closed forms, rays against triangles, native against the twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from cuda_ext import build
from cuda_ext.sky import sky
from renderers.surface.finish.occlusion import directions, frames, occlusion

BACKENDS = ("native", "torch")
HOW = {"pixels": 128, "slack": 0.03}


@pytest.fixture(autouse=True)
def _native() -> None:
    if build.compiler() is None:
        pytest.skip("no host compiler")


def ways(count: int) -> Tensor:
    return frames(directions(2 * count)[:count])


def of(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.array(mesh.vertices)).float(), torch.from_numpy(np.array(mesh.faces))


def cup() -> trimesh.Trimesh:
    """A ball with another one cut out of it from above, and a thorn beside it."""
    t = trimesh.creation.revolve([(0, -0.5), (0.5, -0.5), (0.5, 0.3), (0.4, 0.3), (0.4, -0.3), (0, -0.3)], sections=48)
    return trimesh.util.concatenate([t, trimesh.creation.cone(0.05, 0.6).apply_translation([0.7, 0, 0])])


def spots(mesh: trimesh.Trimesh, count: int) -> tuple[Tensor, Tensor]:
    points, face = trimesh.sample.sample_surface(mesh, count, seed=0)
    return torch.from_numpy(points).float(), torch.from_numpy(np.array(mesh.face_normals[face])).float()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ball_sees_all_and_a_floor_under_a_wide_roof_sees_nothing(backend: str) -> None:
    vertices, faces = of(trimesh.creation.icosphere(subdivisions=3, radius=0.8))
    normals = torch.nn.functional.normalize(vertices, dim=-1)
    assert sky(vertices, faces, vertices + 0.02 * normals, normals, ways(32), backend=backend, **HOW).min() > 0.97
    corners = torch.tensor([[-1.0, 0.1, -1], [1, 0.1, -1], [1, 0.1, 1], [-1, 0.1, 1]])
    roof = torch.tensor([[0, 1, 2], [0, 2, 3]])
    below, up = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert sky(corners, roof, below, up, ways(64), backend=backend, pixels=128, slack=0.01) < 0.05
    assert sky(corners, roof, below, -up, ways(64), backend=backend, pixels=128, slack=0.01) > 0.99
    # Beside a wall without an end half of the sky is left.
    wall = torch.tensor([[0.02, -1.0, -1], [0.02, 1, -1], [0.02, 1, 1], [0.02, -1, 1]])
    assert sky(wall, roof, below, up, ways(256), backend=backend, pixels=128, slack=0.01) == pytest.approx(
        0.5, abs=0.06
    )


def met(mesh: trimesh.Trimesh, origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Which rays meet a triangle, in double (Moeller & Trumbore 1997)."""
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    found = []
    for start in range(0, len(rays), 2000):
        o, d = origins[start : start + 2000, None], rays[start : start + 2000, None].astype(float)
        p, t = np.cross(d, c - a), o - a
        det = ((b - a) * p).sum(-1)
        q = np.cross(t, b - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v, far = (t * p).sum(-1) / det, (d * q).sum(-1) / det, ((c - a) * q).sum(-1) / det
        found.append(((u >= 0) & (v >= 0) & (u + v <= 1) & (far > 0)).any(1))
    return np.concatenate(found)


def test_rays_meet_the_same() -> None:
    mesh = cup()
    points, normals = spots(mesh, 150)
    raised, whole = points + 0.012 * normals, ways(64)
    ours = sky(*of(mesh), raised, normals, whole, pixels=512, slack=0.006)
    toward = torch.cat([whole[:, 2], -whole[:, 2]])
    cosine = (normals @ toward.T).clamp(min=0)
    origins, rays = raised.repeat_interleave(len(toward), 0).numpy(), toward.repeat(len(points), 1).numpy()
    hit = torch.from_numpy(met(mesh, origins, rays)).reshape(len(points), -1)
    theirs = (cosine * ~hit).sum(1) / cosine.sum(1)
    assert theirs.min() < 0.3 and theirs.max() > 0.9
    assert (ours - theirs).abs().mean() < 0.02 and (ours - theirs).abs().quantile(0.95) < 0.08


@pytest.mark.parametrize("pixels", [1, 31, 128])
def test_native_is_the_twin_but_where_a_middle_lies_on_an_edge(pixels: int) -> None:
    mesh = cup()
    points, normals = spots(mesh, 2000)
    big = torch.tensor([[-3.0, -2.0, -0.4], [3.0, -2.0, -0.6], [0.0, 4.0, 0.1]])  # reaches beyond the cube
    vertices, faces = of(mesh)
    faces = torch.cat([faces, torch.arange(3)[None] + len(vertices)])
    vertices = torch.cat([vertices, big])
    given = (vertices, faces, points, normals, ways(20))
    ours, theirs = (sky(*given, pixels=pixels, slack=0.03, backend=backend) for backend in BACKENDS)
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 0.02
    assert (ours - theirs).abs().max() < 0.3


def test_any_thread_count_gives_the_same_bits_and_what_is_not_finite_is_nowhere() -> None:
    mesh = cup()
    points, normals = spots(mesh, 500)
    vertices, faces = of(mesh)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sky(vertices, faces, points, normals, ways(20), backend="native", **HOW)
        torch.set_num_threads(3)
        assert torch.equal(one, sky(vertices, faces, points, normals, ways(20), backend="native", **HOW))
    finally:
        torch.set_num_threads(before)
    for bad in (float("nan"), float("inf"), 1e30):
        broken = torch.cat([vertices, torch.full((1, 3), bad)])
        more = torch.cat([faces, torch.tensor([[0, 1, len(vertices)]])])
        for backend in BACKENDS:
            found = sky(broken, more, points, normals, ways(8), backend=backend, **HOW)
            assert found.isfinite().all()
            if bad != 1e30:
                without = sky(vertices, faces, points, normals, ways(8), backend=backend, **HOW)
                torch.testing.assert_close(found, without)


def test_nothing_wrong_shapes_and_graphs() -> None:
    none = torch.zeros(0, 3)
    for backend in BACKENDS:
        assert sky(none, none.long(), torch.zeros(2, 3), torch.eye(3)[:2], ways(4), backend=backend, **HOW).eq(1).all()
        assert len(sky(none, none.long(), none, none, ways(4), backend=backend, **HOW)) == 0
    with pytest.raises(ValueError, match=r"sky: normals must be \[2, 3\]"):
        sky(none, none.long(), torch.zeros(2, 3), none, ways(4), **HOW)
    with pytest.raises(ValueError, match="but there are 0 vertices"):
        sky(none, torch.zeros(1, 3).long(), none, none, ways(4), **HOW)
    given = (torch.rand(4, 3), torch.tensor([[0, 1, 2]]).int(), torch.rand(5, 3), torch.rand(5, 3), ways(3), 8, 0.1)
    torch.library.opcheck(torch.ops.dreamlab.sky.default, given, test_utils=("test_schema", "test_faketensor"))


def test_occlusion_is_darker_in_a_cup_than_outside() -> None:
    mesh = cup()
    outside = torch.tensor([[0.0, 0.0, -0.5]])
    up, away = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    vertices, faces = of(mesh)
    dark = occlusion(vertices, faces, torch.tensor([[0.0, 0.0, -0.3]]), up)
    assert 0.1 < float(dark) < 0.6 and float(occlusion(vertices, faces, outside, away)) > 0.97
