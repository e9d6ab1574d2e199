# SPDX-License-Identifier: Apache-2.0
"""One scene with its renderer per file; this table is all there is to registering one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dreamlab.core.table import Table

if TYPE_CHECKING:
    from dreamlab.core.cards import SceneKind

SCENES: Table[SceneKind] = Table(
    __name__,
    {
        "gaussians": "gaussians.Gaussians",
        "gaussians4d": "gaussians4d.Gaussians4D",
        "field": "hash_field.HashField",
        "field4d": "field4d.Field4D",
        "hyper_field": "hyper_field.HyperField",
        "dmtet": "dmtet.DMTet",
        "mesh": "mesh.TexturedMesh",
        "mesh4d": "mesh4d.MovingMesh",
        "several": "compose.Several",
    },
)

# What scenes of a kind call of `cuda_ext`, as far as a package could run it; their cards say which at given settings.
_SURFACE = ("raster", "interpolate", "antialias")
OPS: Mapping[str, tuple[str, ...]] = {
    "gaussians": ("splat",),
    "gaussians4d": ("splat",),
    "field": ("hashgrid", "march"),
    "field4d": ("hashgrid", "march"),
    "hyper_field": ("hashgrid", "march"),
    "dmtet": (*_SURFACE, "hashgrid"),
    "mesh": (*_SURFACE, "texture", "hashgrid"),
    "mesh4d": (*_SURFACE, "texture", "hashgrid"),
    "several": (),  # it is the objects that have a backend
}
