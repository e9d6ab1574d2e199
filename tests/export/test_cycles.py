# SPDX-License-Identifier: Apache-2.0
"""Blender's Cycles draws the imported GLB as we draw the asset, under the same light: the whole way of a material, from
textures and tangents to what a user sees."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamlab.core.cameras import orbit
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.core.types import Mesh, Textures
from dreamlab.export.drawing import Viewed
from dreamlab.export.glb import glb_bytes
from renderers.light.environment import environment
from renderers.light.montecarlo import Draws, shade_montecarlo
from renderers.light.pbr import Material
from renderers.light.rays import Boxes
from renderers.light.split_sum import Lighting
from renderers.surface.draw import View, vertex_normals
from renderers.surface.material import Coat
from tests.export.judges import run_bpy

AZIMUTH, ELEVATION, DISTANCE, FOVY = 35.0, 20.0, 3.4, 40.0
FLOOR = 30.0  # dB on the object's pixels


def pot(rows: int = 64, columns: int = 128, size: int = 256) -> Mesh:
    """A lopsided ball with a lip: checks of colour, rough and smooth bands, metal on one side, and grooves that are in
    the normal texture alone."""
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
    check = ((8 * u).floor() + (5 * v).floor()) % 2
    red, blue = torch.tensor([0.85, 0.25, 0.15]), torch.tensor([0.15, 0.45, 0.8])
    base = check[..., None] * red + (1 - check[..., None]) * blue
    roughness = 0.35 + 0.4 * (v[..., None] * 3 % 1)
    metallic = ((u > 0.05) & (u < 0.2))[..., None].float()
    slope = 0.35 * torch.sin(2 * math.pi * 24 * u) * ((v > 0.5) & (v < 0.75))
    lean = 0.35 * torch.sin(2 * math.pi * 16 * v) * (v > 0.8)
    normal = torch.nn.functional.normalize(torch.stack([slope, lean, torch.ones_like(u)], -1), dim=-1)
    return Textures(base, roughness, metallic, (normal + 1) / 2)


@dataclass(frozen=True)
class Lamp:
    """Our own light for a picture."""

    light: Lighting
    boxes: Boxes

    def lit(self, view: View, made: Coat, normal: Tensor) -> Tensor:
        points = view.points
        which = torch.zeros(len(points), dtype=torch.int64)
        material = Material(srgb_to_linear(made.base), made.roughness, made.metallic)
        stream = torch.Generator().manual_seed(0)
        arguments = (self.light, material, points, normal, view.to_eye(points), which, self.boxes, stream)
        return linear_to_srgb(shade_montecarlo(*arguments, Draws(96, 96)).clamp(0, 1))


def ours(mesh: Mesh, name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """sRGB [H, W, 3] over black, and coverage [H, W]."""
    lamp = Lamp(Lighting.of([environment(name)]), Boxes.over(mesh.vertices, mesh.faces))
    frames = Viewed(mesh, lamp).render(orbit([AZIMUTH], ELEVATION, DISTANCE, FOVY), size, torch.zeros(1, 3))
    return frames.rgb[0].numpy(), frames.alpha[0, ..., 0].numpy()


def cycles(mesh: Mesh, name: str, size: int, folder: Path, samples: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """The same of the file, by Blender."""
    (folder / "model.glb").write_bytes(glb_bytes(mesh, "pot", {}))
    np.save(folder / "light.npy", environment(name).numpy())
    eye = orbit([AZIMUTH], ELEVATION, DISTANCE, FOVY).camera_to_world[0, :3, 3].tolist()
    wanted = {"eye": eye, "fov_deg": FOVY, "size": size, "samples": samples}
    run_bpy("blender_render.py", folder / "model.glb", folder / "light.npy", folder / "shot.png", json.dumps(wanted))
    shot = np.asarray(Image.open(folder / "shot.png")) / 255
    return shot[..., :3] * shot[..., 3:], shot[..., 3]


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(a - b)[where].mean()))


@pytest.mark.parametrize("name", ["studio"])
def test_cycles_shows_what_we_show(tmp_path: Path, name: str) -> None:
    mesh, size = pot(), 96
    (shot, cover), (picture, alpha) = cycles(mesh, name, size, tmp_path), ours(mesh, name, size)
    assert np.abs(cover - alpha).mean() < 0.004, "the same silhouette"
    inside = (cover > 0.99) & (alpha > 0.99)
    assert inside.sum() > 0.2 * size**2
    assert psnr(shot, picture, inside) > FLOOR
    assert mesh.textures is not None and mesh.textures.normal is not None
    flat = replace(mesh, textures=replace(mesh.textures, normal=None))
    assert psnr(shot, ours(flat, name, size)[0], inside) < psnr(shot, picture, inside) - 1, "grooves are seen"
