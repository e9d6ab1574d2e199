# SPDX-License-Identifier: Apache-2.0
"""Assets as another program reads them, beside pictures of the scene from known sides: a ball whose top is red, whose
right side (seen from the front) is green and whose front is blue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.types import Frames, LevelSet, Mesh, Offer, ParamGroup, Textures, Training, Triangles
from dreamlab.export import export_mesh
from dreamlab.export.glb import glb_bytes
from dreamlab.export.product import Product
from dreamlab.export.writers.obj import obj as obj_files
from dreamlab.recipe import Recipe, load
from dreamlab.recipe.tables import TABLES
from dreamlab.run.folder import Run
from renderers.mesh import TexturedMesh
from renderers.surface.draw import Surface, compose, look, vertex_normals
from renderers.surface.extraction import extract, surface
from renderers.surface.files import ply_bytes
from tests.conftest import TINY
from tests.export.viewer import Glb, Obj, pinhole, sampled
from tests.wiring.toy import Still

RADIUS, SIZE = 0.7, 96
SIDES = [(0.0, 10.0), (90.0, -20.0), (200.0, 35.0)]


def painted(points: np.ndarray) -> np.ndarray:
    """[N, 3] sRGB by place: red grows upward, green to +X, blue to +Z; no two channels alike."""
    x, y, z = (points / RADIUS).T
    return np.stack([0.5 + 0.42 * y, 0.45 + 0.42 * x, 0.5 + 0.36 * z], 1)


def ball(subdivisions: int = 3, radius: float = RADIUS) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    vertices = torch.from_numpy(np.array(made.vertices)).float()
    faces = torch.from_numpy(np.array(made.faces)).long()
    colours = torch.from_numpy(painted(np.array(made.vertices) * RADIUS / radius)).float()
    return Mesh(vertices, faces, colours, vertex_normals(vertices, faces))


class Solid(Still):
    """A scene that is a mesh and draws it with the project's rasteriser."""

    kind: ClassVar[str] = "solid"

    def __init__(self, mesh: Mesh) -> None:
        self.made = mesh

    def groups(self) -> Mapping[str, ParamGroup]:
        return {"vertices": ParamGroup(self.made.vertices, None)}  # type: ignore[arg-type]

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        view = look(Surface.of(self.made.vertices, self.made.faces), cameras, size)
        return compose(view, view.read(self.made.colours), view.read(self.made.normals), background)

    def offer(self, resolution: int) -> Offer:
        return Triangles(self.made)


def shows(scene: Any, points: np.ndarray, normals: np.ndarray, colours: np.ndarray, near: float) -> None:
    """Where the scene's own pictures show a vertex of the file, they show the file's colour of it."""
    for azimuth, elevation in SIDES:
        column, row, eye = pinhole(points, azimuth, elevation, 3.0, 40.0, SIZE)
        facing = (normals * (eye - points)).sum(1) / np.linalg.norm(eye - points, axis=1) > 0.5
        assert facing.sum() > 40
        with torch.no_grad():
            frames = scene.render(orbit([azimuth], elevation, 3.0, 40.0), SIZE, torch.zeros(1, 3))
        picture = frames.rgb[0].numpy()
        bytes_ = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
        seen = sampled(bytes_, np.stack([column, row], 1)[facing] / SIZE)
        error = np.abs(seen - colours[facing])
        assert np.percentile(error, 95) < near, f"from azimuth {azimuth}: {np.percentile(error, 95)}"


def exported(tmp_path: Path, scene: Any, *formats: str, settings: tuple[str, ...] = ()) -> tuple[Run, Recipe]:
    overrides = ["export.faces=2000", *([f"export.formats={','.join(formats)}"] if formats else []), *settings]
    recipe = load(TINY, TABLES, overrides=overrides)
    run = Run.create(tmp_path, TINY, recipe.prompt, [])
    export_mesh(run, recipe, scene, 7)
    return run, recipe


def test_vertex_colours_stand_where_the_scene_shows_them_in_every_format(tmp_path: Path) -> None:
    scene = Solid(ball())
    run, _ = exported(tmp_path, scene, "glb", "obj", "ply")
    glb, obj = Glb((run.export / "model.glb").read_bytes()), Obj(run.export / "model.obj")
    for points, normals, colours in (
        (glb.points(), glb.attribute("NORMAL"), glb.colours()),
        (obj.vertices, obj.normals, obj.colours()),
    ):
        np.testing.assert_allclose(colours, painted(points), atol=2e-3)
        np.testing.assert_allclose(normals, points / RADIUS, atol=0.02)
        shows(scene, points, normals, colours, 0.03)
    read = trimesh.load(run.export / "model.ply", process=False)
    standing = read.vertices[:, [0, 2, 1]] * [1, 1, -1]  # a PLY's +Z is up, its -Y in front
    np.testing.assert_allclose(read.visual.vertex_colors[:, :3] / 255, painted(standing), atol=0.004)
    for faces, points in ((glb.faces, glb.points()), (obj.faces, obj.vertices), (read.faces, standing)):
        a, b, c = points[faces].transpose(1, 0, 2)
        assert np.einsum("ni,ni->n", np.cross(b - a, c - a), a).min() > 0, "counter-clockwise seen from outside"


