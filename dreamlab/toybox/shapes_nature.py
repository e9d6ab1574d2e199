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


def pine_tree(s: Sketch, v: Vary) -> None:
    r = v(0.48, 0.58)
    s.cylinder("trunk", (0, -0.95, 0), (0, -0.5, 0), v(0.1, 0.14))
    s.cone("leaves", (0, -0.62, 0), (0, 0.1, 0), r, 0.12, round=0.03)
    s.cone("leaves", (0, -0.22, 0), (0, 0.5, 0), 0.8 * r, 0.08, round=0.03)
    s.cone("leaves", (0, 0.18, 0), (0, 0.95, 0), 0.6 * r, 0.02, round=0.02)


def palm_tree(s: Sketch, v: Vary) -> None:
    lean = v(0.1, 0.2)
    s.capsule("trunk", (-lean, -0.9, 0), (-0.4 * lean, -0.2, 0), 0.12, 0.1)
    s.capsule("trunk", (-0.4 * lean, -0.2, 0), (0, 0.45, 0), 0.1, 0.075, smooth=0.05)
    s.arc("leaves", (0, 0.12, 0.36), 0.5, 0.07, 48, around_y=7, turn=(0, 90, 0), pivot=(0, 0.4, 0))
    s.sphere("coconuts", (0, 0.36, 0.12), 0.1, around_y=3, pivot=(0, 0.4, 0))


def flower(s: Sketch, v: Vary) -> None:
    n, long = v.choose(5, 6, 7), v(0.3, 0.36)
    s.cylinder("stem", (0, -0.95, 0), (0, 0.3, 0), 0.045)
    s.ellipsoid("leaves", (0.2, -0.55, 0), (0.24, 0.07, 0.11), turn=(0, 0, 32), mirror="x")
    s.ellipsoid(
        "petals", (0, 0.35 + 0.2 + long * 0.6, 0.06), (1.9 / n * 0.62, long, 0.07), around_z=n, pivot=(0, 0.35, 0.06)
    )
    s.ellipsoid("center", (0, 0.35, 0.1), (0.2, 0.2, 0.11))


def cactus(s: Sketch, v: Vary) -> None:
    left, right, r = v(0.0, 0.15), v(-0.1, 0.05), v(0.2, 0.24)
    s.capsule("plant", (0, -0.5, 0), (0, 0.62, 0), r)
    s.capsule("plant", (0, left, 0), (-0.45, left, 0), 0.11, smooth=0.04)
    s.capsule("plant", (-0.45, left, 0), (-0.45, left + 0.35, 0), 0.11)
    s.capsule("plant", (0, right - 0.12, 0), (0.43, right - 0.12, 0), 0.11, smooth=0.04)
    s.capsule("plant", (0.43, right - 0.12, 0), (0.43, right + 0.28, 0), 0.11)
    s.cone("pot", (0, -0.95, 0), (0, -0.5, 0), 0.26, 0.36, round=0.02, group=True)
    s.cylinder("pot", (0, -0.58, 0), (0, -0.44, 0), 0.41, round=0.02)
    s.sphere("bloom", (0, 0.86, 0), 0.1)


def apple(s: Sketch, v: Vary) -> None:
    r = v(0.4, 0.44)
    s.torus("fruit", (0, 0.05, 0), 0.27, r)
    s.sphere("fruit", (0, -0.18, 0), 0.46, smooth=0.15)
    s.capsule("stem", (0, 0.25, 0), (0.05, 0.68, 0), 0.035, 0.045)
    s.ellipsoid("leaf", (0.24, 0.6, 0), (0.22, 0.04, 0.1), turn=(0, 0, 28))


def pear(s: Sketch, v: Vary) -> None:
    s.capsule("fruit", (0, -0.35, 0), (0, 0.3, 0), v(0.46, 0.52), v(0.22, 0.26))
    s.capsule("stem", (0, 0.48, 0), (0.06, 0.78, 0), 0.035, 0.045)
    s.ellipsoid("leaf", (0.24, 0.68, 0), (0.2, 0.04, 0.1), turn=(0, 0, 24))


def banana(s: Sketch, v: Vary) -> None:
    bend = v(50, 58)
    s.arc("peel", (0, 0.72, 0), 0.8, 0.15, bend, turn=(0, 0, 180))
    s.arc("peel", (0, 0.72, 0), 0.8, 0.09, bend + 11, turn=(0, 0, 180), smooth=0.1)
    s.arc("tips", (0, 0.72, 0), 0.8, 0.065, bend + 17, turn=(0, 0, 180), smooth=0.02)


def carrot(s: Sketch, v: Vary) -> None:
    s.capsule("root", (0, 0.25, 0), (0, -0.85, 0), v(0.24, 0.29), 0.04)
    s.capsule("leaves", (0, 0.42, 0), (0, 0.95, 0), 0.05, 0.09)
    s.capsule("leaves", (0, 0.42, 0.05), (0, 0.85, 0.3), 0.04, 0.08, around_y=5)


def pumpkin(s: Sketch, v: Vary) -> None:
    h = v(0.5, 0.58)
    s.ellipsoid("fruit", (0, 0, 0.36), (0.3, h, 0.36), around_y=9)
    s.ellipsoid("fruit", (0, 0, 0), (0.5, 0.85 * h, 0.5))
    s.capsule("stem", (0, 0.35, 0), (0.07, h + 0.24, 0), 0.1, 0.06)


