# SPDX-License-Identifier: Apache-2.0
"""Programs of signed-distance primitives: closed forms, another library's geometry, native against the twin."""

import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from cuda_ext import sdf as op
from cuda_ext.reference import sdf as twin
from dreamlab.core.cameras import orbit
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.draw import Light
from dreamlab.toybox.program import Program, Sketch, stack
from dreamlab.toybox.shapes import program

RED = {"a": Finish("red"), "b": Finish("blue", "spotted", "white", 0.2), "c": Finish("green", "checked", "black", 0.3)}
SAMPLES = 60_000


# The twin makes thousands of small tensors: more threads only get in each other's way.
pytestmark = pytest.mark.usefixtures("one_thread")


def packed(sketch: Sketch) -> Program:
    """As drawn, without scaling, in double precision."""
    return sketch.pack(RED, fit=None).to(dtype=torch.float64)


def distance(sketch: Sketch, points: np.ndarray) -> np.ndarray:
    return twin.sdf(packed(sketch).rows, torch.from_numpy(points)[None])[0][0].numpy()


def cloud(count: int = 4000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (count, 3))


def cameras(views: int, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = orbit([25.0 + 140.0 * i for i in range(views)], 20.0)
    return found.camera_to_world.expand(count, -1, -1, -1), found.focal_px(size).expand(count, -1)


def draw(programs: Program, size: int, backend: str, views: int = 2, supersample: int = 2) -> op.Drawn:
    pose, focal = cameras(views, len(programs), size)
    tables = (programs.rows, programs.parts, programs.bound, pose, focal, Light().packed())
    return op.draw(*tables, size, size, supersample, backend=backend)


def test_sphere_box_torus_capsule_are_their_closed_forms():
    p = cloud()
    s = Sketch()
    s.sphere("a", (0.1, 0.2, 0.3), 0.5)
    np.testing.assert_allclose(distance(s, p), np.linalg.norm(p - [0.1, 0.2, 0.3], axis=1) - 0.5, atol=1e-7)

    s = Sketch()
    s.box("a", (0, 0, 0), (0.4, 0.5, 0.3), round=0.1)
    q = np.abs(p) - [0.3, 0.4, 0.2]
    box = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - 0.1
    np.testing.assert_allclose(distance(s, p), box, atol=1e-7)

    s = Sketch()
    s.torus("a", (0, 0, 0), 0.5, 0.2, turn=(90, 0, 0))
    ring = np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.5, p[:, 2]) - 0.2
    np.testing.assert_allclose(distance(s, p), ring, atol=1e-7)

    s = Sketch()
    start, end = np.array([-0.3, 0.1, 0.2]), np.array([0.4, -0.3, 0.5])
    s.capsule("a", start, end, 0.2)
    t = np.clip((p - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)[:, None]
    np.testing.assert_allclose(distance(s, p), np.linalg.norm(p - start - t * (end - start), axis=1) - 0.2, atol=1e-7)


def lathe(profile: list[tuple[float, float]]) -> trimesh.Trimesh:
    return trimesh.creation.revolve(np.array(profile), sections=720)


def solids() -> list[tuple[str, Sketch, trimesh.Trimesh]]:
    """Each primitive twice: as a row, and as triangles made by trimesh (the axis of its lathe is z: turned onto y)."""
    upright = trimesh.transformations.rotation_matrix(-math.pi / 2, [1, 0, 0])
    found = []

    def add(name: str, mesh: trimesh.Trimesh, turn: bool = True) -> Sketch:
        if turn:
            mesh.apply_transform(upright)
        sketch = Sketch()
        found.append((name, sketch, mesh))
        return sketch

    add("cylinder", lathe([(0, -0.5), (0.4, -0.5), (0.4, 0.5), (0, 0.5)])).cylinder("a", (0, -0.5, 0), (0, 0.5, 0), 0.4)
    add("cone", lathe([(0, -0.5), (0.6, -0.5), (0.2, 0.5), (0, 0.5)])).cone("a", (0, -0.5, 0), (0, 0.5, 0), 0.6, 0.2)
    ball = trimesh.creation.icosphere(subdivisions=6)
    ball.apply_scale([0.7, 0.15, 0.4])
    add("ellipsoid", ball, turn=False).ellipsoid("a", (0, 0, 0), (0.7, 0.15, 0.4))
    hull = trimesh.creation.icosphere(subdivisions=6).vertices
    hull = np.concatenate([0.5 * hull + [0, -0.3, 0], 0.2 * hull + [0, 0.5, 0]])
    add("round cone", trimesh.convex.convex_hull(hull), turn=False).capsule("a", (0, -0.3, 0), (0, 0.5, 0), 0.5, 0.2)
    corners = [(x * w, y, z * 0.25) for y, w in ((-0.4, 0.6), (0.4, 0.1)) for x in (-1, 1) for z in (-1, 1)]
    add("prism", trimesh.convex.convex_hull(corners), turn=False).prism("a", (0, 0, 0), 0.6, 0.1, 0.4, 0.25)
    tips = [(math.sin(math.pi * i / 5), math.cos(math.pi * i / 5)) for i in range(10)]
    outline = np.array([np.array(tip) * (0.8 if i % 2 == 0 else 0.35) for i, tip in enumerate(tips)])
    add("star", fan(outline, 0.2), turn=False).star("a", (0, 0, 0), 0.8, 0.35, 0.2)
    return found


def fan(outline: np.ndarray, half: float) -> trimesh.Trimesh:
    """A prism over a star-shaped outline seen from the origin."""
    n = len(outline)
    low, high = (np.column_stack([outline, np.full(n, z)]) for z in (-half, half))
    vertices = np.concatenate([low, high, [[0, 0, -half], [0, 0, half]]])
    faces = []
    for i in range(n):
        j = (i + 1) % n
        faces += [[i, j, n + i], [j, n + j, n + i], [i, 2 * n, j], [n + i, n + j, 2 * n + 1]]
    return trimesh.Trimesh(vertices, faces)


@pytest.mark.parametrize("solid", solids(), ids=lambda solid: solid[0])
def test_distance_is_the_way_to_the_nearest_point_of_the_same_solid_made_by_trimesh(solid):
    _, sketch, mesh = solid
    p = cloud(250)
    if len(mesh.faces) < 5000:
        way, slack = trimesh.proximity.closest_point_naive(mesh, p)[1], 1e-4
    else:  # smooth all over: the nearest of many samples lies a few spacings beside the nearest point
        surface, _ = trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)
        way = cKDTree(surface).query(p)[0]
        across = 9 * mesh.area / SAMPLES
        slack = np.minimum(across**0.5, across / (2 * np.maximum(way, 1e-9))) + 1e-3
    found = np.abs(distance(sketch, p))
    assert (found - way).max() < 1e-4, "a distance longer than the way there"
    assert (way - found < slack).all()