def shell(tmp_path: Path, **settings: Any) -> TexturedMesh:
    """The ball as a scene with textures, painted from the colours of a file's vertices."""
    (tmp_path / "ball.ply").write_bytes(ply_bytes(ball()))
    wanted = {"file": str(tmp_path / "ball.ply"), "texture": 256, "material": "texture", "unwrap": "own"} | settings
    return TexturedMesh(TexturedMesh.Settings(**wanted), torch.Generator().manual_seed(0))


def test_a_texture_lies_on_the_surface_as_the_scene_shows_it_in_glb_and_obj(tmp_path: Path) -> None:
    """uv, rows and seams: the file's base colour at each vertex is the colour of its place, and of the picture there.
    A texture that is upside down, mirrored or in another slot shows something else."""
    scene = shell(tmp_path)
    run, _ = exported(tmp_path, scene, "glb", "obj")
    glb, obj = Glb((run.export / "model.glb").read_bytes()), Obj(run.export / "model.obj")
    scale = np.linalg.norm(glb.points(), axis=1).mean() / RADIUS  # files are brought to the scene's size
    for points, normals, colours in (
        (glb.points(), glb.attribute("NORMAL"), glb.colours()),
        (obj.vertices, obj.normals, obj.colours()),
    ):
        error = np.abs(colours - painted(points / scale))
        assert np.percentile(error, 98) < 0.05, np.percentile(error, 98)
        shows(scene, points, normals, colours, 0.06)


def slots() -> Mesh:
    """The ball with textures that tell each other apart in every channel."""
    size = 16
    base = torch.tensor([0.8, 0.4, 0.1]).expand(size, size, 3).clone()
    base[0, 0] = torch.tensor([0.1, 0.2, 0.9])  # where u = v = 0
    normal = torch.tensor([0.6, 0.45, 1.0]).expand(size, size, 3)
    fill = [torch.full((size, size, 1), value) for value in (0.7, 0.3)]
    fill[0][0, 0] = fill[1][0, 0] = 0.5
    made = ball(2)
    n = made.normals
    around = torch.atan2(n[:, 0], n[:, 2]) / (2 * torch.pi) + 0.5
    uv = torch.stack([around, 0.5 - 0.5 * n[:, 1]], 1)
    along = torch.linalg.cross(torch.tensor([[1e-3, 1.0, 1e-3]]).expand(len(n), 3), n)
    tangents = torch.cat([torch.nn.functional.normalize(along, dim=-1), torch.ones(len(n), 1)], 1)
    return replace(made, uv=uv, tangents=tangents, textures=Textures(base, fill[0], fill[1], normal))


def test_each_picture_lies_in_the_slot_of_its_name_in_glb() -> None:
    mesh = slots()
    glb = Glb(glb_bytes(mesh, "ball", {}))
    metal = glb.material["pbrMetallicRoughness"]
    base = glb.picture(metal["baseColorTexture"])
    assert base[5, 5].tolist() == [204, 102, 26] and base[0, 0].tolist() == [26, 51, 230]
    # The specification: roughness in green, metallic in blue; the factors are 1 where they are not given.
    packed = glb.picture(metal["metallicRoughnessTexture"])
    assert packed[5, 5, 1:].tolist() == [179, 77]
    assert metal.get("metallicFactor", 1.0) == metal.get("roughnessFactor", 1.0) == 1.0
    assert "occlusionTexture" not in glb.material or packed[5, 5, 0] == 255
    assert glb.picture(glb.material["normalTexture"])[5, 5].tolist() == [153, 115, 255]
    assert "COLOR_0" not in glb.attributes, "it would multiply the texture"
    np.testing.assert_allclose(glb.attribute("TEXCOORD_0"), mesh.uv, atol=1e-7)
    plain = Glb(glb_bytes(replace(mesh, textures=replace(mesh.textures, normal=None)), "ball", {}))  # type: ignore[type-var]
    assert "normalTexture" not in plain.material and "TANGENT" not in plain.attributes
    bare = Glb(glb_bytes(ball(1), "ball", {})).material["pbrMetallicRoughness"]
    assert bare["metallicFactor"] == 0 and "baseColorTexture" not in bare, "a bare ball is no metal"


