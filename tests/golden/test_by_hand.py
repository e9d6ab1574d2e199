# SPDX-License-Identifier: Apache-2.0
"""The golden pictures themselves, judged by slow rasterisers in float64 numpy that share no line with the ops.

The other tests say that the ops draw what the PNGs show; these say that the PNGs show what the formulas mean. So a
picture drawn anew by an op that has gone wrong is noticed here. Cameras are pinholes of the test's own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.cuda_ext.test_march_golden import knot
from tests.golden.test_splat_golden import mushroom

FOLDER = Path(__file__).parent


def golden(name: str) -> np.ndarray:
    return np.asarray(Image.open(FOLDER / f"{name}.png")).astype(float) / 255


def agree(mine: np.ndarray, theirs: np.ndarray, share: float, near: float = 2.5 / 255) -> None:
    """All but `share` of the pixels within `near` in every channel, and no drift in the mean."""
    error = np.abs(mine - theirs).max(-1)
    assert (error > near).mean() <= share, f"{(error > near).mean():.4f} of the pixels differ"
    assert abs(float((mine - theirs).mean())) < 2e-3


class Pinhole:
    """An orbit around the origin: azimuth 0 looks from +Z, 90 from +X; +Y is up and row 0 the top of the picture."""

    def __init__(self, azimuth_deg: float, elevation_deg: float, distance: float, fovy_deg: float, size: Any) -> None:
        a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
        self.high, self.wide = size
        self.eye = distance * np.array([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
        self.ahead = -self.eye / distance
        self.right = np.cross(self.ahead, [0.0, 1.0, 0.0])
        self.right /= np.linalg.norm(self.right)
        self.up = np.cross(self.right, self.ahead)
        self.focal = 0.5 * self.high / math.tan(math.radians(fovy_deg) / 2)

    def rays(self) -> np.ndarray:
        """[H W, 3] through the pixel centres, their part along the view axis 1."""
        y, x = np.meshgrid(np.arange(self.high) + 0.5, np.arange(self.wide) + 0.5, indexing="ij")
        across, up = (x - self.wide / 2) / self.focal, (self.high / 2 - y) / self.focal
        made: np.ndarray = self.ahead + across[..., None] * self.right + up[..., None] * self.up
        return made.reshape(-1, 3)


# ---- splats ---------------------------------------------------------------------------------------------------------
def turn(quats: np.ndarray) -> np.ndarray:
    """[N, 4] wxyz of any length -> [N, 3, 3]."""
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).T
    e = np.eye(3)
    u = np.stack([x, y, z], 1)
    cross = np.stack([np.cross(u, e[i]) for i in range(3)], 2)  # columns: u x e_i
    return e + 2 * w[:, None, None] * cross + 2 * cross @ cross


def splatted(scene: dict[str, Any], camera: Pinhole, background: np.ndarray) -> dict[str, np.ndarray]:
    """Kerbl et al. 2023, one Gaussian after another from the nearest on: whole pictures at a time."""
    values = {name: value.double().numpy() for name, value in scene.items() if value is not None}
    means, scales, opacity = values["means"], values["scales"], values["opacities"]
    axes = np.stack([camera.right, -camera.up, camera.ahead])  # x right, y down, z forward
    seen = (means - camera.eye) @ axes.T
    x, y, z = seen.T
    f, limit = camera.focal, 1.3 * 0.5 * camera.high / camera.focal
    tx, ty = np.clip(x / z, -limit, limit), np.clip(y / z, -limit, limit)
    turns = turn(values["quats"])
    spread = np.einsum("ab,nbc,nc,ndc,ed->nae", axes, turns, scales**2, turns, axes)
    slope = np.zeros((len(means), 2, 3))
    slope[:, 0, 0] = slope[:, 1, 1] = f / z
    slope[:, 0, 2], slope[:, 1, 2] = -f * tx / z, -f * ty / z
    blurred = slope @ spread @ slope.transpose(0, 2, 1) + 0.3 * np.eye(2)
    inverse = np.linalg.inv(blurred)
    middle = np.stack([f * x / z + camera.wide / 2, f * y / z + camera.high / 2], 1)
    thin = np.argmin(scales, 1)
    normal = turns[np.arange(len(means)), :, thin]
    away = ((means - camera.eye) * normal).sum(1) > 0
    normal = np.where(away[:, None], -normal, normal)
    if "sh" in values:
        d = means - camera.eye
        d = d / np.linalg.norm(d, axis=1, keepdims=True)
        first = 0.4886025119029199 * np.stack([-d[:, 1], d[:, 2], -d[:, 0]], 1)
        colour = 0.5 + 0.28209479177387814 * values["sh"][:, 0] + np.einsum("nk,nkc->nc", first, values["sh"][:, 1:])
        colour = np.maximum(colour, 0)
    else:
        colour = values["colors"]
    rows, columns = np.meshgrid(np.arange(camera.high) + 0.5, np.arange(camera.wide) + 0.5, indexing="ij")
    left = np.ones((camera.high, camera.wide))
    sums = {"rgb": np.zeros((*left.shape, 3)), "z": np.zeros(left.shape), "normal": np.zeros((*left.shape, 3))}
    for i in np.argsort(z, kind="stable"):
        dx, dy = columns - middle[i, 0], rows - middle[i, 1]
        power = inverse[i, 0, 0] * dx**2 + 2 * inverse[i, 0, 1] * dx * dy + inverse[i, 1, 1] * dy**2
        alpha = np.minimum(0.99, opacity[i] * np.exp(-0.5 * power))
        alpha[(alpha < 1 / 255) | (left < 1e-4)] = 0
        w = alpha * left
        sums["rgb"] += w[..., None] * colour[i]
        sums["normal"] += w[..., None] * normal[i]
        sums["z"] += w * z[i]
        left = left * (1 - alpha)
    alpha = 1 - left
    return {
        "rgb": sums["rgb"] + left[..., None] * background,
        "alpha": alpha[..., None],
        "depth": (sums["z"] / np.maximum(alpha, 1e-12))[..., None],
        "normal": sums["normal"],
    }


@pytest.mark.parametrize("name", ["mushroom", "mushroom_sh"])
def test_the_mushroom_is_what_the_formulas_draw(name: str) -> None:
    picture, scene = golden(f"splat_{name}"), mushroom(name == "mushroom_sh")
    for i, (azimuth, behind) in enumerate(((0.0, (0.75, 0.85, 0.95)), (60.0, (0.2, 0.2, 0.25)))):
        out = splatted(scene, Pinhole(azimuth, 15.0, 3.0, 40.0, (96, 96)), np.array(behind))
        depth = np.repeat((out["depth"] - 2) / 2 * out["alpha"], 3, 2)
        parts = [out["rgb"], np.repeat(out["alpha"], 3, 2), depth, 0.5 + 0.5 * out["normal"]]
        mine = np.clip(np.concatenate(parts, 1), 0, 1)
        agree(mine, picture[96 * i : 96 * (i + 1)], 0.002)


# ---- marching -------------------------------------------------------------------------------------------------------
def test_the_rings_are_the_integral_along_each_ray() -> None:
    """Emission and absorption by fine steps of the field itself: no grid of cells, no skipped space."""
    import torch

    camera = Pinhole(0.0, 25.0, 3.0, 40.0, (96, 96))
    rays = camera.rays()
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    step = 0.02 / 4
    left, colour, depth = np.ones(len(rays)), np.zeros((len(rays), 3)), np.zeros(len(rays))
    apart = np.zeros(len(rays))  # mip-NeRF 360's distortion: sum of w_i w_j |t_i - t_j| over pairs, and w^2 step / 3
    for t in np.arange(1.2, 4.8, step) + step / 2:
        points = camera.eye + t * rays
        density, shade = (value.numpy() for value in knot(torch.from_numpy(points).float()))
        density = np.where((np.abs(points) <= 1).all(1), density, 0.0)
        taken = left * (1 - np.exp(-density * step))
        apart += 2 * taken * (t * (1 - left) - depth) + taken**2 * step / 3  # before: weights 1 - left, their moment
        colour += taken[:, None] * shade
        depth += taken * t
        left = left - taken
    alpha = 1 - left
    far = alpha * (4.0 - depth / np.maximum(alpha, 1e-5)) / 2
    mine = [colour + left[:, None], np.repeat(far[:, None], 3, 1), np.repeat(2 * apart[:, None], 3, 1)]
    mine = np.concatenate([np.clip(part, 0, 1).reshape(96, 96, 3) for part in mine], 1)
    # Steps of 0.02 through borders of 1/80: the op's own coarseness shows there.
    agree(mine, golden("march_rings"), 0.02, near=0.06)


def test_the_slices_are_trilinear_reads_of_the_table() -> None:
    """Dense, dense with a smooth step, and hashed; Mueller et al. 2022, equation 4, corner by corner."""
    axis = (np.arange(96) + 0.5) / 96
    y, x = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([x, y, np.full_like(x, 0.3)], -1).reshape(-1, 3)
    pictures = []
    for cells, smooth, log2_entries in ((6, False, 19), (6, True, 19), (24, False, 8)):
        dense = (cells + 1) ** 3 <= 2**log2_entries
        rows = -(-((cells + 1) ** 3) // 8) * 8 if dense else 2**log2_entries
        table = ((np.arange(rows * 4, dtype=np.uint64) * 2654435761 % 2**32) / 2**32).reshape(-1, 4)
        cell = np.minimum(np.floor(points * cells), cells - 1).astype(np.int64)
        part = points * cells - cell
        part = part**2 * (3 - 2 * part) if smooth else part
        total = np.zeros((len(points), 4))
        for corner in np.ndindex(2, 2, 2):
            i, j, k = (cell + corner).T
            if dense:
                at = i + (cells + 1) * (j + (cells + 1) * k)
            else:
                at = (i ^ (j * 2654435761) ^ (k * 805459861)) % 2**log2_entries
            total += np.prod(np.where(corner, part, 1 - part), 1)[:, None] * table[at]
        pictures.append(total[:, :3].reshape(96, 96, 3))
    agree(np.concatenate(pictures, 1), golden("hashgrid_slices"), 0.001, near=1.5 / 255)


# ---- triangles ------------------------------------------------------------------------------------------------------
def test_the_shapes_are_where_rays_meet_triangles() -> None:
    """Every pixel against every triangle (Moeller & Trumbore 1997); colours are the nearest one's weights. Shading is
    judged away from silhouettes, which the op smooths."""
    torus = trimesh.creation.torus(0.7, 0.25, major_sections=32, minor_sections=16)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    mesh = trimesh.util.concatenate([torus, ball, trimesh.creation.box((0.3, 1.7, 0.2))])
    camera = Pinhole(25.0, 35.0, 3.0, 40.0, (96, 128))
    rays = camera.rays()
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    nearest, weights, which = np.full(len(rays), np.inf), np.zeros((len(rays), 3)), np.full(len(rays), -1)
    for i in range(len(a)):
        e1, e2, s = b[i] - a[i], c[i] - a[i], camera.eye - a[i]
        p = np.cross(rays, e2)
        with np.errstate(divide="ignore", invalid="ignore"):
            f = 1 / (p @ e1)
            u, q = f * (p @ s), np.cross(s, e1)
            v, t = f * (rays @ q), f * (e2 @ q)
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0.1) & (t < nearest)
        nearest[hit], which[hit] = t[hit], i
        weights[hit] = np.stack([1 - u - v, u, v], 1)[hit]
    picture = golden("raster_shapes")
    agree(weights.reshape(96, 128, 3), picture[:, :128], 0.004)
    corners = np.asarray(mesh.vertex_normals)[mesh.faces[which]]
    normal = (weights[..., None] * corners).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = np.array([0.5, 0.8, 0.4]) / np.linalg.norm([0.5, 0.8, 0.4])
    shade = 0.25 + 0.75 * np.clip(normal @ light, 0, None)
    colour = np.where(which[:, None] >= 0, shade[:, None] * [0.9, 0.55, 0.35], [0.2, 0.25, 0.3]).reshape(96, 128, 3)
    there = (which >= 0).reshape(96, 128)
    depth = np.where(there, nearest.reshape(96, 128), 99.0)
    border = np.zeros_like(there)
    for axis in (0, 1):
        for shift in (-1, 1):
            border |= np.abs(np.roll(depth, shift, axis) - depth) > 0.06
    inner = ~border
    assert inner.mean() > 0.75
    agree(colour[inner][None], picture[:, 128:][inner][None], 0.004)


def test_the_floor_is_a_plane_under_a_sky() -> None:
    """Rays against y = -1; left the picture read bilinearly, right the same softened with distance to its mean."""
    camera = Pinhole(15.0, 12.0, 3.0, 60.0, (96, 128))
    rays = camera.rays()
    with np.errstate(divide="ignore"):
        t = (-1 - camera.eye[1]) / rays[:, 1]
    place = camera.eye + t[:, None] * rays
    inside = (t > 0.1) & (t < 100) & (np.abs(place[:, [0, 2]]) <= 40).all(1)
    row, column = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    check = ((row // 8 + column // 8) % 2)[..., None]
    image = np.where(check == 1, [0.9, 0.85, 0.7], [0.15, 0.3, 0.4])
    image[:4, :32] = [0.8, 0.1, 0.1]
    # Corner (-40, -40) is uv (0, 0), (40, 40) is (20, 20): u along x, v along z, twenty repeats.
    u, v = ((place[:, i] + 40) / 80 * 20 for i in (0, 2))
    x, y = u * 64 - 0.5, v * 64 - 0.5
    left, top = np.floor(x), np.floor(y)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    j0, j1, i0, i1 = (np.nan_to_num(n).astype(np.int64) % 64 for n in (left, left + 1, top, top + 1))
    read = (1 - fy) * ((1 - fx) * image[i0, j0] + fx * image[i0, j1])
    read += fy * ((1 - fx) * image[i1, j0] + fx * image[i1, j1])
    sky = np.array([0.6, 0.7, 0.8])
    mine = np.where(inside[:, None], read, sky).reshape(96, 128, 3)
    picture = golden("raster_floor")
    agree(mine, picture[:, :128], 0.03)  # at the horizon a pixel's place is a matter of rounding
    softened = picture[:, 128:]
    inside, distance = inside.reshape(96, 128), t.reshape(96, 128)
    assert (np.abs(softened[~inside] - sky).max(-1) > 0.01).mean() < 1e-3
    far = inside & (distance > 25)
    assert far.sum() > 100
    np.testing.assert_allclose(softened[far].mean(0), image.reshape(-1, 3).mean(0), atol=0.02)
    assert softened[far].std(0).max() < 0.3 * mine[far].std(0).max()
    near = inside & (distance < 2.2)
    np.testing.assert_allclose(np.abs(softened - mine)[near].mean(), 0, atol=0.02)
