# SPDX-License-Identifier: Apache-2.0
"""Toys, solids, instruments and things to wear."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Joint, Vary
from dreamlab.toybox.program import Sketch


def ball(s: Sketch, v: Vary) -> None:
    wide = v(0.12, 0.18)
    s.sphere("ball", (0, 0, 0), 0.9)
    s.sphere("band", (0, 0, 0), 0.908, group=True)
    s.box("band", (0, 0, 0), (1, wide, 1), op="keep", turn=(0, 0, v(-20, 20)))


def cube(s: Sketch, v: Vary) -> None:
    s.box("cube", (0, 0, 0), (0.6, 0.6, 0.6), round=v(0.02, 0.06))


def pyramid(s: Sketch, v: Vary) -> None:
    high = v(0.5, 0.62)
    s.pyramid("stone", (0, 0, 0), 0.72, 0.0, high)
    s.pyramid("tip", (0, 0.71 * high, 0), 0.215, 0.0, 0.3 * high)


def ring(s: Sketch, v: Vary) -> None:
    r = v(0.5, 0.56)
    s.torus("band", (0, -0.2, 0), r, v(0.085, 0.11), turn=(90, 0, 0))
    s.cone("gem", (0, r - 0.15, 0), (0, r + 0.14, 0), 0.06, 0.26)
    s.cone("gem", (0, r + 0.14, 0), (0, r + 0.26, 0), 0.26, 0.16)


def star(s: Sketch, v: Vary) -> None:
    s.star("star", (0, 0, 0), 0.9, v(0.38, 0.45), 0.16, 5, round=0.06)


def heart(s: Sketch, v: Vary) -> None:
    x = v(0.29, 0.33)
    s.capsule("heart", (0, -0.6, 0), (x, 0.22, 0), 0.09, 0.36, mirror="x", smooth=0.04)
    s.capsule("heart", (0, -0.5, 0), (0, 0.0, 0), 0.14, 0.32, smooth=0.08)


def dice(s: Sketch, v: Vary) -> None:
    h, r, w = 0.6, v(0.11, 0.13), 0.31
    s.box("cube", (0, 0, 0), (h, h, h), round=0.1)
    s.sphere("dots", (0, h, 0), r + 0.06, group=True)
    s.sphere("dots", (w, w, h), r)
    s.sphere("dots", (-w, -w, h), r)
    s.sphere("dots", (h, w, w), r, mirror="z")
    s.sphere("dots", (h, -w, w), r, mirror="z")
    s.sphere("dots", (-h, w, w), r, mirror="z")
    s.sphere("dots", (-h, -w, w), r, mirror="z")
    s.sphere("dots", (-h, 0, 0), r)
    s.sphere("dots", (w, w, -h), r, mirror="x")
    s.sphere("dots", (w, 0, -h), r, mirror="x")
    s.sphere("dots", (w, -w, -h), r, mirror="x")
    s.box("dots", (0, 0, 0), (h + 0.006, h + 0.006, h + 0.006), round=0.1, op="keep")


def drum(s: Sketch, v: Vary) -> None:
    r, h = v(0.56, 0.64), v(0.32, 0.4)
    s.cylinder("body", (0, -h, 0), (0, h, 0), r)
    s.cylinder("skin", (0, -h - 0.02, 0), (0, h + 0.03, 0), r - 0.04)
    s.cylinder("rims", (0, h - 0.06, 0), (0, h + 0.05, 0), r + 0.05, round=0.02, group=True)
    s.cylinder("rims", (0, -h + 0.06, 0), (0, -h - 0.05, 0), r + 0.05, round=0.02)
    s.cylinder("rims", (0, h - 0.2, 0), (0, h + 0.3, 0), r - 0.03, op="cut")
    s.cylinder("rims", (0, -h + 0.2, 0), (0, -h - 0.3, 0), r - 0.03, op="cut")
    s.capsule("sticks", (-0.4, h + 0.09, 0.2), (0.5, h + 0.16, -0.1), 0.035, group=True)
    s.sphere("sticks", (-0.4, h + 0.11, 0.2), 0.075)
    s.capsule("sticks", (0.35, h + 0.09, 0.3), (-0.45, h + 0.23, -0.25), 0.035)
    s.sphere("sticks", (0.35, h + 0.11, 0.3), 0.075)


def bell(s: Sketch, v: Vary) -> None:
    r = v(0.34, 0.38)
    s.sphere("bell", (0, 0.1, 0), r)
    s.cone("bell", (0, -0.45, 0), (0, 0.15, 0), 0.52, r, smooth=0.05)
    s.cylinder("bell", (0, -0.52, 0), (0, -0.42, 0), 0.6, round=0.04, smooth=0.06)
    s.cone("bell", (0, -0.6, 0), (0, 0.1, 0), 0.5, r - 0.08, op="cut")
    s.capsule("handle", (0, 0.4, 0), (0, 0.85, 0), 0.075, 0.1, group=True)
    s.sphere("clapper", (0, -0.52, 0), 0.13)
    s.cylinder("clapper", (0, -0.5, 0), (0, 0.3, 0), 0.03)


def guitar(s: Sketch, v: Vary) -> None:
    low, high = v(0.38, 0.42), v(0.27, 0.31)
    s.cylinder("body", (0, -0.52, -0.09), (0, -0.52, 0.09), low, round=0.03)
    s.cylinder("body", (0, -0.08, -0.09), (0, -0.08, 0.09), high, round=0.03, smooth=0.1)
    s.cylinder("hole", (0, -0.2, 0.06), (0, -0.2, 0.1), 0.14)
    s.box("neck", (0, 0.4, 0.08), (0.065, 0.55, 0.04), round=0.01)
    s.box("neck", (0, 1.02, 0.07), (0.12, 0.17, 0.04), round=0.03)
    s.cylinder("hole", (0.1, 0.95, 0.07), (0.18, 0.95, 0.07), 0.03, mirror="x")
    s.cylinder("hole", (0.1, 1.09, 0.07), (0.18, 1.09, 0.07), 0.03, mirror="x")
    s.box("neck", (0, -0.62, 0.1), (0.15, 0.035, 0.03))
    s.box("strings", (0.02, 0.2, 0.125), (0.007, 0.84, 0.008), mirror="x")


def crown(s: Sketch, v: Vary) -> None:
    h, n = v(0.3, 0.38), v.choose(6, 7, 8)
    s.cone("crown", (0, -0.35, 0), (0, 0.1, 0), 0.58, 0.66)
    s.cone("crown", (0, -0.6, 0), (0, 0.6, 0), 0.48, 0.66, op="cut")
    s.prism("crown", (0, 0.06 + h / 2, 0.64), 1.8 / n, 0.015, h / 2 + 0.09, 0.035, turn=(7, 0, 0), around_y=n)
    s.torus("crown", (0, -0.32, 0), 0.57, 0.06)
    s.sphere("jewels", (0, 0.19 + h, 0.69), 0.075, around_y=n, group=True)
    s.sphere("jewels", (0, -0.1, 0.62), 0.085, around_y=n)


def hat(s: Sketch, v: Vary) -> None:
    h, r = v(0.55, 0.75), v(0.34, 0.4)
    s.cone("hat", (0, -0.3, 0), (0, -0.3 + h, 0), r, r * 0.9, round=0.04)
    s.cylinder("hat", (0, -0.36, 0), (0, -0.28, 0), 0.72, round=0.035, smooth=0.03)
    s.cone("ribbon", (0, -0.28, 0), (0, -0.1, 0), r + 0.025, r + 0.015)


def robot(s: Sketch, v: Vary) -> None:
    w, head = v(0.32, 0.38), v(0.24, 0.29)
    s.box("body", (0, 0, 0), (w, 0.34, 0.22), round=0.04)
    s.box("body", (0, 0.62, 0), (head, 0.22, 0.2), round=0.05)
    s.cylinder("arms", (0, 0.3, 0), (0, 0.45, 0), 0.1)
    s.limb = "arms"
    s.box("arms", (w + 0.12, 0.0, 0), (0.075, 0.3, 0.09), mirror="x", round=0.03)
    s.cylinder("arms", (w, 0.22, 0), (w + 0.16, 0.22, 0), 0.07, mirror="x")
    s.limb = ""
    s.box("arms", (0.17, -0.52, 0), (0.1, 0.22, 0.11), mirror="x", round=0.02)
    s.box("body", (0.17, -0.76, 0.06), (0.14, 0.07, 0.2), mirror="x", round=0.03)
    s.cylinder("eyes", (0.11, 0.66, 0.15), (0.11, 0.66, 0.24), 0.075, mirror="x")
    s.box("mouth", (0, 0.49, 0.19), (0.13, 0.03, 0.03))
    s.box("mouth", (0, 0.06, 0.21), (0.19, 0.15, 0.03), round=0.01)
    s.sphere("eyes", (0.09, 0.08, 0.25), 0.05, mirror="x")
    s.cylinder("arms", (0, 0.8, 0), (0, 1.0, 0), 0.025)
    s.sphere("eyes", (0, 1.02, 0), 0.065)


def sword(s: Sketch, v: Vary) -> None:
    long = v(0.95, 1.1)
    s.box("blade", (0, long / 2, 0), (0.1, long / 2 - 0.05, 0.03), round=0.015)
    s.prism("blade", (0, long + 0.03, 0), 0.1, 0.0, 0.09, 0.03, round=0.01)
    s.box("guard", (0, -0.02, 0), (0.32, 0.05, 0.07), round=0.03)
    s.cylinder("handle", (0, 0, 0), (0, -0.36, 0), 0.06)
    s.sphere("guard", (0, -0.4, 0), 0.1)


def boot(s: Sketch, v: Vary) -> None:
    high = v(0.55, 0.75)
    s.cone("boot", (0, -0.3, -0.25), (0, -0.3 + high + 0.4, -0.28), 0.26, 0.3, round=0.04)
    s.ellipsoid("boot", (0, -0.38, 0.12), (0.28, 0.24, 0.52), smooth=0.12)
    s.below("boot", (0, -0.5, 0), (0, -1, 0), op="keep")
    s.cylinder("lining", (0, high - 0.1, -0.28), (0, high + 0.5, -0.28), 0.23, op="cut")
    s.capsule("sole", (0, -0.55, -0.2), (0, -0.55, 0.35), 0.3, group=True)
    s.box("sole", (0, -0.55, 0), (1, 0.07, 1), op="keep")
    s.torus("lining", (0, -0.3 + high + 0.36, -0.28), 0.28, 0.07, group=True)


TOYS = (
    Category("ball", {"ball": "red", "band": "white"}, ball, fronted=False, joints={"rolling": Joint("", radius=0.9)}),
    Category("cube", {"cube": "blue"}, cube, fronted=False, words=("box", "block")),
    Category("pyramid", {"stone": "yellow", "tip": "orange"}, pyramid, fronted=False),
    Category("ring", {"band": "yellow", "gem": "cyan"}, ring),
    Category("star", {"star": "yellow"}, star),
    Category("heart", {"heart": "red"}, heart),
    Category("dice", {"cube": "white", "dots": "black"}, dice, words=("die",)),
    Category("drum", {"body": "red", "rims": "yellow", "skin": "white", "sticks": "brown"}, drum),
    Category("bell", {"bell": "yellow", "handle": "brown", "clapper": "black"}, bell, fronted=False),
    Category("guitar", {"body": "orange", "neck": "brown", "hole": "black", "strings": "white"}, guitar),
    Category("crown", {"crown": "yellow", "jewels": "red"}, crown, fronted=False),
    Category("hat", {"hat": "black", "ribbon": "red"}, hat, fronted=False),
    Category(
        "robot",
        {"body": "gray", "arms": "blue", "eyes": "yellow", "mouth": "black"},
        robot,
        joints={"waving": Joint("arms", (0.4, 0.22, 0))},
    ),
    Category("sword", {"blade": "gray", "handle": "brown", "guard": "yellow"}, sword),
    Category("boot", {"boot": "brown", "sole": "black", "lining": "white"}, boot, words=("shoe",)),
)
