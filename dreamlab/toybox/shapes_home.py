# SPDX-License-Identifier: Apache-2.0
"""Things in and around the house. Units are the sketch's own: every object is scaled to the same size at the end."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Vary
from dreamlab.toybox.program import Sketch


def house(s: Sketch, v: Vary) -> None:
    w, h, d, rise = v(0.5, 0.6), v(0.36, 0.44), v(0.42, 0.5), v(0.4, 0.5)
    s.box("walls", (0, h, 0), (w, h, d))
    s.prism("walls", (0, 2 * h + 0.45 * rise, 0), w - 0.02, 0.02, 0.46 * rise, d - 0.01)
    s.prism("roof", (0, 2 * h + 0.5 * rise, 0), w + 0.14, 0.03, 0.5 * rise + 0.03, d + 0.1, group=True)
    s.prism("walls", (0, 2 * h + 0.5 * rise - 0.1 - 0.03, 0), w + 0.14, 0.03, 0.5 * rise + 0.03, d + 0.3, op="cut")
    s.box("chimney", (0.55 * w, 2 * h + 0.75 * rise, -0.3 * d), (0.08, 0.28, 0.08), group=True)
    s.box("door", (0, 0.26, d), (0.13, 0.26, 0.03))
    s.box("windows", (0.3, 0.5, d), (0.1, 0.1, 0.03), mirror="x")
    s.box("windows", (w, 0.45, 0), (0.03, 0.12, 0.14), mirror="x")
    s.sphere("windows", (0.08, 0.26, d + 0.03), 0.025)


def mug(s: Sketch, v: Vary) -> None:
    r, h, wall = v(0.4, 0.5), v(0.46, 0.56), 0.07
    s.cone("body", (0, -h, 0), (0, h, 0), r * v(0.9, 1.0), r, round=0.04)
    s.arc("handle", (r + 0.02, 0, 0), 0.62 * h, 0.085, 105, turn=(0, 0, -90), smooth=0.03)
    s.cone("inside", (0, -h + 0.12, 0), (0, h + 0.2, 0), r - wall - 0.04, r - wall, op="cut")


def chair(s: Sketch, v: Vary) -> None:
    w, seat, back = v(0.36, 0.42), v(0.42, 0.5), v(0.55, 0.68)
    s.box("seat", (0, seat, 0), (w, 0.06, w), round=0.02)
    s.box("legs", (w - 0.06, seat / 2, w - 0.06), (0.05, seat / 2, 0.05), mirror="xz", round=0.01)
    s.box("back", (w - 0.06, seat + back / 2, -w + 0.05), (0.05, back / 2, 0.05), mirror="x", round=0.01)
    s.box("back", (0, seat + 0.82 * back, -w + 0.05), (w, 0.2 * back, 0.04), round=0.02)


def table(s: Sketch, v: Vary) -> None:
    w, d, h = v(0.62, 0.72), v(0.42, 0.5), v(0.55, 0.65)
    s.box("top", (0, h, 0), (w, 0.055, d), round=0.02)
    s.box("legs", (w - 0.1, h / 2, d - 0.1), (0.06, h / 2, 0.06), mirror="xz", round=0.01)


def lamp(s: Sketch, v: Vary) -> None:
    h, r = v(0.5, 0.62), v(0.44, 0.52)
    s.cone("base", (0, 0, 0), (0, 0.1, 0), 0.34, 0.28, round=0.02)
    s.cylinder("base", (0, 0.05, 0), (0, h + 0.2, 0), 0.05)
    s.sphere("base", (0, 0.28, 0), 0.15, smooth=0.06)
    s.cone("shade", (0, h, 0), (0, h + 0.6, 0), r, 0.5 * r, group=True)
    s.cone("shade", (0, h - 0.05, 0), (0, h + 0.55, 0), r - 0.03, 0.5 * r - 0.03, op="cut")


HOME = (
    Category(
        "house",
        {"walls": "yellow", "roof": "red", "door": "brown", "windows": "cyan", "chimney": "roof"},
        house,
        words=("cottage", "home"),
    ),
    Category("mug", {"body": "blue", "handle": "white", "inside": "body"}, mug, words=("cup",)),
    Category("chair", {"seat": "brown", "legs": "brown", "back": "seat"}, chair),
    Category("table", {"top": "brown", "legs": "brown"}, table, fronted=False),
    Category("lamp", {"shade": "yellow", "base": "black"}, lamp, fronted=False),
)
