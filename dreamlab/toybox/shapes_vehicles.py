# SPDX-License-Identifier: Apache-2.0
"""Things that go, towards +Z, and buildings."""

from __future__ import annotations

from dreamlab.toybox.category import Category, Joint, Vary
from dreamlab.toybox.program import Sketch


def car(s: Sketch, v: Vary) -> None:
    length, cabin = v(0.76, 0.86), v(0.26, 0.3)
    s.box("body", (0, 0.3, 0), (0.38, 0.17, length), round=0.09)
    s.prism("windows", (0, 0.44 + cabin / 2, -0.1), 0.52, 0.34, cabin / 2 + 0.03, 0.33, turn=(0, 90, 0), round=0.03)
    s.box("body", (0, 0.44 + cabin + 0.02, -0.1), (0.31, 0.05, 0.36), round=0.04)
    s.cylinder("wheels", (0.26, 0.17, 0.63 * length), (0.44, 0.17, 0.63 * length), 0.2, mirror="xz", round=0.03)
    s.cylinder("hubs", (0.3, 0.17, 0.63 * length), (0.455, 0.17, 0.63 * length), 0.09, mirror="xz")
    s.sphere("lights", (0.24, 0.34, length - 0.01), 0.075, mirror="x")


def airplane(s: Sketch, v: Vary) -> None:
    span, r = v(0.78, 0.88), v(0.14, 0.17)
    s.capsule("body", (0, 0, 0.6), (0, 0, -0.3), r)
    s.capsule("body", (0, 0, -0.3), (0, 0.06, -0.82), r, 0.05)
    s.box("wings", (span / 2, -0.02, 0.06), (span / 2, 0.03, 0.18), mirror="x", round=0.025, turn=(0, 14, 0))
    s.box("wings", (0.2, 0.08, -0.75), (0.2, 0.025, 0.1), mirror="x", round=0.02, turn=(0, 16, 0))
    s.prism("wings", (0, 0.24, -0.76), 0.16, 0.08, 0.2, 0.025, turn=(0, 90, 0), round=0.02)
    s.ellipsoid("windows", (0, 0.08, 0.6), (0.11, 0.1, 0.13))
    s.capsule("engines", (0.38, -0.1, 0.05), (0.38, -0.1, 0.24), 0.075, mirror="x")


def boat(s: Sketch, v: Vary) -> None:
    long, mast = v(0.66, 0.74), v(0.85, 0.98)
    s.ellipsoid("hull", (0, -0.3, 0), (0.3, 0.36, long))
    s.below("hull", (0, -0.32, 0), (0, 1, 0), op="keep")
    s.ellipsoid("deck", (0, -0.22, 0), (0.23, 0.2, long - 0.12), op="cut")
    s.cylinder("mast", (0, -0.55, 0.08), (0, -0.35 + mast + 0.1, 0.08), 0.035, group=True)
    s.prism("sail", (0, -0.15 + mast * 0.37, -0.27), 0.62, 0.01, mast * 0.42, 0.025, turn=(0, -90, 0))
    s.box("sail", (0, 0, 0.6), (2, 2, 0.55), op="cut")
    s.cylinder("mast", (0, -0.55, 0.08), (0, -0.35 + mast + 0.1, 0.08), 0.035, group=True)
    s.prism("sail", (0, -0.2 + mast * 0.28, 0.3), 0.36, 0.01, mast * 0.33, 0.02, turn=(0, 90, 0), group=True)
    s.box("sail", (0, 0, -0.48), (2, 2, 0.6), op="cut")


def rocket(s: Sketch, v: Vary) -> None:
    r, high = v(0.22, 0.26), v(0.42, 0.52)
    s.cylinder("body", (0, -0.45, 0), (0, high, 0), r, round=0.03)
    s.cone("nose", (0, high - 0.03, 0), (0, high + 0.42, 0), r, 0.02, round=0.02)
    s.prism("fins", (0, -0.42, r + 0.1), 0.24, 0.1, 0.22, 0.03, turn=(0, 90, 0), around_y=4)
    s.cylinder("window", (0, 0.18, 0), (0, 0.18, r + 0.03), 0.12, round=0.02)
    s.cone("fins", (0, -0.44, 0), (0, -0.6, 0), 0.13, 0.18)
    s.capsule("flame", (0, -0.62, 0), (0, -0.88, 0), 0.14, 0.02)


