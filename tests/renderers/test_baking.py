# SPDX-License-Identifier: Apache-2.0
"""Textures of a finished surface: normals of the fine one, occlusion against closed forms, no seam at any mip level."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from cuda_ext.texture import texture
from dreamlab.core.types import Mesh
from renderers.surface.atlas import methods, unwrap
from renderers.surface.draw import Surface
from renderers.surface.finish.baking import GUTTER, Canvas, baked, laid_out, shaded
from renderers.surface.finish.occlusion import occlusion
from renderers.surface.finish.paint import largest, lens, seen_colours, spread
from renderers.surface.finish.simplify import decimated
from renderers.surface.pictures import Shots, drawn, joined_by_place
from renderers.surface.views import all_around
from tests.renderers.solids import ball, bright, level, moved, together


def bumpy(p: torch.Tensor) -> torch.Tensor:
    """A ball of radius 0.6 with bumps of 8 mm, which are smaller than the triangles of the decimated one."""
    return p.norm(dim=-1) - 0.6 - 0.008 * torch.sin(40 * p).prod(-1)


def slope(p: torch.Tensor) -> torch.Tensor:
    """Unit normals of that."""
    p = p.clone().requires_grad_()
    return normalize(torch.autograd.grad(bumpy(p).sum(), p)[0], dim=-1)


def pictures(mesh: Mesh, count: int = 24, size: int = 192) -> Shots:
    made = drawn(mesh, all_around(count), size)
    return Shots(made.cameras, made.rgb, (made.alpha > 0.5).float())


def canvas_of(mesh: Mesh, size: int, method: str = "own") -> Canvas:
    return laid_out(mesh, unwrap(mesh.vertices, mesh.faces, size, method, GUTTER * size), size)


def world_normals(mesh: Mesh, canvas: Canvas) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of all texels, and the normals there that a viewer sees."""
    at = canvas.at(canvas.size)
    points, normal = canvas.frame(at)
    assert mesh.textures is not None and mesh.textures.normal is not None and mesh.tangents is not None
    x, y, z = (2 * mesh.textures.normal.reshape(-1, 3)[at.hit] - 1).split(1, -1)
    tangent = at.read(mesh.tangents, mesh.faces)
    along = normalize(tangent[:, :3] - normal * (normal * tangent[:, :3]).sum(-1, keepdim=True), dim=-1)
    return points, normalize(
        x * along + y * torch.linalg.cross(normal, along) * tangent[:, 3:].sign() + z * normal, dim=-1
    )


