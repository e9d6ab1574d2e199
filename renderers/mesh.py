# SPDX-License-Identifier: Apache-2.0
"""A mesh whose material is optimised: hash grid or textures, flat or physically based, under light. Its triangles stay
what they are; with `lr_vertices` their corners move, by what silhouettes and colours ask.

The shape comes from an earlier stage (`from:`) or from a file; of an `asset` the texture coordinates stay, too. `flat`
shows the base colour; `lamp` lights it as the procedural world does; `pbr` shades in linear light by the split sum;
`montecarlo` does it by sampling, with shadows.
Training draws one of `lights` per view, looking takes the first (Fantasia3D, arXiv:2303.13873; DreamMat,
arXiv:2405.17176).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from cuda_ext.packages import for_op
from cuda_ext.texture import texture
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard
from dreamlab.core.safemath import linear_to_srgb, safe_normalize, srgb_to_linear
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import FILES, setting
from dreamlab.core.streams import by_view
from dreamlab.core.text import did_you_mean
from dreamlab.core.triangles import areas
from dreamlab.core.types import (
    Carve,
    Dressing,
    Facing,
    Frames,
    Mesh,
    Offer,
    ParamGroup,
    Scene,
    Textures,
    Training,
    Triangles,
)
from renderers.backing import GridSettings, backend_setting, backing
from renderers.light.environment import ENVIRONMENTS, environment
from renderers.light.lamp import shade as lamp_shade
from renderers.light.lamp import unlit
from renderers.light.montecarlo import Draws, shade_montecarlo
from renderers.light.pbr import Material
from renderers.light.rays import Boxes
from renderers.light.split_sum import Lighting, shade
from renderers.surface.atlas import METHODS, Atlas, unwrap
from renderers.surface.bake import CHUNK, Texels, project, texels
from renderers.surface.canvas import OwnCanvas
from renderers.surface.clean import fewer_faces
from renderers.surface.denoise import denoised
from renderers.surface.draw import Neighbours, Surface, View, compose, look, normal_consistency, vertex_normals
from renderers.surface.emptied import Emptied, emptied, from_above, led
from renderers.surface.extraction import extract
from renderers.surface.finish.repair import repaired
from renderers.surface.finish.simplify import LEAST, SPARE, decimated
from renderers.surface.material import Coat, Ranges, SurfaceField, groups_of
from renderers.surface.regions import regions
from renderers.surface.shapes import starting_shape
from renderers.surface.stretch import read_canvas
from renderers.surface.tangents import tangents
from renderers.surface.views import all_around, device_of, shown

MATERIALS = ("texture", "hash")
SHADINGS = ("flat", "lamp", "pbr", "montecarlo")
BY_ITSELF = ("flat", "lamp")  # shadings that need no environment
PENALTY_POINTS = 4096
LEARNT = 200  # steps of a hash grid on what its surface shall look like
# (metallic, roughness) of the white surface in a light picture, DreamMat (Zhang et al. 2024, arXiv:2405.17176)
BARE = ((0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (1.0, 0.0), (1.0, 0.5), (1.0, 1.0))
SPREAD = 12  # rounds over which a corner's step is spread: some three edges wide
FILL = 10  # steps between fillings of what no chart covers
PAINT_VIEWS, PAINT_SIZE = 36, 192  # pictures that a surface is painted with
MATTE = 0.9  # roughness of what is not known to be anything else
SEEN = (0.05, 0.95)  # colours that an asset may begin with: farther out a sigmoid hardly learns
Paint = Callable[[Tensor, Tensor, Tensor], Tensor]  # points, normals, colours of the vertices there -> base colours
SHAPE = ("vertices", "faces", "uv", "uv_faces", "uv_source")
LED = "shape.led"


class TexturedMesh:
    """Triangles, and a material that learns; their corners learn too if they may."""

    kind: ClassVar[str] = "mesh"
    paper: ClassVar[str] = "Chen et al. 2023, arXiv:2303.13873; Zhang et al. 2024, arXiv:2405.17176"
    penalties: ClassVar[tuple[str, ...]] = ("smooth_material", "laplacian", "normal_consistency")
    hollows: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings:
        file: str = setting("", file="mesh", help="OBJ, GLB or PLY to start from, instead of `from:`")
        asset: str = setting("", file="asset", help="a mesh that is painted at its own texture coordinates, as it is")
        faces: int = setting(20_000, low=8, high=2_000_000, help="at most, after simplifying what it is made from")
        resolution: int = setting(96, low=8, high=512, help="of the grid that another scene's surface is found on")
        unwrap: str = setting("auto", choices=METHODS, help="texture coordinates; auto: uvunwrap when installed")
        material: str = setting("texture", choices=MATERIALS)
        texture: int = setting(512, low=16, high=8192, help="texels per side, also of exported textures")
        levels: int = setting(12, low=1, high=32, help="of the hash grid")
        finest: int = setting(512, low=8, high=8192, help="cells per side of its last level")
        hashgrid: GridSettings = field(default_factory=GridSettings)
        backend: str = backend_setting()
        shading: str = setting("flat", choices=SHADINGS)
        lights: tuple[str, ...] = setting(("studio",), file="light", help="environments by name, or .hdr or .exr files")
        samples: int = setting(32, low=1, high=4096, help="montecarlo: from the light, and as many from the material")
        specular: float = setting(1.0, low=0, high=1, help="of the parts that are not metal; 0 is chalk")
        roughness: tuple[float, float] = setting((0.08, 0.95), low=0.045, high=1, help="lowest and highest")
        metallic: tuple[float, float] = setting((0.0, 0.95), low=0, high=1, help="lowest and highest")
        bump: float = setting(0.0, low=0, high=1, help="how far a normal may bend; 0: no normal texture")
        light_pictures: bool = setting(False, help="also render the bare surface, for a model that is told the light")
        lr_table: Schedule = setting(constant(0.02), low=0)
        lr_network: Schedule = setting(constant(0.005), low=0)
        lr_texture: Schedule = setting(constant(0.05), low=0)
        lr_vertices: Schedule = setting(constant(0.0), low=0, help="metres a step; 0: the shape stays")

    @classmethod
    def card(cls, settings: Settings) -> SceneCard:
        s = settings
        dark = s.shading not in BY_ITSELF and not s.lights
        complaint = f"shading: {s.shading} needs at least one of `lights`" if dark else ""
        complaint = "file and asset are two shapes; leave out one" if s.file and s.asset else complaint
        unknown = [name for name in s.lights if name not in ENVIRONMENTS and not FILES["light"](name)]
        for name in unknown if s.shading not in BY_ITSELF else ():
            complaint = f"lights: {name!r} is no .hdr or .exr file{did_you_mean(name, ENVIRONMENTS)}"
        ops = ["raster", "interpolate", "antialias", "texture"]
        if s.material == "hash":
            grid = _skin(s, 5)
            shape = (s.levels, grid.features, grid.log2_entries, grid.base_resolution, s.finest)
            ops, complaint = [*ops, "hashgrid"], complaint or s.hashgrid.complaint(s.backend, shape)
        if _moves(s) and (s.shading == "montecarlo" or s.asset):
            complaint = complaint or "lr_vertices: an asset, and shading: montecarlo, need a shape that stays"
        if s.light_pictures and s.shading == "flat":
            complaint = complaint or "light_pictures: there is no light in flat shading; set shading: pbr or montecarlo"
        made_of = (backing(s.backend, *ops),)
        return SceneCard(cls.penalties, normals=True, lights=s.light_pictures, backing=made_of, complaint=complaint)

    def __init__(self, settings: Settings, generator: torch.Generator) -> None:
        self.settings, self.generator = settings, generator
        self.ranges = Ranges(settings.roughness, settings.metallic)
        self.channels = 8 if settings.bump > 0 else 5
        self.field = _skin(settings, self.channels)
        pictures = [] if settings.shading in BY_ITSELF else [environment(name) for name in settings.lights]
        self.light = Lighting.of(pictures) if pictures else None
        if settings.asset:
            self.wear_own(read_canvas(Path(settings.asset)))
        else:
            self.wear(starting_shape(settings.file, settings.faces))

    def wear_own(self, canvas: OwnCanvas) -> None:
        """A user's surface with its own coordinates; its material begins as the file has it."""
        self._dress(Surface.of(canvas.mesh.vertices, canvas.mesh.faces), canvas.atlas)
        at = texels(self.atlas, self.settings.texture)
        uv = at.read(self.atlas.uv, self.atlas.faces)[None, None]
        made = texture(canvas.start.float() / 255, uv, boundary="clamp")[0, 0]
        raw = self.ranges.raw(made[:, :3].clamp(*SEEN), made[:, 3:4], made[:, 4:5], self.channels)
        self._start(at, at.read(canvas.mesh.vertices, self.surface.faces), raw)

    def wear(self, mesh: Mesh, paint: Paint | None = None) -> None:
        """Take a shape. Its material begins with what `paint` says of points [M, 3] and normals [M, 3] of the surface
        (base colours [M, 3] sRGB), without it with the colours of its vertices."""
        surface = Surface.of(mesh.vertices, mesh.faces)
        self._dress(surface, unwrap(mesh.vertices, mesh.faces, self.settings.texture, self.settings.unwrap))
        at = texels(self.atlas, self.settings.texture)
        points = at.read(surface.vertices, surface.faces)
        base = at.read(mesh.colours, surface.faces)
        if paint is not None:
            base = paint(points, self._facing(at), base)
        lamp = self.settings.shading == "lamp"
        if lamp:
            base = linear_to_srgb(unlit(srgb_to_linear(base), self._facing(at)))
        metallic = 0.0 if self.settings.shading in BY_ITSELF else 0.3  # unknown: not far from either end
        self._start(at, points, self.ranges.raw(base, MATTE if lamp else 0.5, metallic, self.channels))

    def _facing(self, at: Texels) -> Tensor:
        """[M, 3] the normals at texels."""
        return torch.nn.functional.normalize(at.read(self.normals, self.surface.faces), dim=-1)

    def _start(self, at: Texels, points: Tensor, raw: Tensor) -> None:
        """Parameters whose raw numbers at texels are `raw` [M, channels]."""
        if self.settings.material == "texture":
            self.params = {"texture": at.picture(raw).detach().clone().requires_grad_()}
        else:
            self.params = {name: value.to(points.device) for name, value in self.field.start(self.generator).items()}
            area = areas(self.surface.vertices, self.surface.faces).sum()
            self.field.learn(self.params, points, raw, LEARNT, self.generator, float(area / len(points)) ** 0.5)
        if _moves(self.settings):
            self.params["shift"] = torch.zeros_like(self.rest).requires_grad_()

    def corners(self) -> Tensor:
        """[V, 3] where they are now: what they have learnt, spread over their neighbours, so that noise of a picture
        moves no single one (as Nicolet et al. 2021 precondition; here the mean of a corner and those around it)."""
        if "shift" not in self.params:
            return self.rest
        moved = self.around.spread(self.params["shift"], SPREAD)
        return self.rest + (moved if self.led is None else moved[self.led])

    def adopt(self, source: Scene, stream: torch.Generator, carve: Carve | None = None) -> None:
        """Take another scene's surface, without what `carve` knows to be empty, painted with what pictures of it show
        from all around; another mesh's with its material, which no light has touched."""
        del stream  # nothing here is random
        if isinstance(source, TexturedMesh):
            return self._inherit(source)
        moves, most, size = _moves(self.settings), self.settings.faces, self.settings.resolution
        taken = Emptied(extract(source, size), None, 0.0) if carve is None else emptied(source, size, carve)
        shape = prepared(taken.mesh, most) if moves else fewer_faces(taken.mesh, most)
        new, device, cameras = taken.new(shape.vertices), device_of(source), all_around(PAINT_VIEWS)
        if bool(new.any()):  # what pictures show from below is no inside that anybody has asked for
            cameras = from_above(cameras)
        cameras = cameras.to(device)

        def paint(points: Tensor, normals: Tensor, fallback: Tensor) -> Tensor:
            arguments = (self.surface, points, normals, cameras, PAINT_SIZE, shown(source, PAINT_SIZE))
            colours, seen = project(*arguments)
            trust = (seen / 0.05).clamp(max=1)
            return (trust * colours + (1 - trust) * fallback).clamp(0, 1)

        self.wear(shape.to(device), paint)
        if moves and bool(new.any()):
            self.led = led(self.rest, new.to(device))

    def _inherit(self, source: TexturedMesh) -> None:
        """State for state where the sizes agree; else base colour, roughness and metallic, read at the new texels."""
        mine, theirs = ({name: value.shape for name, value in each.params.items()} for each in (self, source))
        freed = self.settings.shading == "lamp" != source.settings.shading
        if mine == theirs and source.field == self.field and not freed:
            return self.load_state_dict(source.state_dict())
        self._dress(source.surface, source.atlas)
        at = texels(self.atlas, self.settings.texture)
        points, uv = at.read(self.surface.vertices, self.surface.faces), at.read(self.atlas.uv, self.atlas.faces)
        made = source.textures()
        kept = torch.cat([made.base, made.roughness, made.metallic], -1).to(points)
        base, roughness, metallic = texture(kept, uv[None, None], boundary="clamp")[0, 0].split([3, 1, 1], -1)
        if freed:
            base = linear_to_srgb(unlit(srgb_to_linear(base), self._facing(at)))
        return self._start(at, points, self.ranges.raw(base, roughness, metallic, self.channels))

    led: Tensor | None  # [V] whose way each corner goes; None: its own

    def _dress(self, surface: Surface, atlas: Atlas) -> None:
        """What follows from the shape alone."""
        self.surface, self.atlas, self.led = surface, atlas, None
        self.__dict__.pop("around", None)
        self.rest = surface.vertices
        self._frame()
        textured = self.settings.material == "texture"
        self.nearest = texels(atlas, self.settings.texture).nearest() if textured else None
        self.boxes = Boxes.over(surface.vertices, surface.faces) if self.settings.shading == "montecarlo" else None

    def _settle(self) -> None:
        """The surface is where its corners have moved to."""
        if "shift" in self.params:
            self.surface = replace(self.surface, vertices=self.corners().detach())
            self._frame()

    def _frame(self) -> None:
        """Normals of the corners where they are; tangents when somebody asks: training without bumps never does."""
        self.normals = vertex_normals(self.surface.vertices, self.surface.faces)
        self.__dict__.pop("tangents", None)

    @cached_property
    def tangents(self) -> Tensor:
        """[uv, 4] of the corners where they are."""
        source = self.atlas.source
        return tangents(self.surface.vertices[source], self.normals[source], self.atlas.uv, self.atlas.faces)

    def to(self, device: torch.device | str) -> Self:
        self.light = None if self.light is None else self.light.to(device)
        self._load({name: value.to(device) for name, value in self.state_dict().items()})
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        s, coat = self.settings, {name: value for name, value in self.params.items() if name != "shift"}
        shape = {"shift": ParamGroup(self.params["shift"], s.lr_vertices)} if _moves(s) else {}
        if s.material == "texture":
            return {"texture": ParamGroup(coat["texture"], s.lr_texture)} | shape
        return groups_of(coat, s.lr_table, s.lr_network, "") | shape

    def material(self, view: View, shift: Tensor | None = None) -> Coat:
        """At the pixels that a view covers; `shift` [M, 3] reads beside them (hash grid only)."""
        if self.settings.material == "hash":
            points = view.points if shift is None else view.points + shift
            return self.ranges.coat(self.field(self.params, points, self.settings.backend), self.settings.bump)
        uv, slope = view.texture_coordinates(self.atlas.uv, self.atlas.faces)
        raw = texture(
            self.params["texture"], uv[None, None], uv_dxy=slope[None, None], boundary="clamp", max_level=4,
            backend=for_op(self.settings.backend, "texture"),
        )  # fmt: skip
        return self.ranges.coat(raw[0, 0], self.settings.bump)

    def bent(self, view: View, bump: Tensor | None, normals: Tensor | None = None) -> Tensor:
        """[M, 3] shading normals: a texture bends in tangent space, a hash grid in the world, along the surface."""
        normal = torch.nn.functional.normalize(view.read(self.normals if normals is None else normals), dim=-1)
        if bump is None:
            return normal
        if self.settings.material == "hash":
            along = bump - normal * (normal * bump).sum(-1, keepdim=True)
            return safe_normalize(normal + along)
        across, up = _tangent_frame(normal, view.read(self.tangents, self.atlas.faces))
        return safe_normalize(normal + bump[:, :1] * across + bump[:, 1:2] * up)

    def standing(self, cameras: Cameras) -> tuple[Surface, Tensor]:
        """The surface as cameras see it, and the normals of its corners."""
        if not _moves(self.settings):
            return self.surface, self.normals
        surface = replace(self.surface, vertices=self.corners())
        return surface, vertex_normals(surface.vertices, surface.faces)

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        surface, normals = self.standing(cameras)
        view = look(surface, cameras, size, self.settings.backend)
        made = self.material(view)
        normal = self.bent(view, made.bump, normals)
        stream = torch.Generator(view.hit.device).manual_seed(0) if training is None else training.stream
        extra = {} if training is None else self._nearby(stream)
        which = torch.zeros(len(cameras), dtype=torch.int64, device=view.hit.device)
        if training is not None:
            one_of = functools.partial(torch.randint, len(self.settings.lights))
            which = by_view(one_of, len(which), stream=stream).to(which)
        rgb, lit = made.base, which[view.hit // size**2]
        if self.settings.shading != "flat":
            rgb = self.shaded(view, made, normal, lit, stream)
        if self.settings.light_pictures:
            extra["lights"] = self.bare(view, lit, stream)
        return replace(compose(view, rgb, normal, background), extra=extra)

    def lit(self, view: View, made: Coat, normal: Tensor) -> Tensor:
        """[M, 3] sRGB of another material at the pixels of a view, as pictures for looking show it: the first light."""
        if self.settings.shading == "flat":
            return made.base
        first = torch.zeros(len(view.hit), dtype=torch.int64, device=view.hit.device)
        return self.shaded(view, made, normal, first, torch.Generator(view.hit.device).manual_seed(0))

    def shaded(self, view: View, made: Coat, normal: Tensor, which: Tensor, stream: torch.Generator) -> Tensor:
        """[M, 3] sRGB."""
        points = view.points.detach()
        material = Material(srgb_to_linear(made.base), made.roughness, made.metallic)
        to_eye, s = view.to_eye(points), self.settings
        if s.shading == "lamp":
            return linear_to_srgb(lamp_shade(material, normal, to_eye).clamp(0, 1))
        assert self.light is not None
        if s.shading == "montecarlo":
            samples = Draws(s.samples, s.samples)
            arguments = (self.light, material, points, normal, to_eye, which, self.boxes, stream, samples, s.specular)
            linear = shade_montecarlo(*arguments)
        else:
            how = for_op(s.backend, "texture")
            linear = shade(self.light, material, normal, to_eye, which, s.specular, how)
        return linear_to_srgb(linear.clamp(0, 1))

    def bare(self, view: View, lit: Tensor, stream: torch.Generator) -> Tensor:
        """[B, H, W, 18] the surface in white under the same light, of each of BARE, over black."""
        with torch.no_grad():
            white, one = (
                torch.ones(len(view.hit), 3, device=lit.device),
                torch.ones(len(view.hit), 1, device=lit.device),
            )
            normal = self.bent(view, None)
            coats = [Coat(white, rough * one, metal * one, None) for metal, rough in BARE]
            shown = torch.cat([self.shaded(view, coat, normal, lit, stream) for coat in coats], 1)
            return view.over(shown, shown.new_zeros(len(view.cameras), shown.shape[1]))

    def penalty(self, name: str, frames: Frames) -> Tensor:
        """Material smoothness (DreamMat): base colour x 0.25, roughness and metallic x 0.1, against places nearby; and
        of a shape that moves, as of tetrahedra, how rough it is."""
        if name != "smooth_material":
            vertices, faces = self.corners(), self.surface.faces
            if name == "laplacian":
                return self.around.roughness(vertices)
            return normal_consistency(vertex_normals(vertices, faces), faces)
        if self.settings.material == "texture":
            image = self.params["texture"][..., :5].sigmoid()
            change = (image[1:] - image[:-1]).abs().mean((0, 1)) + (image[:, 1:] - image[:, :-1]).abs().mean((0, 1))
            return (change * image.new_tensor([0.25, 0.25, 0.25, 0.1, 0.1])).sum()
        points, shift = frames.extra["points"], frames.extra["shift"]
        read = (self.field(self.params, p, self.settings.backend) for p in (points, points + shift))
        here, there = (self.ranges.coat(raw, 0.0) for raw in read)
        finish = (here.roughness - there.roughness).abs().mean() + (here.metallic - there.metallic).abs().mean()
        return 0.25 * (here.base - there.base).abs().mean() + 0.1 * finish

    def _nearby(self, stream: torch.Generator) -> dict[str, Tensor]:
        """Points of the surface and steps away from them, for the penalty."""
        vertices, faces = self.surface.vertices, self.surface.faces
        rows = torch.randint(len(faces), (PENALTY_POINTS,), generator=stream, device=stream.device)
        shift = torch.randn(PENALTY_POINTS, 3, generator=stream, device=stream.device)
        return {"points": vertices[faces[rows.to(faces.device)]].mean(1), "shift": 0.05 * shift.to(vertices)}

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> None:
        """Where corners have moved, what follows from their places. Now and then texels outside all charts take the
        nearest value inside: filters let traces of gradient reach them, which Adam follows at full rate, and seams
        would show."""
        self._settle()
        if self.nearest is not None and (progress.step % FILL == FILL - 1 or progress.step == progress.total - 1):
            with torch.no_grad():
                image = self.params["texture"]
                filled = image.flatten(0, 1)[self.nearest].reshape(image.shape)
                image.copy_(torch.where(healthy, filled, image))

    def state_dict(self) -> dict[str, Tensor]:
        shape = (self.rest, self.surface.faces, *self.atlas)
        kept = dict(zip((f"shape.{name}" for name in SHAPE), shape, strict=True))
        kept |= {} if self.led is None else {LED: self.led}
        return kept | {name: value.detach() for name, value in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Any shape: a checkpoint's is not the recipe's start. It goes where this scene is."""
        device = self.surface.vertices.device
        self._load({name: value.to(device) for name, value in state.items()})

    def _load(self, state: Mapping[str, Tensor]) -> None:
        """Where the state is."""
        vertices, faces, uv, uv_faces, source = (state[f"shape.{name}"] for name in SHAPE)
        self._dress(Surface.of(vertices, faces), Atlas(uv, uv_faces, source))
        self.led = state.get(LED)
        names = [name for name in state if not name.startswith("shape.")]
        self.params = {name: state[name].detach().clone().requires_grad_() for name in names}
        self._settle()

    @cached_property
    def around(self) -> Neighbours:
        """Of the corners; triangles stay what they are."""
        return Neighbours.of(self.surface.faces, len(self.surface.vertices))

    def textures(self) -> Textures:
        """The material as pictures, whichever way it is kept."""
        size = self.settings.texture
        with torch.no_grad():
            if self.settings.material == "texture":
                made = self.ranges.coat(self.params["texture"].flatten(0, 1), self.settings.bump)
                pictures = [None if value is None else value.reshape(size, size, -1) for value in made]
            else:
                at = texels(self.atlas, size)
                points = at.read(self.surface.vertices, self.surface.faces)
                made = self.ranges.coat(self.field(self.params, points), self.settings.bump)
                if made.bump is not None:
                    made = made._replace(bump=self._to_tangent(at, made.bump))
                pictures = [None if value is None else at.picture(value) for value in made]
            base, roughness, metallic, bump = pictures
            assert base is not None and roughness is not None and metallic is not None
            return Textures(base, roughness, metallic, None if bump is None else _packed(bump))

    def _to_tangent(self, at: Texels, bump: Tensor) -> Tensor:
        """Bends in the world, at texels, as bends along tangent and bitangent."""
        normal = torch.nn.functional.normalize(at.read(self.normals, self.surface.faces), dim=-1)
        across, up = _tangent_frame(normal, at.read(self.tangents, self.atlas.faces))
        return torch.stack([(bump * across).sum(-1), (bump * up).sum(-1)], -1)

    def regions(self) -> Tensor:
        """[F] triangles of like base colour, freed of its light where that is painted on."""
        surface, atlas = self.surface, self.atlas
        middle = atlas.uv[atlas.faces].mean(1)
        base = texture(self.textures().base, middle[None, None], boundary="clamp")[0, 0]
        if self.settings.shading == "flat":
            facing = torch.nn.functional.normalize(self.normals[surface.faces].mean(1), dim=-1)
            base = linear_to_srgb(unlit(srgb_to_linear(base), facing))
        return regions(surface.vertices, surface.faces, surface.neighbours, base)

    def watched(self, cameras: Cameras, size: int) -> Facing:
        """Where it is seen, and how it faces the eye."""
        view = look(self.surface, cameras, size, self.settings.backend)
        face = view.raster.triangle.reshape(-1)[view.hit].long() - 1
        return Facing(view.hit, face, self.bent(view, None), view.to_eye(view.points))

    def finish(self, found: Dressing, cameras: Cameras | None = None, bare: Frames | None = None) -> None:
        """Roughness and metallic of each region; base colours are tinted, and where pictures show them bare, theirs."""
        at = texels(self.atlas, self.settings.texture)
        points = at.read(self.surface.vertices, self.surface.faces)
        uv = at.read(self.atlas.uv, self.atlas.faces)[None, None]
        which = found.region[at.raster.triangle.reshape(-1).long() - 1]
        base = texture(self.textures().base, uv, boundary="clamp")[0, 0]
        base = linear_to_srgb((srgb_to_linear(base) * found.tint[which]).clamp(0, 1))
        if cameras is not None and bare is not None:
            shots = iter(bare.take(range(i, min(i + CHUNK, len(cameras)))) for i in range(0, len(cameras), CHUNK))
            arguments = (self.surface, points, self._facing(at), cameras, bare.rgb.shape[1], lambda _: next(shots))
            shown, seen = project(*arguments)
            trust = (seen / 0.05).clamp(max=1)
            base = trust * shown + (1 - trust) * base
        known = (base, found.roughness[which, None], found.metallic[which, None])
        raw = self.ranges.raw(*known, self.channels, margin=1e-4)
        if self.settings.material == "texture":
            with torch.no_grad():
                self.params["texture"].copy_(at.picture(raw))
        else:
            self.field.learn(self.params, points, raw, LEARNT, self.generator)

    def offer(self, resolution: int) -> Offer:
        """The shape with its textures, all of it: seams repeat vertices, so that charts would pass for parts.
        `resolution` is of no meaning here."""
        textures, atlas = self.textures(), self.atlas
        colours = texture(textures.base, atlas.uv[None, None], boundary="clamp")[0, 0]
        vertices, normals = self.surface.vertices[atlas.source], self.normals[atlas.source]
        return Triangles(Mesh(vertices, atlas.faces, colours, normals, atlas.uv, self.tangents, textures), whole=True)


def prepared(shape: Mesh, faces: int) -> Mesh:
    """A surface whose corners will move: whole, of at most so many triangles of good shape, without ripples."""
    whole, _ = repaired(shape, None)
    made = decimated(whole, min(faces, max(len(whole.faces) // SPARE, LEAST)))
    vertices = denoised(made.vertices, made.faces)
    return replace(made, vertices=vertices, normals=vertex_normals(vertices, made.faces))


def _moves(s: TexturedMesh.Settings) -> bool:
    """Whether the corners learn."""
    return max(s.lr_vertices.values) > 0


def _skin(s: TexturedMesh.Settings, channels: int) -> SurfaceField:
    """The field of a material that is kept in a hash grid."""
    layout, growth = s.hashgrid.layout, s.hashgrid.growth
    return SurfaceField(
        channels, levels=s.levels, finest_resolution=s.finest, extent=1.5, layout=layout, growth=growth
    )  # fmt: skip


def _tangent_frame(normal: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Tangent and bitangent [M, 3] at right angles to unit normals, of interpolated glTF tangents [M, 4]."""
    across = safe_normalize(tangent[:, :3] - normal * (normal * tangent[:, :3]).sum(-1, keepdim=True))
    return across, torch.linalg.cross(normal, across) * tangent[:, 3:].sign()


def _packed(bump: Tensor) -> Tensor:
    """Tangent-space normals as colours."""
    normal = safe_normalize(torch.cat([bump[..., :2], torch.ones_like(bump[..., :1])], -1))
    return (normal + 1) / 2
