# SPDX-License-Identifier: Apache-2.0
"""What MVDream is told of a camera, and the words that Stable Diffusion is told instead."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.prompting import DIRECTIONS, Prompting, view_weights

# Our world (y up, front +z) in MVDream's (z up, front +x): (x, y, z) -> (z, x, y).
CYCLE = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def camera_rows(cameras: Cameras) -> Tensor:
    """[B, 16] camera-to-world row by row, its place at distance 1; the camera's own axes stay OpenGL's."""
    pose = cameras.camera_to_world.clone()
    pose[:, :3] = torch.tensor(CYCLE).to(pose) @ pose[:, :3]
    pose[:, :3, 3] /= pose[:, :3, 3].norm(dim=1, keepdim=True)
    return pose.flatten(1)


def view_words(cameras: Cameras) -> list[str]:
    """ ", front view" and so on, as the hard rule of `Prompting` says them."""
    which = view_weights(cameras, Prompting(views="hard")).argmax(1).tolist()
    return [f", {DIRECTIONS[i]} view" for i in which]
