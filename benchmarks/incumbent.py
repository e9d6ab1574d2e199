# SPDX-License-Identifier: Apache-2.0
"""Distillation steps as the loops of the field write them with diffusers, on the scene, networks and draws of a stage
of ours: the same gradient, reached the long way.

One view at a time; the two halves of guidance in one call for that view, cast to the network's type and back; of VSD
the trained copy asked with and without its camera though its scale is 1; a picture decoded from every prediction; a
loss whose gradient is the one that is known already; numbers read in every step. The text encoder stays in memory, and
is asked in every step where `listening`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from dreamlab.core.cameras import Cameras
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Condition, Training
from dreamlab.core.views import sample_views
from dreamlab.run.assemble import BuiltStage
from dreamlab.run.train import draw_background
from guidance.sd import StableDiffusion
from systems.ism import ISM
from systems.sds import SDS
from systems.vsd import VSD


class Incumbent:
    """Of a stage with one term: sds, vsd (net: adapter, one view) or ism (one view) on Stable Diffusion."""

    def __init__(self, stage: BuiltStage, listening: bool = True) -> None:
        model, self.system = stage.terms[0].guidance, stage.terms[0].system
        assert isinstance(model, StableDiffusion)
        self.stage, self.model, self.table = stage, model, model.table
        self.listening, self.encoder = listening, model.text_encoder(model.device)
        self.words = self.heard()
        self.read: dict[str, float] = {}

    def heard(self) -> Tensor:
        """The unconditional text and the prompt."""
        with torch.no_grad():
            return self.encoder(["", self.stage.prompts[0].text])["text"]

    def step(self) -> None:
        """The first of the stage's steps."""
        stage, spec, streams = self.stage, self.stage.spec, self.stage.streams
        progress, scene = Progress(0, spec.steps), stage.scene
        if self.listening:
            self.words = self.heard()
        cameras, _ = sample_views(spec.cameras, spec.given, spec.views, None, progress, streams.camera)
        background = draw_background(spec.background, spec.views, 1, streams.background)
        gradient = self.prepared(spec.views, progress)
        seen = []
        for view in range(spec.views):
            one = cameras[[view]]
            frames = scene.render(one, spec.size, background[[view]], Training(progress, streams.render))
            z = self.encoded(frames.rgb)
            with torch.no_grad():
                grad, clean = gradient(z, view, one)
                self.decoded(clean)
            loss = 0.5 * mse_loss(z, (z - grad).detach(), reduction="sum") / spec.views
            loss.backward()
            self.read = {"loss": loss.item(), "norm": grad.norm().item(), "alpha": frames.alpha.mean().item()}
            seen.append(frames.visible)
        visible = None if seen[0] is None else torch.stack([one for one in seen if one is not None]).any(0)
        stage.optimiser.step(progress, torch.ones((), dtype=torch.bool), visible, 1.0)

    def encoded(self, rgb: Tensor) -> Tensor:
        vae, x = self.model.codec.vae, self.model.seen(rgb).contiguous()  # its strides would be a layout (codec.py)
        z = vae.encode(x.to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
        return z.to(rgb.dtype)

    def decoded(self, z: Tensor) -> Tensor:
        vae = self.model.codec.vae
        picture = vae.decode((z / vae.config.scaling_factor).to(vae.dtype)).sample
        return (picture / 2 + 0.5).clamp(0, 1).to(z.dtype)

    def asked(self, z: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """eps for each of the words, all of one state."""
        width, like = self.model.dtype, z.dtype
        rows = z.expand(len(words), -1, -1, -1)
        return self.model.module(rows.to(width), t.expand(len(words)), words.to(width)).sample.to(like)

    def guided(self, z: Tensor, t: Tensor, scale: float) -> Tensor:
        null, told = self.asked(z, t, self.words).chunk(2)
        return null + scale * (told - null)

    # ---- rules: what they draw for all views, and g of one, with the picture its prediction means --------------------
    def prepared(self, views: int, now: Progress) -> Callable[[Tensor, int, Cameras], tuple[Tensor, Tensor]]:
        if isinstance(self.system, SDS):
            return self.sds(self.system, views, now)
        if isinstance(self.system, VSD):
            return self.vsd(self.system, now)
        assert isinstance(self.system, ISM)
        return self.ism(self.system, now)

    def drawn(self, views: int) -> Tensor:
        side, streams = self.model.side // self.model.codec.factor, self.stage.streams
        return torch.randn(views, self.model.codec.channels, side, side, generator=streams.noise)

    def times(self, low: float, high: float, count: int) -> Tensor:
        first, last = int(low * 1000 + 1e-6), min(int(high * 1000 + 1e-6), 999)
        return torch.randint(first, last + 1, (count,), generator=self.stage.streams.timestep)

    def sds(self, rule: SDS, views: int, now: Progress) -> Callable[[Tensor, int, Cameras], tuple[Tensor, Tensor]]:
        s = rule.settings
        times, noises = self.times(s.t_min.at(now), s.t_max.at(now), views), self.drawn(views)

        def gradient(z: Tensor, view: int, camera: Cameras) -> tuple[Tensor, Tensor]:
            t, noise = times[[view]], noises[[view]]
            z_t = self.table.add_noise(z, noise, t)
            eps = self.guided(z_t, t, s.cfg.at(now))
            return self.table.weight("sds", t) * (eps - noise), self.table.x0(z_t, eps, t)

        return gradient

    def vsd(self, rule: VSD, now: Progress) -> Callable[[Tensor, int, Cameras], tuple[Tensor, Tensor]]:
        s, stream, own, adapter = rule.settings, self.stage.streams.timestep, rule.trained, rule.adapter
        assert own is not None and adapter is not None  # after a step of ours
        t, noise = self.times(s.t_min.at(now), s.t_max.at(now), 1), self.drawn(1)
        then = torch.randint(0, 1000, (1,), generator=stream)
        kept, fresh = torch.rand(1, generator=stream) >= s.camera_drop, self.drawn(1)

        def gradient(z: Tensor, view: int, camera: Cameras) -> tuple[Tensor, Tensor]:
            z_t = self.table.add_noise(z, noise, t)
            eps = self.guided(z_t, t, s.cfg.at(now))
            pose = camera.camera_to_world.reshape(-1, 16)
            said = Condition({"text": self.words[1:].expand(2, -1, -1)})
            poses = torch.cat([pose, torch.zeros_like(pose)])
            told, blind = adapter.apply(own.params(), z_t.expand(2, -1, -1, -1), t.expand(2), said, poses).chunk(2)
            mine = blind + s.cfg_own * (told - blind)
            leaf = own.leaf()
            with torch.enable_grad():
                state, condition = self.table.add_noise(z.detach(), fresh, then), Condition({"text": self.words[1:]})
                answer = adapter.apply(own.params(leaf), state, then, condition, pose * kept)
                error = (answer - fresh) / self.table.signal_noise(then, z)[0].clamp(min=0.05)
                own.learn(error.square().mean(), leaf, s.lr)
            return self.table.weight("sds", t) * (eps - mine), self.table.x0(z_t, eps, t)

        return gradient

    def ism(self, rule: ISM, now: Progress) -> Callable[[Tensor, int, Cameras], tuple[Tensor, Tensor]]:
        s, table = rule.settings, self.table
        last, noise = int(self.times(s.t_min.at(now), s.t_max.at(now), 1)), self.drawn(1)
        noise = noise + s.offset * torch.randn(1, 4, 1, 1, generator=self.stage.streams.noise)
        before = max(last - int(s.interval.at(now) * 1000 + 1e-6), 0)

        def gradient(z: Tensor, view: int, camera: Cameras) -> tuple[Tensor, Tensor]:
            pace = int(s.stride * 1000 + 1e-6)
            at = torch.tensor([max(before - pace * s.max_steps, 0)])
            z_t, end = table.add_noise(z, noise, at), torch.tensor([last])
            while int(at) < before:
                after = torch.tensor([min(int(at) + pace, before)])
                z_t, at = table.ddim_move(z_t, self.asked(z_t, at, self.words[:1]), at, after), after
            low = self.asked(z_t, at, self.words[:1])
            z_t = table.ddim_move(z_t, low, at, end)
            eps = self.guided(z_t, end, s.cfg.at(now))
            return s.strength * table.weight("ism", end) * (eps - low), table.x0(z_t, eps, end)

        return gradient
