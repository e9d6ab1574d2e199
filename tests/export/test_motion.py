# SPDX-License-Identifier: Apache-2.0
"""Moving assets: what a viewer shows of the file is the scene's motion, nothing tears that the scene does not tear, and
nothing is dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from dreamlab.core.rotation import from_matrix, from_vector, matrix
from dreamlab.core.types import LevelSet, Mesh, Scene, Skin, Track
from dreamlab.export.glb import gltf_of
from dreamlab.export.levels import level_files
from dreamlab.export.motion import KEYS, TORN, motion_of, motion_within_bounds, notes
from dreamlab.export.product import Product
from dreamlab.export.registration import registered
from dreamlab.export.rig import track_of
from dreamlab.export.skinning import distances, fit_skin, smooth_weights, spread
from renderers.field4d import Field4D
from renderers.gaussian.deform import DeformSettings
from renderers.gaussians import Gaussians, GaussianSettings
from renderers.gaussians4d import Gaussians4D, MovingSettings
from renderers.surface.draw import vertex_normals
from renderers.surface.extraction import extract
from renderers.surface.isosurface import isosurface
from tests.export.judges import blender_looks
from tests.export.test_glb import ball, issues
from tests.export.viewer import Glb
from tests.renderers.test_gaussians4d import shake

SECONDS = 2.0


def glb_of(mesh: Mesh, motion: Skin | Track | None) -> Glb:
    return Glb(gltf_of(Product("thing", mesh, motion)).glb())


def bar(settings: MovingSettings, seed: int = 0) -> Gaussians4D:
    """600 Gaussians in a bar of 1.2 m."""
    g = torch.Generator().manual_seed(seed)
    scene = Gaussians4D(replace(settings, count=600, opacity=0.9), g)
    means = torch.rand(600, 3, generator=g) * torch.tensor([0.3, 1.2, 0.3]) - torch.tensor([0.15, 0.6, 0.15])
    state = {name: value for name, value in scene.state_dict().items() if not name.startswith("deform")}
    scene.load_state_dict(state | {"means": means, "log_scales": torch.full((600, 3), 0.05).log()})
    return scene


def bent(points: Tensor, time: Tensor, loops: bool) -> Tensor:
    """The bar's top goes to the right and up, and back again where it loops."""
    far = (math.pi * time).sin() ** 2 if loops else time
    way = torch.stack([0.4 * ((points[:, 1] + 0.6) / 1.2) ** 2, 0.1 * torch.ones(len(points)), 0 * points[:, 0]], 1)
    return points + far * way


def teach(scene: Gaussians4D) -> None:
    """The motion `bent`, as well as the deformation can have it."""
    means, g = scene.params["means"].detach(), torch.Generator().manual_seed(1)
    learning = [p for motion in scene.motions for name, p in motion.params.items() if name not in ("anchors", "reach")]
    optimiser = torch.optim.Adam(learning, lr=0.03)
    ways = 0.1 * torch.eye(3)
    for _ in range(80):
        time = torch.rand((), generator=g)
        motion, _ = scene.motion(time)
        goal = bent(means, time, scene.loops)
        off = (means + motion.shift - goal).square().sum(1).mean()
        for way in ways:  # it turns what is beside a Gaussian, too
            there = bent(means + way, time, scene.loops) - goal
            off = off + (matrix(motion.turn) @ way - there).square().sum(1).mean()
        optimiser.zero_grad()
        off.backward()
        optimiser.step()