def test_pyramid_is_negative_inside_and_never_overshoots_outside():
    s = Sketch()
    s.pyramid("a", (0, 0, 0), 0.7, 0.1, 0.5)
    p = cloud()
    corners = [(x * w, y, z * w) for y, w in ((-0.5, 0.7), (0.5, 0.1)) for x in (-1, 1) for z in (-1, 1)]
    hull = trimesh.convex.convex_hull(corners)
    signed = ((p[:, None] - hull.triangles_center) * hull.face_normals).sum(-1).max(1)  # convex: the farthest plane
    np.testing.assert_allclose(distance(s, p), signed, atol=1e-6)


def test_rows_combine_as_sets_do():
    def boolean(build, p):
        sketch = Sketch()
        build(sketch)
        return distance(sketch, p) < 0

    p = cloud(8000, 1)

    def ball(s, **k):
        s.sphere("a", (0, 0, 0), 0.6, **k)

    def box(s, **k):
        s.box("b", (0.3, 0, 0), (0.4, 0.4, 0.4), **k)

    def rod(s, **k):
        s.cylinder("c", (0, -1, 0), (0, 1, 0), 0.2, **k)

    a, b, c = boolean(ball, p), boolean(box, p), boolean(rod, p)
    for name, expected, build in (
        ("union", a | b | c, lambda s: (ball(s), box(s), rod(s))),
        ("cut", (a | b) & ~c, lambda s: (ball(s), box(s), rod(s, op="cut"))),
        ("keep", a & b, lambda s: (ball(s), box(s, op="keep"))),
        ("a cut stays in its group", (a & ~c) | b, lambda s: (ball(s), rod(s, op="cut"), box(s, group=True))),
        (
            "two groups",
            (a & ~c) | (b & ~c),
            lambda s: (ball(s), rod(s, op="cut"), box(s, group=True), rod(s, op="cut")),
        ),
    ):
        assert (boolean(build, p) == expected).all(), name


