# SPDX-License-Identifier: Apache-2.0
"""How a written GLB moves, evaluated from its bytes as the glTF 2.0 specification says and not as our writers do: skins
(3.7.3.3), morph targets with sparse accessors (3.7.2.2, 3.6.2.3), linear keys (appendix C)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamlab.core.bounded import Unbounded, bounded
from dreamlab.core.types import Track

MOMENTS = 48  # at most, of a clip
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
Node = dict[str, Any]


def motion_back(path: Path) -> Track | None:
    """Where the vertices of a GLB's first mesh are over its animation, time running from 0 to 1; none stands still."""
    if path.suffix != ".glb":
        return None

    def work() -> tuple[dict[str, torch.Tensor], Node]:
        found = _Clip(path.read_bytes()).track()
        return ({} if found is None else {"times": found.times, "points": found.points}), {}

    try:
        found = bounded(work, f"reading the motion of {path.name} back", 60.0).tensors
    except Unbounded:
        return None
    return Track(found["times"], found["points"]) if found else None


class _Clip:
    def __init__(self, data: bytes) -> None:
        size = struct.unpack("<I", data[12:16])[0]
        self.document: Node = json.loads(data[20 : 20 + size])
        self.binary = data[28 + size :]
        self.rest: list[Node] = self.document["nodes"]
        self.parent = {child: i for i, node in enumerate(self.rest) for child in node.get("children", [])}
        self.host = next(i for i, node in enumerate(self.rest) if "mesh" in node)
        (self.primitive,) = self.document["meshes"][self.rest[self.host]["mesh"]]["primitives"]

    def track(self) -> Track | None:
        """None without an animation."""
        animations = self.document.get("animations", [])
        if not animations:
            return None
        keys = np.unique(np.concatenate([self.read(s["input"])[:, 0] for s in animations[0]["samplers"]]))
        if len(keys) > MOMENTS:
            keys = np.linspace(keys[0], keys[-1], MOMENTS)
        span = float(keys[-1] - keys[0]) or 1.0
        points = np.stack([self.points(self.nodes(animations[0], float(now))) for now in keys])
        return Track(torch.from_numpy((keys - keys[0]) / span).float(), torch.from_numpy(points).float())

    def view(self, index: int, offset: int, kind: str, count: int, width: int) -> np.ndarray:
        found = self.document["bufferViews"][index]
        begin, each = found.get("byteOffset", 0) + offset, np.dtype(kind).itemsize * width
        stride = found.get("byteStride", each)
        flat = np.frombuffer(self.binary, np.uint8)
        rows = np.lib.stride_tricks.as_strided(flat[begin:], (count, each), (stride, 1))
        return np.ascontiguousarray(rows).view(kind).reshape(count, width)

    def read(self, index: int) -> np.ndarray:
        """[count, width] of an accessor; whole numbers that stand for fractions are those."""
        found = self.document["accessors"][index]
        kind, width, count = _TYPES[found["componentType"]], _WIDTHS[found["type"]], found["count"]
        if "bufferView" in found:
            values = self.view(found["bufferView"], found.get("byteOffset", 0), kind, count, width)
        else:
            values = np.zeros((count, width), kind)
        if sparse := found.get("sparse"):
            at, to, many = sparse["indices"], sparse["values"], sparse["count"]
            rows = self.view(at["bufferView"], at.get("byteOffset", 0), _TYPES[at["componentType"]], many, 1)[:, 0]
            values = values.copy()
            values[rows] = self.view(to["bufferView"], to.get("byteOffset", 0), kind, many, width)
        return values / float(np.iinfo(values.dtype).max) if found.get("normalized") else values

    def nodes(self, animation: Node, now: float) -> list[Node]:
        """As they stand at a moment."""
        nodes = [dict(node) for node in self.rest]
        for channel in animation["channels"]:
            sampler, path = animation["samplers"][channel["sampler"]], channel["target"]["path"]
            times = self.read(sampler["input"])[:, 0].astype(float)
            values = self.read(sampler["output"]).astype(float).reshape(len(times), -1)
            i = int(np.clip(np.searchsorted(times, now, "right") - 1, 0, max(len(times) - 2, 0)))
            j = min(i + 1, len(times) - 1)
            share = float(np.clip((now - times[i]) / ((times[j] - times[i]) or 1.0), 0, 1))
            if sampler.get("interpolation", "LINEAR") == "STEP":
                share = float(share >= 1)
            other = values[j] * (-1 if path == "rotation" and values[i] @ values[j] < 0 else 1)
            mixed = (1 - share) * values[i] + share * other  # keys of turns lie so close that a chord is the arc
            nodes[channel["target"]["node"]][path] = mixed / np.linalg.norm(mixed) if path == "rotation" else mixed
        return nodes

    def world(self, nodes: list[Node], index: int) -> np.ndarray:
        """[4, 4] of a node."""
        node = nodes[index]
        x, y, z, w = np.asarray(node.get("rotation", (0.0, 0.0, 0.0, 1.0)), float)
        turn = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        own = np.eye(4)
        own[:3, :3] = turn * np.asarray(node.get("scale", (1.0, 1.0, 1.0)), float)
        own[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
        return self.world(nodes, self.parent[index]) @ own if index in self.parent else own

    def points(self, nodes: list[Node]) -> np.ndarray:
        """[V, 3]: targets first, then the skin, which takes no notice of the mesh's own node."""
        points = self.read(self.primitive["attributes"]["POSITION"]).astype(float)
        mesh = self.document["meshes"][self.rest[self.host]["mesh"]]
        weights = nodes[self.host].get("weights", mesh.get("weights", []))
        for weight, target in zip(weights, self.primitive.get("targets", []), strict=False):
            if weight:
                points = points + weight * self.read(target["POSITION"])
        if "skin" not in self.rest[self.host]:
            place = self.world(nodes, self.host)
            return points @ place[:3, :3].T + place[:3, 3]
        skin = self.document["skins"][self.rest[self.host]["skin"]]
        bind = self.read(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)  # kept by columns
        joints = np.stack([self.world(nodes, j) @ b for j, b in zip(skin["joints"], bind, strict=True)])
        sets = sum(name.startswith("JOINTS_") for name in self.primitive["attributes"])
        named = [f"{word}_{i}" for i in range(sets) for word in ("JOINTS", "WEIGHTS")]
        read = [self.read(self.primitive["attributes"][name]) for name in named]
        moved = np.zeros_like(points)
        for index, weight in zip(read[::2], read[1::2], strict=True):
            for corner in range(4):
                matrix = joints[index[:, corner]]
                moved += weight[:, corner : corner + 1] * (
                    (matrix[:, :3, :3] @ points[..., None])[..., 0] + matrix[:, :3, 3]
                )
        return moved
