# SPDX-License-Identifier: Apache-2.0
"""What each family's folder looks like, at full size and tiny, and a writer of such folders with random weights.

`save_pretrained` writes a layout that no user has; this writes the one that users have, so that loading is tested,
sized and timed without a published weight at hand.
"""

from __future__ import annotations

from collections.abc import Mapping

from guidance.layouts.controls import CONTROLS
from guidance.layouts.deepfloyd import DEEPFLOYD
from guidance.layouts.flow import FLOWS
from guidance.layouts.orbits import ORBITS
from guidance.layouts.parts import Layout
from guidance.layouts.stable import STABLE
from guidance.layouts.video import VIDEOS
from guidance.layouts.views import VIEWS

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout for layout in (*STABLE, *DEEPFLOYD, *FLOWS, *CONTROLS, *VIEWS, *VIDEOS, *ORBITS)
}
