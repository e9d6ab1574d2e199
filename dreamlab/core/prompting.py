# SPDX-License-Identifier: Apache-2.0
"""How the prompt is put to the model: words of direction, the pull away from other directions, and when to ask twice.

A 2D model is told the view in words ("front view"), or it paints the favourite view everywhere. A guidance that can say
them makes the conditions front, side, back, overhead. Perp-Neg (Armandpour et al. 2023, arXiv:2304.04968) pushes away
from the neighbouring directions, at right angles to the text's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition

DIRECTIONS = ("front", "side", "back", "overhead")
VIEWS = ("none", "hard", "blend")
CURVES = ("threestudio", "lucid")


@dataclass(frozen=True)
class Prompting:
    """What every rule of a term hears under the name `text` (and `null`)."""

    camera: bool = setting(True, help="false: the model is not told the camera, as plain 2D models are not")
    views: str = setting("none", choices=VIEWS, help="words of direction: one per view, or a blend of two")
    front_deg: float = setting(45.0, above=0, high=90, help="front is |azimuth| below this, back beyond 180 less it")
    overhead_deg: float = setting(60.0, low=-90, high=90, help="overhead above this elevation")
    perp_neg: float = setting(0.0, low=0, help="strength of Perp-Neg; 1 is that of its curves")
    perp_neg_curves: str = setting("threestudio", choices=CURVES, help="by azimuth; lucid: LucidDreamer's")
    adaptive: float = setting(
        0.0,
        low=0,
        high=1,
        help="leave the unconditional call out where it differs by less than this share",
    )
    rescale: float = setting(
        0.0, low=0, high=1, help="how far the guided clean picture's spread is pulled back to the unguided one's"
    )

    def needs(self) -> frozenset[str]:
        """The conditions this asks of a guidance, beside those of the rule."""
        words = DIRECTIONS if self.views != "none" or self.perp_neg > 0 else ()
        return frozenset(words) | ({"blind", "blind_null"} if not self.camera else frozenset())


def view_weights(cameras: Cameras, how: Prompting) -> Tensor:
    """[B, 4] shares of front, side, back, overhead; rows sum to 1.

    hard: threestudio's thresholds, strict (45 and 135 degrees are side). blend: r = 1 - |azimuth| / 90 between front
    and side, then r = 2 - |azimuth| / 90 between side and back.
    """
    turn = cameras.azimuth_deg.abs()  # (-180, 180]
    if how.views == "hard":
        front, back = (turn < how.front_deg).float(), (turn > 180 - how.front_deg).float()
    else:
        front, back = (1 - turn / 90).clamp(0, 1), (turn / 90 - 1).clamp(0, 1)
    weights = torch.stack([front, 1 - front - back, back, torch.zeros_like(front)], 1)
    above = (cameras.elevation_deg > how.overhead_deg)[:, None]
    return torch.where(above, torch.tensor([0.0, 0.0, 0.0, 1.0], device=turn.device), weights)


def _falling(a: float, b: float, c: float, r: Tensor) -> Tensor:
    return a * torch.exp(-b * r) + c


def _threestudio(near: Tensor, far: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Curves a exp(-b r) + c: side-back (1, 0.5, -0.606), front-side-back (1, 0.5, 0.967), front-side and side-front
    (4, 0.5, -2.426)."""
    tail = -2.426
    ahead = -_falling(4, 0.5, tail, near), -_falling(4, 0.5, tail, 1 - near)
    return ahead, (-_falling(1, 0.5, -0.606, far), -_falling(1, 0.5, 0.967, far))


