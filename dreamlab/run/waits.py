# SPDX-License-Identifier: Apache-2.0
"""What a step of training may wait for the device for: how often, and why. What is not named waits for nothing.

A GPU is given work far ahead. Whatever the host must read of it, such as a count that decides how large the next
tensor is, makes both stand still until everything before is done. `train.step` reads nothing of its own accord: its
figures go to a ring that is drained every `keeping.log` steps. What the scenes and rules read is listed here, and
tests/device/test_waits.py counts it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waits:
    """Of one kind of scene, rule or guidance, in one step."""

    always: int
    why: str
    seldom: int = 0  # more than always, in the steps that change what there is: growing, pruning, tidying


NOTHING = Waits(0, "")

SCENES: dict[str, Waits] = {
    "gaussians": Waits(0, "whether the step was healthy, and how many there are after growing and pruning", seldom=6),
    "gaussians4d": Waits(0, "the same, and neighbours are searched on the host for `rigidity`", seldom=6),
    "field": Waits(3, "the samples: how many there are, are before the core, can be seen; none with samples_per_ray"),
    "field4d": Waits(4, "the samples: how many there are and can be seen, and where each view's begin, twice"),
    "hyper_field": Waits(3, "as a field"),
    "dmtet": Waits(4, "cubes and tetrahedra that the surface crosses, its vertices, the pixels it covers", seldom=1),
    "mesh": Waits(1, "the pixels it covers"),
    "mesh4d": Waits(1, "the same"),
}
SHADED, SHADOWS = (
    2,
    2,
)  # montecarlo: rays that could be in shadow, points by light; and for every node of the tree that a ray
# comes to, what it meets there and which rays go on
RULES: dict[str, Waits] = {
    "box": Waits(1, "the pixels of the surface"),
    "cloud": Waits(1, "the pixels of the surface"),
    "cfd": Waits(2, "the pixels of the surface, and the texels of noise they meet"),
}
MOVING_TRUTH = 1  # truth and oracle build a moving object on the host, at the times of the cameras
