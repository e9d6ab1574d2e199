# SPDX-License-Identifier: Apache-2.0
"""One family of diffusion models per file; this table is all there is to registering one."""

from __future__ import annotations

from collections.abc import Mapping

from guidance.oracle import Oracle
from guidance.picture import Picture
from guidance.shared.kind import GuidanceKind
from guidance.toybox.prior import Toybox
from guidance.toybox.roles import ToyboxControl, ToyboxNovel, ToyboxVideo, ToyboxViews
from guidance.truth import Truth

GUIDANCE: Mapping[str, GuidanceKind] = {
    "oracle": Oracle,
    "picture": Picture,
    "toybox": Toybox,
    "toybox-control": ToyboxControl,
    "toybox-novel": ToyboxNovel,
    "toybox-video": ToyboxVideo,
    "toybox-views": ToyboxViews,
    "truth": Truth,
}
