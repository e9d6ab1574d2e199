# SPDX-License-Identifier: Apache-2.0
"""Plants and things to eat."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Vary
from dreamlab.toybox.program import Sketch


def mushroom(s: Sketch, v: Vary) -> None:
    r, h, stem = v(0.6, 0.72), v(0.42, 0.52), v(0.17, 0.22)
    s.ellipsoid("cap", (0, 0.1, 0), (r, h, r))
    s.below("gills", (0, 0.06, 0), (0, -1, 0), op="keep", smooth=0.05)
    s.cone("stem", (0, -0.62, 0), (0, 0.12, 0), stem * 1.3, stem, group=True, round=0.05, smooth=0.03)


def tree(s: Sketch, v: Vary) -> None:
    r = v(0.42, 0.5)
    s.cone("trunk", (0, -0.9, 0), (0, 0.0, 0), v(0.13, 0.17), 0.09)
    s.sphere("leaves", (0, 0.3, 0), r)
    s.sphere("leaves", (0.3, 0.08, 0.12), 0.68 * r, smooth=0.06)
    s.sphere("leaves", (-0.3, 0.12, 0.06), 0.66 * r, smooth=0.06)
    s.sphere("leaves", (0.02, 0.1, -0.3), 0.66 * r, smooth=0.06)
    s.sphere("leaves", (-0.04, 0.06, 0.32), 0.6 * r, smooth=0.06)


def lollipop(s: Sketch, v: Vary) -> None:
    r = v(0.4, 0.48)
    s.cylinder("candy", (0, 0.4, -0.09), (0, 0.4, 0.09), r, round=0.08)
    s.cylinder("stick", (0, -0.8, 0), (0, 0.2, 0), 0.045)


def ice_cream(s: Sketch, v: Vary) -> None:
    r, h = v(0.34, 0.4), v(0.75, 0.9)
    s.cone("cone", (0, -h, 0), (0, 0, 0), 0.03, r * 0.92, round=0.02)
    s.torus("ice", (0, 0.02, 0), 0.8 * r, 0.22 * r)
    s.sphere("ice", (0, 0.2, 0), r, smooth=0.08)
    s.sphere("cherry", (0, 0.2 + r + 0.06, 0), 0.11)


NATURE = (
    Category(
        "mushroom", {"cap": "red", "stem": "white", "gills": "stem"}, mushroom, fronted=False, words=("toadstool",)
    ),
    Category("tree", {"leaves": "green", "trunk": "brown"}, tree, fronted=False),
    Category("lollipop", {"candy": "pink", "stick": "white"}, lollipop, fronted=False, words=("lolly",)),
    Category("ice cream", {"ice": "pink", "cone": "brown", "cherry": "red"}, ice_cream, fronted=False),
)
