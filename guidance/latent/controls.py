# SPDX-License-Identifier: Apache-2.0
"""What control networks are shown of a surface, as the pictures they were trained on: in [0, 1], as large as the latent
is deep times eight, made from our own frames.

depth   inverse depth of each picture by itself, from 1 at the nearest point to 0.3 at the farthest, 0 where nothing is
normal  as the camera sees it in the convention of NormalBae: red where it faces left, green up, blue the viewer
light   DreamMat's 22 channels (Zhang et al. 2024, arXiv:2405.17176): depth, normal, and the bare white surface under
        the scene's light with (metallic, roughness) = (0, 0), (0, 1/2), (0, 1), (1, 0), (1, 1/2), (1, 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError
from dreamlab.core.types import Frames

MAPS = ("depth", "normal", "light")
FARTHEST = 0.3
CHANNELS = {"depth": 3, "normal": 3, "light": 22}


def depth_picture(frames: Frames) -> Tensor:  # [B, H, W, 1]
    there = (frames.alpha > 0.5) & (frames.depth > 0)
    inverse = torch.where(there, 1 / frames.depth.clamp(min=1e-6), 0)
    near = inverse.flatten(1).amax(1)[:, None, None, None]
    far = torch.where(there, inverse, torch.inf).flatten(1).amin(1)[:, None, None, None]
    share = (inverse - far) / (near - far).clamp(min=1e-6)
    return torch.where(there, FARTHEST + (1 - FARTHEST) * share, 0)


def normal_picture(frames: Frames, cameras: Cameras) -> Tensor:  # [B, H, W, 3]
    """Towards the viewer where nothing is."""
    if frames.normal is None:
        raise InputError("control: normal: the scene renders no normals; use one that does (mesh, dmtet, gaussians)")
    turned = torch.einsum("bji,bhwj->bhwi", cameras.camera_to_world[:, :3, :3].to(frames.normal), frames.normal)
    seen = turned + (1 - frames.alpha) * turned.new_tensor([0.0, 0.0, 1.0])
    return ((1 + seen * seen.new_tensor([-1.0, 1.0, 1.0])) / 2).clamp(0, 1)


def picture(kind: str, frames: Frames, cameras: Cameras) -> Tensor:  # [B, H, W, C]
    """One of MAPS."""
    if kind == "depth":
        return depth_picture(frames).expand(-1, -1, -1, 3)
    if kind == "normal":
        return normal_picture(frames, cameras)
    if "lights" not in frames.extra:
        raise InputError("control: light: the scene renders no light pictures; use a mesh with light_pictures: true")
    return torch.cat([depth_picture(frames), normal_picture(frames, cameras), frames.extra["lights"]], -1)


def resized(pictures: Tensor, side: int) -> Tensor:  # [B, H, W, C] -> [B, C, side, side]
    x = pictures.detach().permute(0, 3, 1, 2)
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


class Controller(Protocol):
    """A ControlNetModel of diffusers."""

    def __call__(self, *args: object, **kwargs: object) -> tuple[list[Tensor], Tensor]: ...


def residuals(
    nets: Sequence[Controller], pictures: Sequence[Tensor], scales: Sequence[float], *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """What several control networks add to the U-Net: their sum. (The library's own class for several answers with the
    names of its fields.)"""
    down: list[Tensor] = []
    middle: Tensor | None = None
    for net, shown, scale in zip(nets, pictures, scales, strict=True):
        each, deep = net(*args, controlnet_cond=shown, conditioning_scale=scale, return_dict=False, **kwargs)
        down = list(each) if middle is None else [a + b for a, b in zip(down, each, strict=True)]
        middle = deep if middle is None else middle + deep
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
