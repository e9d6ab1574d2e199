# SPDX-License-Identifier: Apache-2.0
"""Light from all around: pictures of linear radiance [H, W, 3] over longitude and latitude, by name or from a file.

Row 0 is straight up (+Y). A direction d reads at u = atan2(d_x, -d_z) / 2 pi (modulo 1), v = acos(d_y) / pi: the
middle column looks along +Z, and seen from inside the picture is not mirrored. It is Mitsuba's convention too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.text import did_you_mean
from renderers.light.hdr import read_exr, read_hdr

HEIGHT = 64  # rows of the procedural environments
MOST_FILE = 256 << 20  # bytes


def directions(height: int, width: int) -> Tensor:
    """[H, W, 3] unit vectors through the texel centres."""
    v = math.pi * (torch.arange(height) + 0.5) / height
    u = 2 * math.pi * (torch.arange(width) + 0.5) / width
    up, around = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([up.sin() * around.sin(), up.cos(), -up.sin() * around.cos()], -1)


def to_uv(direction: Tensor) -> Tensor:
    """[..., 2] in [0, 1] of unit directions [..., 3]; finite gradients straight up and down too."""
    x, y, z = direction.unbind(-1)
    flat = x.square() + z.square() < 1e-12
    u = torch.atan2(torch.where(flat, 0.0, x), torch.where(flat, -1.0, -z)) / (2 * math.pi)
    v = torch.acos(y.clamp(-1 + 1e-7, 1 - 1e-7)) / math.pi
    return torch.stack([u - u.detach().floor(), v], -1)


def solid_angles(height: int, width: int) -> Tensor:
    """[H, W] steradians of each texel, exact: their sum is 4 pi."""
    edges = torch.cos(math.pi * torch.arange(height + 1, dtype=torch.float64) / height)
    return ((edges[:-1] - edges[1:]) * (2 * math.pi / width))[:, None].expand(-1, width).float()


def resized(picture: Tensor, height: int) -> Tensor:
    """[height, 2 height, 3] with the same light in all: averages over solid angle where it shrinks."""
    if picture.shape[0] == height and picture.shape[1] == 2 * height:
        return picture
    weight = solid_angles(*picture.shape[:2])[None, None].to(picture)
    size = (height, 2 * height)
    if picture.shape[0] > height:
        pool = torch.nn.functional.adaptive_avg_pool2d
        return (pool(picture.permute(2, 0, 1)[None] * weight, size) / pool(weight, size))[0].permute(1, 2, 0)
    grow = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size=size, mode="bilinear")
    return grow[0].permute(1, 2, 0)


def _lamp(towards: tuple[float, float, float], half_deg: float, colour: tuple[float, float, float]) -> Tensor:
    """A round soft lamp: full inside `half_deg`, gone at 1.3 times it."""
    d = directions(HEIGHT, 2 * HEIGHT)
    axis = torch.nn.functional.normalize(torch.tensor(towards), dim=0)
    angle = torch.rad2deg(torch.acos((d @ axis).clamp(-1, 1)))
    fade = ((1.3 * half_deg - angle) / (0.3 * half_deg)).clamp(0, 1)
    return (fade * fade * (3 - 2 * fade))[..., None] * torch.tensor(colour)


def _gradient(*stops: tuple[float, tuple[float, float, float]]) -> Tensor:
    """Colour by height y in [-1, 1], linear between the stops."""
    y = directions(HEIGHT, 2 * HEIGHT)[..., 1:2]
    out = torch.tensor(stops[0][1]).expand(HEIGHT, 2 * HEIGHT, 3)
    for (a, low), (b, high) in itertools.pairwise(stops):
        t = ((y - a) / (b - a)).clamp(0, 1)
        out = torch.where(y >= a, torch.tensor(low) * (1 - t) + torch.tensor(high) * t, out)
    return out


def _white() -> Tensor:
    """The same everywhere: shows materials without any light of their own."""
    return torch.ones(HEIGHT, 2 * HEIGHT, 3)


def _studio() -> Tensor:
    """A big soft key from the upper left, a weaker fill, a rim from behind, gray walls."""
    walls = _gradient((-1.0, (0.16, 0.16, 0.17)), (0.0, (0.28, 0.28, 0.30)), (1.0, (0.55, 0.55, 0.57)))
    key, fill = _lamp((-0.6, 0.7, 0.6), 24, (6.5, 6.2, 5.8)), _lamp((0.9, 0.2, 0.6), 18, (1.6, 1.8, 2.2))
    return walls + key + fill + _lamp((0.2, 0.5, -1.0), 14, (4.0, 4.2, 4.6))


def _sky() -> Tensor:
    """Blue sky, a soft sun, green-gray ground."""
    sky = _gradient((-1.0, (0.10, 0.11, 0.08)), (-0.02, (0.22, 0.23, 0.18)), (0.03, (0.9, 0.95, 1.0)),
                    (1.0, (0.25, 0.45, 0.9)))  # fmt: skip
    return sky + _lamp((0.5, 0.75, 0.45), 8, (38.0, 35.0, 29.0))


def _sunset() -> Tensor:
    """A low orange sun from the right, violet above."""
    sky = _gradient((-1.0, (0.05, 0.04, 0.05)), (-0.03, (0.12, 0.09, 0.09)), (0.04, (1.3, 0.62, 0.32)),
                    (0.4, (0.45, 0.32, 0.5)), (1.0, (0.14, 0.15, 0.32)))  # fmt: skip
    return sky + _lamp((0.95, 0.14, 0.3), 7, (46.0, 20.0, 6.0))


def _overcast() -> Tensor:
    """The CIE overcast sky: three times brighter above than at the horizon; no shadows to speak of."""
    return _gradient((-1.0, (0.12, 0.12, 0.11)), (-0.01, (0.2, 0.2, 0.19)), (0.01, (0.42, 0.44, 0.46)),
                     (1.0, (1.26, 1.32, 1.38)))  # fmt: skip


def _night() -> Tensor:
    """Dark, with a cold, a warm and a magenta lamp: strong colours from three sides."""
    dark = _gradient((-1.0, (0.02, 0.02, 0.025)), (1.0, (0.05, 0.06, 0.1)))
    lamps = _lamp((-1.0, 0.4, 0.4), 14, (1.0, 6.0, 9.0)) + _lamp((1.0, 0.3, 0.5), 14, (10.0, 5.0, 1.2))
    return dark + lamps + _lamp((0.1, 0.2, -1.0), 12, (8.0, 1.0, 6.0))


ENVIRONMENTS: dict[str, Callable[[], Tensor]] = {
    "white": _white,
    "studio": _studio,
    "sky": _sky,
    "sunset": _sunset,
    "overcast": _overcast,
    "night": _night,
}


def environment(name_or_file: str) -> Tensor:
    """[H, W, 3] linear radiance: a procedural one by name, or a .hdr or .exr file."""
    if name_or_file in ENVIRONMENTS:
        return ENVIRONMENTS[name_or_file]()
    path = Path(name_or_file)
    readers = {".hdr": read_hdr, ".exr": read_exr}
    if path.suffix.lower() not in readers:
        near = did_you_mean(name_or_file, ENVIRONMENTS)
        raise InputError(f"environment {name_or_file!r} is neither a .hdr or .exr file nor known{near}")
    try:
        picture = readers[path.suffix.lower()](read_bytes(path, "environment", MOST_FILE))
    except ValueError as error:
        raise InputError(f"environment {name_or_file}: {error}") from None
    if not bool(torch.isfinite(picture).all()) or bool((picture < 0).any()):
        raise InputError(f"environment {name_or_file}: radiance must be finite and not negative")
    return picture
