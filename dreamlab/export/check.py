# SPDX-License-Identifier: Apache-2.0
"""A written file held against the scene it was made from: drawn from all around, and compared on the object's pixels.

A pixel is the object's where either picture's alpha is above a half; whole pictures would be mostly background, which
agrees by itself. Gaussians and fields are soft at the rim, which no surface can be: they are held against it as what
they are inside (`renderers/surface/pictures.py`), with hard silhouettes; `psnr_soft` is the figure of their pictures as
they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.files import Json
from dreamlab.core.types import Frames, Scene
from dreamlab.export.drawing import Viewed
from dreamlab.run.preview import to_bytes
from renderers.surface.pictures import FINER, averaged, hardened
from renderers.surface.views import SIZE, VIEWS, all_around, background, device_of, silhouette_iou

CHUNK = 8
MOMENTS = 4  # of a motion
FLOORS = {"psnr": 26.0, "silhouette_iou": 0.97}
SHOWN = 6  # views of the side-by-side picture


class Compared(NamedTuple):
    """Means over views."""

    psnr: float  # dB on the object's pixels
    iou: float  # of the silhouettes
    colour: float  # mean absolute difference where both are, 0 to 1


def compared(scene: Frames, file: Frames) -> list[Compared]:
    """Of each view."""
    found = []
    for a, b, alpha, other in zip(scene.rgb[..., :3], file.rgb[..., :3], scene.alpha, file.alpha, strict=True):
        one, two = alpha[..., 0] > 0.5, other[..., 0] > 0.5
        away = (a.clamp(0, 1) - b.clamp(0, 1))[one | two]
        both = (a.clamp(0, 1) - b.clamp(0, 1))[one & two]
        error = away.square().mean().clamp(min=1e-10) if len(away) else torch.tensor(1e-10)
        colour = float(both.abs().mean()) if len(both) else 0.0
        found.append(Compared(float(-10 * error.log10()), silhouette_iou(alpha[None], other[None]), colour))
    return found


def looked_at(scene: Scene, cameras: Cameras) -> Frames:
    """Pictures of it, on the host, at a finer size: FINER pixels a side for each that is compared."""
    there, mine = cameras.to(device_of(scene)), list[Frames]()
    with torch.no_grad():
        for start in range(0, len(cameras), CHUNK):
            some = there[start : start + CHUNK]
            mine.append(_host(scene.render(some, FINER * SIZE, background(some))))
    return Frames.cat(mine)


def looked_back(file: Viewed, cameras: Cameras, size: int) -> Frames:
    """Of the file, for pictures of `size` pixels a side that are compared."""
    with torch.no_grad():
        rgb, alpha = (each.cpu() for each in file.pictures(cameras, FINER * size, background(cameras)))
    return Frames(rgb, alpha, alpha, background(cameras))


def _host(frames: Frames) -> Frames:
    rgb, alpha, depth = (value.cpu() for value in (frames.rgb[..., :3], frames.alpha, frames.depth))
    return Frames(rgb, alpha, depth, frames.background[..., :3].cpu())


def hard(frames: Frames) -> Frames:
    """Own colours inside silhouettes without a rim, at the size that is compared."""
    away = frames.rgb - (1 - frames.alpha) * frames.background[:, None, None]
    return _pooled(hardened(replace(frames, rgb=away)), frames)


def soft(frames: Frames) -> Frames:
    """As they are over white, at that size."""
    white = frames.rgb + (1 - frames.alpha) * (1 - frames.background[:, None, None])
    return _pooled((white, frames.alpha), frames)


def _pooled(pictures: tuple[Tensor, Tensor], frames: Frames) -> Frames:
    rgb, alpha = (averaged(each, FINER) for each in pictures)
    return Frames(rgb, alpha, alpha, frames.background)


def check(scene: Scene, file: Viewed, steps: Sequence[Json], known: Frames | None = None) -> tuple[Json, np.ndarray]:
    """How far the file is from the scene, and what to look at: a row of views each of the scene, the file, and four
    times their difference. Below a floor the step that lost most is named. `known`: the scene's pictures, over any one
    colour, where they have been taken before."""
    cameras = all_around(VIEWS)
    mine = looked_at(scene, cameras) if known is None else known
    drawn = looked_back(file, cameras, mine.rgb.shape[1] // FINER)
    found: Json = {"views": VIEWS, **_mean(compared(hard(mine), hard(drawn)))}
    found["psnr_soft"] = _mean(compared(soft(mine), soft(drawn)))["psnr"]
    if file.moves is not None:
        moving = [each for moment in range(MOMENTS) for each in _moment(scene, file, moment / MOMENTS)]
        found["moving"] = _mean(moving) | {"views": len(moving)}
    low = [name for name, floor in FLOORS.items() if found[name] < floor]
    if low:
        found["below"] = {name: FLOORS[name] for name in low}
        found["lost_by"] = lost_by(steps)
    some = list(range(0, VIEWS, VIEWS // SHOWN))
    return found, _side_by_side(mine.take(some), drawn.take(some))


def _moment(scene: Scene, file: Viewed, moment: float) -> list[Compared]:
    cameras = replace(all_around(SHOWN), time=torch.full((SHOWN,), moment))
    return compared(hard(looked_at(scene, cameras)), hard(looked_back(file, cameras, SIZE)))


def _mean(views: Sequence[Compared]) -> Json:
    psnr, iou, colour = (sum(values) / len(views) for values in zip(*views, strict=True))
    return {"psnr": round(psnr, 2), "silhouette_iou": round(iou, 4), "colour_error": round(colour, 4)}


def lost_by(steps: Sequence[Json]) -> str:
    """The step after which the surface's pictures were farther from the scene's than before it, by most."""
    known = [(step["name"], step["psnr"]) for step in steps if isinstance(step.get("psnr"), float)]
    if not known:
        return "unknown"
    falls = [(now - before, name) for (_, before), (name, now) in itertools.pairwise(known)]
    worst = min(falls, default=(0.0, ""))
    return worst[1] if worst[0] < -1 else known[0][0]  # what the first one found is all there ever was


def line(found: Json) -> str:
    """What the terminal says."""
    said = f"{found['file']}: {found['psnr']:.1f} dB and silhouettes {found['silhouette_iou']:.3f} of the scene's"
    if "below" not in found:
        return said
    floors = " and ".join(f"{floor:g}{' dB' if name == 'psnr' else ''}" for name, floor in found["below"].items())
    return f"{said}, below {floors}: most is lost by the step {found['lost_by']!r}; look at check.png"


def _side_by_side(scene: Frames, file: Frames) -> np.ndarray:
    """[3 H, 6 W, 3] uint8."""
    scene, file = soft(scene), soft(file)
    apart: Tensor = 1 - (4 * (scene.rgb - file.rgb).abs()).clamp(0, 1)
    rows = [np.concatenate(list(to_bytes(each)), 1) for each in (scene.rgb, file.rgb, apart)]
    return np.concatenate(rows, 0)
