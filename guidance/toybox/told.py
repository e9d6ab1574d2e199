# SPDX-License-Identifier: Apache-2.0
"""What the network of the embedded prior is told beside words, as numbers: cameras, rays, moments, hints."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras

CAMERA_FEATURES = 16
HINT_CHANNELS = 9  # of a surface: depth, normal, mask; of another picture of the object: colour, and that it is there
RAY_CHANNELS = 24
HARMONICS = (1, 2, 3, 4)  # of the azimuth: a four-fold solid repeats every 90 degrees


def camera_features(cameras: Cameras) -> Tensor:  # [B, CAMERA_FEATURES]
    """Harmonics of azimuth and elevation, distance, field of view, apparent size, one; all zero means "not told"."""
    azimuth, elevation = torch.deg2rad(cameras.azimuth_deg), torch.deg2rad(cameras.elevation_deg)
    turns = [f(k * azimuth) for k in HARMONICS for f in (torch.sin, torch.cos)]
    lifts = [f(k * elevation) for k in (1, 2) for f in (torch.sin, torch.cos)]
    seen = cameras.distance * torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)  # half the height of the view, metres
    lens = [(cameras.distance - 3.3) / 0.5, (cameras.fovy_deg - 42.0) / 6.0, 4.0 * torch.log(seen / 1.27)]
    return torch.stack([*turns, *lifts, *lens, torch.ones_like(azimuth)], -1)


def hint_of(depth: Tensor, normal: Tensor, alpha: Tensor, cameras: Cameras) -> Tensor:  # [B, H, W, HINT_CHANNELS]
    """What the control role is told of a surface: how far it lies before the orbit's centre, its normal as the camera
    sees it, and where it is. depth [B, H, W, 1] camera z, normal [B, H, W, 3] world, alpha [B, H, W, 1]."""
    there = alpha > 0.5
    before = cameras.distance[:, None, None, None] - depth
    turned = torch.einsum("bji,bhwj->bhwi", cameras.camera_to_world[:, :3, :3].to(normal), normal)
    return F.pad(torch.cat([before * there, turned * there, alpha], -1), (0, 4))


def hint_of_picture(picture: Tensor) -> Tensor:  # [B, H, W, 3] in [-1, 1] -> [B, H, W, HINT_CHANNELS]
    """What the novel role is told of a picture beside it: the given one, pixel for pixel."""
    return torch.cat([F.pad(picture, (HINT_CHANNELS - 4, 0)), torch.ones_like(picture[..., :1])], -1)


def ray_features(camera: Tensor, cells: int) -> Tensor:  # [B, CAMERA_FEATURES] -> [B, cells, cells, RAY_CHANNELS]
    """Of the line through each cell's centre: its point nearest to the orbit's centre, direction, and waves of both;
    zero where no camera is told."""
    camera = camera.float()
    (sin_a, cos_a), (sin_e, cos_e) = camera[:, 0:2].unbind(1), camera[:, 8:10].unbind(1)
    distance, fovy, zero = 0.5 * camera[:, 12] + 3.3, 6.0 * camera[:, 13] + 42.0, torch.zeros_like(sin_a)
    right = torch.stack([cos_a, zero, -sin_a], 1)
    back = torch.stack([cos_e * sin_a, sin_e, cos_e * cos_a], 1)
    up = torch.stack([-sin_e * sin_a, cos_e, -sin_e * cos_a], 1)
    place = (torch.arange(cells, device=camera.device) + 0.5) * (2 / cells) - 1
    slope = torch.tan(torch.deg2rad(fovy) / 2)[:, None] * place
    across, above = slope[:, None, :, None] * right[:, None, None], -slope[:, :, None, None] * up[:, None, None]
    direction = F.normalize(across + above - back[:, None, None], dim=-1)
    origin = (distance[:, None] * back)[:, None, None]
    near = origin - (origin * direction).sum(-1, keepdim=True) * direction
    waves = [f(k * math.pi * x) for k, x in ((1, near), (2, near), (1, direction)) for f in (torch.sin, torch.cos)]
    return torch.cat([near, direction, *waves], -1) * camera[:, -1, None, None, None]


def moment_features(time: Tensor, harmonics: int) -> Tensor:  # [B] in [0, 1) -> [B, 2 harmonics]
    """Sine and cosine of the time within a clip that repeats."""
    angle = 2 * math.pi * time[:, None] * torch.arange(1, harmonics + 1, device=time.device)
    return torch.cat([angle.sin(), angle.cos()], -1)
