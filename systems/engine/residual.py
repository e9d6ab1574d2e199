# SPDX-License-Identifier: Apache-2.0
"""The engine of every distillation rule: branches -> one batched prediction -> residual -> loss, in one place.

Nearly every published rule is g = w(t) (sum_i coef_i eps(state_i, t_i, condition_i) + coef_n noise). A rule states its
branches; this file evaluates them in one network call, counts the calls, and turns g into a loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.noise import cfg, eps_from_x0, rescaled
from dreamlab.core.prompting import Asking, perp_neg_weights, perpendicular
from dreamlab.core.schedules import Progress, Schedule
from dreamlab.core.types import Condition, Frames, Guidance


@dataclass(frozen=True)
class State:
    """A noisy latent and its time."""

    z_t: Tensor  # [B, C, h, w]
    t_index: Tensor  # [B] long

    def take(self, rows: slice) -> State:
        """Some of the rows."""
        return State(self.z_t[rows], self.t_index[rows])


@dataclass(frozen=True, eq=False)
class Branch:
    """One prediction of the sum: where, told what, times what. Two are the same only when they are one object."""

    state: State
    condition: str  # a variant the guidance makes: text, null, negative, ...
    coef: float | Tensor = 1.0  # a Tensor is [B]
    against: Branch | None = None  # its other half, if it is guided: `paired` says what follows from that
    whole: bool = False  # the two coefficients add up to one: both halves are one prediction, which rescale settles


class Unaided:
    """One process answers every call of a network; where several share them, they are told the same."""

    def each(self, work: Callable[[slice], Tensor], rows: int) -> Tensor:
        """What `work` makes of each of so many rows, some of which others do."""
        return work(slice(None))

    def portion(self, rows: int) -> tuple[slice, float]:
        """The rows on which this process trains a network, and what part of a mean over all of them theirs is."""
        return slice(None), 1.0

    def add_up(self, *values: Tensor) -> Sequence[Tensor]:
        """Over all who train it."""
        return values


UNAIDED = Unaided()


@dataclass
class Look:
    """What a rule may use in one step: the latents, the conditions, the model, the clock and its random streams."""

    guidance: Guidance
    z: Tensor  # [B, C, h, w], detached
    conditions: Mapping[str, Condition]
    progress: Progress
    noise_stream: torch.Generator
    time_stream: torch.Generator
    frames: Frames | None = None  # with their graph, for rules that compare pictures themselves
    cameras: Cameras | None = None  # one for each row of z
    asking: Asking = field(default_factory=Asking)
    fold: tuple[int, int] = (1, 1)  # frames that are one row of z, and moments that they are in it
    at_once: int = 1  # rows in a row that the model knows at one time only
    company: Unaided = UNAIDED  # who else answers calls of the model
    calls: int = field(default=0, init=False)  # network calls so far
    rows: int = field(default=0, init=False)  # pictures evaluated so far
    trained: int = field(default=0, init=False)  # pictures a network of the rule's own was trained on
    beside: Tensor | None = field(default=None, init=False)  # a loss on the frames that goes with g (HiFA's)
    _times: tuple[float, ...] = field(default=(), init=False)  # of each row, as fractions, known to the host
    _heard: list[int] | None = field(default=None, init=False)  # rows whose unconditional half is asked (None: all)

    def __post_init__(self) -> None:
        said = dict(self.conditions)
        if "text" in said:
            # plain: the prompt without words of direction; aware: with the camera, whatever `text` will be told.
            said["plain"] = said["aware"] = said["text"]
        self.conditions = said if self.cameras is None else self.asking.directed(said, self.cameras)

    @property
    def steered(self) -> bool:
        """Whether `text` is more than the plain prompt."""
        return bool(self.asking.how.needs())

    def timesteps(self, low: float, high: float, shared: bool = False) -> Tensor:
        """[B] t_index, uniform in the fractions [low, high] of the table, both ends included; `shared`: one for all."""
        end = min(self.index(high), len(self.guidance.table) - 1)
        count = 1 if shared else len(self.z)
        drawn = torch.randint(min(self.index(low), end), end + 1, (count,), generator=self.time_stream)
        drawn = self.at_one(drawn)
        self.heed(drawn.expand(len(self.z)).tolist())
        return drawn.to(self.z.device).expand(len(self.z)).contiguous()

    def at_one(self, drawn: Tensor) -> Tensor:
        """Of what was drawn for each row, for rows that the model knows at one time only that of the first of them."""
        return drawn[torch.arange(len(drawn), device=drawn.device) // self.at_once * self.at_once]

    def time_index(self, low: float, high: float) -> int:
        """One t_index for the whole batch as a plain number, for rules that walk the table."""
        end = min(self.index(high), len(self.guidance.table) - 1)
        drawn = self.draw_int(min(self.index(low), end), end)
        self.heed([drawn] * len(self.z))
        return drawn

    def heed(self, times: Sequence[int]) -> None:
        """The rows' next times, known to the host: decides which may do without their unconditional half."""
        if self.asking.skips is not None:
            self._times = tuple(t / len(self.guidance.table) for t in times)
            self._heard = self.asking.skips.rows_to_ask(self._times)

    def index(self, fraction: float) -> int:
        """A fraction of the table as a number of its steps, rounded down but for float noise (0.3 of 1000 is 300)."""
        return int(fraction * len(self.guidance.table) + 1e-6)

    def draw_int(self, first: int, last: int) -> int:
        """A whole number in [first, last] from the time stream; drawn on the host, so nobody waits for the device."""
        return int(torch.randint(first, last + 1, (1,), generator=self.time_stream))

    def noise(self) -> Tensor:
        """Standard normal, shaped like the latents."""
        stream = self.noise_stream
        drawn = torch.randn(self.z.shape, generator=stream, device=stream.device, dtype=self.z.dtype)
        return drawn.to(self.z.device)

    def noised(self, noise: Tensor, t: Tensor) -> State:
        """The latents with this noise at these times."""
        return State(self.guidance.table.add_noise(self.z, noise, t), t)

    def settled(self, state: State, guided: Tensor, told: Tensor) -> Tensor:
        """A guided prediction, the spread of its x0 pulled back to that of the told one by `prompting.rescale`."""
        share = self.asking.how.rescale
        if share == 0:
            return guided
        table, t = self.guidance.table, state.t_index
        x0 = rescaled(table.x0(state.z_t, guided, t), table.x0(state.z_t, told, t), share)
        return eps_from_x0(state.z_t, x0, *table.signal_noise(t, state.z_t))

    def poses(self) -> Tensor:
        """[B, 16] camera_to_world of each view, row by row, for networks that hear the camera."""
        if self.cameras is None:
            return self.z.new_zeros(len(self.z), 16)
        return self.cameras.camera_to_world.reshape(-1, 16).to(self.z)

    def predict(self, branches: Sequence[Branch]) -> list[Tensor]:
        """eps of every branch, [B, C, h, w] each, from one call of the network.

        Of a pair (`paired`), Perp-Neg bends the text, which alone words of direction are said to; adaptive guidance
        leaves rows of the other half out (they answer as the told one does).
        """
        pairs = pairs_in(branches)
        bent = self.asking.how.perp_neg > 0
        steered = {i: j for i, j in pairs.items() if bent and branches[i].condition == "text"}
        more = [Branch(branches[i].state, name) for i in steered for name in ("away0", "away1")]
        asked = [*branches, *more]
        quiet = set(pairs.values()) if self._heard is not None and len(self._heard) < len(self.z) else set()
        keep = [self._heard if i in quiet else None for i in range(len(asked))]
        eps = self._call(asked, keep)
        for i, j in pairs.items():
            self._settle(eps, i, j, j in quiet)
        for k, (i, j) in enumerate(steered.items()):
            assert self.cameras is not None
            _, weights = perp_neg_weights(self.cameras, self.asking.how)
            base, own = eps[j], eps[i] - eps[j]
            for n in range(2):
                away = eps[len(branches) + 2 * k + n] - base
                eps[i] = eps[i] + per_row(weights[:, n], own) * perpendicular(away, own)
        return eps[: len(branches)]

    def _call(self, asked: Sequence[Branch], keep: Sequence[list[int] | None]) -> list[Tensor]:
        """One call; branch i is evaluated on the rows keep[i] only (None: on all)."""
        states, times, told = [], [], []
        for branch, rows in zip(asked, keep, strict=True):
            condition, pick = self.conditions[branch.condition], slice(None) if rows is None else rows
            states.append(branch.state.z_t[pick])
            times.append(branch.state.t_index[pick])
            told.append(condition if rows is None else condition.take(rows))
        eps = self.asked(torch.cat(states), torch.cat(times), Condition.cat(told))
        return list(eps.split([len(state) for state in states]))

    def asked(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        """One call of the network, counted."""
        predict = self.guidance.predict
        with torch.no_grad():
            eps = self.company.each(lambda at: predict(z_t[at], t_index[at], condition.take(at)), len(z_t))
        self.calls, self.rows = self.calls + 1, self.rows + len(eps)
        return eps

    def _settle(self, eps: list[Tensor], i: int, j: int, quiet: bool) -> None:
        """Rows that were not asked answer as the text; those that were teach the skips."""
        skips, rows = self.asking.skips, self._heard
        if skips is None or rows is None:
            return
        asked = eps[j]
        if quiet:
            eps[j] = eps[i].clone()
            eps[j][rows] = asked
        for row in rows:
            skips.saw(self._times[row], eps[i][row], eps[j][row])


def paired(
    state: State,
    told: str = "text",
    against: str = "null",
    coefs: tuple[float, float] = (1.0, 1.0),
    whole: bool = False,
) -> list[Branch]:
    """The two halves of guidance: the one declaration that Perp-Neg, adaptive guidance and rescale go by."""
    other = Branch(state, against, coefs[1])
    return [Branch(state, told, coefs[0], other, whole), other]


def pairs_in(branches: Sequence[Branch]) -> dict[int, int]:
    """Where the told halves stand among the branches and where their other halves do; a half alone is no guidance."""
    place = {id(branch): i for i, branch in enumerate(branches)}
    return {i: place[id(one.against)] for i, one in enumerate(branches) if id(one.against) in place}


class System(Protocol):
    """A distillation rule: one class and one `Settings` per file of this folder."""

    def gradient(self, look: Look) -> Tensor:
        """g on the latents, [B, C, h, w]."""

    def clip(self, now: Progress) -> float | None:
        """How far each element of g is clamped at this moment; None: not at all."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class Supervised(Protocol):
    """A rule with a loss of its own on the frames (reconstruction, a reference view); no gradient on latents."""

    def loss(self, look: Look) -> Tensor:
        """[], differentiable in `look.frames`."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Distilled:
    """A term's loss, and what the telemetry wants to know of it."""

    loss: Tensor  # []
    grad_rms: Tensor  # []
    finite: Tensor  # [] bool: false when the network or the weighting gave a nan or an inf
    calls: int
    rows: int
    trained: int


def combine(
    look: Look,
    branches: Sequence[Branch],
    weight: Tensor,  # [B]
    noise: Tensor | None = None,  # [B, C, h, w]
    noise_coef: float = 0.0,
) -> Tensor:
    """w (sum_i coef_i eps_i + noise_coef noise). A branch whose coefficient is the number 0 is not evaluated."""
    used = [branch for branch in branches if isinstance(branch.coef, Tensor) or branch.coef != 0.0]
    total = torch.zeros_like(look.z)
    found = look.predict(used) if used else []
    parts = [
        (per_row(branch.coef, eps) if isinstance(branch.coef, Tensor) else branch.coef) * eps
        for branch, eps in zip(used, found, strict=True)
    ]
    for part in parts:
        total = total + part
    for i, j in pairs_in(used).items():
        if used[i].whole and look.asking.how.rescale > 0:
            plain = parts[i] + parts[j]
            total = total + look.settled(used[i].state, plain, found[i]) - plain
    if noise is not None and noise_coef != 0.0:
        total = total + noise_coef * noise
    return per_row(weight, total) * total


def guiding(state: State, scale: float, told: str = "text", against: str = "null") -> list[Branch]:
    """The guided prediction as branches: scale eps_told + (1 - scale) eps_against."""
    return paired(state, told, against, (scale, 1.0 - scale), whole=True)


def predict_cfg(look: Look, state: State, scale: float, against: str = "null") -> Tensor:
    """eps_against + scale (eps_text - eps_against) in one call; at scale 1 only the text is evaluated."""
    if scale == 1.0:
        return look.predict([Branch(state, "text")])[0]
    text, other = look.predict(paired(state, against=against))
    return look.settled(state, cfg(other, text, scale), text)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """[B] shaped to multiply [B, ...]."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))


@functools.cache
def _supervised(kind: type) -> bool:
    """As `isinstance(..., Supervised)`, which asks a protocol attribute by attribute in every step."""
    return issubclass(kind, Supervised)


def distil(system: System | Supervised, look: Look, z: Tensor) -> Distilled:
    """One term of one step: `z` [B, C, h, w] carries the graph back to the scene."""
    if _supervised(type(system)):
        measured = cast(Supervised, system).loss(look)
        finite, count = torch.isfinite(measured), (look.calls, look.rows, look.trained)
        return Distilled(measured, torch.zeros_like(measured), finite, *count)
    rule = cast(System, system)
    grad = rule.gradient(look)
    finite = torch.isfinite(grad).all()
    loss, used = loss_from_gradient(z, grad, rule.clip(look.progress))
    if look.beside is not None:
        loss, finite = loss + look.beside, finite & torch.isfinite(look.beside.detach())
    return Distilled(loss, used.square().mean().sqrt(), finite, look.calls, look.rows, look.trained)


def loss_from_gradient(z: Tensor, grad: Tensor, clip: float | None = None) -> tuple[Tensor, Tensor]:
    """A loss whose gradient on `z` is grad / B, and that gradient before the division.

    The reparametrised form 0.5 |z - sg(z - g)|^2 / B survives a gradient scaler; nan_to_num comes before the clamp,
    or a nan would pass through it.
    """
    grad = torch.nan_to_num(grad.detach(), nan=0.0, posinf=0.0, neginf=0.0)
    if clip is not None:
        grad = grad.clamp(-clip, clip)
    target = (z - grad).detach()
    return 0.5 * (z - target).square().sum() / len(z), grad


def times_in_order(t_min: Schedule, t_max: Schedule) -> str | None:
    """What is wrong when t_max falls below t_min at one of their moments, in a short stage or a long one."""
    for total in (1_000, 1_000_000):
        for when, _ in (*t_min.points, *t_max.points):
            now = Progress(round(when.fraction(total) * total), total)
            low, high = t_min.at(now), t_max.at(now)
            if high < low:
                return f"t_max falls to {high:g}, below t_min {low:g}"
    return None


class Stateless:
    """For rules that remember nothing between steps."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        if state:
            raise ValueError(f"this rule keeps no state, the checkpoint holds {', '.join(state)}")
