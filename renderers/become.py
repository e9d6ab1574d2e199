# SPDX-License-Identifier: Apache-2.0
"""From one scene to another: `from:` in a recipe. Every change says how much of the picture it kept.

| to | from | how |
| --- | --- | --- |
| the same kind | - | its state, if the sizes agree |
| dmtet | dmtet of half the resolution | subdivided, exact |
| dmtet | anything with a surface | signed distances of its mesh; colours learnt from the mesh |
| mesh, mesh4d | anything with a surface | floaters dropped, simplified, unwrapped, painted with its pictures |
| mesh4d | mesh | its surface and its material, without motion yet |
| gaussians | a field | seeds where it is dense and can be seen, with its colours |
| gaussians | anything else with a surface | opaque discs on it, uniform by area, with its colours |
| gaussians4d, field4d | gaussians, field | their state, without motion yet |

What the surface of a scene is, `renderers/surface/extraction.py` finds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.triangles import scattered
from dreamlab.core.types import Carve, Scene
from renderers.gaussian.seeds import Seeds, on_surface
from renderers.surface.extraction import extract
from renderers.surface.material import SurfaceField
from renderers.surface.views import Kept, compare, device_of

RESOLUTION = 96  # of the grid on which a surface is found when the target does not say
THIN, OPAQUE = 0.15, 0.9  # of discs on a surface: thickness in their width, opacity at least
SURFACES = ("dmtet", "mesh", "mesh4d")  # kinds that can take any scene's surface
SEEDED = ("gaussians",)  # kinds that start from points
BEGIN_TO_MOVE = (("gaussians", "gaussians4d"), ("field", "field4d"))  # the moving kind takes the state of the still one


@runtime_checkable
class Gathering(Protocol):
    """A scene of several objects, some of which start from scenes of earlier stages."""

    members: Mapping[str, Scene]

    @property
    def taking(self) -> Mapping[str, str]:
        """The stages that objects start from, by object."""

    def take(self, name: str, source: Scene, stream: torch.Generator, carve: Carve | None = None) -> Kept | None:
        """Object `name` takes over from a scene, in its own frame; as `become`."""


@runtime_checkable
class Painted(Protocol):
    """A scene whose colours may be in a hash grid: as many numbers can be another function."""

    field: SurfaceField


@runtime_checkable
class Hollowing(Protocol):
    """A scene that can take over a surface without its inside."""

    hollows: ClassVar[bool]

    def adopt(self, source: Scene, stream: torch.Generator, carve: Carve | None = None) -> None: ...


@runtime_checkable
class Seeding(Protocol):
    """A scene that knows where it is dense, better than a surface of it would."""

    def seeds(self, count: int, stream: torch.Generator) -> Seeds: ...


def can_become(source: str, target: str) -> bool:
    """Whether a scene of one kind can start from one of another."""
    return source == target or (source, target) in BEGIN_TO_MOVE or target in SURFACES or target in SEEDED


def become(
    source: Scene, target: Scene, stream: torch.Generator, carve: Carve | None = None
) -> tuple[Scene, Kept | None]:
    """`target`, just built from its settings, takes over from `source`; and what was kept, unless nothing changed. A
    surface becomes a mesh without what `carve` knows to be empty."""
    kind = target.kind
    before = {name: value.shape for name, value in source.state_dict().items()}
    same = {name: value.shape for name, value in target.state_dict().items()} == before
    if isinstance(source, Painted) and isinstance(target, Painted):
        same = same and source.field == target.field
    moves = (source.kind, kind) in BEGIN_TO_MOVE
    if moves or (source.kind == kind and (same or kind in SEEDED or kind not in SURFACES)):
        target.load_state_dict(source.state_dict())
        return target, None
    made: Any = target
    if kind in SEEDED:
        count = made.settings.count
        if isinstance(source, Seeding):
            made = type(made)(made.settings, stream, source.seeds(count, stream))
        else:
            mesh = extract(source, RESOLUTION)
            spots = scattered(mesh.vertices, mesh.faces, count, stream)
            made = type(made)(made.settings, stream, on_surface(mesh, spots))
            lay_flat(made.params, torch.nn.functional.normalize(spots.read(mesh.normals), dim=-1))
        made = made.to(device_of(source))
    elif isinstance(made, Hollowing):
        made.adopt(source, stream, carve)
    else:
        made.adopt(source, stream)
    return made, compare(source, made)


def lay_flat(params: dict[str, Tensor], normals: Tensor) -> None:
    """Gaussians on a surface become opaque discs along it: turned so that their third axis is the normal, and thin."""
    x, y, z = normals.unbind(-1)
    turn = torch.stack([1 + z, -y, x, torch.zeros_like(z)], -1)  # from +Z to the normal, half-way
    over = z < -1 + 1e-6
    turn[over] = turn.new_tensor([0.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        params["quats"].copy_(torch.nn.functional.normalize(turn, dim=-1))
        params["log_scales"][:, 2] += math.log(THIN)
        params["logit_opacity"].clamp_(min=float(inverse_sigmoid(OPAQUE)))
