# SPDX-License-Identifier: Apache-2.0
"""A scene seen from all around: for choosing and painting its surface, and for saying what a change of it kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, OrbitSettings, fixed_orbit
from dreamlab.core.types import Frames, Mesh, Scene
from renderers.surface.draw import Surface, compose, look

VIEWS, SIZE = 24, 96  # of a comparison
AROUND = OrbitSettings(distance=(3.2, 3.2), fovy_deg=(42.0, 42.0), elevation_deg=(-60.0, 75.0))


class Kept(NamedTuple):
    """What a change of representation kept, over views from all around."""

    psnr: float  # dB between the pictures over white, mean over views
    iou: float  # of the silhouettes, mean over views
    views: int = VIEWS


def all_around(count: int) -> Cameras:
    """Cameras spread evenly over the sphere but its poles, the same every time."""
    return fixed_orbit(AROUND, count)


def background(cameras: Cameras) -> Tensor:
    """White [B, 3]."""
    return torch.ones(len(cameras), 3, device=cameras.camera_to_world.device)


def device_of(scene: Scene) -> torch.device:
    """Where its parameters are, and its pictures therefore."""
    return next(iter(scene.groups().values())).tensor.device


def shown(scene: Scene, size: int) -> Callable[[Cameras], Frames]:
    """How `scene` looks over white."""

    def show(cameras: Cameras) -> Frames:
        with torch.no_grad():
            return scene.render(cameras, size, background(cameras))

    return show


def compare(before: Scene, after: Scene) -> Kept:
    """PSNR and silhouette IoU over VIEWS views spread around both."""
    cameras = all_around(VIEWS).to(device_of(after))
    return _kept(shown(before, SIZE)(cameras), shown(after, SIZE)(cameras))


def compare_mesh(scene: Scene, mesh: Mesh) -> Kept:
    """The same of a scene and a surface with the colours of its vertices."""
    cameras = all_around(VIEWS).to(device_of(scene))
    here = mesh.to(device_of(scene))
    view = look(Surface.of(here.vertices, here.faces), cameras, SIZE)
    drawn = compose(view, view.read(here.colours), view.read(here.normals), background(cameras))
    return _kept(shown(scene, SIZE)(cameras), drawn)


def _kept(a: Frames, b: Frames) -> Kept:
    return Kept(psnr(a.rgb[..., :3].clamp(0, 1), b.rgb[..., :3].clamp(0, 1)), silhouette_iou(a.alpha, b.alpha))


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over views [B, ...] of -10 log10 of the mean squared difference, at most 100."""
    error = (a - b).square().flatten(1).mean(1).clamp(min=1e-10)
    return float(-10 * error.log10().mean())


def silhouette_iou(a: Tensor, b: Tensor) -> float:
    """Mean over views of intersection over union where alpha [B, H, W, 1] is above a half; two empty views agree."""
    solid_a, solid_b = a.flatten(1) > 0.5, b.flatten(1) > 0.5
    both, either = (solid_a & solid_b).sum(1), (solid_a | solid_b).sum(1)
    return float(torch.where(either > 0, both / either.clamp(min=1), 1.0).mean())
