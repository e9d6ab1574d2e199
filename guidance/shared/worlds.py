# SPDX-License-Identifier: Apache-2.0
"""Worlds that can be looked at: what guidances are handed that know pictures instead of having learnt them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Prompt


@dataclass(frozen=True)
class Views:
    """What the world shows the cameras of one step: K objects, B views."""

    rgb: Tensor  # [K, B, H, W, 3] sRGB, premultiplied foreground
    alpha: Tensor  # [K, B, H, W, 1]


@dataclass(frozen=True)
class World:
    """The objects a prompt means (`text`), all there are (`null`), and those it does not mean (`negative`)."""

    log_text: Tensor  # [K] log-probabilities, -inf where the prompt excludes an object
    log_null: Tensor  # [K]
    log_negative: Tensor  # [K]
    look: Callable[[Cameras, int], Views]
    more: Mapping[str, Tensor] = field(default_factory=dict)  # [K] of further conditions, by name


class Shown(Protocol):
    """B pictures of one object; colour and normal are premultiplied, without background."""

    @property
    def rgb(self) -> Tensor: ...  # [1, B, H, W, 3]

    @property
    def alpha(self) -> Tensor: ...  # [1, B, H, W, 1]

    @property
    def depth(self) -> Tensor: ...  # [1, B, H, W, 1]

    @property
    def normal(self) -> Tensor: ...  # [1, B, H, W, 3]


Sight = Callable[[Cameras, int], Shown]


class Mixing(Protocol):
    """What a mixture is made of."""

    @property
    def others(self) -> int: ...  # objects that the prompt does not mean

    @property
    def instances(self) -> int: ...  # of the prompt's object

    @property
    def sides(self) -> int: ...  # azimuths that a camera-blind model has seen

    @property
    def style(self) -> str: ...  # prompt of a picture whose colours are a style


@dataclass(frozen=True)
class Worlds:
    """The worlds of one run, by prompt."""

    mixture: Callable[[Prompt, Mixing], World]
    truth: Callable[[Prompt], Sight]