def test_each_picture_lies_under_the_key_of_its_name_in_obj(tmp_path: Path) -> None:
    mesh = slots()
    for name, data in obj_files(Product("ball", mesh)).items():
        (tmp_path / name).write_bytes(data)
    obj = Obj(tmp_path / "model.obj")
    expected = {"map_Kd": [204, 102, 26], "map_Pr": 179, "map_Pm": 77, "norm": [153, 115, 255]}
    for key, value in expected.items():
        assert obj.picture(key)[5, 5].tolist() == value, key
    assert obj.material["Kd"] == "1 1 1"
    assert obj.picture("map_Kd")[0, 0].tolist() == [26, 51, 230]
    assert mesh.uv is not None
    np.testing.assert_allclose(obj.uv * [1, -1] + [0, 1], mesh.uv[mesh.faces.reshape(-1)], atol=1e-5)


def volume(points: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = points[faces].astype(float).transpose(1, 0, 2)
    return float(np.einsum("ni,ni->", a, np.cross(b, c)) / 6)


def test_the_report_says_what_the_files_hold(tmp_path: Path) -> None:
    """Counts, volume and box from the GLB's own bytes; sizes and hashes of every file beside it; two parts stay two."""
    one, two = ball(2, 0.4), ball(3, 0.25)
    shift = torch.tensor([0.6, 0.2, -0.1])
    mesh = Mesh(
        torch.cat([one.vertices, two.vertices + shift]),
        torch.cat([one.faces, two.faces + len(one.vertices)]),
        torch.cat([one.colours, two.colours]),
        torch.cat([one.normals, two.normals]),
    )
    run, recipe = exported(tmp_path, Solid(mesh), "glb", "obj", "ply", settings=("export.faces=5000",))
    report = json.loads((run.export / "report.json").read_text())
    glb = Glb((run.export / "model.glb").read_bytes())
    points = glb.points()
    assert report["prompt"] == recipe.prompt
    assert report["mesh"]["vertices"] == len(points) == len(mesh.vertices)
    assert report["mesh"]["triangles"] == len(glb.faces) == len(mesh.faces)
    assert report["mesh"]["volume"] == pytest.approx(volume(points, glb.faces), rel=1e-4)
    np.testing.assert_allclose(report["mesh"]["bounds"], [points.min(0), points.max(0)], atol=1e-6)
    assert report["mesh"]["watertight"] is True and report["mesh"]["parts"] == 2
    files = {path.name: path for path in run.export.iterdir() if path.name != "report.json"}
    of_obj = {"model.mtl", "model_base_color.png", "model_obj.zip"}
    assert report["files"].keys() == files.keys() >= of_obj
    for name, path in files.items():
        data = path.read_bytes()
        kind = "pictures" if name == "check.png" else "obj" if name in of_obj else path.suffix[1:]
        known = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "step": 7, "format": kind}
        assert report["files"][name] == known
    assert report["check"]["psnr"] > 45 and report["check"]["silhouette_iou"] > 0.999 and not report["notes"]


