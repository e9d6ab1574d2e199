# SPDX-License-Identifier: Apache-2.0
"""Unwrapping, textured meshes and their shading: geometry against trimesh, pictures against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Mesh, Training
from renderers.mesh import TexturedMesh
from renderers.surface.atlas import unwrap
from renderers.surface.bake import project, texels
from renderers.surface.draw import Surface, look, vertex_normals
from renderers.surface.extraction import extract
from renderers.surface.files import read_mesh
from renderers.surface.shapes import signed_distances
from renderers.surface.tangents import tangents


def of(shape: trimesh.Trimesh) -> Mesh:
    vertices = torch.from_numpy(np.array(shape.vertices, np.float32))
    normals = torch.from_numpy(np.array(shape.vertex_normals, np.float32))
    return Mesh(vertices, torch.from_numpy(np.array(shape.faces, np.int64)), (vertices + 1) / 2, normals)


SHAPES = {
    "ball": lambda: trimesh.creation.icosphere(subdivisions=3, radius=0.7),
    "torus": lambda: trimesh.creation.torus(0.6, 0.2, major_sections=24, minor_sections=12),
    "box": lambda: trimesh.creation.box((0.8, 1.0, 1.2)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_charts_cover_every_face_once_and_do_not_stretch(name: str) -> None:
    mesh, size = of(SHAPES[name]()), 256
    atlas = unwrap(mesh.vertices, mesh.faces, size, "own")
    assert torch.equal(atlas.source[atlas.faces], mesh.faces)
    assert float(atlas.uv.min()) >= 0 and float(atlas.uv.max()) <= 1
    a, b, c = atlas.uv[atlas.faces].double().unbind(1)
    flat = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert (flat < 0).all(), "seen from outside u runs right and v down"
    covered = len(texels(atlas, size).hit) / size**2
    assert covered == pytest.approx(float(-flat.sum()), rel=0.05), "charts must not lie on each other"
    p, q, r = mesh.vertices[mesh.faces].double().unbind(1)
    area = torch.linalg.cross(q - p, r - p).norm(dim=-1) / 2
    stretch = (-flat / area) / (-flat / area).max()
    assert stretch.min() > 0.4  # a face tilted by 54.7 degrees shrinks to 0.577
    assert covered > 0.3


def test_a_rough_surface_fits_a_small_texture() -> None:
    """Noise as long as the edges turns faces every way; charts must stay few, and none may lie on another."""
    shape = trimesh.creation.icosphere(subdivisions=4, radius=0.7)  # 5120 faces, edges of 0.05
    noise = np.random.default_rng(0).normal(scale=0.02, size=shape.vertices.shape)
    mesh, size = of(trimesh.Trimesh(shape.vertices + noise, shape.faces, process=False)), 256
    atlas = unwrap(mesh.vertices, mesh.faces, size, "own")
    assert len(atlas.uv) < 2.5 * len(mesh.vertices)  # 6 when every face is alone
    a, b, c = atlas.uv[atlas.faces].double().unbind(1)
    flat = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert (flat < 0).all()
    assert len(texels(atlas, size).hit) / size**2 == pytest.approx(float(-flat.sum()), rel=0.06)


def test_a_chart_that_winds_over_itself_is_cut() -> None:
    """A spiral ramp of two and a half turns, all of it seen from above: one connected chart in three layers."""
    turn = np.linspace(0, 5 * np.pi, 120)
    rails = [np.stack([r * np.cos(turn), 0.05 * turn, r * np.sin(turn)], 1) for r in (0.4, 0.8)]
    i = np.arange(119)
    faces = np.concatenate([np.stack([i, i + 1, i + 120], 1), np.stack([i + 1, i + 121, i + 120], 1)])
    mesh, size = of(trimesh.Trimesh(np.concatenate(rails), faces, process=False)), 128
    atlas = unwrap(mesh.vertices, mesh.faces, size, "own")
    assert len(atlas.uv) < 1.2 * len(mesh.vertices)
    a, b, c = atlas.uv[atlas.faces].double().unbind(1)
    flat = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert len(texels(atlas, size).hit) / size**2 == pytest.approx(float(flat.abs().sum()), rel=0.05)


def test_normals_are_units_at_slivers_too() -> None:
    """glTF refuses others; simplified surfaces have triangles of almost no area, and of none."""
    corners = torch.tensor([[0.0, 0, 0], [1e-6, 0, 0], [0, 2e-4, 0], [0.5, 0, 0], [0.5, 0, 0], [0.6, 0, 0]])
    corners.requires_grad_()
    found = vertex_normals(corners, torch.tensor([[0, 1, 2], [3, 4, 5]]))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(6))
    torch.testing.assert_close(found[:3].detach(), torch.tensor([[0.0, 0, 1]]).expand(3, 3))
    found.square().sum().backward()
    assert torch.isfinite(corners.grad).all()


def test_tangents_follow_u_and_are_right_handed_with_v_up() -> None:
    mesh = of(SHAPES["ball"]())
    atlas = unwrap(mesh.vertices, mesh.faces, 256, "own")
    vertices, normals = mesh.vertices[atlas.source], mesh.normals[atlas.source]
    found = tangents(vertices, normals, atlas.uv, atlas.faces)
    torch.testing.assert_close(found[:, :3].norm(dim=-1), torch.ones(len(found)))
    assert (found[:, :3] * normals).sum(-1).abs().max() < 1e-5
    face = atlas.faces[::37]
    p, t = vertices[face].double(), atlas.uv[face].double()
    edges, steps = p[:, 1:] - p[:, :1], t[:, 1:] - t[:, :1]
    slope = torch.linalg.solve(steps, edges)  # [F, 2, 3]: dP/du, dP/dv
    along = torch.nn.functional.normalize(slope, dim=-1)
    mean = torch.nn.functional.normalize(found[face, :3].mean(1).double(), dim=-1)
    assert ((mean * along[:, 0]).sum(-1) > 0.95).all()
    up = torch.linalg.cross(normals[face].mean(1), found[face, :3].mean(1)).double() * found[face[:, 0], 3:].double()
    assert ((up * -along[:, 1]).sum(-1) > 0.5).all()


def scene(texture: int = 64, **settings: object) -> TexturedMesh:
    wanted = TexturedMesh.Settings(texture=texture, unwrap="own", **settings)
    made = TexturedMesh(wanted, torch.Generator().manual_seed(0))
    made.wear(of(SHAPES["ball"]()))
    return made


@pytest.mark.parametrize("material", ["texture", "hash"])
def test_colours_of_vertices_arrive_in_the_picture(material: str) -> None:
    """The ball is painted with its own positions, so every pixel's colour is the place it shows."""
    made = scene(material=material)
    cameras = orbit([20.0, 200.0], 10.0)
    with torch.no_grad():
        frames = made.render(cameras, 48, torch.zeros(2, 3))
        view = look(made.surface, cameras, 48)
        shown = frames.rgb.flatten(0, 2)[view.hit]
        inner = frames.alpha.flatten()[view.hit] > 0.999
        error = (shown - (view.points + 1) / 2)[inner].abs()
    assert error.mean() < 0.02 and error.quantile(0.99) < 0.08