def rigidly(points: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Points [V, 3] moved as their neighbours [V, k, 3] are on the whole (Kabsch)."""
    middle, goal = before.mean(1, keepdims=True), after.mean(1, keepdims=True)
    u, _, v = np.linalg.svd(np.einsum("vki,vkj->vij", after - goal, before - middle))
    u[:, :, 2] *= np.linalg.det(u @ v)[:, None]
    return np.einsum("vij,vj->vi", u @ v, points - middle[:, 0]) + goal[:, 0]


def edges(faces: np.ndarray) -> np.ndarray:
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(pairs, 1), axis=0)


def worst_stretch(glb: Glb, moments: int = 21) -> np.ndarray:
    """[E] the most that each edge of a file grows in its clip."""
    a, b = edges(glb.faces).T
    rest = glb.points(None)
    before = np.linalg.norm(rest[a] - rest[b], axis=1)
    shown = (glb.points(seconds) for seconds in np.linspace(0, glb.lasts, moments))
    return np.max([np.linalg.norm(p[a] - p[b], axis=1) / before for p in shown], axis=0)


# ---- skins ----------------------------------------------------------------------------------------------------------
def test_weights_never_jump() -> None:
    """Along a path over a surface with 40 bones, every weight changes as little as the path is short; at most four."""
    bones = spread(torch.nn.functional.normalize(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))), 40)
    angle = torch.linspace(0, 2 * math.pi, 20_001)
    path = torch.stack([angle.cos(), 0.3 * (5 * angle).sin(), angle.sin()], 1)
    path = torch.nn.functional.normalize(path, dim=1)
    index, weight = smooth_weights(torch.cdist(path, bones))
    dense = torch.zeros(len(path), 40).scatter_add_(1, index, weight)
    torch.testing.assert_close(weight.sum(1), torch.ones(len(path)))
    assert weight.min() >= 0 and index.shape[1] == 4
    assert (
        dense.diff(dim=0).abs().max() < 0.02 < 0.1 < torch.nn.functional.one_hot(index[:, 0]).float().diff(dim=0).max()
    )
    assert (dense > 0.01).any(0).sum() > 15  # the path goes past many


def test_distances_go_along_the_surface() -> None:
    """Between the ends of an open ring it is far, though they nearly touch."""
    angle = torch.linspace(0.02, 2 * math.pi - 0.02, 200)
    rim = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
    band = torch.stack([rim, rim + torch.tensor([0.0, 0.0, 0.1])], 1).reshape(-1, 3)
    i = 2 * torch.arange(199)
    faces = torch.cat([torch.stack([i, i + 1, i + 2], 1), torch.stack([i + 2, i + 1, i + 3], 1)])
    found = distances(band, faces, band[:1])
    assert found[398] > 2.9 * (band[398] - band[0]).norm() and found[200] == pytest.approx(math.pi, rel=0.05)
    apart = distances(torch.cat([band, band + 5]), faces, band[:1])
    assert apart.isfinite().all()


def test_a_motion_that_is_a_skin_is_found_again() -> None:
    """Bones that turn and shift as they like move the points by the same weights: the fit reproduces it."""
    mesh, g = ball(3), torch.Generator().manual_seed(2)
    bones, times = spread(mesh.vertices, 12), torch.linspace(0, 1, 4)
    index, weight = smooth_weights(distances(mesh.vertices, mesh.faces, bones))
    half = 0.3 * times[:, None, None] * torch.randn(4, 12, 3, generator=g)
    shift = 0.1 * times[:, None, None] * torch.randn(4, 12, 3, generator=g)
    truth = track_of(Skin(times, bones, index, weight, shift, from_vector(half)), mesh.vertices)
    found = fit_skin(mesh.vertices, mesh.faces, times, truth.points, bones)
    assert (track_of(found, mesh.vertices).points - truth.points).norm(dim=-1).max() < 0.015
    turn = matrix(from_vector(torch.tensor([0.9, 0.2, -0.4])))
    rigid = torch.stack([mesh.vertices, mesh.vertices @ turn.T + 1])
    found = fit_skin(mesh.vertices, mesh.faces, times[:2], rigid, bones)
    torch.testing.assert_close(track_of(found, mesh.vertices).points, rigid, atol=1e-5, rtol=0)


# ---- moving Gaussians -----------------------------------------------------------------------------------------------
MOTIONS = {
    "control": DeformSettings(points=12, moments=5, power=1.0),
    "hexplane": DeformSettings(kind="hexplane", resolution=4, moments=5, power=1.0),
    "loop": DeformSettings(points=12, moments=5, power=1.0, loop=True),
    "ring": DeformSettings(kind="mlp", hidden=32, power=1.0, loop=True, scales=True),
}


@pytest.mark.parametrize("kind", MOTIONS)
def test_the_file_moves_as_the_scene_says_its_points_do(kind: str) -> None:
    """Each vertex goes where the nearest few Gaussians go; whatever makes the motion, it is in the file, and where it
    loops the last key is the first."""
    segments = 3 if kind == "ring" else 1
    scene = bar(MovingSettings(deform=MOTIONS[kind], segments=segments))
    teach(scene)
    mesh = extract(scene, 24, 800, by_pictures=False)
    motion, facts = motion_of(scene, mesh)
    assert motion is not None and len(motion.times) <= KEYS + 1
    glb = glb_of(mesh, motion)
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    with torch.no_grad():
        begin = scene.posed(torch.tensor(0.0))[0].numpy()
    _, near = cKDTree(begin).query(mesh.vertices.numpy(), k=16)
    furthest = 0.0
    for time in (0.0, 0.3, 0.55, 0.8, 1.0):
        with torch.no_grad():
            there = scene.posed(torch.tensor(time))[0].numpy()
        wanted = rigidly(mesh.vertices.numpy(), begin[near], there[near])
        off = np.linalg.norm(glb.points(SECONDS * time) - wanted, axis=1)
        assert np.quantile(off, 0.99) < 0.04 * size and np.sqrt(np.square(off).mean()) < 0.015 * size, time
        furthest = max(furthest, float(np.linalg.norm(wanted - mesh.vertices.numpy(), axis=1).max()))
    assert furthest > 0.03 * size
    np.testing.assert_allclose(glb.points(0.0), mesh.vertices, atol=1e-5)
    assert glb.lasts == pytest.approx(SECONDS)
    if MOTIONS[kind].loop:
        assert facts["loops"]
        np.testing.assert_allclose(glb.points(SECONDS), mesh.vertices, atol=1e-5)
        assert np.abs(glb.points(SECONDS / 2) - mesh.vertices.numpy()).max() > 0.02


def carried_by_all(scene: Gaussians4D, points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[T, V, 3] by the definition: every Gaussian takes a point along in its frame, weighted by its density there."""
    poses = []
    for time in (0.0, *times):
        with torch.no_grad():
            means, quats, *_ = scene.posed(torch.tensor(float(time)))
        poses.append((means.double().numpy(), matrix(quats.double()).numpy()))
    (still, frames), opacity = poses[0], scene.params["logit_opacity"].detach().sigmoid().double().numpy()
    away = points[:, None] - still
    log_share = np.log(opacity) - 0.5 * np.square(away / 0.05).sum(-1)  # all are balls of that size
    share = np.exp(log_share - log_share.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    own = np.einsum("nji,vnj->vni", frames, away)
    return np.stack([np.einsum("vn,vni->vi", share, m + np.einsum("nij,vnj->vni", r, own)) for m, r in poses[1:]])


def test_no_edge_is_torn_that_the_scene_does_not_tear() -> None:
    """Control points that move at random: their own weights, which do not fall to zero, tear the surface between sets
    of four. In the file edges are longer than three times only where the Gaussians themselves come apart."""
    scene = bar(MovingSettings(deform=DeformSettings(points=40, moments=4, power=1.0)))
    shake(scene, 0.15)
    motion, times = scene.motions[0], torch.linspace(0, 1, 13)
    mesh = extract(scene, 40, 2500, by_pictures=False)
    made, facts = motion_of(scene, mesh)
    with torch.no_grad():
        index, weight = motion.skin(mesh.vertices)
        shift, turn = (torch.stack(each) for each in zip(*(motion.poses(time) for time in times), strict=True))
        raw = Skin(times, motion.params["anchors"].detach(), index, weight, shift, turn)
    a, b = edges(mesh.faces.numpy()).T
    points = mesh.vertices.double().numpy()
    truth = carried_by_all(scene, points, times.numpy())
    length = np.linalg.norm(truth[:, a] - truth[:, b], axis=-1).max(0) / np.linalg.norm(points[a] - points[b], axis=-1)
    tearing, whole = worst_stretch(glb_of(mesh, raw), 13), worst_stretch(glb_of(mesh, made), 13)
    assert ((tearing > TORN) & (length < TORN)).sum() > 50, "the case is not the one of the fault"
    assert ((whole > TORN) & (length < 0.9 * TORN)).sum() == 0
    assert facts["torn"] == 0 and whole.max() < 0.6 * tearing.max()


def test_what_stands_still_has_no_animation() -> None:
    scene = bar(MovingSettings(deform=DeformSettings(points=8)))
    mesh = extract(scene, 24, 500, by_pictures=False)
    assert motion_of(scene, mesh) == (None, {"way": "still", "loops": False})
    plain: Scene = Gaussians(GaussianSettings(count=50), torch.Generator())
    assert motion_of(plain, mesh) == (None, {})


def test_what_moves_has_a_still_file_of_its_first_moment() -> None:
    mesh = ball(1)
    files = level_files(Product("thing", mesh, wave(mesh)))
    assert list(files) == ["model_still.glb"] and not level_files(Product("thing", mesh))
    still = Glb(files["model_still.glb"])
    assert "animations" not in still.document and not still.targets
    np.testing.assert_allclose(still.points(), mesh.vertices)


def test_a_motion_that_fails_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = bar(MovingSettings(deform=DeformSettings(points=8, moments=3)))
    shake(scene, 0.05)
    mesh = extract(scene, 24, 500, by_pictures=False)
    made, facts = motion_within_bounds(scene, mesh)
    wanted, also = motion_of(scene, mesh)
    assert made is not None and wanted is not None and facts["way"] == also["way"]
    for a, b in zip(*(track_of(each, mesh.vertices).points for each in (made, wanted)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    monkeypatch.setenv("DREAMLAB_FAULT", "motion:error")
    made, facts = motion_within_bounds(scene, mesh)
    (line,) = notes(facts, ("glb", "obj"))
    assert made is None and "a fault was asked for" in line and "not in the files" in line


# ---- morph targets --------------------------------------------------------------------------------------------------
def wave(mesh: Mesh, keys: int = 5, part: bool = False) -> Track:
    """Up and down; or its upper half alone. The last key is the first."""
    times = torch.linspace(0, 1, keys)
    way = (2 * math.pi * times).sin()[:, None] * torch.where(mesh.vertices[:, 1] > (0.3 if part else -9), 0.3, 0.0)
    points = mesh.vertices.repeat(keys, 1, 1)
    points[..., 1] += way
    points[..., 0] *= 1 + way
    points[-1] = mesh.vertices
    return Track(times, points)


@pytest.mark.parametrize("part", [False, True])
def test_a_viewer_morphs_to_every_key_and_straight_between(part: bool) -> None:
    mesh = ball(2)
    track = wave(mesh, part=part)
    glb = glb_of(mesh, track)
    for i, time in enumerate(track.times.tolist()):
        np.testing.assert_allclose(glb.points(SECONDS * time), track.points[i], atol=1e-5)
    between = (track.points[1] + 3 * track.points[2]) / 4
    np.testing.assert_allclose(glb.points(SECONDS * (0.25 + 0.75 * 0.25)), between, atol=1e-5)
    np.testing.assert_allclose(glb.points(None), mesh.vertices)
    normals = vertex_normals(track.points[1], mesh.faces) - vertex_normals(mesh.vertices, mesh.faces) + mesh.normals
    np.testing.assert_allclose(glb.morphed("NORMAL", SECONDS * 0.25), normals, atol=2e-3)
    places = [glb.document["accessors"][target["POSITION"]] for target in glb.targets]
    assert len(places) == 2 and all(("sparse" in place) == part for place in places)  # 0, 1/2 and 1 are the mesh itself


@pytest.mark.node
@pytest.mark.parametrize("part", [False, True])
def test_the_validator_finds_nothing_in_morph_targets(tmp_path: Path, part: bool) -> None:
    mesh = ball(2)
    found = issues(gltf_of(Product("thing", mesh, wave(mesh, part=part))).glb(), tmp_path)
    assert (found["numErrors"], found["numWarnings"], found["numInfos"]) == (0, 0, 0), found


def test_blender_plays_morph_targets(tmp_path: Path) -> None:
    mesh = ball(2)
    track = wave(mesh, 3 + 4)
    (tmp_path / "model.glb").write_bytes(gltf_of(Product("thing", mesh, track)).glb())
    (look,) = blender_looks([tmp_path / "model.glb"], tmp_path)
    (span,) = look.found["actions"].values()
    assert span == [0.0, 48.0]
    for frame in look.mesh["frames"]:
        x, y, z = glb_of(mesh, track).points(frame / 24).T
        np.testing.assert_allclose(look.array(str(frame)), np.stack([x, -z, y], 1), atol=2e-5)


# ---- fields ---------------------------------------------------------------------------------------------------------
@dataclass
class Swinging:
    """A solid bar with a bent arm, known as a density on a grid at any time, and its true motion: it swings about +Z,
    and the arm about its shoulder."""

    loops: bool = True

    def parts(self, time: float) -> list[tuple[Tensor, Tensor]]:
        """Turn and place of the body and of the arm; a point of either goes to turn p + place."""
        swing = 0.35 * math.sin(2 * math.pi * time)
        foot, shoulder = torch.tensor([0.0, -0.6, 0.0]), torch.tensor([0.12, 0.3, 0.0])
        whole = matrix(from_vector(torch.tensor([0.0, 0.0, math.tan(swing / 2)])))
        lift = matrix(from_vector(torch.tensor([0.0, 0.0, math.tan(0.8 * swing / 2)])))
        body = foot - whole @ foot
        return [(whole, body), (whole @ lift, whole @ (shoulder - lift @ shoulder) + body)]

    def inside(self, points: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """Minus the distance of points [M, 3], and which of the two they belong to."""
        boxes = ((torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.12, 0.6, 0.12])),
                 (torch.tensor([0.35, 0.3, 0.0]), torch.tensor([0.25, 0.09, 0.09])))  # fmt: skip
        found = []
        for (turn, place), (middle, half) in zip(self.parts(time), boxes, strict=True):
            away = ((points - place) @ turn - middle).abs() - half + 0.03
            found.append(0.03 - away.clamp(min=0).norm(dim=1) - away.amax(1).clamp(max=0))
        both = torch.stack(found)
        return both.amax(0), both.argmax(0)

    def offer_at(self, resolution: int, time: float) -> LevelSet:
        cell = 2.0 / resolution
        line = torch.arange(resolution + 1) * cell - 1.0
        grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
        values = self.inside(grid.reshape(-1, 3), time)[0].reshape(grid.shape[:3])

        def colour(points: Tensor) -> Tensor:
            own = torch.stack([(points - place) @ turn for turn, place in self.parts(time)])
            at = own[self.inside(points, time)[1], torch.arange(len(points))]
            return (0.5 + 0.5 * (6 * at).sin()).clamp(0, 1)

        return LevelSet(values, (-1.0, -1.0, -1.0), cell, colour, 0.0)


def test_a_changing_field_becomes_a_moving_surface() -> None:
    """Nothing says which point of a density goes where; found again, most are within 2 % of where they truly go."""
    scene = Swinging()
    offer = scene.offer_at(48, 0.0)
    vertices, faces = isosurface(offer, 0.0)
    mesh = Mesh(vertices, faces, offer.colour(vertices), vertex_normals(vertices, faces))
    skin, facts = registered(scene, mesh, 9)
    assert skin is not None
    glb = glb_of(mesh, skin)
    part = scene.inside(vertices, 0.0)[1]
    size = float((vertices.amax(0) - vertices.amin(0)).norm())
    for time in (0.25, 0.75, 1.0):
        truth = torch.stack([vertices @ turn.T + place for turn, place in scene.parts(time)])
        wanted = truth[part, torch.arange(len(vertices))]
        off = np.linalg.norm(glb.points(SECONDS * time) - wanted.numpy(), axis=1) / size
        assert np.quantile(off, 0.5) < 0.01 and np.quantile(off, 0.9) < 0.02 and off.max() < 0.08
    np.testing.assert_allclose(glb.points(SECONDS), vertices, atol=1e-5)
    assert worst_stretch(glb).max() < TORN and facts["fraction"] < 0.01


def test_a_field_that_changes_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has bones in the file, and its account says how far from the field they take it."""
    monkeypatch.setattr("dreamlab.export.motion.registered", lambda scene, mesh: registered(scene, mesh, 3))
    offer = Swinging().offer_at(24, 0.0)
    vertices, faces = isosurface(offer, 0.0)
    mesh = Mesh(vertices, faces, offer.colour(vertices), vertex_normals(vertices, faces))
    changing: Any = Swinging(loops=False)
    motion, facts = motion_of(changing, mesh)
    assert isinstance(motion, Skin) and len(motion.times) == 3
    assert notes(facts, ("glb",)) == [] and notes(
        {**facts, "fraction": 0.07, "empty_at": [0.5]}, ("glb", "spz", "ply")
    ) == [
        "spz, ply: as it is at time 0, without its motion",
        "motion: up to 7.0 % of the diagonal off the scene's later surfaces",
        "motion: the scene is empty at 0.50; the surface waits there",
    ]
    assert facts["way"] == "registered bones" and 0 < facts["error"] < 0.02 and facts["stretch"] > 1


def test_a_field_offers_its_surface_at_any_time() -> None:
    scene = Field4D(
        Field4D.Settings(levels=3, log2_entries=8, finest=16, moments=3, temporal_log2=8), torch.Generator()
    )
    with torch.no_grad():
        scene.params["temporal"][1].normal_(generator=torch.Generator().manual_seed(0))
    still, half = scene.offer_at(12, 0.0), scene.offer_at(12, 0.5)
    plain = scene.offer(12)
    assert isinstance(plain, LevelSet)
    torch.testing.assert_close(still.values, plain.values)
    at = torch.tensor([still.low]) + still.cell * torch.tensor([[3.0, 5.0, 7.0]])
    for offer, time in ((still, 0.0), (half, 0.5)):
        wanted = scene.sigma(scene.raw(at, torch.zeros(1, dtype=torch.long), torch.tensor([time])))
        torch.testing.assert_close(offer.values[3, 5, 7], wanted[0])
        shown = scene.colour(scene.features(scene.unit(at), torch.zeros(1, dtype=torch.long), torch.tensor([time])))
        torch.testing.assert_close(offer.colour(at), shown)
    assert (still.values - half.values).abs().max() > 1e-3


def test_turns_come_back_from_their_matrices() -> None:
    quats = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    quats[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert ((from_matrix(matrix(quats)) * quats).sum(1).abs() > 1 - 1e-6).all()
