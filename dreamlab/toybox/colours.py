# SPDX-License-Identifier: Apache-2.0
"""The twelve colours of the world, and what a surface is finished with.

`COLOURS` holds 8-bit sRGB values, chosen to stay apart under the default light; `linear` converts by IEC 61966-2-1.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 34),
    "orange": (245, 130, 26),
    "yellow": (250, 212, 34),
    "green": (44, 160, 54),
    "cyan": (52, 198, 206),
    "blue": (36, 82, 212),
    "purple": (132, 46, 178),
    "pink": (248, 136, 180),
    "brown": (124, 72, 34),
    "white": (244, 244, 240),
    "gray": (136, 138, 142),
    "black": (32, 32, 36),
}

PATTERNS = ("plain", "striped", "checked", "spotted")
MATERIALS: dict[str, tuple[float, float]] = {  # roughness, metallic
    "matte": (0.9, 0.0),
    "glossy": (0.3, 0.0),
    "metal": (0.4, 1.0),
}


@dataclass(frozen=True)
class Finish:
    """How a part looks: a colour of `COLOURS`, a pattern in a second colour with its period in metres, a material."""

    colour: str
    pattern: str = "plain"
    second: str = "white"
    period: float = 0.25
    material: str = "matte"


def linear(colour: str) -> tuple[float, float, float]:
    """Linear RGB of a named colour."""
    red, green, blue = (v / 255 for v in COLOURS[colour])
    return _decode(red), _decode(green), _decode(blue)


def _decode(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