def degrees(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg((a * b).sum(-1).clamp(-1, 1).acos())


def test_the_normal_texture_brings_back_what_decimation_took() -> None:
    fine = level(bumpy, 128)
    fine = replace(fine, normals=slope(fine.vertices))
    coarse = decimated(fine, 1500)
    canvas = canvas_of(coarse, 512)
    made, _ = baked(canvas, fine, pictures(fine, 8, 64))
    points, seen = world_normals(made, canvas)
    truth = slope(points)
    without = normalize(canvas.frame(canvas.at(512))[1], dim=-1)
    assert float(degrees(without, truth).mean()) > 8
    assert float(degrees(seen, truth).mean()) < 2


def floor_and_wall() -> Mesh:
    """Half a metre of floor in front of a wall of 0.5 m, 40 m long both: beyond it nothing stands."""
    floor = torch.tensor([[-20.0, 0, 0], [20, 0, 0], [20, 0, 4], [-20, 0, 4], [-20, 0.5, 0], [20, 0.5, 0]])
    faces = torch.tensor([[0, 2, 1], [0, 3, 2], [0, 1, 5], [0, 5, 4]])
    return Mesh(floor, faces, torch.ones(6, 3), torch.zeros(6, 3))


def test_occlusion_beside_a_wall_is_the_closed_form() -> None:
    """A long wall of height h takes (1 - x / sqrt(x^2 + h^2)) / 2 of the sky at distance x."""
    room = floor_and_wall()
    scale = 0.1  # so that pictures resolve the wall: 4 m of it, at the middle
    vertices = room.vertices * torch.tensor([scale, 1.0, 1.0])
    x = torch.tensor([0.1, 0.25, 0.5, 1.0, 2.0])  # metres
    points = torch.stack([torch.zeros(5), torch.zeros(5), x], 1)
    up = torch.tensor([[0.0, 1, 0]]).expand(5, -1)
    found = occlusion(vertices, room.faces, points, up, count=256, pixels=512)[:, 0]
    half = 2.0  # of the wall's length: the sky that it leaves open at its ends is counted, too
    wall = blocked(x, 0.5, half)
    assert torch.allclose(found, 1 - wall, atol=0.02)


def blocked(x: torch.Tensor, height: float, half: float) -> torch.Tensor:
    """Share of the cosine-weighted sky behind a wall of 2 `half` metres: by numbers, the view factor of a rectangle at
    right angles to a small surface (Howell's B-4, twice)."""
    a = x / half
    b = height / half
    y = 1 / (a * a + b * b).sqrt()
    one = ((1 / a).atan() - a * y * y.atan()) / (2 * math.pi)
    return 2 * one


def test_occlusion_of_convex_things_is_none_and_inside_a_shell_all() -> None:
    egg = ball(0.5)
    clear = occlusion(egg.vertices, egg.faces, egg.vertices, egg.normals)
    assert float(clear.min()) > 0.99
    shell = together(ball(0.6), ball(0.3))
    inner = shell.vertices[len(ball(0.6).vertices) :]
    dark = occlusion(shell.vertices, shell.faces, inner, normalize(inner, dim=-1))
    assert float(dark.max()) < 0.01


def test_occlusion_in_a_bowl_is_what_rays_say() -> None:
    """A ball that sits in the lower half of a shell."""
    shell = ball(0.8, 3)
    bowl = replace(shell, faces=shell.faces[shell.vertices[shell.faces].mean(1)[:, 1] < 0])
    made = together(bowl, moved(ball(0.3, 2), (0, -0.4, 0)))
    there = len(bowl.vertices)
    points, normals = made.vertices[there::5], made.normals[there::5]
    found = occlusion(made.vertices, made.faces, points, normals, count=256, pixels=512)[:, 0]
    assert float((found - by_rays(made, points, normals)).abs().mean()) < 0.03


def by_rays(mesh: Mesh, points: torch.Tensor, normals: torch.Tensor, count: int = 200) -> torch.Tensor:
    """Cosine-distributed rays against every triangle (Moeller & Trumbore)."""
    g = torch.Generator().manual_seed(0)
    way = normalize(torch.randn(len(points), count, 3, generator=g), dim=-1) * 0.9999 + normals[:, None]
    way = normalize(way, dim=-1).reshape(-1, 3)
    start = (points + 1e-3 * normals)[:, None].expand(-1, count, -1).reshape(-1, 3)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    hit = torch.zeros(len(start), dtype=torch.bool)
    for i in range(0, len(start), 512):
        d, o = way[i : i + 512, None], start[i : i + 512, None]
        p = torch.linalg.cross(d, (c - a)[None].expand(d.shape[0], -1, -1))
        det = ((b - a) * p).sum(-1)
        u = ((o - a) * p).sum(-1) / det
        q = torch.linalg.cross(o - a, (b - a)[None].expand(d.shape[0], -1, -1))
        v, t = (d * q).sum(-1) / det, ((c - a) * q).sum(-1) / det
        hit[i : i + 512] = ((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-4)).any(1)
    return 1 - hit.reshape(-1, count).float().mean(1)


@pytest.mark.parametrize("method", methods())
def test_no_seam_shows_at_mip_3(method: str) -> None:
    """Both sides of every seam read the same colour at mip 3, as near as the smooth colours of the ball allow; and the
    last mip is the mean colour of the surface, not of what lies between the charts."""
    shape = ball(0.6, 4, bright)
    canvas = canvas_of(shape, 1024, method)
    made, _ = baked(canvas, None, pictures(shape))
    assert made.textures is not None and made.uv is not None
    _, _, place = joined_by_place(made.vertices, made.faces)
    seam = torch.bincount(place)[place] > 1
    assert int(seam.sum()) > 100
    for mip, worst in ((0, 0.03), (3, 0.05)):
        uv, at = made.uv[seam][None, None], torch.full((1, 1, int(seam.sum())), float(mip))
        read = texture(made.textures.base, uv, level=at, boundary="clamp")[0, 0]
        mean = torch.zeros(int(place.max()) + 1, 3).index_add(0, place[seam], read)
        mean = mean / torch.bincount(place[seam], minlength=len(mean)).clamp(min=1)[:, None]
        assert float((read - mean[place[seam]]).abs().amax()) < worst, f"mip {mip}"
    last = made.textures.base.mean((0, 1))
    at = canvas.at(1024)
    inside = made.textures.base.reshape(-1, 3)[at.hit].mean(0)
    assert torch.allclose(last, inside, atol=0.02)


def test_charts_grow_by_eight_texels_and_the_rest_is_the_mean() -> None:
    shape = ball(0.6, 3, bright)
    canvas = canvas_of(shape, 1024)
    made, _ = baked(canvas, None, pictures(shape, 12, 96))
    assert made.textures is not None
    base, at = made.textures.base, canvas.at(1024)
    inside = torch.zeros(1024 * 1024)
    inside[at.hit] = 1
    inside = inside.reshape(1, 1024, 1024, 1)
    grown = inside
    for _ in range(8):
        grown = largest(grown)
    rim = (grown - inside).reshape(-1) > 0
    mean = base.reshape(-1, 3)[at.hit].mean(0)
    far = (base.reshape(-1, 3) - mean).abs().amax(-1) < 1e-5
    assert float(far[~rim & (inside.reshape(-1) == 0)].float().mean()) > 0.5
    assert float(far[rim].float().mean()) < 0.01  # a diagonal of eight texels is longer than eight


def test_what_no_view_saw_takes_its_colour_from_what_looks_the_same_way() -> None:
    """A thin plate, red above and blue below; part of its upper side was not seen. In space the lower side is nearer
    than any seen part of the upper one."""
    g = torch.Generator().manual_seed(0)
    flat = torch.rand(4000, 2, generator=g)
    side = torch.arange(4000) % 2
    points = torch.stack([flat[:, 0], 0.01 * side, flat[:, 1]], 1)
    normals = torch.stack([torch.zeros(4000), 2.0 * side - 1, torch.zeros(4000)], 1)
    colours = torch.where(side[:, None] > 0, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1]))
    blank = (side > 0) & ((flat - 0.5).abs() < 0.1).all(1)
    made = spread(points, normals, colours.masked_fill(blank[:, None], 0), (~blank).float()[:, None])
    assert float((made - colours)[blank].abs().max()) < 0.05


