# SPDX-License-Identifier: Apache-2.0
"""One scene with its renderer per file; this table is all there is to registering one."""

from __future__ import annotations

from typing import Any

from renderers.dmtet import DMTet
from renderers.gaussians import Gaussians
from renderers.gaussians4d import Gaussians4D
from renderers.hash_field import HashField
from renderers.mesh import TexturedMesh

SCENES: dict[str, Any] = {
    "gaussians": Gaussians,
    "gaussians4d": Gaussians4D,
    "field": HashField,
    "dmtet": DMTet,
    "mesh": TexturedMesh,
}
