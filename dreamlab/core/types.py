# SPDX-License-Identifier: Apache-2.0
"""What the floors share: prompts, frames, conditions, and the contracts of guidance, system and scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.noise import NoiseTable
from dreamlab.core.schedules import Progress, Schedule


@dataclass(frozen=True)
class Hints:
    """What whoever gave a picture says of it, for guidances that would else read it off the picture."""

    side_deg: float | None = None  # azimuth that the object is seen from: 0 its front, 90 its left
    kind: str = ""
    colours: tuple[str, ...] = ()  # of its main part, and of the second


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture to follow, and where it was taken from; two are equal only when they are one."""

    rgb: Tensor  # [H, W, 3] sRGB in [0, 1]
    alpha: Tensor  # [H, W, 1] where the object is
    camera: Cameras  # one
    depth: Tensor | None = None  # [H, W, 1] camera z, or an estimate of it up to scale and shift; farther is larger
    normal: Tensor | None = None  # [H, W, 3] world
    hints: Hints = Hints()


@dataclass(frozen=True)
class Framing:
    """Where an object stands in a picture and where it should; places in [-1, 1], x to the right and y down."""

    scale: float  # by which it should be larger
    centre: tuple[float, float]
    wanted: tuple[float, float]
    lean_deg: float = 0.0  # to the right, in the picture: it should stand upright


@dataclass(frozen=True)
class Prompt:
    """What the user asked for. Text is data: nothing ever parses it but a tokenizer."""

    text: str
    negative: str = ""
    image: Reference | None = None


PICTURES = ("latent", "lights")  # of a frame's `extra`: [B, H, W, C] each


class Parts(Protocol):
    """Of frames whose views several processes have drawn: what `extra` holds beside pictures is of ours alone."""

    @property
    def views(self) -> int:
        """How many of them are ours."""

    def sum(self, value: Tensor) -> Tensor:
        """Over all processes, differentiable."""


@dataclass(frozen=True)
class Frames:
    """What a renderer returns for B views. Pictures are sRGB in [0, 1], premultiplied over `background`."""

    rgb: Tensor  # [B, H, W, 3]
    alpha: Tensor  # [B, H, W, 1]
    depth: Tensor  # [B, H, W, 1] expected camera z, 0 where nothing is
    background: Tensor  # [B, 3]
    normal: Tensor | None = None  # [B, H, W, 3] world
    visible: Tensor | None = None  # [N] bool: which rows of the scene took part (Gaussians)
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # what only this scene knows, by name, for its penalties
    parts: Parts | None = None  # where several processes share the views

    def total(self, value: Tensor) -> Tensor:
        """A sum over what `extra` says of our views, over all of them."""
        return value if self.parts is None else self.parts.sum(value)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of numbers that `extra` has for each of our views, over all of them; of one number, the views'."""
        if self.parts is None:
            return values.mean()
        count = values.numel() if values.dim() else self.parts.views
        return self.parts.sum(values.mean() * count) / self.parts.sum(values.new_full((), count))

    def take(self, index: Sequence[int]) -> Frames:
        """Some of the views; of `extra` only what is a picture."""
        rows = torch.as_tensor(index, dtype=torch.long, device=self.rgb.device)
        maps = {name: getattr(self, name)[rows] for name in ("rgb", "alpha", "depth", "background")}
        normal = None if self.normal is None else self.normal[rows]
        extra = {name: value[rows] for name, value in self.extra.items() if name in PICTURES}
        return Frames(**maps, normal=normal, visible=self.visible, extra=extra)

    @staticmethod
    def cat(parts: Sequence[Frames], pictures: Sequence[str] = ()) -> Frames:
        """All views of several batches of one scene; of `extra` what `pictures` names, where there is any. A row is
        visible that is so in one of them."""
        first = parts[0]
        normals, rows = [p.normal for p in parts if p.normal is not None], [p.visible for p in parts]
        return Frames(
            torch.cat([p.rgb for p in parts]),
            torch.cat([p.alpha for p in parts]),
            torch.cat([p.depth for p in parts]),
            torch.cat([p.background for p in parts]),
            torch.cat(normals) if normals else None,
            None if first.visible is None else torch.stack([row for row in rows if row is not None]).any(0),
            {name: torch.cat([p.extra[name] for p in parts]) for name in pictures if name in first.extra},
        )


