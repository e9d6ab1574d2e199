# SPDX-License-Identifier: Apache-2.0
"""Animals and a snowman."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Vary
from dreamlab.toybox.program import Sketch


def duck(s: Sketch, v: Vary) -> None:
    head = v(0.27, 0.32)
    s.ellipsoid("body", (0, -0.1, -0.05), (0.42, 0.36, 0.56))
    s.capsule("body", (0, 0.0, -0.4), (0, 0.26, -0.68), 0.24, 0.06, smooth=0.1)
    s.sphere("body", (0, 0.48, 0.3), head, smooth=0.12)
    s.ellipsoid("wings", (0.4, -0.04, -0.12), (0.1, 0.2, 0.34), mirror="x", turn=(14, 0, 0))
    s.ellipsoid("beak", (0, 0.42, 0.3 + head + 0.06), (0.16, 0.06, 0.2))
    s.sphere("eyes", (0.13, 0.58, 0.3 + head * 0.82), 0.055, mirror="x")


def snowman(s: Sketch, v: Vary) -> None:
    a, b, c = v(0.42, 0.48), v(0.32, 0.36), v(0.24, 0.28)
    y1, y2 = a + 0.72 * (a + b) - 0.05, 0.0
    y2 = y1 + 0.8 * (b + c)
    s.sphere("body", (0, a, 0), a)
    s.sphere("body", (0, y1, 0), b)
    s.sphere("body", (0, y2, 0), c)
    s.cone("nose", (0, y2, c - 0.04), (0, y2 - 0.02, c + 0.28), 0.07, 0.01)
    s.sphere("buttons", (0.1, y2 + 0.1, c * 0.86), 0.042, mirror="x")
    s.sphere("buttons", (0, y1 + 0.12, b * 0.95), 0.05)
    s.sphere("buttons", (0, y1 - 0.06, b), 0.05)
    s.cylinder("hat", (0, y2 + c * 0.8, 0), (0, y2 + c * 0.8 + 0.05, 0), c * 1.25)
    s.cylinder("hat", (0, y2 + c * 0.8, 0), (0, y2 + c * 0.8 + 0.34, 0), c * 0.8)
    s.torus("scarf", (0, y1 + b * 0.82, 0), b * 0.62, 0.085)
    s.capsule("scarf", (0.12, y1 + b * 0.75, b * 0.68), (0.17, y1 - 0.02, b * 1.0), 0.07)


def fish(s: Sketch, v: Vary) -> None:
    h = v(0.34, 0.42)
    s.ellipsoid("body", (0, 0, 0.1), (0.22, h, 0.58))
    s.prism("fins", (0, 0, -0.66), 0.1, 0.36, 0.22, 0.05, turn=(-90, 0, 90), round=0.03)
    s.ellipsoid("fins", (0, h, 0.05), (0.04, 0.2, 0.3), turn=(-15, 0, 0))
    s.ellipsoid("fins", (0.24, -0.08, 0.18), (0.03, 0.1, 0.2), mirror="x", turn=(35, -30, 0))
    s.sphere("eyes", (0.14, 0.1, 0.46), 0.07, mirror="x")


ANIMALS = (
    Category("duck", {"body": "yellow", "beak": "orange", "wings": "body", "eyes": "black"}, duck),
    Category(
        "snowman",
        {"body": "white", "hat": "black", "scarf": "red", "nose": "orange", "buttons": "black"},
        snowman,
    ),
    Category("fish", {"body": "orange", "fins": "yellow", "eyes": "black"}, fish),
)
