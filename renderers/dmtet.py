# SPDX-License-Identifier: Apache-2.0
"""Tetrahedral SDF (DMTet, Shen et al. 2021, arXiv:2111.04276): signed distance and offset per grid vertex.

The distance is negative inside. A vertex moves by at most half a cell, cell / 2 tanh(offset), so that no tetrahedron
turns over. Border vertices stay outside, so the surface is closed. Colour is a hash-grid field read where a pixel
sees the surface. Stages that draw normals (Fantasia3D, arXiv:2303.13873) set `shows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard
from dreamlab.core.errors import Diverged
from dreamlab.core.gather import taken
from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.schedules import Progress, Schedule, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Frames, Mesh, Offer, ParamGroup, Scene, Training, Triangles
from renderers.backing import GridSettings, backend_setting, backing
from renderers.surface.draw import Surface, compose, laplacian, look, normal_consistency, vertex_normals
from renderers.surface.extraction import extract
from renderers.surface.files import read_mesh
from renderers.surface.material import SurfaceField, groups_of
from renderers.surface.shapes import signed_distances
from renderers.surface.tets import KuhnGrid, place

SHOWS = ("color", "normal", "normal_mask")
STARTS = ("ellipsoid", "mesh")
COLOUR = "color."
SPECK = 0.003  # parts with less than this share of the largest one's vertices


class Extracted(NamedTuple):
    """The zero surface of a grid."""

    vertices: Tensor  # [N, 3]
    faces: Tensor  # [F, 3]
    normals: Tensor  # [N, 3]
    distances: Tensor  # [N, 2] at the ends of the edge that a vertex sits on, in cells


class DMTet:
    """A surface that may change its topology while it is optimised."""

    kind: ClassVar[str] = "dmtet"
    paper: ClassVar[str] = "Shen et al. 2021, arXiv:2111.04276"
    penalties: ClassVar[tuple[str, ...]] = ("normal_consistency", "laplacian", "sdf_sign")

    @dataclass(frozen=True)
    class Settings:
        resolution: int = setting(48, low=4, high=256, help="cubes per side, six tetrahedra each")
        extent: float = setting(1.0, above=0, high=10, help="half the side of the box")
        start: str = setting("ellipsoid", choices=STARTS)
        radii: tuple[float, float, float] = setting((0.6, 0.60001, 0.60002), above=0, help="of the ellipsoid")
        mesh: str = setting("", file="mesh", help="OBJ, GLB or PLY file to start from")
        shows: str = setting("color", choices=SHOWS, help="normal: over black; normal_mask: 4 channels, for latents")
        levels: int = setting(8, low=1, high=32, help="of the colour's hash grid")
        finest: int = setting(256, low=8, high=8192, help="cells per side of its last level")
        hashgrid: GridSettings = field(default_factory=GridSettings)
        backend: str = backend_setting()
        tidy: int = setting(50, low=0, help="steps between removals of specks and bubbles; 0: never")
        lr_sdf: Schedule = setting(ramp(0.01, 0.002, curve="exp"), low=0)
        lr_deform: Schedule = setting(ramp(0.02, 0.005, curve="exp"), low=0)
        lr_table: Schedule = setting(constant(0.02), low=0)
        lr_network: Schedule = setting(constant(0.005), low=0)

    @classmethod
    def card(cls, settings: Settings) -> SceneCard:
        s, grid = settings, _colours(settings)
        lost = s.start == "mesh" and not s.mesh
        shape = (s.levels, grid.features, grid.log2_entries, grid.base_resolution, s.finest)
        return SceneCard(
            cls.penalties,
            normals=True,
            backing=(backing(s.backend, "raster", "interpolate", "antialias", "hashgrid"),),
            complaint="start: mesh needs `mesh: FILE`" if lost else s.hashgrid.complaint(s.backend, shape),
        )

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        self.settings = settings
        self.grid = KuhnGrid(settings.resolution, settings.extent)
        self.field = _colours(settings)
        shape = read_mesh(settings.mesh) if settings.start == "mesh" else None
        points, radii = self.grid.vertices(), settings.radii
        sdf = ellipsoid(points, radii) if shape is None else signed_distances(shape, points)
        self._own(
            {"sdf": sdf, "deform": torch.zeros(self.grid.count, 3)}
            | {COLOUR + name: value for name, value in self.field.start(generator).items()}
        )
        if shape is not None:
            self._learn(shape, generator)

    def _own(self, params: Mapping[str, Tensor]) -> None:
        self.params = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        self._border = self.grid.border(self.params["sdf"].device)

    def to(self, device: torch.device | str) -> Self:
        self._own({name: value.detach().to(device) for name, value in self.params.items()})
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        s, p = self.settings, self.params
        shape = {"sdf": ParamGroup(p["sdf"], s.lr_sdf), "deform": ParamGroup(p["deform"], s.lr_deform)}
        return shape | groups_of(self._colour_params(), s.lr_table, s.lr_network, COLOUR)

    def _colour_params(self) -> dict[str, Tensor]:
        return {name.removeprefix(COLOUR): value for name, value in self.params.items() if name.startswith(COLOUR)}

    def distance(self) -> Tensor:
        """[V] with the border held outside."""
        sdf = self.params["sdf"]
        return torch.where(self._border, sdf.clamp(min=0.1 * self.grid.cell), sdf)

    def surface(self) -> Extracted:
        """The zero surface now; differentiable in distances and offsets."""
        sdf = self.distance()
        edges, faces = self.grid.cross(sdf.detach())
        ends = self.grid.points(edges) + 0.5 * self.grid.cell * taken(self.params["deform"], edges).tanh()
        distances = taken(sdf, edges)
        vertices = place(ends, distances)
        return Extracted(vertices, faces, vertex_normals(vertices, faces), distances / self.grid.cell)

    def colour(self, points: Tensor) -> Tensor:
        """[N, 3] sRGB at points of the surface."""
        return self.field(self._colour_params(), points, self.settings.backend).sigmoid()

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        shown = self.surface()
        latent = self.settings.shows == "normal_mask" and training is not None  # four channels are for training only
        if self.settings.shows != "color":
            background = background.new_zeros(len(background), 4 if latent else 3)
        if not len(shown.faces):
            return self._nothing(len(cameras), size, background)
        view = look(Surface.of(shown.vertices, shown.faces), cameras, size, self.settings.backend)
        normal = torch.nn.functional.normalize(view.read(shown.normals), dim=-1)
        if self.settings.shows == "color":
            rgb = self.colour(view.points)
        elif latent:
            rgb = torch.cat([normal, torch.ones_like(normal[:, :1])], 1)
        else:
            rgb = (normal + 1) / 2
        return replace(compose(view, rgb, normal, background), extra=shown._asdict())

    def _nothing(self, views: int, size: int, background: Tensor) -> Frames:
        """An empty grid shows the background, still connected to the parameters."""
        zero = sum((value.sum() * 0 for value in self.params.values()), background.new_zeros(()))
        empty = background.new_zeros(views, size, size, 1)
        rgb = background[:, None, None].expand(-1, size, size, -1) + zero
        return Frames(rgb, empty + zero, empty, background, empty.expand(-1, -1, -1, 3))

    def penalty(self, name: str, frames: Frames) -> Tensor:
        if not frames.extra:
            return frames.rgb.new_zeros(())
        shown = Extracted(**frames.extra)
        if name == "normal_consistency":
            return normal_consistency(shown.normals, shown.faces)
        return laplacian(shown.vertices, shown.faces) if name == "laplacian" else sign_agreement(shown.distances)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> None:
        """Every `tidy` steps specks and bubbles change sides: no picture pulls on them enough. A GPU waits then."""
        every = self.settings.tidy
        if every and progress.step % every == every - 1:
            with torch.no_grad():
                sdf = self.params["sdf"]
                sdf.copy_(torch.where(healthy & self.grid.lonely(self.distance(), SPECK), -sdf, sdf))

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = self.params["sdf"].device
        self._own({name: state[name].to(device) for name in self.params})

    def _refine(self, source: DMTet) -> None:
        """From a grid of half the resolution: the surface stays where it is."""
        with torch.no_grad():
            self.params["sdf"].copy_(source.grid.refine(source.distance())[1])
            # Offsets are counted in half cells, and the cells are half as large: what is more than one is cut off.
            offset = 2 * source.grid.refine(source.params["deform"].tanh())[1]
            self.params["deform"].copy_(offset.clamp(-0.95, 0.95).atanh())
            for name, value in source._colour_params().items():
                self.params[COLOUR + name].copy_(value)

    def adopt(self, source: Scene, stream: torch.Generator) -> None:
        """Take the surface and the colours of another scene; from a grid of half the resolution exactly."""
        if isinstance(source, DMTet) and source.field == self.field:
            if source.grid.resolution == self.grid.resolution:
                return self.load_state_dict(source.state_dict())
            if 2 * source.grid.resolution == self.grid.resolution:
                return self._refine(source)
        shape = extract(source, max(self.settings.resolution, 64))
        sdf = signed_distances(shape, self.grid.vertices())
        self.params["sdf"].data.copy_(sdf.to(self.params["sdf"]))
        self.params["deform"].data.zero_()
        return self._learn(shape, stream)

    def _learn(self, shape: Mesh, stream: torch.Generator) -> None:
        """The colours of a surface's vertices."""
        colours = {name: value.detach().clone() for name, value in self._colour_params().items()}
        raw = inverse_sigmoid(shape.colours.clamp(0.004, 0.996)).to(self.params["sdf"])
        self.field.learn(colours, shape.vertices.to(raw), raw, 150, stream)
        for name, value in colours.items():
            self.params[COLOUR + name].data.copy_(value.detach())

    def offer(self, resolution: int) -> Offer:
        """The surface itself; `resolution` is the grid's and cannot be chosen here."""
        with torch.no_grad():
            shown = self.surface()
            if not len(shown.faces):
                raise Diverged("empty geometry: the distance has one sign everywhere; train longer or lower lr_sdf")
            return Triangles(Mesh(shown.vertices, shown.faces, self.colour(shown.vertices), shown.normals))


def _colours(s: DMTet.Settings) -> SurfaceField:
    """The field of a grid's colours."""
    layout, growth = s.hashgrid.layout, s.hashgrid.growth
    return SurfaceField(
        3, levels=s.levels, finest_resolution=s.finest, extent=s.extent, layout=layout, growth=growth
    )  # fmt: skip


def ellipsoid(points: Tensor, radii: tuple[float, float, float]) -> Tensor:
    """[V] first-order distance to an ellipsoid: f (f - 1) / |grad f| with f = |p / r|; exact for a sphere."""
    scale = points.new_tensor(radii)
    f, slope = (points / scale).norm(dim=-1), (points / scale.square()).norm(dim=-1)
    return torch.where(slope > 1e-9, f * (f - 1) / slope.clamp(min=1e-9), -scale.min())


def sign_agreement(distances: Tensor) -> Tensor:
    """Mean over crossed edges [N, 2] of the cross entropy of each end's distance with the other end's sign.

    Nvdiffrec (Munkberg et al. 2022, arXiv:2111.12503), eq. 2: pulls needless sign changes, floaters and caves away.
    """
    outside = (distances.detach() > 0).to(distances)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return loss(distances[:, 0], outside[:, 1]) + loss(distances[:, 1], outside[:, 0])