@pytest.mark.parametrize("shading", ["pbr", "montecarlo"])
def test_a_white_chalk_ball_in_a_white_world_is_white_and_gradients_flow(shading: str) -> None:
    made = scene(shading=shading, lights=("white",), specular=0.0, samples=48, metallic=(0.0, 0.01), bump=0.3)
    with torch.no_grad():
        made.params["texture"][..., :3] = 20.0
        made.params["texture"][..., 4] = -20.0
    frames = made.render(orbit([30.0]), 32, torch.zeros(1, 3))
    solid = frames.alpha[..., 0] > 0.999
    tolerance = 0.01 if shading == "pbr" else 0.05  # 96 directions a pixel
    assert float((frames.rgb[solid] - 1).abs().mean().detach()) < tolerance
    frames.rgb.mean().backward()
    assert torch.isfinite(made.params["texture"].grad).all()


def test_what_no_chart_covers_follows_the_nearest_texel_inside() -> None:
    made = scene(texture=32)
    covered = torch.zeros(32 * 32, dtype=torch.bool)
    covered[texels(made.atlas, 32).hit] = True
    places = torch.cartesian_prod(torch.arange(32.0), torch.arange(32.0))
    nearest = torch.cdist(places, places[covered]).amin(1)
    with torch.no_grad():
        made.params["texture"].normal_(generator=torch.Generator().manual_seed(0))
    before = made.params["texture"].detach().flatten(0, 1).clone()
    frames = made.render(orbit([0.0]), 8, torch.zeros(1, 3))
    made.adapt(Progress(3, 100), frames, torch.tensor(True))
    assert torch.equal(made.params["texture"].flatten(0, 1), before)
    made.adapt(Progress(99, 100), frames, torch.tensor(False))
    assert torch.equal(made.params["texture"].flatten(0, 1), before)
    made.adapt(Progress(99, 100), frames, torch.tensor(True))
    after = made.params["texture"].detach().flatten(0, 1)
    assert torch.equal(after[covered], before[covered]) and 0 < int(covered.sum()) < 32 * 32
    source = (after[:, None] == before[covered]).all(-1).int().argmax(1)  # colours are all different
    torch.testing.assert_close((places - places[covered][source]).norm(dim=-1), nearest)


