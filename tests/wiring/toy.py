# SPDX-License-Identifier: Apache-2.0
"""The smallest run there is: a scene of a few numbers and a model whose answers are constants.

What a step must do then follows on paper. The tile is one colour all over, every pixel alpha; of its `rows` the views
see every other one. The model's eps is a number per condition, so that csd of weight `uniform` gives
g = text - null at every element of the latents z = 2 rgb - 1, the loss gives dL/dz = weight g / B, and

    dL/dcolour = sum over B, h, w of 2 dL/dz = 2 weight (text - null) h w

in each channel, which Adam's first moment shows after one step, times 1 - 0.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core import pixels
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard, SceneCard
from dreamlab.core.noise import NoiseTable, make_table
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Offer, ParamGroup, Prompt, Rows, Training
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from guidance import GUIDANCE
from renderers import SCENES

ROWS = 4
FIRST_BETA = 0.9
SAYS = {  # eps of each channel; the prompt's own is gray, so that words of direction are not parallel to it
    "text": (0.5, 0.5, 0.5),
    "null": (0.2, 0.2, 0.2),
    "negative": (-0.3, -0.3, -0.3),
    "front": (0.7, -0.1, 0.3),
    "side": (0.11, 0.9, -0.4),
    "back": (-0.9, 0.6, 0.1),
    "overhead": (0.4, 0.2, -0.8),
    "blind": (0.05, 0.6, 0.2),
    "blind_null": (-0.2, 0.3, -0.5),
}


@dataclass(frozen=True)
class TileSettings:
    alpha: float = setting(0.5, low=0, high=1)
    start: float = setting(0.25, low=0, high=1)
    lr_color: Schedule = setting(constant(0.01), low=0)
    lr_rows: Schedule = setting(constant(0.02), low=0)
    regrow: int = setting(0, low=0, help="step after which the rows are turned round")


class Tile:
    """One colour, a few rows, and a diary."""

    kind: ClassVar[str] = "tile"
    paper: ClassVar[str] = "none"
    penalties: ClassVar[tuple[str, ...]] = ("paleness",)
    Settings: ClassVar[type[Any]] = TileSettings

    @staticmethod
    def card(settings: TileSettings) -> SceneCard:
        return SceneCard(penalties=Tile.penalties)

    def __init__(self, settings: TileSettings, generator: torch.Generator) -> None:
        self.settings = settings
        self.colour = torch.full((3,), settings.start, requires_grad=True)
        self.rows = torch.rand(ROWS, 1, generator=generator).requires_grad_()
        self.seen = torch.arange(ROWS) % 2 == 0
        self.diary: list[tuple[Cameras, int, Tensor, Training | None]] = []
        self.adapted: list[tuple[Progress, Frames, Tensor | None]] = []

    def to(self, device: torch.device | str) -> Tile:
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        s = self.settings
        return {"color": ParamGroup(self.colour, s.lr_color), "rows": ParamGroup(self.rows, s.lr_rows, rowwise=True)}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        self.diary.append((cameras, size, background, training))
        shape = (len(cameras), size, size)
        alpha = torch.full((*shape, 1), self.settings.alpha)
        # The rows add nothing to the picture, and a gradient of one to themselves through alpha.
        alpha = alpha + (self.rows - self.rows.detach()).sum() / alpha.numel()
        rgb = self.colour.expand(*shape, 3)
        return Frames(rgb, alpha, torch.ones(*shape, 1), background, None, self.seen)

    def penalty(self, name: str, frames: Frames) -> Tensor:
        return self.colour.sum()

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor | None = None) -> Rows | None:
        self.adapted.append((progress, frames, healthy))
        if not self.settings.regrow or progress.step + 1 != self.settings.regrow:
            return None
        source = torch.arange(ROWS).flip(0)
        self.rows = self.rows.detach()[source].clone().requires_grad_()
        return Rows(source)

    def state_dict(self) -> dict[str, Tensor]:
        return {"color": self.colour.detach().clone(), "rows": self.rows.detach().clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.colour, self.rows = (state[name].clone().requires_grad_() for name in ("color", "rows"))

    def offer(self, resolution: int) -> Offer:
        raise NotImplementedError


class Still:
    """What a scene has that only is looked at."""

    penalties: ClassVar[tuple[str, ...]] = ()

    def penalty(self, name: str, frames: Frames) -> Tensor:
        raise NotImplementedError

    def adapt(self, progress: object, frames: Frames, healthy: Tensor | None = None) -> Rows | None:
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class FlatSettings:
    shift: float = setting(0.0, help="added to every answer")
    together: int = setting(1, low=1, help="rows it says it sees as one")
    clip: bool = setting(False)
    folds: int = setting(1, low=1, help="frames that are one row of its latents, channel by channel")
    bytes: int = setting(0, help="> 0: has so many things to give up, and until then its backward pass does not fit")


class Flat:
    """A model in pixels whose eps is a constant per condition; it remembers what it was asked."""

    paper: ClassVar[str] = "none"
    variants: ClassVar[frozenset[str]] = frozenset(SAYS)
    Settings: ClassVar[type[Any]] = FlatSettings

    @staticmethod
    def card(settings: FlatSettings) -> GuidanceCard:
        s = settings
        return GuidanceCard(frozenset(SAYS), together=s.together, clip=s.clip, folds=s.folds, moments=s.folds)

    def __init__(self, settings: FlatSettings) -> None:
        self.settings, self.table = settings, make_table("cosine")
        self.asked: list[tuple[Prompt, Cameras, Frames]] = []
        self.calls: list[int] = []
        self.states: list[tuple[Tensor, Tensor]] = []
        self.heard: list[tuple[Prompt, ...]] = []
        self.needs = settings.bytes

    @classmethod
    def build(cls, settings: FlatSettings, worlds: object) -> Flat:
        return cls(settings)

    def to(self, device: torch.device | str) -> Flat:
        return self

    def hear(self, prompts: Sequence[Prompt]) -> None:
        self.heard.append(tuple(prompts))

    def relieve(self) -> str:
        self.needs -= 1
        return f"a thing, {self.needs} left" if self.needs >= 0 else ""

    def encode(self, rgb: Tensor) -> Tensor:
        z, folds = pixels.encode(rgb), self.settings.folds
        if self.needs:
            z.register_hook(self.out_of_memory)
        return z.unflatten(0, (-1, folds)).transpose(1, 2).flatten(1, 2)  # [B / folds, C folds, h, w]

    @staticmethod
    def out_of_memory(_: Tensor) -> None:
        raise torch.OutOfMemoryError("the backward pass does not fit")

    def decode(self, z: Tensor) -> Tensor:
        return pixels.decode(z)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        self.asked.append((prompt, cameras, frames))
        rows, folds = len(cameras) // self.settings.folds, self.settings.folds
        said = {name: torch.tensor(value).repeat_interleave(folds).expand(rows, -1) for name, value in SAYS.items()}
        return {name: Condition({"says": value}) for name, value in said.items()}

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        self.calls.append(len(z_t))
        self.states.append((z_t, t_index))
        return (condition.rows["says"] + self.settings.shift)[:, :, None, None].expand_as(z_t).clone()


TEXT = """
prompt: a red ball
negative: {negative}
seed: 3
stages:
  - name: one
    scene: {{kind: tile, {scene}}}
    terms: [{terms}]
    steps: {steps}
    views: {views}
    size: {size}
    {stage}
