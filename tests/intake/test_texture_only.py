# SPDX-License-Identifier: Apache-2.0
"""Texture only: twelve meshes with awkward texture coordinates keep every byte of their geometry, wear what was painted
where it was painted, and stay as valid as they were. The painting is a function of place, so that what each point must
show is known without the product."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.foreign.asset import read_asset
from dreamlab.core.types import Textures
from dreamlab.intake.painting import MAPS, painted, taken
from renderers.surface.bake import texels
from renderers.surface.canvas import OwnCanvas, canvas_from
from renderers.surface.stretch import canvas_of
from tests.intake.awkward import AWKWARD
from tests.intake.judges import Seen, issues, sampled

SIZE = 512
KEPT = ("nodes", "skins", "animations", "scenes", "scene", "cameras")
ORIGIN = {"prompt": "a test", "seed": 3}


def colour(points: np.ndarray) -> np.ndarray:
    """[N, 3] of places in the ball of 0.9."""
    return 0.5 + 0.4 * np.sin(2.0 * points + np.array([0.0, 1.0, 2.0]))


def paint(canvas: OwnCanvas) -> Textures:
    """What a scene would have learnt."""
    at = texels(canvas.atlas, SIZE)
    points = at.read(canvas.mesh.vertices, canvas.mesh.faces)
    base = torch.from_numpy(colour(points.numpy())).float()

    def one(values: Tensor) -> Tensor:
        return at.picture(values)

    return Textures(one(base), one(0.5 + 0.3 * points[:, :1]), one(0.5 - 0.3 * points[:, 1:2]))


@functools.cache
def made(name: str, fresh: bool) -> tuple[bytes, bytes, OwnCanvas]:
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, f"{name}.glb")
        before.write_bytes(AWKWARD[name]().bytes())
        asset = read_asset(before, "mesh")
        canvas = canvas_from(canvas_of(asset, name, fresh).bytes(), name)
        files = painted(taken(before), canvas, paint(canvas), ORIGIN, "painted", MAPS, asset)
        assert list(files) == ["painted.glb"]
        return before.read_bytes(), files["painted.glb"], canvas


def done(folder: Path, name: str, fresh: bool = False) -> tuple[Path, Path, OwnCanvas]:
    """The file as it was, and painted."""
    was, now, canvas = made(name, fresh)
    before, after = folder / f"{name}.glb", folder / f"painted_{name}_{fresh}.glb"
    before.write_bytes(was)
    after.write_bytes(now)
    return before, after, canvas


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def alike(name: str, fresh: bool, points: np.ndarray) -> list[np.ndarray]:
    """The places [N, 3] in the file's world that share a texel with each of `points`, itself among them."""
    flip = points * [-1, 1, 1]
    if name == "negative" or (name == "mirrored" and not fresh):
        return [points, flip]
    if name == "many" and not fresh:  # the texture comes three times around
        turns = [np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) for a in (0.0, 2 * np.pi / 3, -2 * np.pi / 3)
                 for c, s in [(np.cos(a), np.sin(a))]]  # fmt: skip
        return [points @ turn.T for turn in turns]
    if name == "overlapping" and not fresh:
        sides = [np.stack([np.eye(3)[(k + 1) % 3], np.eye(3)[(k + 2) % 3], s * np.eye(3)[k]]) for k in range(3)
                 for s in (-1.0, 1.0)]  # fmt: skip
        own = np.abs(points).argmax(1) * 2 + (points[np.arange(len(points)), np.abs(points).argmax(1)] > 0)
        local = np.einsum("nij,nj->ni", np.stack(sides)[own], points)
        return [local @ side for side in sides]
    return [points]


def inside(corners: np.ndarray) -> np.ndarray:
    """[F, C] of [F, 3, C]: a place in each triangle that no exchange of corners keeps."""
    found: np.ndarray = np.einsum("fci,c->fi", corners, [0.6, 0.3, 0.1])
    return found