def truck(s: Sketch, v: Vary) -> None:
    long, high = v(0.46, 0.54), v(0.3, 0.36)
    s.box("cab", (0, 0.42, 0.62), (0.32, 0.3, 0.2), round=0.05)
    s.box("windows", (0, 0.53, 0.63), (0.33, 0.12, 0.15))
    s.box("windows", (0, 0.53, 0.66), (0.26, 0.12, 0.175))
    s.box("wheels", (0, 0.16, 0.1), (0.26, 0.06, 0.7), round=0.02)
    s.box("container", (0, 0.22 + high, -0.1 - 0.02), (0.36, high, long), round=0.02)
    s.cylinder("wheels", (0.24, 0.13, 0.58), (0.38, 0.13, 0.58), 0.16, mirror="x", round=0.02)
    s.cylinder("wheels", (0.24, 0.13, -0.18), (0.38, 0.13, -0.18), 0.16, mirror="x", round=0.02)
    s.cylinder("wheels", (0.24, 0.13, -0.5), (0.38, 0.13, -0.5), 0.16, mirror="x", round=0.02)
    s.sphere("lights", (0.2, 0.26, 0.82), 0.06, mirror="x")


def bus(s: Sketch, v: Vary) -> None:
    long, high = v(0.76, 0.86), v(0.28, 0.33)
    s.box("body", (0, 0.2 + high, 0), (0.34, high, long), round=0.07)
    for z in (-0.66, -0.22, 0.22, 0.66):
        s.box("windows", (0, 0.3 + 1.1 * high, z * long), (0.35, 0.1, 0.17 * long))
    s.box("windows", (0, 0.3 + 1.1 * high, 0), (0.26, 0.13, long + 0.01))
    s.cylinder("wheels", (0.2, 0.18, 0.58 * long), (0.37, 0.18, 0.58 * long), 0.17, mirror="xz", round=0.02)
    s.sphere("lights", (0.22, 0.32, long - 0.01), 0.06, mirror="x")


def train(s: Sketch, v: Vary) -> None:
    high = v(0.2, 0.3)
    s.cylinder("engine", (0, 0.45, -0.2), (0, 0.45, 0.72), 0.25, round=0.03)
    s.box("engine", (0, 0.56, -0.45), (0.32, 0.38, 0.28), round=0.02)
    s.box("roof", (0, 0.97, -0.45), (0.37, 0.045, 0.34), round=0.02)
    s.box("windows", (0, 0.72, -0.45), (0.33, 0.12, 0.16))
    s.box("roof", (0, 0.2, 0), (0.27, 0.07, 0.75), round=0.02)
    s.cone("chimney", (0, 0.6, 0.5), (0, 0.72 + high, 0.5), 0.08, 0.15)
    s.sphere("chimney", (0, 0.68, 0.1), 0.1)
    s.cylinder("wheels", (0.22, 0.15, -0.45), (0.33, 0.15, -0.45), 0.2, mirror="x")
    s.cylinder("wheels", (0.22, 0.12, 0.05), (0.33, 0.12, 0.05), 0.16, mirror="x")
    s.cylinder("wheels", (0.22, 0.12, 0.45), (0.33, 0.12, 0.45), 0.16, mirror="x")
    s.prism("roof", (0, 0.1, 0.74), 0.24, 0.06, 0.13, 0.24, turn=(0, 90, 0))
    s.cylinder("lights", (0, 0.45, 0.7), (0, 0.45, 0.76), 0.1)


def helicopter(s: Sketch, v: Vary) -> None:
    blade = v(0.72, 0.84)
    s.ellipsoid("body", (0, 0, 0.25), (0.28, 0.28, 0.42))
    s.capsule("body", (0, 0.08, 0), (0, 0.16, -0.8), 0.14, 0.05, smooth=0.08)
    s.prism("body", (0, 0.26, -0.82), 0.13, 0.07, 0.16, 0.025, turn=(0, 90, 0))
    s.ellipsoid("windows", (0, 0.05, 0.4), (0.24, 0.22, 0.3))
    s.limb = "rotor"
    s.cylinder("rotor", (0, 0.2, 0.15), (0, 0.42, 0.15), 0.04)
    s.box("rotor", (0, 0.42, 0.15), (0.06, 0.02, blade), turn=(0, 30, 0))
    s.box("rotor", (0, 0.42, 0.15), (blade, 0.02, 0.06), turn=(0, 30, 0))
    s.limb = ""
    s.box("rotor", (0.06, 0.2, -0.82), (0.015, 0.2, 0.03), turn=(30, 0, 0))
    s.capsule("skids", (0.22, -0.42, -0.12), (0.22, -0.42, 0.6), 0.035, mirror="x")
    s.cylinder("skids", (0.12, -0.2, 0.1), (0.22, -0.42, 0.1), 0.025, mirror="x")
    s.cylinder("skids", (0.12, -0.2, 0.4), (0.22, -0.42, 0.4), 0.025, mirror="x")