def test_a_fold_is_the_union_of_its_copies():
    p = cloud()
    for fold, copies in (
        ({"mirror": "xz"}, [(x, 0.1, z) for x in (0.5, -0.5) for z in (0.4, -0.4)]),
        ({"around_y": 5}, [(0.5 * math.sin(a), 0.1, 0.5 * math.cos(a)) for a in np.arange(5) * 2 * math.pi / 5]),
        ({"around_z": 6}, [(0.5 * math.sin(a), 0.5 * math.cos(a), 0.0) for a in np.arange(6) * 2 * math.pi / 6]),
    ):
        folded, spelt = Sketch(), Sketch()
        folded.sphere("a", copies[0], 0.2, **fold)
        for at in copies:
            spelt.sphere("a", at, 0.2)
        np.testing.assert_allclose(distance(folded, p), distance(spelt, p), atol=1e-6)


def test_smooth_union_is_a_polynomial_blend_and_keeps_the_part_of_the_nearer():
    s = Sketch()
    s.sphere("a", (-0.3, 0, 0), 0.3)
    s.sphere("b", (0.3, 0, 0), 0.3, smooth=0.2)
    points = torch.tensor([[[0.0, 0, 0], [-0.1, 0, 0], [0.1, 0.05, 0]]], dtype=torch.float64)
    found, part = twin.sdf(packed(s).rows, points)
    a = (points[0] - torch.tensor([-0.3, 0, 0])).norm(dim=1) - 0.3
    b = (points[0] - torch.tensor([0.3, 0, 0])).norm(dim=1) - 0.3
    blend = torch.minimum(a, b) - (0.2 - (a - b).abs()).clamp(min=0) ** 2 / 0.8
    torch.testing.assert_close(found[0], blend, atol=1e-7, rtol=0)
    assert part[0, 1:].tolist() == [0, 1]


def test_depth_normal_and_alpha_of_a_sphere_are_analytic():
    s = Sketch()
    s.sphere("a", (0.1, -0.05, 0.2), 0.5)
    ball, size = s.pack(RED, fit=None), 48
    for backend in ("torch", "native"):
        _, alpha, depth, normal, part = draw(ball, size, backend, views=1, supersample=1)
        view = orbit([25.0], 20.0)
        origin, direction = view.rays(size, size)
        offset = origin[:, None, None] - torch.tensor([0.1, -0.05, 0.2])
        half = (offset * direction).sum(-1)
        inside = half**2 - offset.square().sum(-1) + 0.25
        hit, t = inside > 0, -half - inside.clamp(min=0).sqrt()
        assert ((alpha[0, ..., 0] > 0) != hit).sum() <= 4
        both = (alpha[0, ..., 0] > 0) & hit & (inside > 1e-3)  # grazing rays stop a little before
        point = origin[:, None, None] + t[..., None] * direction
        forward = -view.camera_to_world[:, :3, 2]
        z = ((point - origin[:, None, None]) * forward[:, None, None]).sum(-1)
        assert (depth[0, ..., 0] - z)[both].abs().max() < 5e-3
        assert (depth[0, ..., 0] - z)[both].abs().median() < 3e-4
        true_normal = (point - torch.tensor([0.1, -0.05, 0.2])) / 0.5
        assert (normal[0] - true_normal)[both].abs().max() < 2e-2
        assert (part[0] == -1).eq(alpha[0, ..., 0] == 0).all()


def test_normals_are_the_gradient():
    found = program("cat", seed=1).to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    points = 1.6 * torch.rand(1, 500, 3, generator=generator, dtype=torch.float64) - 0.8
    points = points[:, twin.sdf(found.rows, points)[0][0] > 0]
    steps = 1e-6 * torch.eye(3, dtype=torch.float64)
    gradient = torch.stack(
        [twin.sdf(found.rows, points + h)[0] - twin.sdf(found.rows, points - h)[0] for h in steps], -1
    )
    wrong = (twin.normals(found.rows, points) - gradient / gradient.norm(dim=-1, keepdim=True)).norm(dim=-1) > 1e-2
    assert wrong.sum() <= 3  # beside a crease


