# SPDX-License-Identifier: Apache-2.0
"""Things in and around the house. Units are the sketch's own: every object is scaled to the same size at the end."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Vary
from dreamlab.toybox.program import Sketch


def mug(s: Sketch, v: Vary) -> None:
    r, h, wall = v(0.42, 0.5), v(0.46, 0.54), 0.07
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


def bottle(s: Sketch, v: Vary) -> None:
    r, h = v(0.26, 0.32), v(0.36, 0.46)
    s.cylinder("body", (0, -0.9, 0), (0, h - 0.4, 0), r, round=0.06)
    s.cone("body", (0, h - 0.5, 0), (0, h, 0), r * 0.95, 0.1, smooth=0.08)
    s.cylinder("body", (0, h - 0.1, 0), (0, h + 0.28, 0), 0.1, smooth=0.03)
    s.cylinder("cap", (0, h + 0.22, 0), (0, h + 0.42, 0), 0.13, round=0.02)
    s.cylinder("label", (0, -0.68, 0), (0, -0.28, 0), r + 0.015)


def teapot(s: Sketch, v: Vary) -> None:
    r, high = v(0.48, 0.53), v(0.38, 0.44)
    s.ellipsoid("body", (0, -0.05, 0), (r, high, r))
    s.cylinder("body", (0, -high - 0.06, 0), (0, -high + 0.06, 0), 0.28, round=0.02)
    s.capsule("body", (0.3, -0.14, 0), (0.72, 0.18, 0), 0.16, 0.08, smooth=0.06)
    s.capsule("body", (0.72, 0.18, 0), (0.82, 0.3, 0), 0.08, 0.07, smooth=0.04)
    s.arc("handle", (-r + 0.02, 0, 0), 0.27, 0.065, 112, turn=(0, 0, 90))
    s.ellipsoid("lid", (0, high - 0.12, 0), (0.3, 0.17, 0.3))
    s.sphere("lid", (0, high + 0.11, 0), 0.09)


def candle(s: Sketch, v: Vary) -> None:
    r, h = v(0.15, 0.2), v(0.35, 0.5)
    s.cylinder("holder", (0, -0.62, 0), (0, -0.54, 0), 0.48, round=0.03)
    s.torus("holder", (0, -0.53, 0), 0.44, 0.05)
    s.cylinder("holder", (0, -0.58, 0), (0, -0.4, 0), r + 0.06, round=0.02)
    s.arc("holder", (0.48, -0.5, 0), 0.16, 0.045, 130, turn=(0, 0, -90))
    s.cylinder("wax", (0, -0.55, 0), (0, h, 0), r, round=0.03)
    s.cylinder("wick", (0, h - 0.05, 0), (0, h + 0.12, 0), 0.02)
    s.capsule("flame", (0, h + 0.18, 0), (0, h + 0.42, 0), 0.11, 0.015)


def key(s: Sketch, v: Vary) -> None:
    tooth = v(0.2, 0.28)
    s.torus("bow", (0, 0.55, 0), 0.24, 0.085, turn=(90, 0, 0))
    s.cylinder("shaft", (0, 0.36, 0), (0, -0.85, 0), 0.075, round=0.02)
    s.cylinder("shaft", (0, 0.22, 0), (0, 0.12, 0), 0.12, round=0.02)
    s.box("teeth", (tooth / 2, -0.72, 0), (tooth / 2 + 0.06, 0.06, 0.05), round=0.01)
    s.box("teeth", (tooth / 2 - 0.03, -0.5, 0), (tooth / 2 + 0.03, 0.06, 0.05), round=0.01)


def umbrella(s: Sketch, v: Vary) -> None:
    r, high = v(0.78, 0.86), v(0.52, 0.6)
    s.ellipsoid("canopy", (0, 0.15, 0), (r, high, r))
    s.below("canopy", (0, 0.2, 0), (0, -1, 0), op="keep")
    s.ellipsoid("canopy", (0, 0.11, 0), (r, high, r), op="cut")
    s.sphere("canopy", (0, 0.06, r * 0.92), 0.31, op="cut", around_y=8)
    s.cylinder("handle", (0, -0.72, 0), (0, 0.15 + high, 0), 0.035, group=True)
    s.arc("handle", (0.14, -0.72, 0), 0.14, 0.05, 90, turn=(0, 0, 180))
    s.capsule("tip", (0, 0.1 + high, 0), (0, 0.3 + high, 0), 0.035)


def hammer(s: Sketch, v: Vary) -> None:
    long = v(0.8, 0.95)
    s.capsule("handle", (0, -long, 0), (0, 0.45, 0), 0.085, 0.065)
    s.box("head", (0, 0.5, 0), (0.17, 0.13, 0.13), round=0.03)
    s.cylinder("head", (0.1, 0.5, 0), (0.4, 0.5, 0), 0.11)
    s.cylinder("head", (0.36, 0.5, 0), (0.5, 0.5, 0), 0.16, round=0.03)
    s.prism("head", (-0.29, 0.48, 0), 0.12, 0.025, 0.18, 0.12, turn=(0, 0, 98), smooth=0.03)


def clock(s: Sketch, v: Vary) -> None:
    hour = v(50, 110)
    s.cylinder("case", (0, 0, -0.16), (0, 0, 0.16), 0.56, round=0.05)
    s.cylinder("face", (0, 0, 0.1), (0, 0, 0.175), 0.46)
    s.box("hands", (0, 0.19, 0.19), (0.03, 0.19, 0.02))
    s.box("hands", (0, 0.13, 0.19), (0.03, 0.13, 0.02), pivot=(0, 0, 0), frame=(0, 0, -hour))
    s.sphere("hands", (0, 0, 0.19), 0.05)
    s.box("hands", (0, 0.4, 0.175), (0.025, 0.045, 0.02), around_z=4)
    s.ellipsoid("bells", (0.3, 0.62, 0), (0.21, 0.15, 0.17), mirror="x", turn=(0, 0, -28))
    s.capsule("case", (0.3, -0.45, 0), (0.42, -0.68, 0), 0.07, mirror="x")
    s.capsule("bells", (0, 0.5, 0), (0, 0.76, 0), 0.05)


def bed(s: Sketch, v: Vary) -> None:
    w, long = v(0.42, 0.5), v(0.72, 0.8)
    s.box("frame", (0, 0.2, 0), (w + 0.05, 0.08, long), round=0.02)
    s.box("frame", (0, 0.42, -long), (w + 0.06, 0.42, 0.05), round=0.04)
    s.box("frame", (0, 0.25, long), (w + 0.06, 0.25, 0.05), round=0.04)
    s.box("frame", (w, 0.1, long - 0.06), (0.05, 0.1, 0.05), mirror="xz")
    s.box("pillow", (0, 0.35, 0), (w, 0.11, long - 0.04), round=0.05)
    s.box("blanket", (0, 0.36, 0.25), (w + 0.04, 0.135, long - 0.27), round=0.06)
    s.box("pillow", (0, 0.5, -long + 0.24), (0.3, 0.1, 0.16), round=0.09)


def sofa(s: Sketch, v: Vary) -> None:
    w = v(0.66, 0.78)
    s.box("frame", (0, 0.2, 0), (w, 0.16, 0.4), round=0.05)
    s.box("frame", (0, 0.48, -0.32), (w, 0.42, 0.12), round=0.1)
    s.box("frame", (w, 0.34, 0.0), (0.13, 0.3, 0.42), round=0.1, mirror="x")
    s.box("cushions", (w / 2 - 0.06, 0.4, 0.1), (w / 2 - 0.07, 0.09, 0.34), round=0.06, mirror="x")
    s.cylinder("legs", (w - 0.05, -0.08, 0.3), (w - 0.05, 0.1, 0.3), 0.06, mirror="xz")


def book(s: Sketch, v: Vary) -> None:
    w, h, thick = v(0.48, 0.56), v(0.66, 0.72), v(0.19, 0.25)
    s.box("cover", (0, 0, thick), (w, h, 0.03), mirror="z", round=0.01)
    s.box("cover", (-w, 0, 0), (0.035, h, thick + 0.03), round=0.02)
    s.box("pages", (-0.02, 0, 0), (w - 0.02, h - 0.04, thick))
    s.box("title", (0, 0.28, thick + 0.02), (0.3, 0.11, 0.02))


def gift(s: Sketch, v: Vary) -> None:
    w, h = v(0.46, 0.54), v(0.38, 0.5)
    s.box("box", (0, 0, 0), (w, h, w), round=0.02)
    s.box("box", (0, h - 0.05, 0), (w + 0.05, 0.1, w + 0.05), round=0.02)
    s.box("ribbon", (0, 0, 0), (0.09, h + 0.015, w + 0.015))
    s.box("ribbon", (0, 0, 0), (w + 0.015, h + 0.015, 0.09))
    s.box("ribbon", (0, h - 0.05, 0), (0.09, 0.12, w + 0.07))
    s.box("ribbon", (0, h - 0.05, 0), (w + 0.07, 0.12, 0.09))
    s.torus("ribbon", (0.2, h + 0.19, 0), 0.15, 0.06, turn=(90, 0, 0), mirror="x")
    s.sphere("ribbon", (0, h + 0.12, 0), 0.1)


def pencil(s: Sketch, v: Vary) -> None:
    long = v(0.55, 0.62)
    s.polygon("body", (0, 0.05, 0), 0.16, long, 6, turn=(90, 0, 0))
    s.cylinder("band", (0, 0.02 + long, 0), (0, 0.15 + long, 0), 0.155)
    s.cylinder("eraser", (0, 0.13 + long, 0), (0, 0.32 + long, 0), 0.145, round=0.05)
    s.cone("wood", (0, 0.06 - long, 0), (0, -0.34 - long, 0), 0.145, 0.01)
    s.cone("tip", (0, -0.2 - long, 0), (0, -0.345 - long, 0), 0.064, 0.004)


HOME = (
    Category("mug", {"body": "blue", "handle": "white", "inside": "body"}, mug, words=("cup",)),
    Category("chair", {"seat": "brown", "legs": "brown", "back": "seat"}, chair),
    Category("table", {"top": "brown", "legs": "brown"}, table, fronted=False),
    Category("lamp", {"shade": "yellow", "base": "black"}, lamp, fronted=False),
    Category("bottle", {"body": "green", "cap": "red", "label": "white"}, bottle, fronted=False),
    Category("teapot", {"body": "white", "lid": "blue", "handle": "lid"}, teapot),
    Category("candle", {"wax": "white", "holder": "yellow", "flame": "orange", "wick": "black"}, candle),
    Category("key", {"bow": "yellow", "teeth": "gray", "shaft": "bow"}, key),
    Category("umbrella", {"canopy": "purple", "handle": "brown", "tip": "handle"}, umbrella, fronted=False),
    Category("hammer", {"head": "gray", "handle": "brown"}, hammer),
    Category(
        "clock", {"case": "red", "face": "white", "bells": "yellow", "hands": "black"}, clock, words=("alarm clock",)
    ),
    Category("bed", {"blanket": "blue", "frame": "brown", "pillow": "white"}, bed),
    Category("sofa", {"frame": "red", "cushions": "orange", "legs": "brown"}, sofa, words=("couch",)),
    Category("book", {"cover": "red", "pages": "white", "title": "yellow"}, book),
    Category("gift", {"box": "blue", "ribbon": "red"}, gift, fronted=False, words=("present", "gift box")),
    Category(
        "pencil",
        {"body": "yellow", "eraser": "pink", "band": "gray", "wood": "orange", "tip": "black"},
        pencil,
        fronted=False,
    ),
)