@dataclass(frozen=True)
class Condition:
    """What a diffusion model is told besides the noisy picture: rows per picture, and what all rows share."""

    rows: Mapping[str, Tensor]  # each [M, ...]
    shared: Mapping[str, Tensor] = field(default_factory=dict)  # not repeated per row

    def take(self, index: Sequence[int] | Tensor | slice) -> Condition:
        """Some of the rows."""
        if isinstance(index, slice):
            return Condition({name: row[index] for name, row in self.rows.items()}, self.shared)
        index = torch.as_tensor(index, dtype=torch.long)
        return Condition({name: row[index.to(row.device)] for name, row in self.rows.items()}, self.shared)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Stack the rows of several conditions that share the same tables, for one network call."""
        first = parts[0]
        for part in parts[1:]:
            same = part.shared.keys() == first.shared.keys() and part.rows.keys() == first.rows.keys()
            if not same or any(part.shared[k] is not first.shared[k] for k in first.shared):
                raise ValueError("conditions of one call must share the same tables")
        rows = {name: torch.cat([part.rows[name] for part in parts]) for name in first.rows}
        return Condition(rows, first.shared)


@runtime_checkable
class Guidance(Protocol):
    """A frozen diffusion model. Whatever it predicts inside (eps, v, x0, EDM, flow), it answers in eps."""

    @property
    def table(self) -> NoiseTable: ...

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""

    def encode(self, rgb: Tensor) -> Tensor:
        """[B, H, W, 3] sRGB -> latents [B, C, h, w]; differentiable."""

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        """One condition per variant, each with B rows."""

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        """eps [M, C, h, w] for M rows; no gradient."""

    def decode(self, z: Tensor) -> Tensor:
        """Latents -> [B, H, W, 3] sRGB, for looking."""


@runtime_checkable
class Encoder(Protocol):
    """A guidance that says a text as a vector, for scenes that are told what to be."""

    def encoding(self, text: str) -> Tensor:
        """[D], frozen."""


@runtime_checkable
class Framer(Protocol):
    """A guidance that knows how the object of a given picture would stand in its own world."""

    def framing(self, prompt: Prompt) -> Framing | None:
        """How the prompt's picture must be moved to show it so, if that can be told."""


@runtime_checkable
class Featuring(Protocol):
    """A guidance that sees features in pictures."""

    def features(self, rgb: Tensor) -> Tensor:
        """[B, H, W, 3] sRGB -> [B, F], differentiable."""


@runtime_checkable
class Hearing(Protocol):
    """A guidance that is told the prompts of a run before the first step: their encoders are in memory once."""

    def hear(self, prompts: Sequence[Prompt]) -> None: ...


@runtime_checkable
class Relieving(Protocol):
    """A guidance that can do with less memory."""

    def relieve(self) -> str:
        """Give up speed for memory; says what was given up, or nothing where nothing is left."""


@runtime_checkable
class Renewing(Protocol):
    """A guidance that can serve one run after another: loading it takes longer than a short run."""

    def renew(self) -> bool:
        """Forget what the last run told it, so that it answers the next as a fresh one would, to the bit; false where
        it cannot promise that."""


class Adapter(Protocol):
    """A frozen model with trainable additions (LoRA, Hu et al. 2021, arXiv:2106.09685) and a camera input."""

    def start(self) -> Mapping[str, Tensor]:
        """Parameters at which it answers as the frozen model does; the same every time."""

    def apply(
        self,
        params: Mapping[str, Tensor],
        z_t: Tensor,  # [M, C, h, w]
        t_index: Tensor,  # [M]
        condition: Condition,
        camera: Tensor,  # [M, 16] camera_to_world, row by row; all zero: not told
    ) -> Tensor:
        """eps [M, C, h, w], differentiable in `params`."""


@runtime_checkable
class Adapting(Protocol):
    """A guidance that offers trainable additions."""

    def adapter(self, rank: int) -> Adapter:
        """A new one at each call; rank 0: a copy of the whole network, every weight of which learns."""


@dataclass(frozen=True)
class Training:
    """What a render may depend on while training, besides its cameras: the clock and a random stream."""

    progress: Progress
    stream: torch.Generator


@dataclass(frozen=True)
class Rows:
    """How the rows of a scene have changed, so that the optimiser's moments follow them."""

    source: Tensor  # [N'] int64: row i continues the old row source[i]; -1 starts with moments of zero
    fresh: tuple[str, ...] = ()  # groups whose moments start at zero in every row
    prefix: str = ""  # only groups whose names begin so (one particle of several)
    more: Rows | None = None  # of another particle


@dataclass(frozen=True)
class ParamGroup:
    """One tensor to optimise and its learning rate; `rowwise` when `visible` rows index its first axis."""

    tensor: Tensor
    rate: Schedule
    rowwise: bool = False
    first: int = 0  # of its rows, in `visible` that speaks of several scenes


@runtime_checkable
class Beginning(Protocol):
    """A scene that a step changes before it draws: so is one that another process draws."""

    def begin(self, training: Training | None) -> None: ...


