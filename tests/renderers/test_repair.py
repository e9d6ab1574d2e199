# SPDX-License-Identifier: Apache-2.0
"""Hostile triangles become sound ones: winding, holes, floaters, shells that nobody sees, pockets, slivers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import trimesh
from torch import Tensor

from dreamlab.core.types import Mesh
from renderers.surface.clean import fewer_faces, parts_of, signed_volumes
from renderers.surface.finish.health import edges_of, health, slivers
from renderers.surface.finish.repair import outward, parted, repaired, unified, unpinched, without_doubles
from renderers.surface.finish.simplify import decimated, relaxed
from renderers.surface.pictures import Shots, drawn
from renderers.surface.views import all_around
from tests.renderers.solids import ball, level, moved, of, together


def shots_of(mesh: Mesh) -> Shots:
    """Hard pictures of a surface."""
    made = drawn(mesh, all_around(12), 96)
    return Shots(made.cameras, made.rgb, (made.alpha > 0.5).float())


def volume(mesh: Mesh) -> float:
    return float(signed_volumes(mesh.vertices, mesh.faces).sum())


def test_faces_that_wind_at_random_all_wind_outward() -> None:
    whole = ball()
    flip = torch.rand(len(whole.faces), generator=torch.Generator().manual_seed(1)) < 0.4
    torn = replace(whole, faces=torch.where(flip[:, None], whole.faces.flip(1), whole.faces))
    assert health(torn)["turned_edges"] > 1000 and not health(torn)["watertight"]
    made, facts = repaired(torn, None)
    found = health(made)
    assert found["watertight"] and found["turned_edges"] == 0 and found["genus"] == 0
    assert facts["turned_faces"] == int(flip.sum())
    assert volume(made) == pytest.approx(volume(whole), rel=1e-5)


def test_a_part_that_is_inside_out_is_turned_and_a_cave_is_not() -> None:
    inside_out = replace(ball(0.3), faces=ball(0.3).faces.flip(1))
    apart = together(ball(0.3), moved(inside_out, (0.8, 0, 0)))
    faces = outward(apart.vertices, apart.faces)
    assert (torch.bincount(parts_of(faces, len(apart.vertices)), signed_volumes(apart.vertices, faces)) > 0).all()
    shell = together(ball(0.6), inside_out)
    assert torch.equal(outward(shell.vertices, shell.faces), shell.faces)


def test_a_strip_with_one_side_is_left_as_it_is() -> None:
    """A Moebius strip cannot wind one way; it comes out with as many faces, and nothing hangs."""
    turns = 24
    angle = torch.arange(turns) * (2 * math.pi / turns)
    rows = []
    for side in (-0.2, 0.2):
        half = angle / 2
        radius = 0.6 + side * half.cos()
        rows.append(torch.stack([radius * angle.cos(), side * half.sin(), radius * angle.sin()], 1))
    vertices = torch.stack(rows, 1).reshape(-1, 3)
    faces = []
    for i in range(turns):
        a, b = 2 * i, 2 * i + 1
        c, d = (2 * i + 2, 2 * i + 3) if i < turns - 1 else (1, 0)
        faces += [[a, b, c], [b, d, c]]
    kept, _ = unified(vertices, torch.tensor(faces))
    assert torch.equal(kept.sort(1).values, torch.tensor(faces).sort(1).values)


def test_small_holes_are_closed_and_large_ones_are_not() -> None:
    whole = ball(subdivisions=3)
    centre = whole.vertices[whole.faces].mean(1)
    small = (centre - torch.tensor([0.0, 0.6, 0.0])).norm(dim=-1) < 0.15
    large = centre[:, 0] > 0.3
    made, facts = repaired(replace(whole, faces=whole.faces[~small & ~large]), None)
    assert facts["closed_holes"] == 1
    assert 0 < health(made)["open_edges"] == int((edges_of(whole.faces[~large])[1] == 1).sum())
    closed, _ = repaired(replace(whole, faces=whole.faces[~small]), None)
    assert health(closed)["watertight"] and volume(closed) == pytest.approx(volume(whole), rel=0.01)


def test_what_nobody_sees_and_what_the_pictures_deny_goes() -> None:
    body = ball(0.5)
    floater = moved(ball(0.12, 2), (0.75, 0.6, 0))
    core = replace(ball(0.3), faces=ball(0.3).faces)  # a shell inside, wound outward: no volume tells it apart
    ear = moved(ball(0.1, 2), (0, 0.7, 0))  # as small as the floater, but the scene shows it
    seen = shots_of(together(body, ear))
    made, facts = repaired(together(body, core, floater, ear), seen)
    assert facts["removed_parts"] == 2 and health(made)["parts"] == 2
    assert volume(made) == pytest.approx(volume(body) + volume(ear), rel=1e-3)
    assert float(made.vertices[:, 1].max()) == pytest.approx(0.8, abs=0.01)


def test_broken_numbers_and_double_faces_come_out_sound() -> None:
    whole = ball(subdivisions=2)
    vertices = torch.cat([whole.vertices, torch.full((1, 3), torch.nan), torch.tensor([[torch.inf, 0, 0]])])
    count = len(whole.vertices)
    extra = torch.tensor([[0, 1, count], [1, count + 1, 2], [3, 3, 4]])
    faces = torch.cat([whole.faces, extra, whole.faces[:5]])
    colours = torch.cat([whole.colours, torch.full((2, 3), torch.nan)])
    made, facts = repaired(Mesh(vertices, faces, colours, torch.zeros_like(vertices)), None)
    assert facts["dropped_faces"] == 8
    assert health(made)["watertight"] and len(made.faces) == len(whole.faces)
    for value in (made.vertices, made.colours, made.normals):
        assert torch.isfinite(value).all()


def test_two_faces_back_to_back_are_nothing_and_doubles_are_one() -> None:
    faces = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 2, 3], [2, 3, 0], [4, 5, 6]])
    assert without_doubles(faces).tolist() == [[0, 2, 3], [4, 5, 6]]


def test_balls_that_share_an_edge_come_apart() -> None:
    """Two tetrahedra-like shells welded along one edge: four faces there, and two closed shells afterwards."""
    left = ball(0.3, 2)
    right = moved(left, (2.0, 0, 0))
    both = together(left, right)
    a, b = (int(x) for x in left.faces[0, :2])
    other = len(left.vertices)
    faces = both.faces.clone()
    faces[faces == a + other], faces[faces == b + other] = a, b
    pinched = replace(both, faces=faces)
    assert int((edges_of(pinched.faces)[1] > 2).sum()) == 1
    made = unpinched(pinched)
    assert health(made)["watertight"] and health(made)["parts"] == 2


def test_seams_are_no_openings() -> None:
    """Every triangle with corners of its own: closed by place, as a printer sees it."""
    whole = ball(subdivisions=2)
    rows = whole.faces.flatten()
    split = Mesh(whole.vertices[rows], torch.arange(len(rows)).reshape(-1, 3), whole.colours[rows], whole.normals[rows])
    assert health(split)["watertight"] and health(split)["parts"] == 1 and health(split)["genus"] == 0


def test_the_report_counts_handles_and_pieces() -> None:
    ring = of(trimesh.creation.torus(0.5, 0.15))
    assert health(ring)["genus"] == 1
    assert health(together(ring, moved(ball(0.1, 2), (0, 0, 0))))["parts"] == 2
    cut = replace(ring, faces=ring.faces[1:])
    assert not health(cut)["watertight"] and health(cut)["open_edges"] == 3 and health(cut)["genus"] is None


def wavy(p: torch.Tensor) -> torch.Tensor:
    return p.norm(dim=-1) - 0.6 - 0.05 * torch.sin(9 * p).prod(-1)


def test_decimation_leaves_good_triangles_where_they_were() -> None:
    fine = level(wavy, 64)
    count = len(fine.faces) // 4
    plain, made = fewer_faces(fine, count), decimated(fine, count)
    assert slivers(plain.vertices, plain.faces) > 0.02 > 0.01 > slivers(made.vertices, made.faces)
    assert len(made.faces) <= count and health(made)["watertight"] and health(made)["genus"] == 0
    assert float(wavy(made.vertices).abs().max()) < 0.25 * 2 / 63  # cells
    assert volume(made) == pytest.approx(volume(fine), rel=5e-3)


def test_turning_and_sliding_keep_a_box_a_box() -> None:
    """Creases and corners stay; only what lies in a face moves."""
    box = of(trimesh.creation.box((1.0, 0.8, 0.6)).subdivide().subdivide().subdivide())
    g = torch.Generator().manual_seed(0)
    inner = (box.vertices.abs() < torch.tensor([0.5, 0.4, 0.3]) - 1e-6).sum(1) == 2
    shift = 0.008 * torch.randn(len(box.vertices), 3, generator=g) * inner[:, None]
    on = (box.vertices.abs() < torch.tensor([0.5, 0.4, 0.3]) - 1e-6).float()  # along the face only
    vertices, faces = relaxed(box.vertices + shift * on, box.faces, 3)
    made = Mesh(vertices, faces, box.colours, box.normals)
    assert volume(made) == pytest.approx(0.48, rel=1e-6)
    assert health(made)["watertight"] and health(made)["area"] == pytest.approx(2 * (0.8 + 0.6 + 0.48), rel=1e-6)


def blocks(solid: Tensor) -> Mesh:
    """The surface of unit cubes [X, Y, Z] bool: two triangles for each side that has nothing before it, with one vertex
    a place, so that cubes which touch along an edge share it."""
    padded = torch.nn.functional.pad(solid, (1,) * 6)
    corners, faces = [], list[list[int]]()
    for axis in range(3):
        for sign in (0, 1):
            bare = solid & ~padded.roll(1 - 2 * sign, axis)[1:-1, 1:-1, 1:-1]
            across = torch.eye(3, dtype=torch.long)[[(axis + 1) % 3, (axis + 2) % 3]]
            across = across if sign else across.flip(0)
            for place in bare.nonzero():
                first = place + sign * torch.eye(3, dtype=torch.long)[axis]
                start = len(corners)
                corners += [first, first + across[0], first + across.sum(0), first + across[1]]
                faces += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
    places, which = torch.stack(corners).unique(dim=0, return_inverse=True)
    vertices = places.float()
    return Mesh(vertices, which[torch.tensor(faces)], torch.zeros_like(vertices), torch.zeros_like(vertices))


@pytest.mark.parametrize(("layers", "more"), [("d", 2), ("fdf", 1), ("dd", 3)])
def test_sheets_that_touch_are_parted_where_they_are(layers: str, more: int) -> None:
    """Two cubes side by side at an edge; the same between two full layers, where both ends hang together; two high."""
    diagonal = torch.eye(2, dtype=torch.bool)
    solid = torch.stack([diagonal if each == "d" else torch.ones(2, 2, dtype=torch.bool) for each in layers], -1)
    mesh = blocks(solid)
    assert int((edges_of(mesh.faces)[1] == 4).sum()) == layers.count("d")
    made = parted(mesh)
    assert bool((edges_of(made.faces)[1] == 2).all())
    assert len(made.vertices) == len(mesh.vertices) + more
    assert [volume(mesh), volume(made)] == pytest.approx([float(solid.sum())] * 2)
    old = {tuple(vertex) for vertex in mesh.vertices.tolist()}
    new = [vertex for vertex in made.vertices.tolist() if tuple(vertex) not in old]
    assert new == ([[1.0, 1.0, 1.5]] if layers == "fdf" else [])
    if layers == "d":
        assert int(parts_of(made.faces, len(made.vertices)).max()) == 1