def apart(found: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N] how far colours [N, 3] are from all mixtures of two."""
    along = other - one
    share = ((found - one) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
    away: np.ndarray = np.abs(found - one - share.clip(0, 1)[:, None] * along).max(1)
    return away


def in_the_ball(canvas: OwnCanvas, points: np.ndarray) -> np.ndarray:
    return (points - np.array(canvas.facts["centre"])) * canvas.facts["scale"]


@pytest.mark.parametrize("name", [name for name in AWKWARD if name != "without"])
def test_geometry_stays_byte_for_byte(name: str, tmp_path: Path) -> None:
    """Everything that was in the binary part lies where it lay; all that the document says of it stays."""
    before, after, _ = done(tmp_path, name)
    was, now = Seen(before), Seen(after)
    assert digest(now.binary[: len(was.binary)]) == digest(was.binary)
    assert now.document["accessors"] == was.document["accessors"]
    assert now.document["meshes"] == was.document["meshes"]
    assert now.document["bufferViews"][: len(was.document["bufferViews"])] == was.document["bufferViews"]
    assert {key: now.document.get(key) for key in KEPT} == {key: was.document.get(key) for key in KEPT}
    extras = now.document["asset"].pop("extras")
    assert extras == {"of": "somebody", "dreamlab": ORIGIN}
    for old, new in zip(was.document["materials"], now.document["materials"], strict=True):
        untouched = {key: value for key, value in old.items() if key != "pbrMetallicRoughness"}
        assert {key: new.get(key) for key in untouched} == untouched


@pytest.mark.parametrize("name", ["without", "mirrored", "rigged"])
def test_new_coordinates_change_no_corner(name: str, tmp_path: Path) -> None:
    """Corners are repeated along seams; each triangle's corners have the bytes that they had, in every attribute."""
    before, after, canvas = done(tmp_path, name, fresh=True)
    was, now = Seen(before), Seen(after)
    (old,), (new,) = (seen.document["meshes"][0]["primitives"] for seen in (was, now))
    soup = now.soup(new)
    assert set(soup) - set(was.soup(old)) == {"TEXCOORD_0" if name == "without" else "TEXCOORD_1"}
    assert all(digest(soup[key]) == digest(data) for key, data in was.soup(old).items())
    assert {key: now.document.get(key) for key in KEPT} == {key: was.document.get(key) for key in KEPT}
    assert digest(now.binary[: len(was.binary)]) == digest(was.binary)
    assert all(slot["fresh"] for slot in canvas.facts["slots"])


@pytest.mark.node
def test_the_khronos_validator_finds_nothing(tmp_path: Path) -> None:
    files = [done(tmp_path, name, fresh)[:2] for name in AWKWARD for fresh in (False, True)]
    assert not issues(*(path for both in files for path in both))


@pytest.mark.parametrize("fresh", [False, True], ids=["own", "fresh"])
@pytest.mark.parametrize("name", AWKWARD)
def test_every_place_shows_what_was_painted_there(name: str, fresh: bool, tmp_path: Path) -> None:
    """Read by the tests' own viewer: base colour, roughness and metallic in every triangle."""
    _, after, canvas = done(tmp_path, name, fresh)
    seen, errors, wrong = Seen(after), [], []
    for sheet in seen.sheets():
        rough = sheet.material["pbrMetallicRoughness"]
        assert not {"baseColorFactor", "metallicFactor", "roughnessFactor"} & set(rough)
        uv = inside(sheet.uv)
        base = sampled(seen.picture(rough["baseColorTexture"]["index"]), uv)[:, :3]
        packed = sampled(seen.picture(rough["metallicRoughnessTexture"]["index"]), uv)[:, 1:]
        places = [in_the_ball(canvas, each) for each in alike(name, fresh, inside(sheet.places))]
        errors.append(np.min([apart(base, colour(p), colour(places[-1])) for p in places], 0))
        wanted = [np.stack([0.5 + 0.3 * p[:, 0], 0.5 - 0.3 * p[:, 1]], 1) for p in places]
        wrong.append(np.min([apart(packed, each, wanted[-1]) for each in wanted], 0))
    error, other = np.concatenate(errors), np.concatenate(wrong)
    assert max(np.quantile(error, 0.97), np.quantile(other, 0.97)) < 0.012, (error.max(), other.max())