def hot_air_balloon(s: Sketch, v: Vary) -> None:
    r = v(0.54, 0.6)
    s.capsule("envelope", (0, -0.12, 0), (0, 0.35, 0), 0.22, r, smooth=0.02)
    s.cylinder("ropes", (0.16, -0.3, 0.1), (0.12, -0.72, 0.1), 0.02, mirror="xz")
    s.box("basket", (0, -0.8, 0), (0.17, 0.13, 0.17), round=0.03)
    s.box("basket", (0, -0.68, 0), (0.2, 0.03, 0.2), round=0.02)


def submarine(s: Sketch, v: Vary) -> None:
    r = v(0.28, 0.33)
    s.capsule("hull", (0, 0, -0.38), (0, 0, 0.5), r * 0.8, r)
    s.cone("tower", (0, 0.2, 0.1), (0, 0.56, 0.1), 0.18, 0.15, round=0.03)
    s.cylinder("tower", (0, 0.5, 0.1), (0, 0.8, 0.1), 0.035)
    s.capsule("tower", (0, 0.8, 0.1), (0, 0.8, 0.24), 0.045)
    s.cylinder("windows", (0.2, 0.04, 0.1), (r + 0.02, 0.04, 0.1), 0.085, mirror="x")
    s.cylinder("windows", (0.2, 0.04, 0.45), (r + 0.02, 0.04, 0.45), 0.085, mirror="x")
    s.cylinder("windows", (0.1, 0.04, -0.25), (r * 0.86 + 0.02, 0.04, -0.25), 0.085, mirror="x")
    s.cylinder("tower", (0, 0, -0.55), (0, 0, -0.76), 0.06)
    s.ellipsoid("tower", (0, 0.15, -0.74), (0.08, 0.16, 0.035), around_z=3, pivot=(0, 0, -0.74))


def house(s: Sketch, v: Vary) -> None:
    w, h, d, rise = v(0.5, 0.6), v(0.36, 0.44), v(0.42, 0.5), v(0.4, 0.5)
    top = 2 * h + 0.5 * rise
    s.box("walls", (0, h, 0), (w, h, d))
    s.prism("walls", (0, 2 * h + 0.45 * rise, 0), w - 0.02, 0.02, 0.46 * rise, d - 0.01)
    s.prism("roof", (0, top, 0), w + 0.14, 0.03, 0.5 * rise + 0.03, d + 0.1, group=True)
    s.prism("walls", (0, top - 0.13, 0), w + 0.14, 0.03, 0.5 * rise + 0.03, d + 0.3, op="cut")
    s.box("chimney", (0.55 * w, 2 * h + 0.75 * rise, -0.3 * d), (0.08, 0.28, 0.08), group=True)
    s.box("door", (0, 0.26, d), (0.13, 0.26, 0.03))
    s.box("windows", (0.3, 0.5, d), (0.1, 0.1, 0.03), mirror="x")
    s.box("windows", (w, 0.45, 0), (0.03, 0.12, 0.14), mirror="x")
    s.sphere("windows", (0.08, 0.26, d + 0.03), 0.025)


def castle(s: Sketch, v: Vary) -> None:
    w, tall = 0.46, v(0.62, 0.74)
    s.box("walls", (0, 0.25, 0), (w, 0.25, w))
    s.box("walls", (0.1, 0.53, w - 0.05), (0.05, 0.05, 0.05), mirror="xz")
    s.box("walls", (0.3, 0.53, w - 0.05), (0.05, 0.05, 0.05), mirror="xz")
    s.box("walls", (w - 0.05, 0.53, 0.12), (0.05, 0.05, 0.05), mirror="xz")
    s.box("walls", (0, 0.4, 0), (0.22, 0.42, 0.2))
    s.pyramid("roofs", (0, 0.98, 0), 0.28, 0.0, 0.17)
    s.cylinder("walls", (w, 0, w), (w, tall, w), 0.17, mirror="xz")
    s.cone("roofs", (w, tall - 0.02, w), (w, tall + 0.36, w), 0.23, 0.01, mirror="xz")
    s.box("door", (0, 0.13, w), (0.12, 0.13, 0.03))
    s.cylinder("door", (0, 0.26, w - 0.03), (0, 0.26, w + 0.03), 0.12)
    s.box("door", (w, 0.45, w + 0.16), (0.03, 0.07, 0.03), mirror="x")


