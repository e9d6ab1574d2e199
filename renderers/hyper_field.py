# SPDX-License-Identifier: Apache-2.0
"""One generator of many fields, Hyper-iNGP (ScaleDreamer, Ma et al. 2024, arXiv:2407.02040; after ATT3D, Lorraine et
al. 2023, arXiv:2306.07349): a hash grid that all prompts share, and heads whose weights a small network makes of the
prompt's code:

    weights(code) = base + out silu(norm(first code + bias))

Differences: theirs has no base (ours starts as one field, from which the prompts part), and their density is VolSDF's
(ours is whatever `density` says).

Every prompt has an occupancy of its own, refreshed on its own clock; but of more than REMEMBERED prompts none is kept:
turns of one are then so far apart that what was found in the last says little, and a thousand would fill checkpoints.
It is found anew in every picture instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard
from dreamlab.core.schedules import Progress, Schedule, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Frames, Offer, ParamGroup, Rows, Training
from renderers.field import volume
from renderers.hash_field import FieldSettings, HashField
from renderers.light.background import Background

TURNS = 4  # points per cell from which an occupancy that nobody remembers is found, for looking
FRESH = 1  # and in training, another one in every step
REMEMBERED = 32  # prompts


@dataclass(frozen=True)
class HyperFieldSettings(FieldSettings):
    """The paper: 32 features, heads and hypernetwork 64 wide, 2^19 rows, every rate 0.004."""

    features: int = setting(4, low=1, high=8, help="per level: 1, 2, 4 or 8")
    levels: int = setting(8, low=1, high=32)
    refresh: int = setting(4, low=1, help="turns of a prompt between refreshes of its occupancy")
    code: int = setting(64, low=1, high=4096, help="numbers that a prompt is told in")
    hyper: int = setting(64, low=1, high=4096, help="width of the network that makes the heads")
    part: float = setting(0.5, above=0, help="how far the prompts' heads differ at the start, in parts of their base")
    lr_hyper: Schedule = setting(ramp(0.002, 0.0005, curve="exp"), low=0)


class HyperField:
    """A field of every prompt from one generator; its scenes are what `made` gives."""

    kind: ClassVar[str] = "hyper_field"
    paper: ClassVar[str] = "Ma et al. 2024, arXiv:2407.02040 (Hyper-iNGP)"
    penalties: ClassVar[tuple[str, ...]] = tuple(volume.PENALTIES)
    Settings: ClassVar[type] = HyperFieldSettings

    @classmethod
    def card(cls, settings: HyperFieldSettings) -> SceneCard:
        return replace(HashField.card(settings), many=True)

    def __init__(self, settings: HyperFieldSettings, generator: torch.Generator) -> None:
        s = self.settings = settings
        self.base = HashField(settings, generator)
        self.heads = tuple(name for name in self.base.params if name.endswith((".hidden", ".out")))
        rows = sum(self.base.params[name].numel() for name in self.heads)
        scale = torch.cat(
            [self.base.params[name].detach().std().expand(self.base.params[name].numel()) for name in self.heads]
        )
        self.hyper = {
            "first": torch.randn(s.hyper, s.code, generator=generator) / s.code**0.5,
            "bias": torch.zeros(s.hyper),
            # silu of a unit normal has a mean square of 0.36
            "out": torch.randn(rows, s.hyper, generator=generator)
            * (s.part * scale / (0.36 * s.hyper) ** 0.5)[:, None],
        }
        self._own(self.hyper)
        self.codes, self.at_once = torch.zeros(1, s.code), 1
        # [P, X, Y, Z] running maximum of the density per cell, or none of many prompts
        self.occupancy = self.base.occupancy[None]

    def _own(self, hyper: Mapping[str, Tensor]) -> None:
        self.hyper = {name: hyper[name].detach().clone().requires_grad_() for name in self.hyper}

    def to(self, device: torch.device | str) -> Self:
        self.base.to(device)
        self._own({name: value.to(device) for name, value in self.hyper.items()})
        self.codes, self.occupancy = self.codes.to(device), self.occupancy.to(device)
        return self

    def tell(self, codes: Tensor, at_once: int = 1) -> None:
        """The prompts, [P, code], and how many of them a step shows; each of a few gets an occupancy of its own."""
        if codes.shape[1:] != self.codes.shape[1:]:
            raise ValueError(f"hyper_field: codes of {codes.shape[1]} numbers, scene.code is {self.settings.code}")
        self.codes, self.at_once = codes.detach().to(self.base.params["table"]), at_once
        kept = len(codes) if len(codes) <= REMEMBERED else 0
        self.occupancy = torch.zeros(kept, *self.occupancy.shape[1:], device=self.occupancy.device)
        for i in range(kept):
            self.made(i).refresh(0)

    # ---- what it makes ----------------------------------------------------------------------------------------------
    def weights(self, code: Tensor) -> dict[str, Tensor]:
        """The heads of a code [code]; differentiable in the generator's parameters."""
        p = self.hyper
        told = layer_norm(linear(code, p["first"], p["bias"]), (self.settings.hyper,))
        change = linear(silu(told), p["out"])
        base = [self.base.params[name] for name in self.heads]
        parts = change.split([value.numel() for value in base])
        return {name: b + part.view_as(b) for name, b, part in zip(self.heads, base, parts, strict=True)}

    def made(self, index: int) -> MadeField:
        """The field of prompt `index`, for one step or for looking; it follows the generator as it is now."""
        return MadeField(self, self.codes[index], index if len(self.occupancy) else None)

    def between(self, first: int, second: int, share: float) -> MadeField:
        """The field of a code on the line between those of two prompts."""
        return MadeField(self, torch.lerp(self.codes[first], self.codes[second], share), None)

    def count(self) -> int:
        return len(self.codes)

    def each(self) -> Iterator[MadeField]:
        return (self.made(i) for i in range(len(self.codes)))

    # ---- as a scene: its parameters are everybody's, its looks those of the first prompt ----------------------------
    def groups(self) -> Mapping[str, ParamGroup]:
        more = {f"hyper.{name}": ParamGroup(value, self.settings.lr_hyper) for name, value in self.hyper.items()}
        return {**self.base.groups(), **more}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        return self.made(0).render(cameras, size, background, training)

    def penalty(self, name: str, frames: Frames) -> Tensor:
        return volume.penalty(name, frames)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        return self.made(0).adapt(progress, frames, healthy)

    def offer(self, resolution: int) -> Offer:
        return self.made(0).offer(resolution)

    def state_dict(self) -> dict[str, Tensor]:
        state = {name: value for name, value in self.base.state_dict().items() if name != "occupancy"}
        state |= {f"hyper.{name}": value.detach() for name, value in self.hyper.items()}
        return state | {"codes": self.codes, "occupancy": self.occupancy}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = self.codes.device
        for name, value in {**self.hyper, "codes": self.codes}.items():
            found = state[name if name == "codes" else f"hyper.{name}"]
            if found.shape[1:] != value.shape[1:]:
                raise ValueError(f"hyper_field: {name} is {list(found.shape)} in the state, {list(value.shape)} here")
        none = torch.zeros_like(self.base.occupancy)
        self.base.load_state_dict({**state, "occupancy": next(iter(state["occupancy"]), none)})
        self._own({name: state[f"hyper.{name}"].to(device) for name in self.hyper})
        self.codes, self.occupancy = (state[name].to(device).clone() for name in ("codes", "occupancy"))