def test_pictures_keep_their_slots_and_sizes(tmp_path: Path) -> None:
    """Two materials that showed one image have one each; what is not painted keeps its picture; alpha too."""
    before, after, _ = done(tmp_path, "materials")
    was, now = Seen(before), Seen(after)
    body, lid, glow, glass = now.document["materials"]
    bases = [each["pbrMetallicRoughness"]["baseColorTexture"]["index"] for each in (body, lid, glow, glass)]
    assert len(set(bases)) == 4
    assert [now.picture(index).size for index in (bases[0], bases[1], bases[3])] == [(64, 32), (64, 32), (48, 48)]
    old, new = (seen.picture(material["occlusionTexture"]["index"]) for seen, material in
                ((was, was.document["materials"][0]), (now, body)))  # fmt: skip
    assert old.tobytes() == new.tobytes()
    assert body["pbrMetallicRoughness"]["metallicRoughnessTexture"]["index"] != body["occlusionTexture"]["index"]
    alpha = np.asarray(now.picture(bases[3]))[..., 3]
    assert now.picture(bases[3]).mode == "RGBA" and set(np.unique(alpha)) == {128}
    assert now.picture(bases[0]).mode == "RGB" and glow["extensions"] == {"KHR_materials_unlit": {}}


def test_webp_becomes_png_and_need_not_be_understood(tmp_path: Path) -> None:
    _, after, _ = done(tmp_path, "webp")
    seen = Seen(after)
    base = seen.document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    assert seen.picture(base["index"]).format == "PNG"
    assert "extensionsRequired" not in seen.document and "extensionsUsed" not in seen.document


@pytest.mark.parametrize(("name", "words"), [
    ("mirrored", ["100 % of its texels are shared", "mirrored", "--fresh-uv"]),
    ("overlapping", ["100 % of its texels are shared"]),
    ("manifold", ["face the wrong way", "without area", "1 triangles are there more", "edges have more"]),
    ("without", ["get texture coordinates"]),
    ("materials", ["is transparent (BLEND)"]),
])  # fmt: skip
def test_what_is_odd_is_said_in_a_line(name: str, words: list[str], tmp_path: Path) -> None:
    lines = done(tmp_path, name)[2].facts["lines"]
    assert all(any(word in line for line in lines) for word in words), lines
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize("name", ["shell", "huge", "sets", "webp", "rigged"])
def test_what_is_well_is_not_complained_of(name: str, tmp_path: Path) -> None:
    assert done(tmp_path, name)[2].facts["lines"] == []


def test_closed_parts_face_outward() -> None:
    """Boxes of which any triangles were turned, and an open sheet that keeps what most of it says."""
    import trimesh

    from renderers.surface.winding import turned_over

    stream = np.random.default_rng(0)
    parts = [trimesh.creation.box(extents=(1, 2, 3)).apply_translation((4.0 * i, 0, 0)) for i in range(5)]
    whole = trimesh.util.concatenate(parts)
    faces = np.array(whole.faces)
    turned = stream.random(len(faces)) < 0.5
    faces[turned] = faces[turned][:, ::-1]
    found = turned_over(torch.from_numpy(np.array(whole.vertices)), torch.from_numpy(faces)).numpy()
    np.testing.assert_array_equal(found, turned)
    sheet = np.array([[0, 1, 2], [2, 1, 3], [2, 4, 3], [4, 3, 5]])  # the third is turned
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0], [1, 2, 0]])
    assert turned_over(corners, torch.from_numpy(sheet)).tolist() == [False, False, True, False]