def windmill(s: Sketch, v: Vary) -> None:
    r, tilt = v(0.36, 0.42), v(10, 40)
    s.cone("tower", (0, -0.85, 0), (0, 0.3, 0), r, 0.24)
    s.cone("roof", (0, 0.28, 0), (0, 0.6, 0), 0.3, 0.03, round=0.02)
    s.limb = "blades"
    s.cylinder("blades", (0, 0.25, 0.15), (0, 0.25, 0.42), 0.05)
    s.sphere("blades", (0, 0.25, 0.43), 0.085)
    hub = (0.0, 0.25, 0.42)
    turn = (0.0, 0.0, tilt)
    s.box("blades", (0, 0.6, 0.42), (0.02, 0.35, 0.02), around_z=4, pivot=hub, frame=turn)
    s.box("blades", (0, 0.68, 0.42), (0.11, 0.26, 0.015), around_z=4, pivot=hub, frame=turn)
    s.limb = ""
    s.box("door", (0, -0.68, 0.3), (0.11, 0.17, r - 0.3 + 0.01))
    s.box("door", (0, -0.12, 0.28), (0.07, 0.08, 0.03), round=0.01)


def lighthouse(s: Sketch, v: Vary) -> None:
    low, high = v(0.32, 0.38), v(0.18, 0.21)

    def radius(y: float) -> float:
        return low + (high - low) * (y + 0.8) / 1.2

    s.cone("tower", (0, -0.8, 0), (0, 0.4, 0), low, high)
    for y in (-0.62, -0.22, 0.18):
        s.cone("bands", (0, y, 0), (0, y + 0.2, 0), radius(y) + 0.01, radius(y + 0.2) + 0.01)
    s.cylinder("bands", (0, 0.38, 0), (0, 0.46, 0), high + 0.09, round=0.02)
    s.cylinder("lamp", (0, 0.4, 0), (0, 0.66, 0), 0.14)
    s.cone("bands", (0, 0.64, 0), (0, 0.9, 0), 0.22, 0.02)
    s.box("door", (0, -0.66, low - 0.08), (0.08, 0.14, 0.08))
    s.cylinder("tower", (0, -0.86, 0), (0, -0.78, 0), low + 0.14, round=0.02)


VEHICLES = (
    Category(
        "car",
        {"body": "red", "wheels": "black", "windows": "cyan", "lights": "yellow", "hubs": "gray"},
        car,
        words=("automobile",),
        joints={"rolling": Joint("wheels")},
    ),
    Category(
        "airplane",
        {"body": "white", "wings": "blue", "windows": "black", "engines": "gray"},
        airplane,
        words=("plane", "aeroplane"),
    ),
    Category(
        "boat", {"hull": "red", "sail": "white", "mast": "brown", "deck": "brown"}, boat, words=("sailboat", "ship")
    ),
    Category("rocket", {"body": "white", "fins": "red", "nose": "fins", "window": "cyan", "flame": "orange"}, rocket),
    Category(
        "truck",
        {"cab": "red", "container": "white", "windows": "cyan", "wheels": "black", "lights": "yellow"},
        truck,
        words=("lorry",),
        joints={"rolling": Joint("wheels")},
    ),
    Category(
        "bus",
        {"body": "yellow", "windows": "cyan", "wheels": "black", "lights": "white"},
        bus,
        joints={"rolling": Joint("wheels")},
    ),
    Category(
        "train",
        {
            "engine": "blue",
            "wheels": "red",
            "chimney": "black",
            "roof": "black",
            "windows": "yellow",
            "lights": "yellow",
        },
        train,
        words=("locomotive", "steam engine"),
        joints={"rolling": Joint("wheels")},
    ),
    Category(
        "helicopter",
        {"body": "green", "rotor": "gray", "windows": "cyan", "skids": "black"},
        helicopter,
        joints={"spinning": Joint("rotor", (0, 0.42, 0.15), "y", 90.0)},
    ),
    Category(
        "hot air balloon",
        {"envelope": "red", "basket": "brown", "ropes": "black"},
        hot_air_balloon,
        fronted=False,
        words=("balloon",),
    ),
    Category("submarine", {"hull": "yellow", "windows": "cyan", "tower": "gray"}, submarine),
    Category(
        "house",
        {"walls": "yellow", "roof": "red", "door": "brown", "windows": "cyan", "chimney": "roof"},
        house,
        words=("cottage", "home"),
    ),
    Category("castle", {"walls": "gray", "roofs": "blue", "door": "brown"}, castle),
    Category(
        "windmill",
        {"tower": "white", "blades": "brown", "roof": "red", "door": "blue"},
        windmill,
        joints={"spinning": Joint("blades", (0, 0.25, 0.42), "z", 90.0)},
    ),
    Category("lighthouse", {"tower": "white", "bands": "red", "lamp": "yellow", "door": "brown"}, lighthouse),
)
