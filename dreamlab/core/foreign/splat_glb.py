# SPDX-License-Identifier: Apache-2.0
"""Gaussians of a GLB with KHR_gaussian_splatting: kernel `ellipse`, scales linear, quaternions xyzw, opacity in [0, 1],
harmonics degree by degree."""

from __future__ import annotations

import numpy as np

from dreamlab.core.files import Json
from dreamlab.core.foreign.headers import Refused, check_glb

EXTENSION = "KHR_gaussian_splatting"
_NUMBERS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_KINDS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}


def parse_glb(data: bytes, most: int) -> dict[str, np.ndarray]:
    """All primitives of Gaussians, as one; `frame` [N] says which of `placing` [P, 4, 4] puts each into the world."""
    document = check_glb(data)
    size = int.from_bytes(data[12:16], "little")
    binary = data[28 + size :]
    try:
        parts = [(each, matrix) for node, matrix in _placed(document) for each in _primitives(document, node)]
        if not parts:
            raise Refused(f"holds no Gaussians ({EXTENSION})")
        total = sum(document["accessors"][part["attributes"]["POSITION"]]["count"] for part, _ in parts)
        if not 1 <= total <= most:
            raise Refused(f"holds {total} Gaussians; 1 to {most} are read")
        found = [_part(document, binary, part) for part, _ in parts]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise Refused(f"its JSON does not describe Gaussians ({type(error).__name__}: {error})") from None
    most_harmonics = max(part["harmonics"].shape[1] for part in found)
    for part in found:
        spare = most_harmonics - part["harmonics"].shape[1]
        part["harmonics"] = np.pad(part["harmonics"], ((0, 0), (0, spare), (0, 0)))
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    frame = np.concatenate([np.full(len(part["means"]), i, np.float32) for i, part in enumerate(found)])
    place = np.stack([matrix for _, matrix in parts])[frame.astype(int)]
    return joined | {"placing": place.astype(np.float32)}


def _primitives(document: Json, node: Json) -> list[Json]:
    if "mesh" not in node:
        return []
    return [each for each in document["meshes"][node["mesh"]]["primitives"] if EXTENSION in each.get("extensions", {})]


def _placed(document: Json) -> list[tuple[Json, np.ndarray]]:
    """Every node with its matrix in the world; `check_glb` has seen that they are a tree."""
    nodes = document.get("nodes", [])
    found: list[tuple[Json, np.ndarray]] = []
    inner = {child for node in nodes for child in node.get("children", [])}
    todo = [(i, np.eye(4)) for i in range(len(nodes)) if i not in inner]
    while todo:
        i, above = todo.pop()
        matrix = above @ _matrix(nodes[i])
        found.append((nodes[i], matrix))
        todo += [(child, matrix) for child in nodes[i].get("children", [])]
    return found


def _matrix(node: Json) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    made = np.eye(4)
    made[:3, :3] = np.array(turn) * np.array(node.get("scale", (1.0, 1.0, 1.0)), float)
    made[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return made


def _part(document: Json, binary: bytes, primitive: Json) -> dict[str, np.ndarray]:
    kernel = primitive["extensions"][EXTENSION].get("kernel")
    if kernel != "ellipse":
        raise Refused(f"its Gaussians have the kernel {str(kernel)[:40]!r}; ellipse is read")
    names = primitive["attributes"]

    def column(name: str, width: int) -> np.ndarray:
        found = _read(document, binary, names[name])
        if found.shape[1] != width:
            raise Refused(f"its {name} has {found.shape[1]} numbers; {width} are right")
        return found

    own = {
        name: column(f"{EXTENSION}:{name}", width) for name, width in (("ROTATION", 4), ("SCALE", 3), ("OPACITY", 1))
    }
    harmonics = []
    for degree in range(4):
        row = [f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}" for i in range(2 * degree + 1)]
        here = [name in names for name in row]
        if not any(here) and degree:
            break
        if not all(here):
            raise Refused(f"its harmonics of degree {degree} are not complete")
        harmonics += [column(name, 3) for name in row]
    made = {
        "means": column("POSITION", 3),
        "quats": own["ROTATION"][:, [3, 0, 1, 2]],
        "scales": own["SCALE"],
        "opacity": own["OPACITY"][:, 0],
        "harmonics": np.stack(harmonics, 1),
    }
    if len({len(value) for value in made.values()}) != 1:
        raise Refused("the attributes of its Gaussians have different lengths")
    return made


def _read(document: Json, binary: bytes, index: int) -> np.ndarray:
    """[count, width] float32 of an accessor inside the file."""
    accessor = document["accessors"][index]
    kind, width = np.dtype(_KINDS[accessor["componentType"]]), _NUMBERS[accessor["type"]]
    if "sparse" in accessor or "bufferView" not in accessor:
        raise Refused(f"its accessor {index} is sparse or empty; save it plainly")
    view = document["bufferViews"][accessor["bufferView"]]
    begin = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    stride = view.get("byteStride", width * kind.itemsize)
    shape, steps = (accessor["count"], width), (stride, kind.itemsize)
    values = np.ndarray(shape, kind, binary, begin, steps).astype(np.float32)
    if accessor.get("normalized"):
        values = np.maximum(values / np.iinfo(kind).max, -1)
    return values