def ice_cream(s: Sketch, v: Vary) -> None:
    r, h = v(0.34, 0.4), v(0.75, 0.9)
    s.cone("cone", (0, -h, 0), (0, 0, 0), 0.03, r * 0.92, round=0.02)
    s.torus("ice", (0, 0.02, 0), 0.8 * r, 0.22 * r)
    s.sphere("ice", (0, 0.2, 0), r, smooth=0.08)
    s.sphere("cherry", (0, 0.2 + r + 0.06, 0), 0.11)


def lollipop(s: Sketch, v: Vary) -> None:
    r = v(0.42, 0.5)
    s.cylinder("candy", (0, 0.4, -0.1), (0, 0.4, 0.1), r, round=0.08)
    s.cylinder("stick", (0, -0.75, 0), (0, 0.2, 0), 0.05)


def cake(s: Sketch, v: Vary) -> None:
    h = v(0.2, 0.26)
    s.cylinder("cake", (0, -0.45, 0), (0, -0.45 + 2 * h, 0), 0.72, round=0.03)
    s.cylinder("icing", (0, -0.45 + 1.7 * h, 0), (0, -0.35 + 2 * h, 0), 0.76, round=0.05)
    s.sphere("icing", (0, -0.42 + 1.65 * h, 0.68), 0.12, around_y=10)
    s.cylinder("candles", (0, 0, 0.36), (0, 0.42, 0.36), 0.05, around_y=4)
    s.capsule("flames", (0, 0.5, 0.36), (0, 0.6, 0.36), 0.06, 0.02, around_y=4)


def hamburger(s: Sketch, v: Vary) -> None:
    h = v(0.5, 0.6)
    s.ellipsoid("bun", (0, 0.12, 0), (0.8, h, 0.8))
    s.below("bun", (0, 0.12, 0), (0, -1, 0), op="keep", smooth=0.08)
    s.cylinder("bun", (0, -0.5, 0), (0, -0.25, 0), 0.76, round=0.1, group=True)
    s.cylinder("patty", (0, -0.27, 0), (0, -0.07, 0), 0.8, round=0.08, group=True)
    s.box("cheese", (0, -0.05, 0), (0.62, 0.025, 0.62), turn=(0, 20, 0))
    s.cylinder("lettuce", (0, -0.02, 0), (0, 0.07, 0), 0.8, round=0.03)
    s.sphere("lettuce", (0, 0.02, 0.8), 0.09, around_y=11)


def donut(s: Sketch, v: Vary) -> None:
    r = v(0.25, 0.3)
    s.torus("icing", (0, 0.05, 0), 0.52, r * 1.04)
    s.below("icing", (0, 0.05, 0), (0, -1, 0), op="keep", smooth=0.04)
    s.torus("dough", (0, 0, 0), 0.52, r, group=True)
    for i, turn in enumerate((20, 70, -40)):
        ring = (0.42, 0.56, 0.63)[i]
        s.capsule(
            "sprinkles",
            (-0.05, 0.03 + r, ring),
            (0.05, 0.03 + r, ring),
            0.025,
            turn=(0, turn, 0),
            around_y=(7, 9, 8)[i],
        )


NATURE = (
    Category(
        "mushroom", {"cap": "red", "stem": "white", "gills": "stem"}, mushroom, fronted=False, words=("toadstool",)
    ),
    Category("tree", {"leaves": "green", "trunk": "brown"}, tree, fronted=False),
    Category(
        "pine tree", {"leaves": "green", "trunk": "brown"}, pine_tree, fronted=False, words=("fir tree", "fir", "pine")
    ),
    Category("palm tree", {"leaves": "green", "trunk": "brown", "coconuts": "brown"}, palm_tree, words=("palm",)),
    Category("flower", {"petals": "red", "center": "yellow", "stem": "green", "leaves": "stem"}, flower),
    Category("cactus", {"plant": "green", "pot": "orange", "bloom": "pink"}, cactus),
    Category("apple", {"fruit": "red", "leaf": "green", "stem": "brown"}, apple, fronted=False),
    Category("pear", {"fruit": "green", "leaf": "green", "stem": "brown"}, pear, fronted=False),
    Category("banana", {"peel": "yellow", "tips": "brown"}, banana, fronted=False),
    Category("carrot", {"root": "orange", "leaves": "green"}, carrot, fronted=False),
    Category("pumpkin", {"fruit": "orange", "stem": "green"}, pumpkin, fronted=False),
    Category("ice cream", {"ice": "pink", "cone": "brown", "cherry": "red"}, ice_cream, fronted=False),
    Category("lollipop", {"candy": "pink", "stick": "white"}, lollipop, fronted=False, words=("lolly",)),
    Category("cake", {"cake": "brown", "icing": "pink", "candles": "white", "flames": "yellow"}, cake, fronted=False),
    Category(
        "hamburger",
        {"bun": "orange", "lettuce": "green", "patty": "brown", "cheese": "yellow"},
        hamburger,
        fronted=False,
        words=("burger",),
    ),
    Category(
        "donut", {"icing": "pink", "dough": "brown", "sprinkles": "white"}, donut, fronted=False, words=("doughnut",)
    ),
)