keeping: {{checkpoint: 2, keep: 9, preview: 1000, log: 1}}
guard: {{skips: 2, rollbacks: 2}}
"""
TERM = "{{guidance: {{kind: flat{flat}}}, system: {{kind: csd, weight: uniform{rule}}}{term}}}"


def term(flat: str = "", rule: str = "", more: str = "") -> str:
    return TERM.format(flat=flat and f", {flat}", rule=rule and f", {rule}", term=more and f", {more}")


@dataclass
class Toy:
    """A recipe of the toy, built."""

    scene: str = "alpha: 0.5"
    terms: str = field(default_factory=term)
    steps: int = 10
    views: int = 2
    size: int = 8
    stage: str = ""
    negative: str = "''"

    def text(self) -> str:
        return TEXT.format(**vars(self))

    def recipe(self) -> recipe.Recipe:
        return recipe.load(self.text(), TABLES)

    def assembler(self) -> Assembler:
        return Assembler(self.recipe(), "cpu")

    def built(self) -> BuiltStage:
        return self.assembler().stage(0)


def stepped(stage: BuiltStage, first: int = 0, last: int = 1, rate_scale: float = 1.0) -> list[dict[str, float]]:
    """The metrics of steps `first` to `last`."""
    ring = Ring(METRICS, 100, "cpu")
    for i in range(first, last):
        step(stage, i, ring, rate_scale)
    return ring.drain()


def gradient(stage: BuiltStage, name: str = "color") -> Tensor:
    """What Adam was given in the first step it ever made."""
    return stage.optimiser.state_dict()[f"first.{name}"] / (1 - FIRST_BETA)


def tile(stage: BuiltStage) -> Tile:
    assert isinstance(stage.scene, Tile)
    return stage.scene


def flat(stage: BuiltStage, index: int = 0) -> Flat:
    found = stage.terms[index].guidance
    assert isinstance(found, Flat)
    return found


def table() -> NoiseTable:
    return make_table("cosine")


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy scene and model stand in the tables."""
    monkeypatch.setitem(SCENES, "tile", Tile)
    monkeypatch.setitem(GUIDANCE, "flat", Flat)
    yield