@runtime_checkable
class Tallying(Protocol):
    """A scene that counts what its views show, for what `adapt` decides."""

    def tallies(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """What a backward pass adds to, and what it raises to a maximum: it changes them in place."""


class Scene(Protocol):
    """What is optimised. Owns its parameters and their rates; renders itself; adapts; saves and loads."""

    kind: ClassVar[str]
    penalties: ClassVar[tuple[str, ...]]  # regularisers that only this scene can compute

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""

    def groups(self) -> Mapping[str, ParamGroup]:
        """Names are stable across checkpoints."""

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        """All views of the batch in one call; `background` [B, 3]. Without `training` the picture is for looking."""

    def penalty(self, name: str, frames: Frames) -> Tensor:
        """The regulariser `name` of `penalties`, []."""

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        """Densify, prune, refresh occupancy, after each optimiser step; says which rows went where, if any did.

        Where `healthy` [] is false nothing may change but what the clock alone decides. It lies on the device: what
        happens in every step is masked by it, and only what waits for the device anyway reads it.
        """

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...

    def offer(self, resolution: int) -> Offer:
        """What it knows of its surface, on a grid of about `resolution` cells a side where it needs one."""


@runtime_checkable
class EachTold(Protocol):
    """A scene of several objects, some of which are made alone, each by its own words."""

    @property
    def told(self) -> Sequence[tuple[str, Scene, str]]:
        """Name, scene in its own frame, words."""


@runtime_checkable
class Maker(Protocol):
    """A scene that makes a scene of each prompt it is told (amortised generation); all share its parameters."""

    def tell(self, codes: Tensor, at_once: int = 1) -> None:
        """The prompts' encodings [P, D], before the first picture, and how many of them a step shows."""

    def made(self, index: int) -> Scene:
        """The scene of one prompt, for one step or for looking."""

    def count(self) -> int:
        """How many prompts it was told."""

    def each(self) -> Iterator[Scene]:
        """The scenes of all prompts one after the other, for looking."""

    def between(self, first: int, second: int, share: float) -> Scene:
        """The scene of a code between those of two prompts, for looking."""


@dataclass(frozen=True)
class Skin:
    """Linear blend skinning of N points by K control points over T times: p moves to the weighted mean of
    turn (p - anchor) + anchor + shift."""

    times: Tensor  # [T] in [0, 1]
    anchors: Tensor  # [K, 3] rest positions
    index: Tensor  # [N, k] control points that move a point
    weight: Tensor  # [N, k], each row sums to 1
    shift: Tensor  # [T, K, 3] of each control point
    turn: Tensor  # [T, K, 4] wxyz, about the rest position

    def to(self, device: torch.device | str) -> Skin:
        moved = (self.times, self.anchors, self.index, self.weight, self.shift, self.turn)
        return Skin(*(value.to(device) for value in moved))


@runtime_checkable
class Moving(Protocol):
    """A scene whose points can be followed through time [0, 1]."""

    @property
    def loops(self) -> bool:
        """Whether time 1 is time 0 again."""

    def follow(self, points: Tensor, times: Tensor) -> Tensor:
        """[T, V, 3] where points [V, 3] of the surface at time 0 are at times [T]."""

    def joints(self) -> Tensor | None:
        """[K, 3] at time 0 of control points, where such make the motion."""


@runtime_checkable
class Changing(Protocol):
    """A scene whose surface changes through time [0, 1], and nothing says which of its points went where."""

    @property
    def loops(self) -> bool:
        """Whether time 1 is time 0 again."""

    def offer_at(self, resolution: int, time: float) -> Offer:
        """What it offers of its surface at a time."""


@dataclass(frozen=True)
class Track:
    """Where N points are at T times, for what no skin moves."""

    times: Tensor  # [T] in [0, 1], growing, the first is 0
    points: Tensor  # [T, N, 3]

    def to(self, device: torch.device | str) -> Track:
        return Track(self.times.to(device), self.points.to(device))


@dataclass(frozen=True)
class Splats:
    """Gaussians as files of them know them, in the world's frame, activated; on the host."""

    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4] wxyz, unit
    scales: Tensor  # [N, 3] standard deviations
    opacity: Tensor  # [N] in (0, 1)
    harmonics: Tensor  # [N, (degree + 1)^2, 3]; colour = 1/2 + their sum with the basis, sRGB
    compensated: bool = True  # they fade by what a low-pass takes (Mip-splatting); 3DGS's own do not


@runtime_checkable
class Splatting(Protocol):
    """A scene made of Gaussians."""

    def splats(self, time: float = 0.0) -> Splats | None:
        """All of them at a time; none where something else stands among them."""


@dataclass(frozen=True)
class Facing:
    """What cameras see of a surface: at the M pixels of B * H * W that it covers."""

    hit: Tensor  # [M] the pixels
    face: Tensor  # [M] the triangle there
    normal: Tensor  # [M, 3] unit, world
    to_eye: Tensor  # [M, 3] unit


