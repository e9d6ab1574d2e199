# SPDX-License-Identifier: Apache-2.0
"""The words of direction that Stable Diffusion is told where MVDream is told a camera."""

from __future__ import annotations

from dreamlab.core.cameras import Cameras
from dreamlab.core.prompting import DIRECTIONS, Prompting, view_weights


def view_words(cameras: Cameras) -> list[str]:
    """ ", front view" and so on, as the hard rule of `Prompting` says them."""
    which = view_weights(cameras, Prompting(views="hard")).argmax(1).tolist()
    return [f", {DIRECTIONS[i]} view" for i in which]
