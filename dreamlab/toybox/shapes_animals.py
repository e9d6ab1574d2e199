# SPDX-License-Identifier: Apache-2.0
"""Animals, and a snowman. They look towards +Z."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Joint, Vary
from dreamlab.toybox.program import Sketch


def duck(s: Sketch, v: Vary) -> None:
    head = v(0.27, 0.32)
    s.ellipsoid("body", (0, -0.1, -0.05), (0.42, 0.36, 0.56))
    s.capsule("body", (0, 0.0, -0.4), (0, 0.26, -0.68), 0.24, 0.06, smooth=0.1)
    s.limb = "head"
    s.sphere("body", (0, 0.48, 0.3), head, smooth=0.12)
    s.ellipsoid("beak", (0, 0.42, 0.3 + head + 0.06), (0.16, 0.06, 0.2))
    s.sphere("eyes", (0.13, 0.58, 0.3 + head * 0.82), 0.055, mirror="x")
    s.limb = "wings"
    s.ellipsoid("wings", (0.4, -0.04, -0.12), (0.1, 0.2, 0.34), mirror="x", turn=(14, 0, 0))


def snowman(s: Sketch, v: Vary) -> None:
    a, b, c = v(0.42, 0.48), v(0.32, 0.36), v(0.24, 0.28)
    y1 = a + 0.72 * (a + b) - 0.05
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
    s.prism("fins", (0, 0, -0.62), 0.1, 0.4, 0.24, 0.05, turn=(-90, 0, 90), round=0.03)
    s.ellipsoid("fins", (0, h, 0.05), (0.04, 0.2, 0.3), turn=(-15, 0, 0))
    s.ellipsoid("fins", (0.24, -0.08, 0.14), (0.03, 0.1, 0.2), mirror="x", turn=(35, -30, 0))
    s.sphere("eyes", (0.15, 0.1, 0.46), 0.065, mirror="x")


def cat(s: Sketch, v: Vary) -> None:
    head, tail = v(0.32, 0.36), v(0.3, 0.5)
    s.capsule("fur", (0, -0.5, -0.12), (0, -0.05, 0.0), 0.38, 0.25)
    s.capsule("fur", (0.14, -0.2, 0.18), (0.14, -0.8, 0.26), 0.1, mirror="x", smooth=0.03)
    s.ellipsoid("fur", (0.28, -0.7, 0.0), (0.17, 0.19, 0.3), mirror="x", smooth=0.03)
    s.arc("fur", (0.3, -0.5, -0.42), 0.3, 0.07, 110, turn=(0, 0, -130 - 60 * tail))
    s.ellipsoid("belly", (0, -0.32, 0.17), (0.16, 0.28, 0.16))
    s.limb = "head"
    s.ellipsoid("fur", (0, 0.36, 0.1), (head * 1.12, head * 0.95, head), smooth=0.05)
    s.cone("fur", (0.2, 0.5, 0.08), (0.27, 0.86, 0.08), 0.16, 0.01, mirror="x", round=0.01)
    s.ellipsoid("belly", (0, 0.27, 0.1 + 0.9 * head), (0.15, 0.1, 0.1))
    s.sphere("nose", (0, 0.34, 0.2 + 0.9 * head), 0.045)
    s.sphere("eyes", (0.15, 0.43, 0.1 + 0.87 * head), 0.06, mirror="x")


def dog(s: Sketch, v: Vary) -> None:
    ear, tail = v(0.2, 0.27), v(0.4, 0.6)
    s.capsule("fur", (0, 0, -0.42), (0, 0.04, 0.3), 0.26, 0.28)
    s.capsule("fur", (0.16, -0.1, 0.32), (0.16, -0.62, 0.34), 0.1, mirror="x")
    s.capsule("fur", (0.16, -0.1, -0.45), (0.16, -0.62, -0.48), 0.1, mirror="x")
    s.capsule("fur", (0, 0.1, 0.35), (0, 0.42, 0.48), 0.19, smooth=0.08)
    s.capsule("fur", (0, 0.12, -0.6), (0, tail, -0.85), 0.08, 0.05)
    s.torus("collar", (0, 0.25, 0.4), 0.21, 0.055, turn=(22, 0, 0))
    s.limb = "head"
    s.sphere("fur", (0, 0.5, 0.52), 0.28, smooth=0.05)
    s.capsule("fur", (0, 0.42, 0.66), (0, 0.39, 0.86), 0.15, 0.12, smooth=0.04)
    s.ellipsoid("ears", (0.29, 0.46, 0.48), (0.07, ear, 0.14), mirror="x", turn=(0, 0, 12))
    s.sphere("nose", (0, 0.47, 0.97), 0.075)
    s.sphere("eyes", (0.12, 0.6, 0.75), 0.05, mirror="x")


def rabbit(s: Sketch, v: Vary) -> None:
    ear, spread = v(0.45, 0.6), v(0.08, 0.16)
    s.ellipsoid("fur", (0, -0.42, -0.1), (0.38, 0.4, 0.44))
    s.capsule("fur", (0.15, -0.3, 0.24), (0.14, -0.72, 0.34), 0.08, mirror="x", smooth=0.04)
    s.ellipsoid("fur", (0.24, -0.74, 0.2), (0.13, 0.1, 0.3), mirror="x", smooth=0.04)
    s.sphere("tail", (0, -0.5, -0.54), 0.17)
    s.limb = "head"
    s.sphere("fur", (0, 0.08, 0.12), 0.29, smooth=0.1)
    s.capsule("fur", (0.11, 0.28, 0.06), (0.11 + spread, 0.35 + ear, 0), 0.09, 0.08, mirror="x")
    s.capsule("ears", (0.115, 0.34, 0.13), (0.11 + spread, 0.34 + ear, 0.06), 0.045, mirror="x")
    s.sphere("ears", (0, 0.06, 0.42), 0.045)
    s.sphere("eyes", (0.13, 0.16, 0.35), 0.05, mirror="x")


def bird(s: Sketch, v: Vary) -> None:
    s.ellipsoid("body", (0, -0.05, -0.05), (0.36, 0.36, 0.5), turn=(-25, 0, 0))
    s.sphere("body", (0, 0.4, 0.28), v(0.26, 0.3), smooth=0.12)
    s.box("wings", (0, -0.28, -0.66), (0.13, 0.035, 0.28), turn=(-32, 0, 0), round=0.03)
    s.cone("beak", (0, 0.38, 0.5), (0, 0.34, 0.82), 0.1, 0.01)
    s.cylinder("beak", (0.12, -0.3, 0.0), (0.12, -0.75, 0.02), 0.035, mirror="x")
    s.capsule("beak", (0.12, -0.74, -0.06), (0.12, -0.74, 0.18), 0.035, mirror="x")
    s.sphere("eyes", (0.15, 0.48, 0.48), 0.05, mirror="x")
    s.ellipsoid("belly", (0, -0.08, 0.14), (0.27, 0.3, 0.32))
    s.limb = "wings"
    s.ellipsoid("wings", (0.36, -0.02, -0.18), (0.07, 0.22, 0.42), mirror="x", turn=(-30, -8, 0))


def penguin(s: Sketch, v: Vary) -> None:
    wide = v(0.4, 0.46)
    s.ellipsoid("body", (0, -0.15, 0), (wide, 0.62, 0.38))
    s.sphere("body", (0, 0.5, 0.02), 0.3, smooth=0.12)
    s.ellipsoid("belly", (0, -0.18, 0.13), (wide * 0.78, 0.52, 0.3))
    s.ellipsoid("belly", (0.1, 0.5, 0.16), (0.14, 0.17, 0.17), mirror="x")
    s.cone("beak", (0, 0.45, 0.28), (0, 0.42, 0.55), 0.085, 0.01)
    s.ellipsoid("beak", (0.17, -0.78, 0.16), (0.15, 0.06, 0.22), mirror="x")
    s.sphere("eyes", (0.11, 0.55, 0.29), 0.045, mirror="x")
    s.limb = "wings"
    s.ellipsoid("body", (wide + 0.05, -0.1, 0.0), (0.07, 0.4, 0.17), mirror="x", turn=(0, 0, 14))


def turtle(s: Sketch, v: Vary) -> None:
    high = v(0.42, 0.52)
    s.ellipsoid("shell", (0, -0.1, -0.05), (0.58, high, 0.64))
    s.below("shell", (0, -0.12, 0), (0, -1, 0), op="keep", smooth=0.06)
    s.ellipsoid("body", (0, -0.16, -0.05), (0.54, 0.14, 0.6), group=True)
    s.capsule("body", (0.36, -0.18, 0.34), (0.5, -0.38, 0.46), 0.13, mirror="x")
    s.capsule("body", (0.36, -0.18, -0.42), (0.48, -0.38, -0.52), 0.13, mirror="x")
    s.capsule("body", (0, -0.1, 0.5), (0, 0.1, 0.78), 0.13, 0.13)
    s.ellipsoid("body", (0, 0.16, 0.84), (0.18, 0.17, 0.21))
    s.cone("body", (0, -0.2, -0.6), (0, -0.24, -0.88), 0.09, 0.01)
    s.sphere("eyes", (0.12, 0.22, 0.96), 0.045, mirror="x")


def whale(s: Sketch, v: Vary) -> None:
    s.ellipsoid("body", (0, -0.05, 0.12), (0.44, v(0.38, 0.44), 0.62))
    s.capsule("body", (0, -0.02, -0.3), (0, 0.28, -0.86), 0.24, 0.07, smooth=0.12)
    s.ellipsoid("body", (0.22, 0.34, -0.95), (0.28, 0.05, 0.15), mirror="x", turn=(0, 28, 12))
    s.ellipsoid("body", (0.46, -0.26, 0.2), (0.22, 0.04, 0.13), mirror="x", turn=(0, 25, -25))
    s.ellipsoid("belly", (0, -0.13, 0.16), (0.42, 0.36, 0.6))
    s.arc("spout", (0.14, 0.62, 0.2), 0.14, 0.045, 90, mirror="x")
    s.cylinder("spout", (0, 0.3, 0.2), (0, 0.62, 0.2), 0.045)
    s.sphere("eyes", (0.37, -0.02, 0.45), 0.05, mirror="x")


def snail(s: Sketch, v: Vary) -> None:
    r = v(0.4, 0.46)
    s.cylinder("shell", (-0.2, 0.12, -0.12), (0.2, 0.12, -0.12), r, round=0.16)
    s.torus("shell", (0.2, 0.1, -0.1), 0.25, 0.09, turn=(0, 0, 90), mirror="x")
    s.sphere("shell", (0.2, 0.1, -0.1), 0.11, mirror="x")
    s.capsule("body", (0, -0.33, -0.75), (0, -0.3, 0.35), 0.06, 0.16, group=True)
    s.capsule("body", (0, -0.3, 0.35), (0, 0.02, 0.6), 0.16, 0.15, smooth=0.08)
    s.capsule("body", (0.07, 0.1, 0.64), (0.15, 0.42, 0.7), 0.04, mirror="x")
    s.sphere("eyes", (0.15, 0.44, 0.7), 0.07, mirror="x")


def pig(s: Sketch, v: Vary) -> None:
    fat = v(0.36, 0.42)
    s.ellipsoid("body", (0, 0, -0.12), (fat, fat, 0.56))
    s.sphere("body", (0, 0.16, 0.42), 0.31, smooth=0.06)
    s.capsule("body", (0.2, -0.25, 0.18), (0.2, -0.58, 0.18), 0.1, mirror="x")
    s.capsule("body", (0.2, -0.25, -0.42), (0.2, -0.58, -0.42), 0.1, mirror="x")
    s.cone("body", (0.19, 0.36, 0.42), (0.27, 0.6, 0.5), 0.13, 0.02, mirror="x", round=0.01)
    s.cylinder("snout", (0, 0.12, 0.66), (0, 0.12, 0.84), 0.145, round=0.03)
    s.sphere("eyes", (0.05, 0.12, 0.83), 0.03, mirror="x")
    s.sphere("eyes", (0.14, 0.28, 0.66), 0.045, mirror="x")
    s.torus("snout", (0, 0.16, -0.7), 0.09, 0.03, turn=(0, 0, 90))


def teddy_bear(s: Sketch, v: Vary) -> None:
    s.ellipsoid("fur", (0, -0.32, 0), (0.36, 0.4, 0.32))
    s.sphere("fur", (0, 0.32, 0.04), v(0.33, 0.37))
    s.sphere("fur", (0.28, 0.62, 0), 0.14, mirror="x")
    s.capsule("fur", (0.2, -0.62, 0.1), (0.36, -0.68, 0.48), 0.15, mirror="x")
    s.ellipsoid("belly", (0, -0.3, 0.14), (0.26, 0.29, 0.23))
    s.ellipsoid("belly", (0, 0.22, 0.34), (0.16, 0.12, 0.12))
    s.sphere("belly", (0.38, -0.69, 0.56), 0.1, mirror="x")
    s.sphere("belly", (0.28, 0.63, 0.08), 0.09, mirror="x")
    s.sphere("eyes", (0.13, 0.4, 0.35), 0.045, mirror="x")
    s.ellipsoid("eyes", (0, 0.27, 0.45), (0.06, 0.045, 0.04))
    s.limb = "arms"
    s.capsule("fur", (0.3, -0.12, 0.05), (0.52, -0.36, 0.2), 0.13, mirror="x")


def bee(s: Sketch, v: Vary) -> None:
    s.ellipsoid("body", (0, 0, -0.1), (0.36, 0.36, 0.56))
    for z in (-0.36, -0.06, 0.24):
        ring = 0.36 * (1 - ((z + 0.1) / 0.56) ** 2) ** 0.5
        s.torus("bands", (0, 0, z), ring - 0.03, 0.06, turn=(90, 0, 0))
    s.sphere("bands", (0, 0.06, 0.5), 0.23)
    s.cone("bands", (0, -0.02, -0.6), (0, -0.04, -0.84), 0.07, 0.01)
    s.sphere("eyes", (0.13, 0.13, 0.67), 0.06, mirror="x")
    s.capsule("bands", (0.07, 0.24, 0.58), (0.16, 0.48, 0.7), 0.025, mirror="x")
    s.limb = "wings"
    s.ellipsoid("wings", (0.38, 0.4, -0.08), (v(0.34, 0.42), 0.035, 0.2), mirror="x", turn=(0, 18, 32))


def octopus(s: Sketch, v: Vary) -> None:
    s.ellipsoid("skin", (0, 0.28, 0), (0.44, v(0.46, 0.54), 0.42))
    s.capsule("skin", (0, -0.1, 0.24), (0, -0.42, 0.52), 0.15, 0.12, around_y=8, smooth=0.06)
    s.capsule("skin", (0, -0.42, 0.52), (0, -0.4, 0.82), 0.12, 0.06, around_y=8, smooth=0.03)
    s.sphere("eyes", (0.17, 0.26, 0.35), 0.12, mirror="x")
    s.sphere("pupils", (0.18, 0.27, 0.45), 0.055, mirror="x")


def elephant(s: Sketch, v: Vary) -> None:
    ear = v(0.3, 0.36)
    s.ellipsoid("skin", (0, 0.05, -0.22), (0.4, 0.4, 0.52))
    s.sphere("skin", (0, 0.32, 0.36), 0.31, smooth=0.08)
    s.capsule("skin", (0.22, -0.15, 0.08), (0.22, -0.66, 0.08), 0.13, mirror="x")
    s.capsule("skin", (0.22, -0.15, -0.5), (0.22, -0.66, -0.5), 0.13, mirror="x")
    s.ellipsoid("ears", (0.42, 0.34, 0.26), (0.05, ear, 0.27), mirror="x", turn=(0, -40, 0))
    s.capsule("tusks", (0.15, 0.12, 0.58), (0.18, -0.05, 0.84), 0.05, 0.02, mirror="x")
    s.sphere("eyes", (0.19, 0.42, 0.6), 0.045, mirror="x")
    s.limb = "trunk"
    s.capsule("skin", (0, 0.24, 0.58), (0, -0.22, 0.76), 0.13, 0.085, smooth=0.06)
    s.capsule("skin", (0, -0.22, 0.76), (0, -0.36, 0.98), 0.085, 0.07, smooth=0.05)


ANIMALS = (
    Category(
        "duck",
        {"body": "yellow", "beak": "orange", "wings": "body", "eyes": "black"},
        duck,
        joints={"nodding": Joint("head", (0, 0.15, 0.2)), "waving": Joint("wings", (0.36, 0.05, -0.1))},
    ),
    Category(
        "snowman", {"body": "white", "hat": "black", "scarf": "red", "nose": "orange", "buttons": "black"}, snowman
    ),
    Category("fish", {"body": "orange", "fins": "yellow", "eyes": "black"}, fish),
    Category(
        "cat",
        {"fur": "gray", "belly": "white", "nose": "pink", "eyes": "black"},
        cat,
        words=("kitten",),
        joints={"nodding": Joint("head", (0, 0.1, 0))},
    ),
    Category(
        "dog",
        {"fur": "brown", "ears": "black", "collar": "red", "nose": "black", "eyes": "black"},
        dog,
        words=("puppy",),
    ),
    Category(
        "rabbit",
        {"fur": "white", "ears": "pink", "tail": "fur", "eyes": "black"},
        rabbit,
        words=("bunny",),
        joints={"nodding": Joint("head", (0, -0.12, 0.05))},
    ),
    Category(
        "bird",
        {"body": "blue", "wings": "cyan", "belly": "white", "beak": "orange", "eyes": "black"},
        bird,
        joints={"waving": Joint("wings", (0.3, 0.12, 0))},
    ),
    Category(
        "penguin",
        {"body": "black", "belly": "white", "beak": "orange", "eyes": "black"},
        penguin,
        joints={"waving": Joint("wings", (0.36, 0.2, 0))},
    ),
    Category("turtle", {"body": "green", "shell": "brown", "eyes": "black"}, turtle, words=("tortoise",)),
    Category("whale", {"body": "blue", "belly": "white", "spout": "cyan", "eyes": "black"}, whale),
    Category("snail", {"body": "yellow", "shell": "brown", "eyes": "black"}, snail),
    Category("pig", {"body": "pink", "snout": "red", "eyes": "black"}, pig, words=("piglet",)),
    Category(
        "teddy bear",
        {"fur": "brown", "belly": "orange", "eyes": "black"},
        teddy_bear,
        words=("bear", "teddy"),
        joints={"waving": Joint("arms", (0.28, -0.08, 0.03))},
    ),
    Category(
        "bee",
        {"body": "yellow", "bands": "black", "wings": "white", "eyes": "white"},
        bee,
        joints={"waving": Joint("wings", (0.12, 0.26, 0))},
    ),
    Category("octopus", {"skin": "purple", "eyes": "white", "pupils": "black"}, octopus),
    Category(
        "elephant",
        {"skin": "gray", "ears": "gray", "tusks": "white", "eyes": "black"},
        elephant,
        joints={"nodding": Joint("trunk", (0, 0.26, 0.52))},
    ),
)