def test_pictures_say_nothing_beside_an_edge() -> None:
    """A ball before a larger one: the rim of the near one, and what lies right behind it, are asked of other views."""
    near, far = ball(0.3, 3, lambda p: torch.ones_like(p)), ball(0.5, 3, torch.zeros_like)
    both = together(moved(near, (0, 0, 0.7)), moved(far, (0, 0, -0.4)))
    asked = lens(Surface.of(both.vertices, both.faces), pictures(both))
    colours, weights = seen_colours(asked, both.vertices, both.normals)
    seen = weights[:, 0] > 0.05
    assert float(seen.float().mean()) > 0.9
    assert float((colours - both.colours)[seen].abs().max()) < 0.02


def test_a_mesh_with_textures_gains_occlusion_and_keeps_the_rest() -> None:
    shape = ball(0.6, 3, bright)
    made, _ = baked(canvas_of(shape, 256), None, pictures(shape, 8, 64))
    assert made.textures is not None
    bare = replace(made, tangents=None, textures=replace(made.textures, occlusion=None))
    again = shaded(bare)
    assert again.textures is not None and again.textures.occlusion is not None and again.tangents is not None
    assert torch.equal(again.faces, made.faces) and torch.equal(again.textures.base, made.textures.base)
    assert again.uv is made.uv or torch.equal(again.uv, made.uv)  # type: ignore[arg-type]