@dataclass(frozen=True)
class Dressing:
    """What R regions of a surface are made of."""

    region: Tensor  # [F] of every triangle
    roughness: Tensor  # [R]
    metallic: Tensor  # [R]
    tint: Tensor  # [R, 3] factor of the linear base colour that is there


@runtime_checkable
class Finishable(Protocol):
    """A surface whose material can be told region by region."""

    def regions(self) -> Tensor:
        """[F] of like colour; of every triangle, from 0 without gaps."""

    def watched(self, cameras: Cameras, size: int) -> Facing:
        """Where it is, without its looks."""

    def finish(self, found: Dressing, cameras: Cameras | None = None, bare: Frames | None = None) -> None:
        """Wear it; `bare` are pictures of the base colour, which it takes where they show it."""


@dataclass(frozen=True)
class Wearing:
    """A part that a prompt wants of a material: what to ask a guidance to find where it is."""

    word: str  # of the prompt, and the part it is said of
    told: str  # a text with a look that the guidance draws
    plain: str  # the same without it
    roughness: float
    metallic: float
    mirrors: float  # of the diffuse light, what this material has less


@runtime_checkable
class Dresser(Protocol):
    """A guidance that draws materials by words."""

    size: int  # pixels per side of its pictures

    def wearing(self, text: str) -> Sequence[Wearing]:
        """Of what a prompt asks; the first is what everything else is made of."""


# A field positive inside [X, Y, Z], its first corner [3] and its cell -> metres into what has to go; None: nothing does
Carve = Callable[[Tensor, Tensor, float], Tensor | None]


class Emptying(Protocol):
    """A guidance that knows what is empty inside of what it draws."""

    def carver(self, prompt: Prompt) -> Carve | None:
        """For what a prompt asks; None where nothing is known to be hollow."""


PLAIN = (0.8, 0.0)  # roughness and metallic of a surface of which nothing but its colours is known


@dataclass(frozen=True)
class Textures:
    """A surface's material in pictures, glTF's metallic-roughness model; row 0 is v = 0."""

    base: Tensor  # [T, T, 3] sRGB in [0, 1]
    roughness: Tensor  # [T, T, 1]
    metallic: Tensor  # [T, T, 1]
    normal: Tensor | None = None  # [T, T, 3] (n + 1) / 2 in tangent space, +Y against v (OpenGL)
    occlusion: Tensor | None = None  # [T, T, 1] share of a white sky that reaches the surface

    def to(self, device: torch.device | str) -> Textures:
        normal, occlusion = (None if each is None else each.to(device) for each in (self.normal, self.occlusion))
        return Textures(self.base.to(device), self.roughness.to(device), self.metallic.to(device), normal, occlusion)


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the world's frame, counter-clockwise seen from outside; all of it on one device."""

    vertices: Tensor  # [V, 3] float32
    faces: Tensor  # [F, 3] int64
    colours: Tensor  # [V, 3] sRGB in [0, 1]
    normals: Tensor  # [V, 3] unit
    uv: Tensor | None = None  # [V, 2] v grows downward; vertices are repeated along seams
    tangents: Tensor | None = None  # [V, 4] glTF's, with a normal texture
    textures: Textures | None = None  # where there are textures, `colours` is what they show at the vertices

    def to(self, device: torch.device | str) -> Mesh:
        uv = None if self.uv is None else self.uv.to(device)
        tangents = None if self.tangents is None else self.tangents.to(device)
        textures = None if self.textures is None else self.textures.to(device)
        own = (self.vertices, self.faces, self.colours, self.normals)
        vertices, faces, colours, normals = (value.to(device) for value in own)
        return Mesh(vertices, faces, colours, normals, uv, tangents, textures)


# ---- what a scene offers of its surface, of which renderers/surface/extraction.py makes a clean mesh -----------------
@dataclass(frozen=True)
class Triangles:
    """The surface itself."""

    mesh: Mesh
    whole: bool = False  # every part of it is wanted, however small


@dataclass(frozen=True)
class LevelSet:
    """A function of space, large inside, at the corners of equal cells: the surface is one of its levels."""

    values: Tensor  # [X, Y, Z]
    low: tuple[float, float, float]  # the first corner
    cell: float
    colour: Callable[[Tensor], Tensor]  # points [V, 3] where the values are -> sRGB [V, 3]
    usual: float  # the level of those who do not look
    worth: tuple[float, ...] = ()  # levels worth trying by the scene's own pictures, low to high; none: the usual one


@dataclass(frozen=True)
class Depths:
    """Its depth pictures, to be fused."""

    way: str  # one of the ways of renderers/surface/fusion.py
    extent: float  # half the side of the box


Offer = Triangles | LevelSet | Depths