def test_the_state_of_one_shape_loads_into_another() -> None:
    made, other = scene(), scene()
    other.wear(of(SHAPES["torus"]()))
    made.load_state_dict(other.state_dict())
    cameras, black = orbit([0.0, 90.0]), torch.zeros(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(made.render(cameras, 24, black).rgb, other.render(cameras, 24, black).rgb)


def test_hash_material_exports_what_it_shows() -> None:
    """Base colour, roughness and a bend of the normal, baked to textures, show the same picture as the hash grid."""
    made = scene(material="hash", shading="pbr", bump=0.5, texture=128)
    with torch.no_grad():
        made.params["layer2"].normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    baked = extract(made, 0)
    assert baked.textures is not None and baked.textures.normal is not None and baked.tangents is not None
    other = scene(shading="pbr", bump=0.5, texture=128)
    raw = torch.cat([
        other.ranges.raw(baked.textures.base.flatten(0, 1), 0.5, 0.5, 8)[:, :3],
        *(torch.logit(((value - low) / (high - low)).clamp(1e-4, 1 - 1e-4)).flatten(0, 1)
          for value, (low, high) in ((baked.textures.roughness, other.ranges.roughness),
                                     (baked.textures.metallic, other.ranges.metallic))),
    ], 1)  # fmt: skip
    normal = 2 * baked.textures.normal.flatten(0, 1) - 1
    bend = (normal[:, :2] / normal[:, 2:] / 0.5).clamp(-0.999, 0.999).atanh()
    with torch.no_grad():
        other.params["texture"].copy_(torch.cat([raw, bend, torch.zeros_like(bend[:, :1])], 1).reshape(128, 128, 8))
        cameras = orbit([10.0])
        mine, theirs = (each.render(cameras, 64, torch.zeros(1, 3)).rgb for each in (made, other))
    assert float((mine - theirs).square().mean()) < 10**-2.6  # 26 dB


def test_pictures_are_projected_where_they_were_taken() -> None:
    made = scene()
    at = texels(made.atlas, 64)
    points, normals = (at.read(v, made.surface.faces) for v in (made.surface.vertices, made.normals))
    cameras = orbit([0.0, 60, 120, 180, 240, 300, 0, 180], [0.0, 0, 0, 0, 0, 0, 70, -70])
    black = torch.zeros(8, 3)
    with torch.no_grad():
        found, weight = project(made.surface, points, normals, cameras, 96,
                                lambda some: made.render(some, 96, black[: len(some)]))  # fmt: skip
    seen = weight[:, 0] > 0.1
    assert seen.float().mean() > 0.9
    assert (found - (points + 1) / 2)[seen].abs().mean() < 0.02


def test_penalties_are_finite_and_zero_for_an_even_material() -> None:
    for material in ("texture", "hash"):
        made = scene(material=material)
        training = Training(Progress(0, 1), torch.Generator().manual_seed(0))
        frames = made.render(orbit([0.0]), 16, torch.zeros(1, 3), training)
        assert 0 < float(made.penalty("smooth_material", frames).detach()) < 1
        with torch.no_grad():
            for value in made.params.values():
                value.zero_()
        assert float(made.penalty("smooth_material", frames).detach()) == 0


@pytest.mark.parametrize("suffix", ["obj", "ply", "glb"])
def test_user_files_are_read_and_fitted(tmp_path: Path, suffix: str) -> None:
    shape = trimesh.creation.box((2, 4, 6))
    shape.apply_translation((5, 5, 5))
    shape.visual.vertex_colors = np.tile([255, 0, 0, 255], (8, 1))
    path = tmp_path / f"box.{suffix}"
    data = shape.export(file_type=suffix)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    read = read_mesh(str(path))
    assert len(read.faces) == 12 and len(read.vertices) == 8
    assert float(read.vertices.norm(dim=-1).max()) == pytest.approx(0.9, rel=1e-5)
    extent = read.vertices.amax(0) - read.vertices.amin(0)
    torch.testing.assert_close(extent / extent[0], torch.tensor([1.0, 2.0, 3.0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(read.colours, torch.tensor([[1.0, 0, 0]]).expand(8, 3), atol=0.01, rtol=0)
    assert (read.normals * torch.nn.functional.normalize(read.vertices, dim=-1)).sum(-1).min() > 0.5


def test_files_that_are_no_mesh_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.obj").write_text("v 0 0 0\n")
    for name in ("x.obj", "missing.ply", "x.stl"):
        with pytest.raises(InputError, match=name):
            read_mesh(str(tmp_path / name))


def test_distances_of_a_ball_and_a_box() -> None:
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 0.6
    found = signed_distances(of(trimesh.creation.icosphere(subdivisions=5, radius=0.7)), points, 50_000)
    assert (found - (points.norm(dim=-1) - 0.7)).abs().max() < 0.01
    half = torch.tensor([0.4, 0.5, 0.6])
    beyond = points.abs() - half
    truth = beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)
    flat = of(SHAPES["box"]())
    rows = flat.faces.reshape(-1)  # every face with its own corners: normals are those of the faces
    normals = trimesh.creation.box((0.8, 1.0, 1.2)).face_normals.repeat(3, 0).astype(np.float32)
    box = Mesh(flat.vertices[rows], torch.arange(36).reshape(12, 3), flat.colours[rows], torch.from_numpy(normals))
    found = signed_distances(box, points, 50_000)
    assert (found - truth).abs().max() < 0.02


def test_a_surface_shows_its_depth_and_normal() -> None:
    mesh = of(trimesh.creation.icosphere(subdivisions=5, radius=0.5))
    view = look(Surface.of(mesh.vertices, mesh.faces), orbit([40.0], 20.0, 3.0), 64)
    middle = view.depth[0, 31:33, 31:33, 0]
    torch.testing.assert_close(middle, torch.full((2, 2), 2.5), atol=2e-3, rtol=0)
    normal = torch.nn.functional.normalize(view.read(mesh.normals), dim=-1)
    assert ((normal * view.points / 0.5).sum(-1)).min() > 0.995
