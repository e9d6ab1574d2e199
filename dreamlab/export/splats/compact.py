# SPDX-License-Identifier: Apache-2.0
"""Small files of Gaussians for the web: `.splat` (antimatter15's records of 32 bytes) and Niantic's SPZ, version 3.

SPZ 3 is one gzip stream of columns of bytes; version 4 packs with zstd, which Python's library has not before 3.14.
"""

from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.foreign.splat_parser import COLOUR, SPZ_MAGIC
from dreamlab.core.types import Splats
from dreamlab.export.splats import in_axes
from renderers.gaussian.placed import SH0, degree_of, to_degree

SPZ_VERSION, SPZ_DEGREE = 3, 3
_ANTIALIASED = 1  # the flag of clouds that fade by what a low-pass takes
_FINEST = 16  # bits of fraction: 15 micrometres


def _bytes_of(values: Tensor) -> np.ndarray:
    """Rounded to 0 ... 255."""
    found: np.ndarray = (values + 0.5).floor().clamp(0, 255).to(torch.uint8).numpy()
    return found


def dot_splat_bytes(splats: Splats, axes: str = "rdf") -> bytes:
    """Records, those first that show most, for viewers draw while they load. It holds no harmonics beyond the constant
    one, and no more than 8 bits of colour, opacity and turn."""
    cloud = in_axes(to_degree(splats, 0), axes)
    order = (cloud.opacity * cloud.scales.prod(1)).argsort(descending=True, stable=True)
    record = np.dtype([("place", "<f4", 3), ("size", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
    rows = np.zeros(len(order), record)
    rgba = torch.cat([0.5 + SH0 * cloud.harmonics[:, 0], cloud.opacity[:, None]], 1)
    rows["place"], rows["size"] = cloud.means[order].numpy(), cloud.scales[order].numpy()
    rows["rgba"], rows["quat"] = _bytes_of(255 * rgba[order]), _bytes_of(128 + 128 * cloud.quats[order])
    return rows.tobytes()


def spz_bytes(splats: Splats) -> bytes:
    """Columns: places in 24 bits, opacity, colour, logarithms of the scales, the three smaller parts of a quaternion,
    harmonics."""
    cloud = to_degree(splats, min(SPZ_DEGREE, degree_of(splats)))
    fraction = _fraction(cloud.means)
    head = struct.pack(
        "<IIIBBBB",
        SPZ_MAGIC,
        SPZ_VERSION,
        len(cloud.means),
        degree_of(cloud),
        fraction,
        _ANTIALIASED * cloud.compensated,
        0,
    )
    places = (cloud.means.double() * (1 << fraction)).round().to(torch.int32).numpy().astype("<i4")
    columns = [
        np.ascontiguousarray(places.view(np.uint8).reshape(-1, 4)[:, :3]),
        _bytes_of(255 * cloud.opacity),
        _bytes_of(255 * (COLOUR * cloud.harmonics[:, 0] + 0.5)),
        _bytes_of(16 * (cloud.scales.log() + 10)),
        _smallest_three(cloud.quats).numpy().astype("<u4"),
        _bytes_of(128 * cloud.harmonics[:, 1:] + 128),
    ]
    body = head + b"".join(column.tobytes() for column in columns)
    return gzip.compress(body, compresslevel=6, mtime=0)  # equal clouds give equal files


def _fraction(means: Tensor) -> int:
    """As many bits as the farthest place leaves of 23."""
    farthest = float(means.abs().max())
    return max(0, min(_FINEST, 22 - math.ceil(math.log2(max(farthest, 1e-6)))))


def _smallest_three(quats: Tensor) -> Tensor:
    """[N] int64 of quaternions wxyz: which of x, y, z, w is the largest, and the others in ten bits each."""
    xyzw = quats[:, [1, 2, 3, 0]]
    largest = xyzw.abs().argmax(1)
    signed = torch.where(xyzw.gather(1, largest[:, None]) < 0, -xyzw, xyzw)
    size = (511 * math.sqrt(2) * signed.abs() + 0.5).floor().clamp(max=511).long()
    packed = largest.clone()
    for axis in range(4):
        part = (packed << 10) | ((signed[:, axis] < 0).long() << 9) | size[:, axis]
        packed = torch.where(largest == axis, packed, part)
    return packed