NAMES = ("windmill", "crown", "mug", "flower", "whale", "castle")


@pytest.fixture(scope="module")
def several() -> Program:
    decorated = [program(name, seed=4) for name in NAMES]
    decorated.append(program("ball", {"ball": Finish("red", "striped", "yellow", 0.3, "glossy"), "band": RED["b"]}))
    decorated.append(program("cube", {"cube": Finish("gray", "checked", "white", 0.4, "metal")}))
    return stack(decorated)


def test_native_points_are_the_twins(several):
    points = 2 * torch.rand(len(several), 1500, 3, generator=torch.Generator().manual_seed(1)) - 1
    ours, ours_part = op.sdf(several.rows, points, backend="native")
    theirs, part = op.sdf(several.rows, points, backend="torch")
    torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=0)
    assert (ours_part != part).sum() <= 5


def test_native_pictures_are_the_twins_but_for_a_few_edge_pixels(several):
    ours = draw(several, 20, "native")
    apart = [draw(several[i : i + 1], 20, "torch") for i in range(len(several))]
    theirs = [torch.cat(pictures) for pictures in zip(*apart, strict=True)]
    hit = int((theirs[1] > 0).sum())
    assert (ours[1] - theirs[1]).abs().gt(1e-6).sum() <= hit // 200, "alpha: samples that flip at a silhouette"
    wrong = [(a - b).abs().amax(-1) > 4e-3 for a, b in zip(ours[:3], theirs[:3], strict=True)]
    wrong += [(ours[3] - theirs[3]).abs().amax(-1) > 2e-2, ours[4] != theirs[4]]
    for name, mask in zip(("rgb", "alpha", "depth", "normal", "part"), wrong, strict=True):
        assert mask.sum() <= hit // 100, f"{name}: {int(mask.sum())} of {hit} pixels differ"


def test_any_thread_count_gives_the_same_bits(several):
    one = draw(several, 20, "native")
    torch.set_num_threads(2)
    two = draw(several, 20, "native")
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("supersample", [1, 3, 5])
def test_supersampling_averages_the_finer_picture(several, supersample):
    coarse = draw(several[:2], 8, "native", supersample=supersample)
    fine = draw(several[:2], 8 * supersample, "native", supersample=1)
    mean = fine[1][..., 0].unflatten(3, (8, supersample)).unflatten(2, (8, supersample)).mean((3, 5))
    torch.testing.assert_close(coarse[1][..., 0], mean, atol=0.021, rtol=0)


def test_nothing_to_draw_gives_nothing():
    one = program("ball")
    assert draw(one[:0], 8, "auto")[0].shape == (0, 2, 8, 8, 3)
    assert draw(one, 8, "auto", views=0)[4].shape == (1, 0, 8, 8)
    blank = draw(Program(torch.zeros(1, 3, twin.ROW), one.parts, one.bound), 8, "native")
    assert blank[1].abs().max() == 0 and (blank[4] == -1).all()


def test_wrong_shapes_are_told_in_one_line():
    one = program("ball")
    with pytest.raises(ValueError, match=r"sdf: points must be \[1, N, 3\], got \[2, 5, 3\]"):
        op.sdf(one.rows, torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="supersample 1 to 8"):
        draw(one, 8, "auto", supersample=9)
    with pytest.raises(ValueError, match="at most 64 rows"):
        op.sdf(torch.zeros(1, 65, twin.ROW), torch.zeros(1, 5, 3))


def test_compiles_as_a_graph_op():
    """The fake implementations have the shapes of the real ones."""
    one, (pose, focal) = program("ball"), cameras(1, 1, 8)
    arguments = (one.rows, one.parts, one.bound, pose.contiguous(), focal.contiguous(), Light().packed(), 8, 8, 2)
    torch.library.opcheck(torch.ops.dreamlab.sdf_draw.default, arguments, test_utils=("test_schema", "test_faketensor"))
    points = torch.zeros(1, 4, 3)
    torch.library.opcheck(
        torch.ops.dreamlab.sdf_points.default, (one.rows, points), test_utils=("test_schema", "test_faketensor")
    )
