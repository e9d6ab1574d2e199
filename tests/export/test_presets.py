# SPDX-License-Identifier: Apache-2.0
"""What presets promise, in the files: names, further meshes, packed pictures; levels of detail that move along."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import ConvexHull

from dreamlab.core.foreign.headers import glb_document
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Mesh, Skin, Track
from dreamlab.export.hull import hull_of
from dreamlab.export.levels import coarser_file, level_files, thinned
from dreamlab.export.presets import PRESETS, WEB_FACES, WEB_TEXELS, files_of
from dreamlab.export.product import Files, Product
from dreamlab.export.readback import read_back
from dreamlab.export.rig import track_of
from dreamlab.export.writers import packed
from dreamlab.recipe import grammar
from renderers.surface.files import read_mesh
from tests.export.judges import blender_looks, bpy_python
from tests.export.test_blender import lopsided
from tests.export.test_glb import ball, issues, textured
from tests.export.test_rig import some_skin
from tests.export.viewer import Glb


def still() -> Product:
    """Textured, with two levels that leave triangles out."""
    mesh = lopsided(textured(True, True))
    assert mesh.textures is not None
    again = replace(mesh, textures=replace(mesh.textures, base=mesh.textures.base.clone()))
    levels = tuple(replace(again, faces=mesh.faces[::step]) for step in (2, 4))
    return Product("a-ball", mesh, levels=levels, origin={"prompt": "a ball"})


def backwards(mesh: Mesh) -> Mesh:
    """The same with its vertices in another order."""
    colours, normals = mesh.colours.flip(0), mesh.normals.flip(0)
    return Mesh(mesh.vertices.flip(0), len(mesh.vertices) - 1 - mesh.faces, colours, normals)


def moving() -> Product:
    mesh = ball(3)
    return Product("a-ball", mesh, some_skin(mesh.vertices, False), levels=(backwards(ball(2)), backwards(ball(1))))


def picture(files: Files, name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(files[name]))) / 255


def test_every_preset_of_the_recipe_is_there() -> None:
    assert set(PRESETS) == set(grammar.PRESETS)


@pytest.mark.node
@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("made", [still(), moving()], ids=["still", "moving"])
def test_the_khronos_validator_finds_nothing_in_any_preset(tmp_path: Path, preset: str, made: Product) -> None:
    files = {**files_of("glb", made, preset), **PRESETS[preset].beside(made)}
    for name, data in files.items():
        if name.endswith(".glb") and name not in ("model_packed.glb", "model_ktx2.glb"):
            found = issues({name: data}, tmp_path)
            assert (found["numErrors"], found["numWarnings"], found["numInfos"]) == (0, 0, 0), (name, found)


def test_levels_are_files_of_their_own() -> None:
    made = still()
    files = level_files(made)
    assert list(files) == ["model_LOD1.glb", "model_LOD2.glb"]
    assert [len(Glb(data).faces) for data in files.values()] == [len(mesh.faces) for mesh in made.levels]


def test_levels_move_as_the_asset_does() -> None:
    """The vertices of a coarser ball are among those of the finer one, so each has one of its own to follow."""
    made = moving()
    skin = made.motion
    assert isinstance(skin, Skin)
    near = torch.cdist(made.levels[0].vertices, made.mesh.vertices).argmin(1)
    track = track_of(skin, made.mesh.vertices)
    inside = Glb(files_of("glb", made, "unity")["model.glb"], mesh=1)
    alone = Glb(level_files(made)["model_LOD1.glb"])
    for key, seconds in enumerate((0.0, 0.5, 1.0, 1.5, 2.0)):
        for glb in (inside, alone):
            np.testing.assert_allclose(glb.points(seconds), track.points[key][near], atol=5e-5)
    tracked = coarser_file(replace(made, motion=track), 400).motion
    assert isinstance(tracked, Track)
    torch.testing.assert_close(tracked.points, track.points[:, near], atol=5e-5, rtol=0)
    smaller = replace(made.levels[0], vertices=0.99 * made.levels[0].vertices)
    tracked = coarser_file(replace(made, motion=track, levels=(smaller,)), 400).motion
    assert isinstance(tracked, Track)
    torch.testing.assert_close(tracked.points[0], smaller.vertices)


def test_unity_finds_levels_by_name_and_a_mask_map() -> None:
    made = still()
    document = glb_document(files_of("glb", made, "unity")["model.glb"])
    assert [node["name"] for node in document["nodes"]] == ["a-ball_LOD0", "a-ball_LOD1", "a-ball_LOD2"]
    assert document["scenes"][0]["nodes"] == [0, 1, 2]
    assert len(document["materials"]) == 1 and len(document["images"]) == 3, "levels share the material"
    beside = PRESETS["unity"].beside(made)
    assert set(beside) == {f"T_a-ball_{kind}.png" for kind in ("BC", "N", "ORM", "MASK")}
    assert set(files_of("maps", made, "unity")) < set(beside)
    textures = made.mesh.textures
    assert textures is not None and textures.occlusion is not None
    mask = picture(beside, "T_a-ball_MASK.png")
    for channel, values in ((0, textures.metallic), (1, textures.occlusion), (3, 1 - textures.roughness)):
        np.testing.assert_allclose(mask[..., channel], values[..., 0], atol=0.003)
    assert (mask[..., 2] == 0).all()
    lone = glb_document(files_of("glb", replace(made, levels=()), "unity")["model.glb"])
    assert [node["name"] for node in lone["nodes"]] == ["a-ball"]


def test_unreal_has_its_names_a_hull_and_normals_of_directx_outside_the_glb() -> None:
    made = still()
    data = files_of("glb", made, "unreal")["model.glb"]
    document = glb_document(data)
    assert [node["name"] for node in document["nodes"]] == ["SM_a_ball", "UCX_SM_a_ball_01"]
    assert "material" not in document["meshes"][1]["primitives"][0]
    moved = glb_document(files_of("glb", moving(), "unreal")["model.glb"])
    assert moved["nodes"][0]["name"] == "SK_a_ball" and not any("UCX" in node["name"] for node in moved["nodes"])
    textures = made.mesh.textures
    assert textures is not None and textures.normal is not None
    slanted = torch.tensor([0.6, 0.7, 0.9]).expand_as(textures.normal)
    made = replace(made, mesh=replace(made.mesh, textures=replace(textures, normal=slanted)))
    for files in (PRESETS["unreal"].beside(made), files_of("maps", made, "unreal")):
        np.testing.assert_allclose(picture(files, "T_a_ball_N.png")[0, 0], [0.6, 0.3, 0.9], atol=0.003)
    inside = Glb(files_of("glb", made, "unreal")["model.glb"])
    np.testing.assert_allclose(
        inside.picture(inside.material["normalTexture"])[0, 0] / 255, [0.6, 0.7, 0.9], atol=0.003
    )
    np.testing.assert_allclose(picture(files_of("maps", made, "none"), "T_a-ball_N.png")[0, 0, 1], 0.7, atol=0.003)


@pytest.mark.parametrize("mesh", [ball(3), lopsided(textured())], ids=["ball", "lopsided"])
def test_a_hull_is_convex_closed_and_close(mesh: Mesh) -> None:
    hull = hull_of(mesh)
    assert len(hull.vertices) <= 64
    read = trimesh.Trimesh(hull.vertices.numpy(), hull.faces.numpy(), process=False)
    assert read.is_watertight and read.is_winding_consistent and read.volume > 0
    assert 0.85 < read.volume / ConvexHull(mesh.vertices.numpy()).volume <= 1.0001
    corners, normals = hull.vertices.numpy(), read.face_normals
    above = corners @ normals.T - (read.triangles[:, 0] * normals).sum(1)
    assert above.max() < 1e-4, "no corner lies outside of a face"


def test_a_flat_sheet_has_a_hull() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    hull = hull_of(Mesh(corners, faces, torch.ones(4, 3), torch.tensor([[0.0, 0, 1]]).expand(4, 3)))
    assert len(hull.faces) >= 4 and torch.isfinite(hull.vertices).all() and torch.isfinite(hull.normals).all()


def test_godot_collides_with_what_stands_and_repeats_what_repeats() -> None:
    def names(made: Product) -> tuple[str, str | None]:
        document = glb_document(files_of("glb", made, "godot")["model.glb"])
        clips = [each["name"] for each in document.get("animations", [None])] if "animations" in document else [None]
        return document["nodes"][0]["name"], clips[0]

    assert names(still()) == ("a-ball", None)
    nodes = glb_document(files_of("glb", still(), "godot")["model.glb"])["nodes"]
    assert [node["name"] for node in nodes] == ["a-ball", "a-ball-convcolonly"]
    made = moving()
    assert names(made) == ("a-ball", "motion")
    skin = made.motion
    assert isinstance(skin, Skin)
    there_and_back = [0, 1, 2, 3, 4, 3, 2, 1, 0]
    loop = replace(
        skin, times=torch.linspace(0, 1, 9), shift=skin.shift[there_and_back], turn=skin.turn[there_and_back]
    )
    assert names(replace(made, motion=loop)) == ("a-ball", "motion-loop")
    document = glb_document(files_of("glb", Product("ball", ball(1)), "godot")["model.glb"])
    assert "COLOR_0" not in document["meshes"][0]["primitives"][0]["attributes"], "the engine switches them off"
    assert "baseColorTexture" in document["materials"][0]["pbrMetallicRoughness"]


def test_the_web_has_few_triangles_and_small_textures() -> None:
    made = still()
    large = made.mesh.faces.repeat(40, 1)
    levels = (replace(made.mesh, faces=made.mesh.faces.repeat(15, 1)), made.mesh)
    made = replace(made, mesh=replace(made.mesh, faces=large), levels=levels)
    glb = Glb(files_of("glb", made, "web")["model.glb"])
    assert len(large) > WEB_FACES >= len(glb.faces) == len(levels[0].faces)
    assert coarser_file(replace(made, levels=()), WEB_FACES).mesh is made.mesh


def test_textures_are_thinned_as_light_and_as_directions() -> None:
    made = still()
    textures = made.mesh.textures
    assert textures is not None
    # Texels alternate between two values, so each of the smaller picture is their mean.
    black_white = torch.tensor([0.0, 1.0]).repeat(512)[None, :, None].expand(1024, 1024, 3)
    left, right = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.8, 0.5, 0.9])
    tilted = torch.stack([left, right]).repeat(512, 1)[None].expand(1024, 1024, 3)
    one = torch.rand(1024, 1024, 1, generator=torch.Generator().manual_seed(0))
    rich = replace(textures, base=black_white, normal=tilted, roughness=one, metallic=one, occlusion=one)
    found = thinned(replace(made, mesh=replace(made.mesh, textures=rich)), WEB_TEXELS).mesh.textures
    assert found is not None and found.normal is not None and found.base.shape == (512, 512, 3)
    torch.testing.assert_close(srgb_to_linear(found.base), torch.full((512, 512, 3), 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.normal, torch.tensor([0.5, 0.5, 1.0]).expand(512, 512, 3), atol=1e-5, rtol=0)
    assert float(found.roughness.mean()) == pytest.approx(float(one.mean()), abs=1e-4)
    assert thinned(made, WEB_TEXELS) is made


@pytest.mark.node
@pytest.mark.parametrize("program", ["gltf-transform", "gltfpack"])
def test_the_packed_file_is_smaller_and_valid(tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program} (npm packages @gltf-transform/cli, gltfpack)")
    monkeypatch.setattr(packed, "packer", lambda: found)
    made = Product("ball", replace(textured(True, True)), origin={"prompt": "a ball"})
    files = {**files_of("glb", made, "web"), **PRESETS["web"].beside(made)}
    assert len(files["model_packed.glb"]) < len(files["model.glb"])
    document = glb_document(files["model_packed.glb"])
    assert "EXT_meshopt_compression" in document["extensionsRequired"]
    kinds = {image["mimeType"] for image in document["images"]}
    assert kinds == {"image/webp"} or (program == "gltfpack" and kinds == {"image/png"}), "npm's gltfpack has no WebP"
    assert document["asset"]["extras"] == {"prompt": "a ball"}
    said = issues({"model_packed.glb": files["model_packed.glb"]}, tmp_path)
    assert (said["numErrors"], said["numWarnings"]) == (0, 0), said


def test_blender_shows_every_mesh_of_a_preset(tmp_path: Path) -> None:
    bpy_python()
    paths = []
    for preset, kind in (("unity", "glb"), ("unreal", "glb"), ("unity", "fbx"), ("unreal", "fbx")):
        paths.append(tmp_path / f"{preset}.{kind}")
        paths[-1].write_bytes(files_of(kind, still(), preset)[f"model.{kind}"])
    for i, look in enumerate(blender_looks(paths, tmp_path)):
        if i % 2 == 0:
            assert set(look.found["meshes"]) == {"a-ball_LOD0", "a-ball_LOD1", "a-ball_LOD2"}
            continue
        assert set(look.found["meshes"]) == {"SM_a_ball", "UCX_SM_a_ball_01"}
        assert not look.found["meshes"]["UCX_SM_a_ball_01"]["materials"]


@pytest.mark.parametrize("preset", ["none", "unity", "unreal", "godot"])
def test_what_is_read_back_is_the_asset_and_not_what_lies_beside_it(tmp_path: Path, preset: str) -> None:
    (tmp_path / "model.glb").write_bytes(files_of("glb", still(), preset)["model.glb"])
    torch.testing.assert_close(read_back(tmp_path / "model.glb").vertices, still().mesh.vertices)


@pytest.mark.parametrize("kind", ["ply", "stl"])
def test_what_stands_in_its_file_is_read_back_in_our_axes(tmp_path: Path, kind: str) -> None:
    made = Product("ball", lopsided(ball(2)))
    (tmp_path / f"model.{kind}").write_bytes(files_of(kind, made, "none")[f"model.{kind}"])
    read = read_back(tmp_path / f"model.{kind}")
    torch.testing.assert_close(read.vertices[read.faces], made.mesh.vertices[made.mesh.faces], atol=1e-6, rtol=0)
    assert (torch.nn.functional.normalize(read.vertices, dim=1) * read.normals).sum(1).min() > 0.5
    told = files_of(kind, replace(made, origin={"prompt": "a ball"}), "none")
    (tmp_path / f"model.{kind}").write_bytes(told[f"model.{kind}"])
    taken = read_mesh(str(tmp_path / f"model.{kind}"), radius=None)  # as a start of another run
    np.testing.assert_allclose(taken.vertices.amin(0), made.mesh.vertices.amin(0), atol=1e-6)
    np.testing.assert_allclose(taken.vertices.amax(0), made.mesh.vertices.amax(0), atol=1e-6)
