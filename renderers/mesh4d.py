# SPDX-License-Identifier: Apache-2.0
"""A textured mesh that moves: the object stays as an earlier stage made it, and its motion learns (as Animate3D, Jiang
et al. 2024, arXiv:2407.11398, and DreamMesh4D, Li et al. 2024, arXiv:2410.06756, move a surface by few points of it).

What moves it is a deformation by control points, with all of it moving as one beneath them (`deform.whole`): a turn and
a shift over time, and one size and place. A model of clips shows things smaller where their motion needs room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard
from dreamlab.core.rotation import matrix
from dreamlab.core.schedules import Progress
from dreamlab.core.settings import setting
from dreamlab.core.types import Frames, Offer, ParamGroup, Training, Triangles
from renderers.gaussian.carried import Carriers
from renderers.gaussian.deform import Deformation, DeformSettings, stretch
from renderers.mesh import TexturedMesh
from renderers.surface.atlas import Atlas
from renderers.surface.draw import Surface, vertex_normals
from renderers.surface.tangents import tangents

NEIGHBOURS = 6  # of a control point, for `rigidity`
CARRIERS = 4  # corners that carry a point of the surface
TOUCHING = 1e-8  # square metres: a point as near as that is the corner


class MovingMesh(TexturedMesh):
    """Triangles with a material, and control points that move them over time."""

    kind: ClassVar[str] = "mesh4d"
    paper: ClassVar[str] = "Jiang et al. 2024, arXiv:2407.11398; Huang et al. 2023, arXiv:2312.14937"
    penalties: ClassVar[tuple[str, ...]] = ("smooth_material", "rigidity", "bending", "time_smooth")

    @dataclass(frozen=True)
    class Settings(TexturedMesh.Settings):
        deform: DeformSettings = field(default_factory=DeformSettings)
        frozen: bool = setting(True, help="only the motion is trained; else the material, too")
        opening: float = setting(
            0.4,
            low=0,
            high=1,
            help="deform.whole: part of the steps in which moments become free, from time 0 both ways",
        )

    settings: MovingMesh.Settings

    @classmethod
    def card(cls, settings: TexturedMesh.Settings) -> SceneCard:
        assert isinstance(settings, MovingMesh.Settings)
        s, plain = settings, super().card(settings)
        complaint = plain.complaint
        if s.deform.kind != "control":
            complaint = complaint or "deform.kind: control: a mesh is moved by points of it"
        if max(s.lr_vertices.values) > 0 or s.shading == "montecarlo" or s.bump > 0 or s.light_pictures:
            complaint = complaint or "a mesh that moves has no lr_vertices, bump, light_pictures or shading: montecarlo"
        return replace(plain, penalties=cls.penalties, moves=True, complaint=complaint)

    def _dress(self, surface: Surface, atlas: Atlas) -> None:
        super()._dress(surface, atlas)
        self.reach = 0.5  # moments as near to time 0, either way, are free
        corners = surface.vertices.detach()
        self.motion = Deformation(self.settings.deform, corners, self.generator)
        self.move({name: value.to(corners.device) for name, value in self.motion.params.items()})

    def move(self, state: Mapping[str, Tensor]) -> None:
        """By other control points; which of them moves a corner does not change while they learn."""
        self.motion.load(state)
        with torch.no_grad():
            self.skin = self.motion.skin(self.rest)

    def groups(self) -> Mapping[str, ParamGroup]:
        material = {} if self.settings.frozen else super().groups()
        return {**material, **{f"deform.{name}": group for name, group in self.motion.groups().items()}}

    # ---- the motion -------------------------------------------------------------------------------------------------
    def posed(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Corners [V, 3] at a time [], and how each is turned [V, 4] and grown [V, 3] there."""
        motion = self.motion.at(self.rest, time, self.skin)
        return self.rest + motion.shift, motion.turn, motion.grow.exp()

    def standing(self, cameras: Cameras) -> tuple[Surface, Tensor]:
        if cameras.time is None:
            corners = self.posed(self.rest.new_zeros(()))[0]
            return replace(self.surface, vertices=corners), vertex_normals(corners, self.surface.faces)
        vertices = torch.stack([self.posed(time)[0] for time in cameras.time])
        if self.reach < 0.5:
            near = (cameras.time - cameras.time.round()).abs() <= self.reach
            vertices = torch.where(near[:, None, None], vertices, vertices.detach())
        normals = torch.stack([vertex_normals(each, self.surface.faces) for each in vertices])
        return replace(self.surface, vertices=vertices), normals

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        self.reach = 0.5 if training is None else self.free(training.progress)
        if training is not None and cameras.time is None:  # of a guidance of still things: it is seen at time 0
            cameras = replace(cameras, time=cameras.fovy_deg.new_zeros(len(cameras)))
        frames = super().render(cameras, size, background, training)
        if training is None or cameras.time is None:
            return frames
        poses = [self.motion.poses(time) for time in cameras.time]
        shift, turn = (torch.stack(each) for each in zip(*poses, strict=True))
        return replace(frames, extra={**frames.extra, "shifts": shift, "turns": turn})

    def free(self, progress: Progress) -> float:
        """How far from time 0 moments are free. One that is half a turn away would be turned either way, or turn over:
        so those that have learnt their turn say where those after them begin."""
        s = self.settings
        if not s.deform.whole or progress.fraction >= s.opening:
            return 0.5
        first = 1 / (s.deform.moments - (not s.deform.loop))
        return first + (0.5 - first) * progress.fraction / s.opening

    def penalty(self, name: str, frames: Frames) -> Tensor:
        """rigidity: control points keep their distances, as rigid as possible; bending: how far they have gone
        themselves, of what all of it does; time_smooth: second differences of their ways."""
        if name == "time_smooth":
            return self.motion.roughness(name)
        if name == "bending":
            return frames.mean(torch.stack([each.square().sum(-1).mean() for each in frames.extra["shifts"]]))
        if name == "rigidity":
            anchors = self.motion.params["anchors"].detach()
            near = torch.cdist(anchors, anchors).topk(min(NEIGHBOURS + 1, len(anchors)), largest=False).indices[:, 1:]
            ways = zip(frames.extra["shifts"], frames.extra["turns"], strict=True)
            return frames.mean(torch.stack([stretch(anchors, anchors + shift, turn, near) for shift, turn in ways]))
        return super().penalty(name, frames)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> None:
        if not self.settings.frozen:
            super().adapt(progress, frames, healthy)
        if (reach := self.free(progress)) < 0.5:
            self.motion.go_on(reach)
        elif self.settings.deform.whole and self.settings.deform.one_way > 0:
            self.motion.keep_to_one_way()

    # ---- as an asset that moves -------------------------------------------------------------------------------------
    @property
    def loops(self) -> bool:
        return self.settings.deform.loop

    def follow(self, points: Tensor, times: Tensor) -> Tensor:
        """[T, V, 3] on the host: points go with the corners that are nearest to them at time 0."""
        from scipy.spatial import cKDTree

        with torch.no_grad():
            corners, turn, size = self.posed(self.rest.new_zeros(()))
            away, near = cKDTree(corners.double().cpu().numpy()).query(points.double().cpu().numpy(), k=CARRIERS)
            index = torch.from_numpy(near).to(corners.device)
            share = 1 / (torch.from_numpy(away).to(corners).square() + TOUCHING)
            apart = points.to(corners)[:, None] - corners[index]
            own = torch.einsum("vkji,vkj->vki", matrix(turn)[index], apart) / size[index]
            carried = Carriers(index, share / share.sum(1, keepdim=True), own)
            return torch.stack([carried.at(*self.posed(time.to(corners))).cpu() for time in times])

    def joints(self) -> Tensor | None:
        """Where the control points stand at time 0."""
        with torch.no_grad():
            anchors = self.motion.params["anchors"]
            return (anchors + self.motion.at(anchors, anchors.new_zeros(())).shift).cpu()

    def offer(self, resolution: int) -> Offer:
        """The surface at time 0 with its textures."""
        made = super().offer(resolution)
        assert isinstance(made, Triangles)
        source = self.atlas.source
        with torch.no_grad():
            corners = self.posed(self.rest.new_zeros(()))[0]
            normals = vertex_normals(corners, self.surface.faces)[source]
            along = tangents(corners[source], normals, self.atlas.uv, self.atlas.faces)
        return replace(made, mesh=replace(made.mesh, vertices=corners[source], normals=normals, tangents=along))

    def state_dict(self) -> dict[str, Tensor]:
        motion = {f"deform.{name}": value.detach() for name, value in self.motion.params.items()}
        return super().state_dict() | motion

    def _load(self, state: Mapping[str, Tensor]) -> None:
        """Also of a mesh that does not move yet."""
        mine = {name: value for name, value in state.items() if not name.startswith("deform.")}
        super()._load(mine)
        there = {name: state.get(f"deform.{name}", value) for name, value in self.motion.params.items()}
        self.move({name: value.to(self.rest.device) for name, value in there.items()})
