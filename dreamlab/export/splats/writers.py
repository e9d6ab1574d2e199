# SPDX-License-Identifier: Apache-2.0
"""The formats of Gaussians, for the table of all formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from dreamlab.core.errors import InputError
from dreamlab.core.types import Splats
from dreamlab.export.product import Files, Format, Product
from dreamlab.export.splats.compact import SPZ_DEGREE, dot_splat_bytes, spz_bytes
from dreamlab.export.splats.frames import FRAMES, frames_file
from dreamlab.export.splats.khr import DEGREE, splat_glb_bytes
from dreamlab.export.splats.ply import splat_ply_bytes
from renderers.gaussian.placed import degree_of, sound

MOST_DEGREE = {"splat-glb": DEGREE, "spz": SPZ_DEGREE, "splat": 0}  # of the harmonics


def splat_notes(splats: Splats | None, formats: Iterable[str]) -> list[str]:
    """What of a cloud its files do not hold, a line each."""
    wanted = [kind for kind in formats if kind in SPLAT_WRITERS]
    if splats is None or not wanted:
        return []
    degree, (_, facts) = degree_of(splats), sound(splats)
    lines = [
        f"{kind}: of the harmonics' degrees those up to {MOST_DEGREE[kind]}, of {degree}"
        for kind in wanted
        if degree > MOST_DEGREE.get(kind, degree)
    ]
    if facts["dropped"] and set(wanted) != {FRAMES}:
        lines.append(f"splats: {facts['dropped']} of {len(splats.means)} Gaussians left out: nobody could see them")
    return lines


def _format(name: str, data: Callable[[Product, Splats], bytes]) -> Format:
    def write(made: Product) -> Files:
        if made.splats is None:
            raise InputError(f"{name}: this scene is not made of Gaussians alone; export a mesh of it")
        cloud, _ = sound(made.splats)
        if not len(cloud.means):
            raise InputError(f"{name}: none of the scene's Gaussians is finite and to be seen; train longer")
        return {name: data(made, cloud)}

    return Format(write, of="splats")


def _glb(made: Product, cloud: Splats) -> bytes:
    return splat_glb_bytes(cloud, made.name, made.origin)


def _ply(made: Product, cloud: Splats) -> bytes:
    s = made.splatting
    return splat_ply_bytes(cloud, made.origin, s.axes, s.padded, s.comments)


SPLAT_WRITERS: Mapping[str, Format] = {
    "splat-glb": _format("splats.glb", _glb),
    "splat-ply": _format("splats.ply", _ply),
    "splat": _format(
        "splats.splat",
        lambda made, cloud: dot_splat_bytes(cloud, made.splatting.axes),
    ),
    FRAMES: Format(frames_file, of="splats"),
    "spz": _format("splats.spz", lambda made, cloud: spz_bytes(cloud)),
}
