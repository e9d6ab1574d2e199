# SPDX-License-Identifier: Apache-2.0
"""What is known of the surface in a user's picture: depth and normals, as PNG maps in register with it.

    depth     one channel of 8 or 16 bits, up to scale and shift; light is what is far, or what is near
    normal    three channels c = (n + 1) / 2, n in the camera's axes: x to the right, y up, z towards the camera

A map shows what its picture shows, though it may have another number of pixels. Where there is no object it says
nothing. A run keeps its own copies, cut to the square of its picture, depth in 16 bits with light for far.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError
from dreamlab.core.foreign.apart import parsed
from dreamlab.core.foreign.files import checked_size
from dreamlab.core.foreign.picture_parser import MAX_FILE
from dreamlab.core.types import Reference

LIGHT = ("far", "near")
STRETCH = 0.02  # by which the sides of a map and its picture may differ in proportion


def read_depth(path: Path, size: torch.Size, light: str) -> Tensor:
    """[H, W, 1] in [0, 1] for a picture of `size`; larger is farther."""
    depth = _read(path, size, "image.depth")
    if depth.shape[-1] == 3:
        if float((depth.amax(-1) - depth.amin(-1)).max()) > 0.01:
            raise InputError(f"image.depth {path}: is in colour; a map of depth is gray")
        depth = depth[..., :1]
    return depth if light == "far" else 1 - depth


def read_normal(path: Path, size: torch.Size, camera: Cameras) -> Tensor:
    """[H, W, 3] unit normals in the world of the camera that took the picture of `size`."""
    colours = _read(path, size, "image.normal")
    if colours.shape[-1] != 3:
        raise InputError(f"image.normal {path}: is gray; a map of normals has three channels")
    return normalize(2 * colours - 1, dim=-1) @ camera.camera_to_world[0, :3, :3].T


def depth_png(reference: Reference) -> bytes:
    """16 bits; nothing is 0."""
    assert reference.depth is not None
    values = (reference.depth * (reference.alpha > 0))[..., 0].clamp(0, 1) * 65535
    return _png(values.round().numpy().astype(np.uint16))


def normal_png(reference: Reference) -> bytes:
    """8 bits a channel, in the camera's axes; nothing is black."""
    assert reference.normal is not None
    turned = reference.normal @ reference.camera.camera_to_world[0, :3, :3]
    colours = (turned + 1) / 2 * (reference.alpha > 0)
    return _png((colours.clamp(0, 1) * 255).round().byte().numpy())


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _read(path: Path, size: torch.Size, what: str) -> Tensor:
    checked_size(path, what, MAX_FILE)
    values = torch.from_numpy(parsed("map", path, what)["map"])
    (high, wide), (own_high, own_wide) = size, values.shape[:2]
    if abs(own_wide * high / (own_high * wide) - 1) > STRETCH:
        shapes = f"{own_wide} x {own_high} pixels are not the shape of the picture's {wide} x {high}"
        raise InputError(f"{what} {path}: {shapes}; a map shows all of its picture and no more")
    if (own_high, own_wide) == (high, wide):
        return values
    how = "area" if own_high >= high else "bilinear"
    return interpolate(values.permute(2, 0, 1)[None], (high, wide), mode=how)[0].permute(1, 2, 0)
