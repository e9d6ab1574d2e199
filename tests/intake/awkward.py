# SPDX-License-Identifier: Apache-2.0
"""Meshes whose texture coordinates are awkward, written from the glTF 2.0 specification with nothing of the product: a
name, and what makes the GLB."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
KINDS = {"<f4": 5126, "<u4": 5125, "<u2": 5123, "|u1": 5121}
ARRAY, ELEMENTS = 34962, 34963
Json = dict[str, Any]
Part = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]  # places, corners, other attributes


class Writer:
    """A GLB that grows."""

    def __init__(self) -> None:
        self.document: Json = {"asset": {"version": "2.0", "generator": "a test", "extras": {"of": "somebody"}}}
        self.document |= {"accessors": [], "bufferViews": [], "scene": 0, "scenes": [{"nodes": []}], "nodes": []}
        self.document["meshes"] = []
        self.binary = b""

    def view(self, data: bytes, target: int | None) -> int:
        found: Json = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        self.document["bufferViews"].append(found | ({} if target is None else {"target": target}))
        self.binary += data + b"\0" * (-len(data) % 4)
        return len(self.document["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, target: int | None = ARRAY, bounds: bool = False, **more: object) -> int:
        made: Json = {"componentType": KINDS[values.dtype.str], "type": TYPES[values.shape[1]], "count": len(values)}
        made |= {"bufferView": self.view(values.tobytes(), target)} | more
        if bounds:
            made |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        self.document["accessors"].append(made)
        return len(self.document["accessors"]) - 1

    def primitive(self, part: Part, material: int | None = None) -> Json:
        places, corners, others = part
        found = {"POSITION": self.accessor(places.astype("<f4"), bounds=True)}
        found |= {name: self.accessor(values) for name, values in others.items()}
        index = self.accessor(corners.reshape(-1, 1).astype("<u4"), ELEMENTS)
        return {"attributes": found, "indices": index} | ({} if material is None else {"material": material})

    def mesh(self, *primitives: Json, **node: object) -> int:
        self.document["meshes"].append({"primitives": list(primitives), "extras": {"mine": [1, 2.5, "three"]}})
        return self.node(mesh=len(self.document["meshes"]) - 1, **node)

    def node(self, **more: object) -> int:
        self.document["nodes"].append(dict(more))
        self.document["scenes"][0]["nodes"].append(len(self.document["nodes"]) - 1)
        return len(self.document["nodes"]) - 1

    def image(self, wide: int, high: int, colour: tuple[int, ...], form: str = "PNG") -> int:
        kept = io.BytesIO()
        Image.new("RGBA" if len(colour) == 4 else "RGB", (wide, high), colour).save(kept, form)
        images = self.document.setdefault("images", [])
        images.append({"bufferView": self.view(kept.getvalue(), None), "mimeType": f"image/{form.lower()}"})
        return len(images) - 1

    def texture(self, image: int, **more: object) -> int:
        textures = self.document.setdefault("textures", [])
        textures.append({"source": image} | more if not more.get("extensions") else more)
        return len(textures) - 1

    def material(self, name: str, texture: int | None = None, **more: object) -> int:
        materials = self.document.setdefault("materials", [])
        rough: Json = {"metallicFactor": 0.0, "roughnessFactor": 0.7}
        rough |= {} if texture is None else {"baseColorTexture": {"index": texture}}
        materials.append({"name": name, "pbrMetallicRoughness": rough} | more)
        return len(materials) - 1

    def bytes(self) -> bytes:
        self.document["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.document).encode()
        text += b" " * (-len(text) % 4)
        total = 28 + len(text) + len(self.binary)
        head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
        return head + text + struct.pack("<I4s", len(self.binary), b"BIN\0") + self.binary


def grid(rows: int, columns: int, place: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Part:
    """A sheet of quads with `place(u, v)` [N, 3]; its normals are those of a ball around the middle."""
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    uv = np.stack([u, v], -1).reshape(-1, 2)
    where = place(uv[:, 0], uv[:, 1])
    first = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1)
    below, beside = first + columns + 1, first + 1
    corners = np.concatenate([np.stack([first, below, beside], 1), np.stack([beside, below, below + 1], 1)])
    away = where - where.mean(0)
    return where, corners, {
        "NORMAL": (away / np.linalg.norm(away, axis=1, keepdims=True)).astype("<f4"),
        "TEXCOORD_0": uv.astype("<f4"),
    }  # fmt: skip


def ball(rows: int = 12, columns: int = 24, radius: float = 1.0, at: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Part:
    """Its poles are open by a little, so that no triangle is without area."""

    def place(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        up, around = np.pi * (0.03 + 0.94 * v), 2 * np.pi * u
        n = np.stack([np.sin(up) * np.sin(around), np.cos(up), np.sin(up) * np.cos(around)], -1)
        return np.array(at) + radius * n

    return grid(rows, columns, place)


def changed(part: Part, uv: Callable[[np.ndarray], np.ndarray]) -> Part:
    others = part[2] | {"TEXCOORD_0": uv(part[2]["TEXCOORD_0"].astype(float)).astype("<f4")}
    return part[0], part[1], others


def mirrored() -> Writer:
    """Both halves of a ball read the same half of the texture."""
    made = Writer()
    red = made.material("skin", made.texture(made.image(64, 64, (200, 40, 40))))
    made.mesh(made.primitive(changed(ball(), lambda uv: np.stack([1 - np.abs(2 * uv[:, 0] - 1), uv[:, 1]], 1)), red))
    return made


def overlapping() -> Writer:
    """Six sides of a box, each with the whole texture."""
    made = Writer()
    wood = made.material("wood", made.texture(made.image(32, 32, (120, 80, 40))))
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], "<f4")
    places, corners, normals = [], [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            across, up = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
            flat = (2 * square[:, :1] - 1) * across + (2 * square[:, 1:] - 1) * up + side * np.eye(3)[axis]
            ring = np.array([[0, 1, 2], [0, 2, 3]]) if side > 0 else np.array([[0, 2, 1], [0, 3, 2]])
            corners.append(ring + 4 * len(places))
            places.append(flat)
            normals.append(np.tile(side * np.eye(3)[axis], (4, 1)))
    others = {"NORMAL": np.concatenate(normals).astype("<f4"), "TEXCOORD_0": np.tile(square, (6, 1))}
    made.mesh(made.primitive((np.concatenate(places), np.concatenate(corners), others), wood))
    return made


def materials() -> Writer:
    """Four materials, textures of other sizes, two of which show one image; roughness shares one with occlusion."""
    made = Writer()
    shared = made.image(64, 32, (30, 160, 30))
    packed = made.texture(made.image(16, 16, (255, 128, 0)))
    first = made.material("body", made.texture(shared), occlusionTexture={"index": packed})
    made.document["materials"][first]["pbrMetallicRoughness"]["metallicRoughnessTexture"] = {"index": packed}
    second = made.material("lid", made.texture(shared))
    third = made.material("glow", None, emissiveFactor=[0.1, 0.0, 0.0], extensions={"KHR_materials_unlit": {}})
    fourth = made.material("glass", made.texture(made.image(48, 48, (90, 90, 250, 128))), alphaMode="BLEND")
    made.document["extensionsUsed"] = ["KHR_materials_unlit"]
    parts = [ball(at=(2.2 * i, 0, 0)) for i in range(4)]
    made.mesh(*(made.primitive(part, i) for part, i in zip(parts, (first, second, third, fourth), strict=True)))
    return made


def without() -> Writer:
    made = Writer()
    places, corners, others = ball()
    made.mesh(made.primitive((places, corners, {"NORMAL": others["NORMAL"]})))
    return made


def many() -> Writer:
    """60,000 triangles whose texture repeats three times around."""
    made = Writer()
    brick = made.material("brick", made.texture(made.image(128, 64, (180, 90, 60))))
    made.mesh(made.primitive(changed(ball(100, 300), lambda uv: uv * [3, 1] - [1, 0]), brick))
    return made


def manifold() -> Writer:
    """Three triangles on one edge, one of them twice, and every third triangle of the rest turned over."""
    made = Writer()
    grey = made.material("grey", made.texture(made.image(32, 32, (128, 128, 128))))
    places, corners, others = ball()
    corners = corners.copy()
    corners[::3] = corners[::3, ::-1]
    corners = np.concatenate([corners, [[0, 1, 200], [0, 1, 200], [0, 1, 150], [5, 5, 6]]])
    made.mesh(made.primitive((places, corners, others), grey))
    return made


def shell() -> Writer:
    """A ball in a ball, the inner one turned inward, each with its half of the texture."""
    made = Writer()
    skin = made.material("skin", made.texture(made.image(32, 64, (220, 200, 180))))
    outer = changed(ball(), lambda uv: uv * [1, 0.5])
    places, corners, others = changed(ball(radius=0.8), lambda uv: uv * [1, 0.5] + [0, 0.5])
    made.mesh(made.primitive(outer, skin), made.primitive((places, corners[:, ::-1].copy(), others), skin))
    return made


def huge() -> Writer:
    """A kilometre large, four kilometres away."""
    made = Writer()
    rock = made.material("rock", made.texture(made.image(64, 64, (100, 90, 80))))
    made.mesh(made.primitive(ball(radius=500.0, at=(4000.0, -300.0, 250.0)), rock))
    return made


def rigged() -> Writer:
    """Two bones, an animation of one of them, and a morph target that stands half-way."""
    made = Writer()
    skin = made.material("skin", made.texture(made.image(64, 64, (230, 180, 150))))
    places, corners, others = ball()
    upper = (places[:, 1] > 0).astype(float)
    joints = np.zeros((len(places), 4), "|u1")
    joints[:, 1] = 1
    weights = np.stack([1 - upper, upper, 0 * upper, 0 * upper], 1).astype("<f4")
    joints[weights == 0] = 0
    primitive = made.primitive((places, corners, others | {"JOINTS_0": joints, "WEIGHTS_0": weights}), skin)
    primitive["targets"] = [{"POSITION": made.accessor((0.2 * places * [1, 0, 1]).astype("<f4"), bounds=True)}]
    bones = [made.node(name="root", children=[1]), 1]
    made.document["nodes"].append({"name": "tip", "translation": [0, 0.5, 0]})
    bind = np.tile(np.eye(4), (2, 1, 1))
    bind[1, 1, 3] = -0.5
    inverse = made.accessor(bind.transpose(0, 2, 1).reshape(2, 16).astype("<f4"), None)
    made.document["skins"] = [{"joints": bones, "inverseBindMatrices": inverse}]
    times = made.accessor(np.array([[0.0], [1.0]], "<f4"), None, bounds=True)
    turns = made.accessor(np.array([[0, 0, 0, 1], [0.3826834, 0, 0, 0.9238795]], "<f4"), None)
    sampler = {"input": times, "output": turns, "interpolation": "LINEAR"}
    channel = {"sampler": 0, "target": {"node": 1, "path": "rotation"}}
    made.document["animations"] = [{"name": "nod", "samplers": [sampler], "channels": [channel]}]
    made.mesh(primitive, skin=0)
    made.document["meshes"][0]["weights"] = [0.5]
    return made


def sets() -> Writer:
    """Base colour by the second set of coordinates, moved and turned; the first is for something else."""
    made = Writer()
    moved = {"KHR_texture_transform": {"offset": [0.25, 0.1], "rotation": 0.5, "scale": [0.5, 0.5]}}
    cloth = made.material("cloth", made.texture(made.image(64, 64, (60, 60, 160))))
    base = made.document["materials"][cloth]["pbrMetallicRoughness"]["baseColorTexture"]
    base |= {"texCoord": 1, "extensions": moved}
    made.document["extensionsUsed"] = ["KHR_texture_transform"]
    places, corners, others = ball()
    second = others["TEXCOORD_0"] * np.array([0.7, 0.7], "<f4")
    first = np.zeros_like(second)
    made.mesh(made.primitive((places, corners, others | {"TEXCOORD_0": first, "TEXCOORD_1": second}), cloth))
    return made


def webp() -> Writer:
    made = Writer()
    image = made.image(64, 64, (40, 120, 200), "WEBP")
    texture = made.texture(image, extensions={"EXT_texture_webp": {"source": image}})
    paint = made.material("paint", texture)
    made.document |= {"extensionsUsed": ["EXT_texture_webp"], "extensionsRequired": ["EXT_texture_webp"]}
    made.mesh(made.primitive(ball(), paint))
    return made


def negative() -> Writer:
    """One mesh twice: first through a mirror, then as it is."""
    made = Writer()
    skin = made.material("skin", made.texture(made.image(64, 64, (10, 200, 90))))
    mirror = {"translation": [-1.2, 0.0, 0.0], "scale": [-1.0, 1.0, 1.0]}
    made.mesh(made.primitive(ball(), skin), name="left", **mirror)
    made.node(mesh=0, translation=[1.2, 0.0, 0.0], name="right")
    return made


AWKWARD: dict[str, Callable[[], Writer]] = {
    each.__name__: each
    for each in (mirrored, overlapping, materials, without, many, manifold, shell, huge, rigged, sets, webp, negative)
}
