# SPDX-License-Identifier: Apache-2.0
"""One family of diffusion models per file; this table is all there is to registering one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamlab.core.table import Table

if TYPE_CHECKING:
    from guidance.shared.kind import GuidanceKind

GUIDANCE: Table[GuidanceKind] = Table(
    __name__,
    {
        "controlnet": "controlnet.ControlNet",
        "imagedream": "imagedream.ImageDream",
        "mvdream": "mvdream.MVDreamModel",
        "oracle": "oracle.Oracle",
        "picture": "picture.Picture",
        "sd": "sd.StableDiffusion",
        "toybox": "toybox.prior.Toybox",
        "toybox-control": "toybox.roles.ToyboxControl",
        "toybox-novel": "toybox.roles.ToyboxNovel",
        "toybox-video": "toybox.roles.ToyboxVideo",
        "toybox-views": "toybox.roles.ToyboxViews",
        "truth": "truth.Truth",
        "zero123": "zero123.Zero123",
    },
)
