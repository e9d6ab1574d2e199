# SPDX-License-Identifier: Apache-2.0
"""The surface of a file as our renderer draws it, so that it can stand beside the scene that it was made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.safemath import safe_normalize
from dreamlab.core.types import Frames, Mesh, Scene, Textures, Track
from renderers.surface.draw import View, compose, look, vertex_normals
from renderers.surface.material import Coat
from renderers.surface.pictures import Drawable, fetch
from renderers.surface.views import device_of

CHUNK = 8  # views under light, drawn at once


@runtime_checkable
class Lit(Protocol):
    """A scene whose pictures show its material under a light."""

    def lit(self, view: View, made: Coat, normal: Tensor) -> Tensor:
        """[M, 3] sRGB of a material at the pixels of a view, under the light that the scene is looked at in."""


@dataclass(frozen=True)
class Viewed:
    """It renders as a scene does. Without `light` a picture shows the base colour itself."""

    mesh: Mesh
    light: Lit | None = None
    moves: Track | None = None

    @staticmethod
    def beside(scene: Scene, mesh: Mesh, moves: Track | None = None) -> Viewed:
        """Under the light that the scene is shown in, if it is, and where that light is; a material without textures
        was never meant for it."""
        if not isinstance(scene, Lit) or mesh.textures is None:
            return Viewed(mesh, None, moves)
        device = device_of(scene)
        return Viewed(mesh.to(device), scene, None if moves is None else moves.to(device))

    def render(self, cameras: Cameras, size: int, background: Tensor) -> Frames:
        device = self.mesh.vertices.device
        cameras, background = cameras.to(device), background.to(device)
        if self.moves is None or cameras.time is None:
            return self._drawn(self.mesh.vertices, cameras, size, background)
        parts = []
        for i, moment in enumerate(cameras.time.tolist()):
            some = slice(i, i + 1)
            parts.append(self._drawn(at(self.moves, moment), cameras[some], size, background[some]))
        return Frames.cat(parts)

    @cached_property
    def body(self) -> Drawable:
        return Drawable(self.mesh)

    def pictures(self, cameras: Cameras, size: int, background: Tensor) -> tuple[Tensor, Tensor]:
        """Colours and alpha alone, of many views at once where it stands still and is not lit."""
        if self.light is None and (self.moves is None or cameras.time is None):
            device = self.mesh.vertices.device
            return self.body.pictures(cameras.to(device), size, background.to(device))
        parts = [self.render(cameras[i : i + CHUNK], size, background[i : i + CHUNK])
                 for i in range(0, len(cameras), CHUNK)]  # fmt: skip
        return torch.cat([each.rgb for each in parts]), torch.cat([each.alpha for each in parts])

    def _drawn(self, vertices: Tensor, cameras: Cameras, size: int, background: Tensor) -> Frames:
        mesh, still = self.mesh, vertices is self.mesh.vertices
        body = self.body if still else Drawable(replace(mesh, vertices=vertices))
        surface, row = body.joined
        view = look(surface, cameras, size)
        normals = mesh.normals if still else vertex_normals(surface.vertices, surface.faces)[row]
        normal = safe_normalize(view.read(normals, mesh.faces))
        if self.light is None or mesh.textures is None or mesh.uv is None:
            return compose(view, body.base(view), normal, background)
        made, slope = coat(view, mesh, mesh.textures, mesh.uv)
        if slope is not None and mesh.tangents is not None and still:
            normal = bent(normal, view.read(mesh.tangents, mesh.faces), slope)
        return compose(view, self.light.lit(view, made, normal), normal, background)


def at(track: Track, moment: float) -> Tensor:
    """[N, 3] at a time in [0, 1], linear between keys."""
    times = track.times.tolist()
    i = next((i for i in range(len(times) - 1) if moment < times[i + 1]), len(times) - 1)
    if i + 1 == len(times):
        return track.points[-1]
    share = (moment - times[i]) / (times[i + 1] - times[i])
    return torch.lerp(track.points[i], track.points[i + 1], share)


def coat(view: View, mesh: Mesh, textures: Textures, uv: Tensor) -> tuple[Coat, Tensor | None]:
    """The material at the pixels of a view, and the tangent-space normal [M, 3] where there is a texture of it."""
    layers = [textures.base, textures.roughness, textures.metallic]
    read = fetch(view, mesh, uv, layers + ([] if textures.normal is None else [textures.normal]))
    return Coat(read[0], read[1], read[2], None), 2 * read[3] - 1 if len(read) > 3 else None


def bent(normal: Tensor, tangent: Tensor, slope: Tensor) -> Tensor:
    """[M, 3] of a tangent-space normal (glTF 3.9.3): across, up and out of the surface."""
    across = safe_normalize(tangent[:, :3] - normal * (normal * tangent[:, :3]).sum(-1, keepdim=True))
    up = torch.linalg.cross(normal, across) * tangent[:, 3:].sign()
    return safe_normalize(slope[:, :1] * across + slope[:, 1:2] * up + slope[:, 2:] * normal)
