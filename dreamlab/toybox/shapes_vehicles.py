# SPDX-License-Identifier: Apache-2.0
"""Things that go. They drive towards +Z."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Vary
from dreamlab.toybox.program import Sketch


def car(s: Sketch, v: Vary) -> None:
    length, cabin = v(0.78, 0.88), v(0.26, 0.3)
    s.box("body", (0, 0.3, 0), (0.38, 0.17, length), round=0.09)
    s.prism("windows", (0, 0.44 + cabin / 2, -0.1), 0.52, 0.32, cabin / 2 + 0.03, 0.33, turn=(0, 90, 0), round=0.03)
    s.box("body", (0, 0.44 + cabin + 0.03, -0.1), (0.31, 0.04, 0.34), round=0.03)
    for z in (0.54, -0.54):
        s.cylinder(
            "wheels", (0.28, 0.17, z * length / 0.84), (0.43, 0.17, z * length / 0.84), 0.2, mirror="x", round=0.03
        )
    s.sphere("lights", (0.24, 0.34, length - 0.01), 0.075, mirror="x")


def airplane(s: Sketch, v: Vary) -> None:
    span, r = v(0.85, 0.95), v(0.14, 0.17)
    s.capsule("body", (0, 0, 0.55), (0, 0, -0.3), r)
    s.capsule("body", (0, 0, -0.3), (0, 0.06, -0.82), r, 0.05)
    s.box("wings", (span / 2, -0.02, 0.08), (span / 2, 0.03, 0.17), mirror="x", round=0.025, turn=(0, -14, 0))
    s.box("wings", (0.2, 0.08, -0.75), (0.2, 0.025, 0.1), mirror="x", round=0.02, turn=(0, -16, 0))
    s.prism("wings", (0, 0.24, -0.76), 0.16, 0.08, 0.2, 0.025, turn=(0, 90, 0), round=0.02)
    s.ellipsoid("windows", (0, 0.1, 0.5), (0.1, 0.1, 0.14))


VEHICLES = (
    Category(
        "car", {"body": "red", "wheels": "black", "windows": "cyan", "lights": "yellow"}, car, words=("automobile",)
    ),
    Category(
        "airplane", {"body": "white", "wings": "blue", "windows": "black"}, airplane, words=("plane", "aeroplane")
    ),
)