def test_an_open_surface_is_reported_as_one(tmp_path: Path) -> None:
    mesh = ball(2)
    run, _ = exported(tmp_path, Solid(replace(mesh, faces=mesh.faces[: len(mesh.faces) // 2])))
    assert json.loads((run.export / "report.json").read_text())["mesh"]["watertight"] is False


def test_few_triangles_are_few_and_their_cost_is_said(tmp_path: Path) -> None:
    run, _ = exported(tmp_path, Solid(ball(3)), settings=("export.faces=300",))
    report = json.loads((run.export / "report.json").read_text())
    glb = Glb((run.export / "model.glb").read_bytes())
    assert report["mesh"]["triangles"] == len(glb.faces) <= 300 and report["mesh"]["vertices"] == len(glb.points())
    assert 20 < report["check"]["psnr"] < 40 and 0.9 < report["check"]["silhouette_iou"] < 1
    whole = next(step for step in report["steps"] if step["name"] == "extract")
    assert whole["psnr"] > report["check"]["psnr"] + 3, "what few triangles cost is in the account of the steps"


class Several:
    """A maker of three scenes: balls of growing radius."""

    radii = (0.3, 0.5, 0.7)

    def tell(self, codes: Tensor) -> None: ...

    def made(self, index: int) -> Any:
        return Solid(ball(2, self.radii[index]))

    def count(self) -> int:
        return 3

    def each(self) -> Iterator[Any]:
        return (self.made(i) for i in range(3))

    def between(self, first: int, second: int, share: float) -> Any:
        return self.made(first)


def test_each_prompt_s_asset_lies_in_the_folder_of_its_name(tmp_path: Path) -> None:
    recipe = load(TINY, TABLES, overrides=[])
    recipe = replace(recipe, prompt="a red ball", prompts=("a green pear", "a blue mug"))
    run = Run.create(tmp_path, TINY, recipe.prompt, [])
    paths = export_mesh(run, recipe, Several(), 7)  # type: ignore[arg-type]
    names = ("0-a-red-ball", "1-a-green-pear", "2-a-blue-mug")
    assert [str(path.relative_to(run.export)) for path in paths] == [
        f"{name}/{file}" for name in names for file in ("model.glb", "check.png")
    ]
    for name, radius, prompt in zip(names, Several.radii, ("a red ball", "a green pear", "a blue mug"), strict=True):
        glb = Glb((run.export / name / "model.glb").read_bytes())
        assert np.linalg.norm(glb.points(), axis=1).mean() == pytest.approx(radius, rel=0.02)
        assert json.loads((run.export / name / "report.json").read_text())["prompt"] == prompt
        assert glb.document["nodes"][0]["name"] == name[2:]
        assert glb.document["asset"]["extras"]["recipe"]["prompt"] == "a red ball"


def test_paint_is_the_object_s_colour_without_what_shines_through_it() -> None:
    """Pictures of alpha 0.95 over a loud background: the surface gets the colour itself, where a camera sees it."""
    from renderers.surface.bake import project

    made, colour, loud = ball(2), torch.tensor([0.2, 0.7, 0.4]), torch.tensor([[1.0, 0.0, 1.0]])
    surface = Surface.of(made.vertices, made.faces)

    def show(cameras: Cameras) -> Frames:
        rgb = (0.95 * colour + 0.05 * loud).expand(len(cameras), 64, 64, 3)
        alpha = torch.full((len(cameras), 64, 64, 1), 0.95)
        return Frames(rgb, alpha, alpha, loud.expand(len(cameras), 3))

    paint, seen = project(surface, made.vertices, made.normals, orbit([0.0, 30.0], 0.0), 64, show)
    front = made.normals[:, 2] > 0.7
    torch.testing.assert_close(paint[front], colour.expand(int(front.sum()), 3), atol=1e-4, rtol=0)
    assert (seen[front] > 0).all() and (seen[made.normals[:, 2] < -0.7] == 0).all()
    plate = torch.tensor([[-2.0, -2.0, 1.0], [2.0, -2.0, 1.0], [0.0, 3.0, 1.0]])  # between the cameras and the ball
    walled = Surface.of(
        torch.cat([made.vertices, plate]), torch.cat([made.faces, len(made.vertices) + torch.arange(3)[None]])
    )
    _, seen = project(walled, made.vertices, made.normals, orbit([0.0, 30.0], 0.0), 64, show)
    assert (seen == 0).all(), "hidden points are painted by nobody"


@pytest.mark.parametrize("whole", [False, True])
def test_floaters_go_unless_every_part_is_wanted(whole: bool) -> None:
    """A ball and a crumb, offered as triangles and as a level of a density."""
    crumb = ball(1, 0.05)
    one, shift = ball(2, 0.5), torch.tensor([0.8, 0.0, 0.0])
    both = Mesh(
        torch.cat([one.vertices, crumb.vertices + shift]),
        torch.cat([one.faces, crumb.faces + len(one.vertices)]),
        torch.cat([one.colours, crumb.colours]),
        torch.cat([one.normals, crumb.normals]),
    )
    scene = Solid(both)
    scene.offer = lambda resolution: Triangles(both, whole)  # type: ignore[method-assign]
    found = extract(scene, 16)  # type: ignore[arg-type]
    assert len(found.faces) == len(one.faces) + (len(crumb.faces) if whole else 0)
    axis = torch.linspace(-1, 1, 65)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    away = torch.minimum(points.norm(dim=-1) - 0.5, (points - shift).norm(dim=-1) - 0.05)
    level = surface(LevelSet(-away, (-1.0, -1.0, -1.0), 1 / 32, torch.zeros_like, 0.0))
    assert float(level.vertices[:, 0].max()) < 0.6, "a level has no part that is wanted for itself"


def test_a_run_works_with_the_threads_it_began_with(tmp_path: Path, two_threads: None) -> None:
    """A run of one thread that two threads take up: one while it works, two again afterwards; a new one keeps two."""
    from dreamlab.run.determinism import deterministic

    made = Run.create(tmp_path, TINY, "a red ball", [])
    with deterministic(made):
        assert torch.get_num_threads() == 2 and made.state()["threads"] == 2
    made.set_state(threads=1)
    with deterministic(made):
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 2 and made.state()["threads"] == 1
