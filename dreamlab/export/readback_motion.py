# SPDX-License-Identifier: Apache-2.0
"""How a written GLB moves, by the reader of other people's assets, which was written from the glTF 2.0 specification
and shares nothing with our writers: it skins and morphs, what is added here are linear keys (appendix C)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from dreamlab.core.bounded import bounded
from dreamlab.core.files import Json
from dreamlab.core.foreign.gltf import GltfFile
from dreamlab.core.foreign.headers import Refused, glb_document
from dreamlab.core.types import Track

MOMENTS = 48  # at most, of a clip


def motion_back(path: Path) -> Track | None:
    """Where the vertices of a GLB's first mesh are over its animation, time running from 0 to 1; none: it stands still.
    `Unbounded` where that cannot be told."""
    if path.suffix != ".glb" or stands_still(path):
        return None

    def work() -> tuple[dict[str, torch.Tensor], Json]:
        found = _track(path.read_bytes())
        return ({} if found is None else {"times": found.times, "points": found.points}), {}

    found = bounded(work, f"reading the motion of {path.name} back", 60.0).tensors
    return Track(found["times"], found["points"]) if found else None


def stands_still(path: Path) -> bool:
    """Whether its document says so: no need for a child then."""
    try:
        return not glb_document(path.read_bytes()).get("animations")
    except Refused:
        return False  # a child says why


def _track(data: bytes) -> Track | None:
    """None without an animation."""
    document, size = glb_document(data), struct.unpack("<I", data[12:16])[0]
    if not document.get("animations"):
        return None
    animation, binary = document["animations"][0], data[28 + size :]
    whole = _opened(document, binary)
    samplers = [
        (whole.accessor(each["input"])[:, 0].astype(float), whole.accessor(each["output"]).astype(float), each)
        for each in animation["samplers"]
    ]
    keys = np.unique(np.concatenate([times for times, _, _ in samplers]))
    if len(keys) > MOMENTS:
        keys = np.linspace(keys[0], keys[-1], MOMENTS)
    points = []
    for now in keys.tolist():
        nodes = [dict(node) for node in document["nodes"]]
        for channel in animation["channels"]:
            target = channel["target"]
            times, values, sampler = samplers[channel["sampler"]]
            nodes[target["node"]][target["path"]] = _at(times, values, sampler, target["path"], now)
        moved = _opened(document | {"nodes": nodes}, binary)
        points.append(moved.points(next(moved.pieces())))
    span = float(keys[-1] - keys[0]) or 1.0
    return Track(torch.from_numpy((keys - keys[0]) / span).float(), torch.from_numpy(np.stack(points)).float())


def _opened(document: Json, binary: bytes) -> GltfFile:
    def beside(uri: str) -> bytes:
        raise FileNotFoundError(uri)  # a GLB of ours is one file

    return GltfFile(document, binary, beside)


def _at(times: np.ndarray, values: np.ndarray, sampler: Json, path: str, now: float) -> np.ndarray:
    """What a channel gives its node at a moment."""
    rows = values.reshape(len(times), -1)
    i = int(np.clip(np.searchsorted(times, now, "right") - 1, 0, max(len(times) - 2, 0)))
    j = min(i + 1, len(times) - 1)
    share = float(np.clip((now - times[i]) / ((times[j] - times[i]) or 1.0), 0, 1))
    if sampler.get("interpolation", "LINEAR") == "STEP":
        share = float(share >= 1)
    other = rows[j] * (-1 if path == "rotation" and rows[i] @ rows[j] < 0 else 1)
    mixed: np.ndarray = (1 - share) * rows[i] + share * other  # keys of turns lie so close that a chord is the arc
    return mixed / np.linalg.norm(mixed) if path == "rotation" else mixed
