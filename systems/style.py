# SPDX-License-Identifier: Apache-2.0
"""Style by orthogonal content (Xie et al. 2024, StyleTex, arXiv:2411.00399): g = 0.1 w(t) (eps_null(z_t, t) -
eps_null(z_s, s) + s_text (eps_text - eps_content)(z_t) + s_style (eps_style - eps_null)(z_t)), on an ISM path.

`content` is the text that describes what the style picture shows, `style` the prompt with the picture's features less
their projection on that text: both are the guidance's business. The interval is 0.1 to 0.05 of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.schedules import Schedule, When, constant, ramp
from dreamlab.core.settings import setting
from systems.engine.inversion import PathSettings, at, invert
from systems.engine.residual import Branch, Look, State, paired, per_row
from systems.engine.rule import Rule


class Style(Rule["Style.Settings"]):
    """The style of a picture without what it shows; the denoising is ISM's."""

    paper: ClassVar[str] = "Xie et al. 2024, arXiv:2411.00399"
    cost: ClassVar[str] = "at most 5 + 1 + 4"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null", "content", "style"})

    @dataclass(frozen=True)
    class Settings(PathSettings):
        cfg: Schedule = setting(constant(7.5), low=0, help="of the text less the content")
        style: Schedule = setting(constant(7.5), low=0)
        interval: Schedule = setting(ramp(0.1, 0.05, end=When(1500, "steps")), low=0, high=1, help="t - s")
        t_max: Schedule = setting(constant(0.5), low=0, high=1)
        strength: float = setting(0.1, above=0, help="factor of g")

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        t = c.time(look)
        s = max(t - look.index(c.interval.at(now)), 0)
        low = invert(look, s, c)
        (eps_s,) = look.predict([Branch(low, "null")])
        state = State(table.ddim_move(low.z_t, eps_s, at(look, s), at(look, t)), at(look, t))
        branches = [*paired(state), Branch(state, "content"), Branch(state, "style")]
        text, null, content, style = look.predict(branches)
        total = null - eps_s + c.cfg.at(now) * (text - content) + c.style.at(now) * (style - null)
        return c.strength * per_row(table.weight(c.weight, state.t_index), total) * total
