# SPDX-License-Identifier: Apache-2.0
"""The PLY of 3DGS (Kerbl et al. 2023): x y z, normals of zero, f_dc, f_rest channel by channel, logit of the opacity,
logarithms of the scales, quaternion wxyz; all floats, little-endian.

Programs that demand 62 floats a Gaussian take degree 3 alone, so harmonics are padded with zeros to it unless told.
"""

from __future__ import annotations

import json

import torch

from dreamlab.core.files import Json
from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.types import Splats
from dreamlab.export.splats import in_axes
from renderers.gaussian.placed import degree_of, to_degree

PADDED = 3
_END = "end\\u005fheader"  # the same to JSON


def splat_ply_bytes(
    splats: Splats, origin: Json, axes: str = "rdf", padded: bool = True, comments: bool = True
) -> bytes:
    """The file. `comments` says the axes and the origin in the header, which some loaders choke on."""
    cloud = in_axes(splats, axes)
    if padded:
        cloud = to_degree(cloud, max(PADDED, degree_of(cloud)))
    rest = cloud.harmonics[:, 1:].transpose(1, 2).flatten(1)
    columns = {
        ("x", "y", "z"): cloud.means,
        ("nx", "ny", "nz"): torch.zeros_like(cloud.means),
        ("f_dc_0", "f_dc_1", "f_dc_2"): cloud.harmonics[:, 0],
        tuple(f"f_rest_{i}" for i in range(rest.shape[1])): rest,
        ("opacity",): inverse_sigmoid(cloud.opacity)[:, None],
        ("scale_0", "scale_1", "scale_2"): cloud.scales.log(),
        ("rot_0", "rot_1", "rot_2", "rot_3"): cloud.quats,
    }
    header = ["ply", "format binary_little_endian 1.0"]
    if comments:
        header.append(f"comment axes: {axes}")
        if origin:
            told = json.dumps(origin, separators=(",", ":"))
            # Readers look for the word that ends the header, wherever it stands.
            header.append(f"comment dreamlab {told.replace('end_header', _END)}")
    header.append(f"element vertex {len(cloud.means)}")
    header += [f"property float {name}" for names in columns for name in names]
    table = torch.cat(list(columns.values()), 1).numpy().astype("<f4", copy=False)
    return "\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes()
