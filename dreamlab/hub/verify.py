# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a model are what they should be: by SHA-256, and by what safetensors say of themselves.

A safetensors file is eight bytes, a JSON header and the numbers: its size is parameters x bytes + header, which tells
a truncated file and another architecture without any hash (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core import digests
from dreamlab.core.files import sha256
from dreamlab.core.text import printable
from dreamlab.hub import lock, places
from dreamlab.hub.registry import HubModel, WeightFile

MOST_HEADER = 100 << 20
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
INTEGERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class FileVerdict:
    """Of one file."""

    path: str  # within the model
    wrong: str  # "": nothing
    by: str  # what it was held against: the registry, first use, its header, nothing yet


class Damaged(Exception):
    """A file is no whole safetensors file."""


def parameters(path: Path) -> int:
    """Numbers in a safetensors file that are no integers; Damaged says what is wrong with its size or header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", start) if len(start := file.read(8)) == 8 else (0,)
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise Damaged("is no safetensors file, or its beginning is lost")
        try:
            entries = json.loads(file.read(length))
            tensors = [entries[name] for name in entries if name != "__metadata__"]
            widths = [(BYTES | INTEGERS)[each["dtype"]] * math.prod(each["shape"]) for each in tensors]
            floats = [math.prod(each["shape"]) for each in tensors if each["dtype"] in BYTES]
            ends = [each["data_offsets"][1] - each["data_offsets"][0] for each in tensors]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise Damaged(f"has a header that cannot be read ({printable(str(error))})") from None
    if widths != ends:
        raise Damaged("has a header whose shapes do not fit its places")
    if size != 8 + length + sum(widths):
        raise Damaged(f"has {size} bytes, its header speaks of {8 + length + sum(widths)}: truncated, or written over")
    return sum(floats)


_NEW = "nothing yet: recorded now"


def verify(model: HubModel) -> Iterator[FileVerdict]:
    """All files of a model that are here, one after another; hashes that nobody knew are recorded."""
    found = places.find(model)
    if found is None:
        return
    folder, pins, recorded = found.folder, lock.pinned(model.name), False
    shipped, name = digests.listed(places.SHIPPED) if model.shipped else {}, model.within or model.name
    for path in (*model.small, *model.maybe):
        if (folder / path).is_file():
            verdict = _hashed(folder, path, shipped.get(f"{name}/{path}", ""), pins)
            recorded |= verdict.by == _NEW
            yield verdict
    for weight in model.weights:
        files = places.files_of(weight, folder)
        for path in files:
            verdict = _hashed(folder, path, weight.sha256 or shipped.get(f"{name}/{path}", ""), pins)
            recorded |= verdict.by == _NEW
            yield verdict
        if wrong := _counted(weight, folder, files):
            yield FileVerdict(weight.path, wrong, "its header")
    if recorded:
        lock.pin(model.name, pins)


def _hashed(folder: Path, path: str, known: str, pins: lock.Pinned) -> FileVerdict:
    meant, by = (known, "the registry") if known else (pins.sha256.get(path, ""), "first use")
    found = sha256(folder / path)
    if not meant:
        pins.sha256[path] = found
        return FileVerdict(path, "", _NEW)
    return FileVerdict(path, "" if found == meant else f"sha256 is {found}, {by} says {meant}", by)


def _counted(weight: WeightFile, folder: Path, files: tuple[str, ...]) -> str:
    """What the headers say against it."""
    try:
        total = sum(parameters(folder / path) for path in files if path.endswith(".safetensors"))
    except Damaged as error:
        return str(error)
    if total and weight.params and total != weight.params:
        return f"holds {total} parameters, its architecture has {weight.params}: another model"
    return ""
