# SPDX-License-Identifier: Apache-2.0
"""Bootstrapped score distillation (Sun et al. 2023, DreamCraft3D, arXiv:2310.16818): VSD whose prior is itself trained,
on renders that the frozen model has polished: g = w(t) (cfg(eps_prior)(z_t) - eps_phi(z_t)).

A cycle of `cycle` steps begins with a share `dream` in which only the prior learns: renders are noised to t_max and
denoised in `polish` guided steps (SDEdit), a cache of them, renewed every `renew` steps, is what it learns. Then the
scene moves; eps_phi learns the renders in every step. The prior adds to the frozen text prediction; eps_phi stands
alone or adds likewise (`base`), or is the guidance's own adapter (`net: adapter`; with `rank: 0` a whole copy of the
model), see `vsd`. Differences: those defaults; theirs fine-tune two whole U-Nets at 1e-5 in eps, here the prior is a
small network (`score_net`); DDIM steps for DPM-Solver's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.cards import RuleCard
from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Adapter
from systems.engine.inversion import at
from systems.engine.residual import Branch, Look, State, paired, per_row, predict_cfg
from systems.engine.rule import Configured, NoiseSettings
from systems.engine.score_net import ScoreNet, misfit
from systems.engine.trained import Trained, adapter_of


class Bootstrapped(Configured["Bootstrapped.Settings"]):
    """A prior that learns this very object from polished renders, and VSD towards it."""

    paper: ClassVar[str] = "Sun et al. 2023, arXiv:2310.16818"
    cost: ClassVar[str] = (
        "2 + 2 own, 1 own trained (+ 1 with base: prior); while dreaming 1 + 1 own trained, 2 x polish every `renew`"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        cfg: Schedule = setting(constant(2.0), low=0, help="of the trained prior")
        t_min: Schedule = setting(constant(0.05), low=0, high=1)
        t_max: Schedule = setting(ramp(0.5, 0.2, end=When(5000, "steps")), low=0, high=1)
        cycle: int = setting(1000, low=2)
        dream: float = setting(0.2, low=0, high=1, help="share of a cycle in which only the prior learns")
        renew: int = setting(25, low=1, help="steps between two polishings while dreaming")
        cache: int = setting(10, low=1, high=1000, help="polished renders kept")
        polish: int = setting(25, low=1, high=100, help="denoising steps of SDEdit")
        cfg_polish: float = setting(7.5, low=0)
        lr_prior: float = setting(1e-3, low=0, high=1)
        net: str = setting("small", choices=("small", "adapter"), help="what eps_phi is")
        rank: int = setting(0, low=0, high=256, help="of the adapter; 0: every weight of the model's copy learns")
        base: str = setting("none", choices=("prior", "none"), help="what a small eps_phi adds to")
        predicts: str = setting("v", choices=("v", "eps"), help="what the networks are trained to say")
        lr: float = setting(3e-3, low=0, high=1)
        width: int = setting(32, low=8, high=512, help="channels of each network, a multiple of 4")

        def complaint(self) -> str:
            return misfit(self.width) or super().complaint()

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.forms: dict[str, ScoreNet] = {}
        self.adapter: Adapter | None = None  # eps_phi, where it is no small network
        self.nets: dict[str, Trained] = {}
        self.polished: list[Tensor] = []  # each [B, C h w + 16]: pictures and their cameras
        self._waiting: dict[str, Tensor] = {}  # what a checkpoint held, until the networks are there

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), adapter=settings.net == "adapter")

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        self._build(look)
        place = now.step % c.cycle
        camera = look.poses()
        if place < c.dream * c.cycle:
            if place % c.renew == 0 or not self.polished:
                self._keep(self._polish(look), camera)
            pick = look.draw_int(0, len(self.polished) - 1)
            pictures, cameras = self._kept(pick, camera)
            self._learn(look, "prior", pictures, cameras, c.lr_prior)
            return torch.zeros_like(look.z)
        t = c.times(look)
        state = look.noised(look.noise(), t)
        text, null = look.predict(paired(state))
        with torch.no_grad():
            prior, mine = (
                look.company.each(functools.partial(self._said, look, name, state, camera, text), len(text))
                for name in self.nets
            )
        self._learn(look, "render", look.z, camera, c.lr)
        g = look.settled(state, null + c.cfg.at(now) * (prior - null), prior) - mine
        return per_row(table.weight(c.weight, t), g) * g

    def _polish(self, look: Look) -> Tensor:
        """SDEdit: the renders noised to t_max and denoised with guidance."""
        c, table = self.settings, look.guidance.table
        t = min(look.index(c.t_max.at(look.progress)), len(table) - 1)
        x = table.add_noise(look.z, look.noise(), at(look, t))
        for i in range(c.polish):
            after = t * (c.polish - 1 - i) // c.polish
            here = t * (c.polish - i) // c.polish
            eps = predict_cfg(look, State(x, at(look, here)), c.cfg_polish)
            x = table.ddim_move(x, eps, at(look, here), at(look, after))
        return x

    def _learn(self, look: Look, name: str, pictures: Tensor, camera: Tensor, rate: float) -> None:
        """One step of the diffusion loss, in v, of what a network adds to the frozen text prediction."""
        table, own = look.guidance.table, self.nets[name]
        drawn = torch.randint(0, len(table), (len(pictures),), generator=look.time_stream)
        t = look.at_one(drawn).to(pictures.device)
        noise = look.noise()
        state = State(table.add_noise(pictures, noise, t), t)
        base = look.predict([Branch(state, "plain")])[0] if self._adds(name) else torch.zeros_like(noise)
        leaf = own.leaf()
        at, share = look.company.portion(len(noise))
        with torch.enable_grad():
            error = self._said(look, name, state, camera, base, at, leaf) - noise[at]
            if self.settings.predicts == "v":
                error = error / table.signal_noise(t[at], error)[0].clamp(min=0.05)
            own.learn(error.square().mean() * share, leaf, rate, look.company.add_up)
        look.trained += len(noise)

    def _said(
        self, look: Look, name: str, state: State, camera: Tensor, base: Tensor, at: slice, leaf: Tensor | None = None
    ) -> Tensor:
        """eps of one of the two networks of the rows `at`, upon `base` if it adds."""
        params, own, base = self.nets[name].params(leaf), state.take(at), base[at]
        look.calls, look.rows = look.calls + 1, look.rows + len(base)
        if name == "render" and self.adapter is not None:
            told = look.conditions["plain"].take(at)
            return self.adapter.apply(params, own.z_t, own.t_index, told, camera[at])
        said = self.forms[name].apply(params, own.z_t, own.t_index, camera[at])
        return base + said if self._adds(name) else said

    def _adds(self, name: str) -> bool:
        return name in self.forms and self.forms[name].adds

    def _build(self, look: Look) -> None:
        if self.forms:
            return
        c, (channels, height, width) = self.settings, look.z.shape[1:]
        self.adapter = adapter_of(look.guidance, c.rank) if c.net == "adapter" else None
        for name, adds in (("prior", True), ("render", c.base == "prior")):
            if name == "render" and self.adapter is not None:
                self.nets[name] = Trained(self.adapter.start())
            else:
                form = ScoreNet((channels, height, width), look.guidance.table, c.width, c.predicts, adds)
                self.forms[name], self.nets[name] = form, Trained(form.start(look.z))
            if state := {k.removeprefix(f"{name}."): v for k, v in self._waiting.items() if k.startswith(f"{name}.")}:
                self.nets[name].load_state_dict(state)
        self._waiting = {}

    def _keep(self, pictures: Tensor, camera: Tensor) -> None:
        flat = torch.cat([pictures.flatten(1), camera], 1)
        self.polished = [*self.polished, flat][-self.settings.cache :]

    def _kept(self, index: int, camera: Tensor) -> tuple[Tensor, Tensor]:
        """One of the kept batches, with as many rows as this step has: repeated, or the first of them."""
        flat = self.polished[index].to(camera)
        flat = flat[torch.arange(len(camera), device=flat.device) % len(flat)]
        return flat[:, :-16].reshape(len(flat), *self.forms["prior"].shape), flat[:, -16:]

    def state_dict(self) -> dict[str, Tensor]:
        state = {f"{name}.{key}": value for name, own in self.nets.items() for key, value in own.state_dict().items()}
        if not self.nets:  # no step since a checkpoint was read
            state = self._waiting
        if not self.polished:
            return state
        rows = torch.tensor([len(batch) for batch in self.polished])  # the number of views may vary
        return state | {"polished": torch.cat([batch.cpu() for batch in self.polished]), "rows": rows}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.forms, self.nets = {}, {}
        self.polished = list(state["polished"].split(state["rows"].tolist())) if "polished" in state else []
        self._waiting = {name: value for name, value in state.items() if name not in ("polished", "rows")}
