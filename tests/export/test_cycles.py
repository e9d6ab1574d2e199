# SPDX-License-Identifier: Apache-2.0
"""Blender's Cycles draws the imported GLB as we draw the asset, under the same light: the whole way of a material, from
textures and tangents to what a user sees."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.opened import Lamp
from dreamlab.core.cameras import orbit
from dreamlab.core.types import Mesh, Textures
from dreamlab.export.drawing import Viewed
from dreamlab.export.presets import files_of
from dreamlab.export.product import Files, Product
from renderers.light.environment import environment
from renderers.light.montecarlo import Draws
from renderers.surface.draw import vertex_normals
from tests.export.judges import run_bpy

AZIMUTH, ELEVATION, DISTANCE, FOVY = 35.0, 20.0, 3.4, 40.0
FLOOR = 30.0  # dB on the object's pixels


def pot(rows: int = 40, columns: int = 80, size: int = 256) -> Mesh:
    """A lopsided ball with a lip: patches of colour, rough and smooth bands, metal on one side, and grooves that are in
    the normal texture alone. All of it is smooth, for filters are not what is compared."""
    v, u = torch.meshgrid(torch.arange(rows + 1) / rows, torch.arange(columns + 1) / columns, indexing="ij")
    up, around = math.pi * (0.01 + 0.98 * v), 2 * math.pi * u
    wide = up.sin() * (1 + 0.25 * around.cos() * up.sin()) * (1 - 0.35 * torch.exp(-((v - 0.25) / 0.08).square()))
    points = 0.9 * torch.stack([wide * around.sin(), 1.1 * up.cos(), wide * around.cos()], -1).reshape(-1, 3)
    first = (torch.arange(rows)[:, None] * (columns + 1) + torch.arange(columns)).reshape(-1)
    below, beside = first + columns + 1, first + 1
    faces = torch.cat([torch.stack([first, below, beside], 1), torch.stack([beside, below, below + 1], 1)])
    welded = torch.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1).clone()
    welded[:, -1] = welded[:, 0]
    rows_of = welded.reshape(-1)
    normals = vertex_normals(points, rows_of[faces])[rows_of]
    along = torch.roll(points.reshape(rows + 1, columns + 1, 3)[:, :-1], -1, 1) - torch.roll(
        points.reshape(rows + 1, columns + 1, 3)[:, :-1], 1, 1
    )
    along = torch.cat([along, along[:, :1]], 1).reshape(-1, 3)
    along = torch.nn.functional.normalize(along - normals * (normals * along).sum(-1, keepdim=True), dim=-1)
    # v of a texture grows downward, so u x up is outward and the third axis is (n x t) times 1.
    tangents = torch.cat([along, torch.ones(len(along), 1)], 1)
    uv = torch.stack([u, v], -1).reshape(-1, 2)
    return Mesh(points, faces, torch.full_like(points, 0.5), normals, uv, tangents, coatings(size))


def coatings(size: int) -> Textures:
    v, u = torch.meshgrid((torch.arange(size) + 0.5) / size, (torch.arange(size) + 0.5) / size, indexing="ij")
    check = 0.5 + 0.5 * torch.tanh(4 * torch.sin(8 * math.pi * u) * torch.sin(5 * math.pi * v))
    red, blue = torch.tensor([0.85, 0.25, 0.15]), torch.tensor([0.15, 0.45, 0.8])
    base = check[..., None] * red + (1 - check[..., None]) * blue
    roughness = 0.55 + 0.25 * torch.sin(6 * math.pi * v)[..., None]
    metallic = (0.5 + 0.5 * torch.tanh(20 * (0.08 - (u - 0.12).abs())))[..., None]
    slope = 0.6 * torch.sin(2 * math.pi * 8 * u) * torch.exp(-((v - 0.55) / 0.12).square())
    lean = 0.5 * torch.sin(2 * math.pi * 14 * v) * torch.exp(-((v - 0.35) / 0.07).square())
    normal = torch.nn.functional.normalize(torch.stack([slope, lean, torch.ones_like(u)], -1), dim=-1)
    return Textures(base, roughness, metallic, (normal + 1) / 2)


def ours(mesh: Mesh, lamp: Lamp, size: int) -> tuple[np.ndarray, np.ndarray]:
    """sRGB [H, W, 3] over black, and coverage [H, W]."""
    frames = Viewed(mesh, lamp).render(orbit([AZIMUTH], ELEVATION, DISTANCE, FOVY), size, torch.zeros(1, 3))
    return frames.rgb[0].numpy(), frames.alpha[0, ..., 0].numpy()


def cycles(files: Files, name: str, size: int, folder: Path, samples: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """The same of a file, by Blender."""
    for beside, data in files.items():
        (folder / beside).write_bytes(data)
    np.save(folder / "light.npy", environment(name).numpy())
    eye = orbit([AZIMUTH], ELEVATION, DISTANCE, FOVY).camera_to_world[0, :3, 3].tolist()
    wanted = {"eye": eye, "fov_deg": FOVY, "size": size, "samples": samples}
    run_bpy(
        "blender_render.py", folder / next(iter(files)), folder / "light.npy", folder / "shot.png", json.dumps(wanted)
    )
    shot = np.asarray(Image.open(folder / "shot.png")) / 255
    return shot[..., :3] * shot[..., 3:], shot[..., 3]


def facing(mesh: Mesh, size: int) -> np.ndarray:
    """[H, W] where the surface is seen from less than 65 degrees: beyond, a bent normal may look away from the eye,
    which renderers answer each in their own way."""
    camera = orbit([AZIMUTH], ELEVATION, DISTANCE, FOVY)
    smooth = replace(mesh, uv=None, tangents=None, textures=None)
    frames = Viewed(smooth).render(camera, size, torch.zeros(1, 3))
    assert frames.normal is not None
    ahead = camera.rays(size, size)[1].reshape(size, size, 3)
    found: np.ndarray = ((frames.normal[0] * -ahead).sum(-1) > math.cos(math.radians(65))).numpy()
    return found


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(a - b)[where].mean()))


def flipped(textures: Textures, channel: int) -> Textures:
    assert textures.normal is not None
    normal = textures.normal.clone()
    normal[..., channel] = 1 - normal[..., channel]
    return replace(textures, normal=normal)


def test_cycles_shows_what_we_show(tmp_path: Path) -> None:
    """And would not if a slot, a side or a colour space were another."""
    mesh, name, size = pot(), "studio", 60
    textures = mesh.textures
    assert textures is not None
    lamp = Lamp(name, mesh, Draws(48, 40))
    (picture, alpha), made = ours(mesh, lamp, size), Product("pot", mesh)
    shot, cover = cycles(files_of("glb", made, "none"), name, size, tmp_path)
    assert np.abs(cover - alpha).mean() < 0.004, "the same silhouette"
    where = facing(mesh, size) & (cover > 0.99)
    assert where.sum() > 0.2 * size**2
    assert psnr(shot, picture, where) > FLOOR
    plain, _ = cycles(files_of("obj", made, "blender"), name, size, tmp_path)
    assert psnr(plain, picture, where) > FLOOR, "an OBJ, whose pictures Blender takes for sRGB"
    wrong = {
        "red of normals": flipped(textures, 0),
        "green of normals": flipped(textures, 1),
        "slots": replace(textures, roughness=textures.metallic, metallic=textures.roughness),
    }
    for what, other in wrong.items():
        assert psnr(shot, ours(replace(mesh, textures=other), lamp, size)[0], where) < FLOOR - 2, what
