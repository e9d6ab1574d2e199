# SPDX-License-Identifier: Apache-2.0
"""Moving Gaussians as a sequence, for there is no format of moving ones that others read: a PLY of 3DGS for each moment
in a zip, and `manifest.json` with how they follow one another. The frames hold the same Gaussians in the same order, so
none is left out here."""

from __future__ import annotations

import json

import torch

from dreamlab.core.types import Moving, Scene, Splats, Splatting
from dreamlab.export.product import Files, Product, packed
from dreamlab.export.rig import SECONDS
from dreamlab.export.splats import in_axes
from dreamlab.export.splats.ply import splat_ply_bytes

FRAMES = "splat-frames"
RATE = 24  # frames a second, of few Gaussians
MOST = 8_000_000  # Gaussians in all frames


def frames_of(scene: Scene) -> tuple[Splats, ...]:
    """A scene's Gaussians at equal steps of time; the last moment of a loop is its first, and left out."""
    if not isinstance(scene, Splatting) or not isinstance(scene, Moving):
        return ()
    first = scene.splats()
    if first is None:
        return ()
    count = max(2, min(round(RATE * SECONDS), MOST // max(len(first.means), 1)))
    steps = count if scene.loops else count - 1
    rest = (scene.splats(i / steps) for i in range(1, count))
    return (first, *(each for each in rest if each is not None))


def frames_file(made: Product) -> Files:
    """`splats_frames.zip`."""
    s, names = made.splatting, [f"frame_{i:04d}.ply" for i in range(len(made.frames))]
    every = torch.cat([in_axes(each, s.axes).means for each in made.frames])
    low, high = every.aminmax(dim=0)
    manifest = {
        "frames": names,
        "frames_per_second": len(made.frames) / SECONDS,
        "axes": s.axes,
        "bounds": [low.tolist(), high.tolist()],
        "dreamlab": made.origin,
    }
    files = {"manifest.json": json.dumps(manifest, indent=1).encode()}
    for name, cloud in zip(names, made.frames, strict=True):
        files[name] = splat_ply_bytes(cloud, {}, s.axes, s.padded, s.comments)
    return {"splats_frames.zip": packed(files)}
