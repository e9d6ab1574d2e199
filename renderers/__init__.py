# SPDX-License-Identifier: Apache-2.0
"""One scene with its renderer per file; this table is all there is to registering one."""

from __future__ import annotations

from collections.abc import Mapping

from dreamlab.core.cards import SceneKind
from renderers.compose import Several
from renderers.dmtet import DMTet
from renderers.field4d import Field4D
from renderers.gaussians import Gaussians
from renderers.gaussians4d import Gaussians4D
from renderers.hash_field import HashField
from renderers.hyper_field import HyperField
from renderers.mesh import TexturedMesh

SCENES: Mapping[str, SceneKind] = {
    "gaussians": Gaussians,
    "gaussians4d": Gaussians4D,
    "field": HashField,
    "field4d": Field4D,
    "hyper_field": HyperField,
    "dmtet": DMTet,
    "mesh": TexturedMesh,
    "several": Several,
}