def _lucid(near: Tensor, far: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """LucidDreamer's: -2 exp(-2 r) and -2 exp(-10 r), 0 near the direction itself; behind, the front by -2."""
    nothing = torch.zeros_like(near)
    front = torch.where(near > 0.8, nothing, -2 * torch.exp(-2 * near))
    side = torch.where(near < 0.2, nothing, -2 * torch.exp(-10 * (1 - near)))
    behind = torch.where(far > 0.8, nothing, -torch.exp(-10 * far))
    return (front, side), (behind, torch.full_like(far, -2.0))


def perp_neg_weights(cameras: Cameras, how: Prompting) -> tuple[Tensor, Tensor]:
    """What to push away from, [B, 2] indices into DIRECTIONS, and how strongly, [B, 2] weights (0 from overhead).

    Ahead of the side it is front and side, behind it side and front.
    """
    turn = cameras.azimuth_deg.abs()
    near, far = 1 - turn / 90, 2 - turn / 90
    ahead = turn < 90
    curves = _lucid if how.perp_neg_curves == "lucid" else _threestudio
    weights_ahead, weights_behind = (torch.stack(pair, 1) for pair in curves(near, far))
    weights = torch.where(ahead[:, None], weights_ahead, weights_behind)
    weights = torch.where((cameras.elevation_deg > how.overhead_deg)[:, None], torch.zeros_like(weights), weights)
    front, side = torch.zeros_like(turn, dtype=torch.long), torch.ones_like(turn, dtype=torch.long)
    away = torch.where(ahead[:, None], torch.stack([front, side], 1), torch.stack([side, front], 1))
    return away, how.perp_neg * weights


def perpendicular(a: Tensor, b: Tensor) -> Tensor:
    """The part of each row of `a` [B, ...] at right angles to that row of `b`; b = 0 leaves a."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    share = (flat_a * flat_b).sum(1) / flat_b.square().sum(1).clamp(min=1e-6)
    return a - share.reshape(-1, *[1] * (a.dim() - 1)) * b


def choose(parts: Sequence[Condition], which: Tensor) -> Condition:
    """Row b of part `which[b]`; `which` [B]."""
    row = torch.arange(len(which), device=which.device)
    return Condition({n: torch.stack([p.rows[n] for p in parts])[which, row] for n in parts[0].rows}, parts[0].shared)


def blend(parts: Sequence[Condition], weights: Tensor) -> Condition:
    """Rows mixed by `weights` [B, K]: of embeddings (or log-probabilities), which must be numbers one can mix."""
    rows = {}
    for name, first in parts[0].rows.items():
        stacked = torch.stack([part.rows[name] for part in parts], 1)  # [B, K, ...]
        if not first.is_floating_point():
            if any(part.rows[name] is not first for part in parts):  # the host need not read what they hold
                raise InputError("this guidance cannot blend words of direction; use `views: hard`")
            rows[name] = first
            continue
        share = weights.to(first.dtype).reshape(*weights.shape, *[1] * (first.dim() - 1))
        rows[name] = torch.where(share > 0, share * stacked, torch.zeros_like(stacked)).sum(1)  # 0 x -inf is 0 here
    return Condition(rows, parts[0].shared)


class Asking:
    """A term's way of asking, and what it remembers between steps."""

    def __init__(self, how: Prompting | None = None) -> None:
        self.how = how or Prompting()
        self.skips = Skips(self.how.adaptive) if self.how.adaptive > 0 else None

    def directed(self, conditions: Mapping[str, Condition], cameras: Cameras) -> Mapping[str, Condition]:
        """The conditions with `text`, `null` and `plain` as the settings want them; `away0`, `away1` for Perp-Neg."""
        how, found = self.how, dict(conditions)
        if not how.camera:
            found["text"], found["null"] = conditions["blind"], conditions["blind_null"]
            found["plain"] = conditions["blind"]
        if how.views == "none" and how.perp_neg == 0:
            return found
        worded = [conditions[name] for name in DIRECTIONS]
        if how.views != "none":
            weights = view_weights(cameras, how)
            found["text"] = choose(worded, weights.argmax(1)) if how.views == "hard" else blend(worded, weights)
        if how.perp_neg > 0:
            away, _ = perp_neg_weights(cameras, how)
            found["away0"], found["away1"] = (choose(worded, which) for which in away.unbind(1))
        return found

    def state_dict(self) -> dict[str, Tensor]:
        return self.skips.state_dict() if self.skips else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.skips and state:
            self.skips.load_state_dict(state)


class Skips:
    """Adaptive guidance (Castillo et al. 2023, arXiv:2312.12487): where text and null agree, one call is enough.

    Per bin of time it remembers how far guidance moved the prediction, |eps_text - eps_null| / |eps_text| (their
    measure is the cosine). A bin below the tolerance asks the text alone, but every `AGAIN`-th visit measures anew:
    the scene changes. The figures are read from the device once in `REFRESH` steps.
    """

    BINS, AGAIN, REFRESH, KEEP = 20, 8, 16, 0.7

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.moved = torch.full((self.BINS,), math.inf)  # running mean, on the model's device once it has one
        self.known = [math.inf] * self.BINS  # what the host last read
        self.visits = [0] * self.BINS
        self.steps = 0
        self.skipped, self.asked = 0, 0  # rows whose unconditional half was left out, and those asked

    def rows_to_ask(self, fractions: Sequence[float]) -> list[int]:
        """Of a step whose rows are at these fractions of the noise table: which need the unconditional half."""
        if self.steps % self.REFRESH == 0:
            self.known = self.moved.tolist()
        self.steps += 1
        wanted = []
        for row, fraction in enumerate(fractions):
            b = self.bin(fraction)
            self.visits[b] += 1
            if self.known[b] >= self.tolerance or self.visits[b] % self.AGAIN == 0:
                wanted.append(row)
        self.asked, self.skipped = self.asked + len(wanted), self.skipped + len(fractions) - len(wanted)
        return wanted

    def bin(self, fraction: float) -> int:
        return min(int(fraction * self.BINS), self.BINS - 1)

    def saw(self, fraction: float, eps_text: Tensor, eps_null: Tensor) -> None:
        """One row's two predictions."""
        share = (eps_text - eps_null).norm() / eps_text.norm().clamp(min=1e-12)
        self.moved = self.moved.to(share.device)
        b = self.bin(fraction)
        before = self.moved[b].clone()
        mean = torch.where(before.isinf(), share, self.KEEP * before + (1 - self.KEEP) * share)
        self.moved[b] = torch.where(share.isfinite(), mean, before).to(before)  # a bad step teaches nothing

    def state_dict(self) -> dict[str, Tensor]:
        counts = torch.tensor([*self.visits, self.steps, self.skipped, self.asked])
        return {"moved": self.moved.clone(), "known": torch.tensor(self.known), "counts": counts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.moved, self.known = state["moved"].clone(), state["known"].tolist()
        *self.visits, self.steps, self.skipped, self.asked = state["counts"].tolist()
