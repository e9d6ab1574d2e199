# SPDX-License-Identifier: Apache-2.0
"""A GLB with KHR_gaussian_splatting (ratified 2026): points with a size, a turn, an opacity and harmonics, which
programs that do not know the extension show as coloured points.

Kernel `ellipse`: scales are standard deviations, quaternions xyzw, opacities in [0, 1], colours sRGB as they are shown.
The harmonics are those of 3DGS, degree by degree, 3 at most; COLOR_0 is what the constant one shows, in linear light.
"""

from __future__ import annotations

import numpy as np
import torch

from dreamlab.core.files import Json
from dreamlab.core.foreign.splat_glb import EXTENSION
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Splats
from dreamlab.export.gltf import ARRAY_BUFFER, POINTS, Gltf
from renderers.gaussian.placed import SH0, degree_of, to_degree

DEGREE = 3  # the extension's highest


def splat_glb_bytes(splats: Splats, name: str, origin: Json) -> bytes:
    """The file."""
    cloud = to_degree(splats, min(DEGREE, degree_of(splats)))
    shown = (0.5 + SH0 * cloud.harmonics[:, 0]).clamp(0, 1)
    rgba = torch.cat([srgb_to_linear(shown), cloud.opacity[:, None]], 1)
    columns = {
        "POSITION": cloud.means,
        f"{EXTENSION}:ROTATION": cloud.quats[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": cloud.scales,
        f"{EXTENSION}:OPACITY": cloud.opacity,
    }
    for degree in range(degree_of(cloud) + 1):
        for i in range(2 * degree + 1):
            columns[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}"] = cloud.harmonics[:, degree * degree + i]
    document = Gltf(origin)
    document.uses(EXTENSION)
    attributes = {
        key: document.accessor(value.numpy().astype("<f4"), ARRAY_BUFFER, bounds=key == "POSITION")
        for key, value in columns.items()
    }
    bright = np.round(rgba.numpy() * 65535).astype("<u2")
    attributes["COLOR_0"] = document.accessor(bright, ARRAY_BUFFER, normalized=True)
    material = document.add(
        "materials",
        {"name": f"{name}_points", "pbrMetallicRoughness": {"metallicFactor": 0.0}, "alphaMode": "BLEND"},
    )
    kernel = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    primitive = {"attributes": attributes, "mode": POINTS, "material": material, "extensions": {EXTENSION: kernel}}
    mesh = document.add("meshes", {"primitives": [primitive], "name": name})
    document.show(document.add("nodes", {"mesh": mesh, "name": name}))
    return document.glb()