class MadeField(HashField):
    """The field that a generator makes of one code: its grid and background, and heads of the code's own."""

    def __init__(self, maker: HyperField, code: Tensor, index: int | None) -> None:
        base = maker.base
        self.settings, self.grid, self.distance, self.bounds = base.settings, base.grid, base.distance, base.bounds
        self.background: Background = base.background
        self.active, self.backend = base.active, base.backend
        self.params = {**base.params, **maker.weights(code)}
        self.maker, self.index = maker, index
        self.known = index is not None  # where it is
        if index is not None:
            self._look_up(maker.occupancy[index])
        else:
            self.occupancy = torch.zeros_like(base.occupancy)

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        if training is not None and self.index is None:
            self._find(FRESH * training.progress.step, FRESH)
        elif not self.known:
            self._find(0, TURNS)
        return super().render(cameras, size, background, training)

    def _find(self, first: int, turns: int) -> None:
        """Look where the field is, remembering nothing."""
        self.occupancy, self.known = torch.zeros_like(self.occupancy), True
        for turn in range(first, first + turns):
            self._refresh(turn)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        """Prompts take turns, so that each counts its own."""
        self.maker.base.active = self.active
        if self.index is None:
            return None
        turn = progress.step * self.maker.at_once // len(self.maker.codes)
        if turn % self.settings.refresh == 0:
            self.refresh(turn // self.settings.refresh, healthy)
        return None

    def refresh(self, turn: int, healthy: Tensor | None = None) -> None:
        """Look where this prompt's field is, and remember it for its next turn."""
        self._refresh(turn, healthy)
        if self.index is not None:
            self.maker.occupancy[self.index] = self.occupancy
