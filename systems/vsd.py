# SPDX-License-Identifier: Apache-2.0
"""Variational score distillation (Wang et al. 2023, ProlificDreamer, arXiv:2305.16213), eq. 9:
g = w(t) (cfg(eps)(z_t, t) - eps_phi(z_t, t, camera)), eps_phi trained at every step on the renders themselves.

eps_phi: the adapter of a guidance that offers one (`net: adapter`, the paper's LoRA), or a small network of our own
(`net: small`) that stands alone (`base: none`) or adds to the frozen text prediction as LoRA does (`base: prior`). It
hears the camera, dropped with probability 0.1, and the prompt without words of direction.

What adds to the prior begins as the prior: g is then (cfg - 1) (eps_text - eps_null), classifier score distillation,
until it has learnt what the renders look like. In the paper's 25 000 steps it does; in some hundred from a bare start
the scene has gone astray by then (docs/systems.md). What stands alone begins as the score of pure noise, and pulls
towards the text's picture from the first step. Differences: that default; Adam without weight decay; the learning rate
of `small` is a small network's, 3e-3, not the 1e-4 of a LoRA.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.noise import cfg
from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Adapter
from systems.engine.residual import Branch, Look, State, paired, per_row
from systems.engine.rule import Configured, NoiseSettings
from systems.engine.score_net import ScoreNet, misfit
from systems.engine.trained import Trained, adapter_of


class VSD(Configured["VSD.Settings"]):
    """Match the distribution of renders to the model's, not a point to its mode."""

    paper: ClassVar[str] = "Wang et al. 2023, arXiv:2305.16213"
    cost: ClassVar[str] = "2 + 1 own, 1 own trained (+ 1 with base: prior)"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    guided: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(7.5), low=0)
        cfg_own: float = setting(1.0, low=0, help="of eps_phi, camera against no camera; 1 asks once")
        t_max: Schedule = setting(ramp(0.98, 0.5, begin=When(5000, "steps"), end=When(5001, "steps")), low=0, high=1)
        net: str = setting("small", choices=("small", "adapter"))
        base: str = setting("none", choices=("prior", "none"), help="what the small network adds to")
        predicts: str = setting("v", choices=("v", "eps"), help="what the small network is trained to say")
        width: int = setting(32, low=8, high=512, help="channels of the small network, a multiple of 4")
        rank: int = setting(4, low=0, high=256, help="of the adapter; 0: every weight of the model's copy learns")
        lr: float = setting(3e-3, low=0, high=1)
        warmup: int = setting(0, low=0, help="steps over which lr rises (500 in their code)")
        camera_drop: float = setting(0.1, low=0, high=1)
        shared_t: bool = setting(False, help="one time for all views of a step, as in the authors' own code")
        lessons: int = setting(1, low=1, high=64, help="times per view and step that eps_phi is trained at")

        def complaint(self) -> str:
            return misfit(self.width) or super().complaint()

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.net: ScoreNet | None = None
        self.adapter: Adapter | None = None
        self.trained: Trained | None = None
        self._waiting: Mapping[str, Tensor] | None = None  # what a checkpoint held, until the network is there

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), adapter=settings.net == "adapter")

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        own = self._built(look)
        t = c.times(look, c.shared_t)
        state = look.noised(look.noise(), t)
        scale = c.cfg.at(now)
        branches = [Branch(state, "text")] if scale == 1.0 else paired(state)
        if self._adds and look.steered:
            branches.append(Branch(state, "plain"))
        eps = look.predict(branches)
        pretrained = eps[0] if scale == 1.0 else look.settled(state, cfg(eps[1], eps[0], scale), eps[0])
        base = (eps[-1] if look.steered else eps[0]) if self._adds else None
        with torch.no_grad():
            mine = self._of_all(look, own, state, look.poses(), base)
            if c.cfg_own != 1.0:
                blind = self._of_all(look, own, state, torch.zeros_like(look.poses()), base)
                mine = blind + c.cfg_own * (mine - blind)
        self._learn(look, own)
        return per_row(table.weight(c.weight, t), mine) * (pretrained - mine)

    def _learn(self, look: Look, own: Trained) -> None:
        """One step of eps_phi on the renders as they are: any time, fresh noise, the camera sometimes dropped."""
        c, table = self.settings, look.guidance.table
        drawn = [self._lesson(look) for _ in range(c.lessons)]
        plain = [Branch(state, "plain") for state, _, _ in drawn]
        bases = look.predict(plain) if self._adds else [None] * c.lessons
        leaf, errors = own.leaf(), []
        at, share = look.company.portion(len(look.z))
        with torch.enable_grad():
            params = own.params(leaf)
            for (state, noise, camera), base in zip(drawn, bases, strict=True):
                error = self._own(look, params, state, camera, base, at) - noise[at]
                if c.predicts == "v":  # the error in v is the one in eps / a
                    error = error / table.signal_noise(state.t_index[at], error)[0].clamp(min=0.05)
                errors.append(error)
            rate = c.lr * min(1.0, (look.progress.step + 1) / max(c.warmup, 1))
            own.learn(torch.cat(errors).square().mean() * share, leaf, rate, look.company.add_up)
        look.trained += len(look.z) * c.lessons

    def _lesson(self, look: Look) -> tuple[State, Tensor, Tensor]:
        """The renders at times of their own, the noise in them, and what is told of the cameras."""
        count = len(look.z)
        drawn = torch.randint(0, len(look.guidance.table), (count,), generator=look.time_stream)
        t = look.at_one(drawn).to(look.z.device)
        kept = (torch.rand(count, generator=look.time_stream) >= self.settings.camera_drop).to(look.z)
        noise = look.noise()
        return look.noised(noise, t), noise, look.poses() * kept[:, None]

    def _of_all(self, look: Look, own: Trained, state: State, camera: Tensor, base: Tensor | None) -> Tensor:
        """eps_phi of all rows."""
        return look.company.each(functools.partial(self._own, look, own.params(), state, camera, base), len(camera))

    def _own(
        self, look: Look, params: Mapping[str, Tensor], state: State, camera: Tensor, base: Tensor | None, at: slice
    ) -> Tensor:
        """eps_phi of the rows `at`."""
        own, camera = state.take(at), camera[at]
        look.calls, look.rows = look.calls + 1, look.rows + len(camera)
        if self.adapter is not None:
            return self.adapter.apply(params, own.z_t, own.t_index, look.conditions["plain"].take(at), camera)
        assert self.net is not None  # one of the two is there once `_built` was called
        said = self.net.apply(params, own.z_t, own.t_index, camera)
        return said if base is None else base[at] + said

    @property
    def _adds(self) -> bool:
        return self.settings.net == "small" and self.settings.base == "prior"

    def _built(self, look: Look) -> Trained:
        """The network, made when the latents' shape is known."""
        if self.trained is None:
            c = self.settings
            if c.net == "adapter":
                self.adapter = adapter_of(look.guidance, c.rank)
                self.trained = Trained(self.adapter.start())
            else:
                channels, height, span = look.z.shape[1:]
                shape = (channels, height, span)
                self.net = ScoreNet(shape, look.guidance.table, c.width, c.predicts, c.base == "prior")
                self.trained = Trained(self.net.start(look.z))
            if self._waiting is not None:
                self.trained.load_state_dict(self._waiting)
                self._waiting = None
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._waiting or {}) if self.trained is None else self.trained.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.trained, self._waiting = None, dict(state) or None
