# SPDX-License-Identifier: Apache-2.0
"""A moving field: a static and a temporal hash grid whose features are added (4D-fy, Bahmani et al. 2023,
arXiv:2311.17984), with shared heads.

The temporal grid is dense in time: T tables, linear between neighbours. Encoding is linear in the table, so the table
of a moment is blended first and read once. The temporal tables start at zero: the field starts without motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from cuda_ext.hashgrid import encode, position_gradient
from dreamlab.core.cards import SceneCard
from dreamlab.core.knots import between
from dreamlab.core.schedules import Schedule, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Offer, ParamGroup
from renderers.backing import GridSettings
from renderers.hash_field import FieldSettings, HashField


@dataclass(frozen=True)
class MovingFieldSettings(FieldSettings):
    moments: int = setting(12, low=2, high=256, help="knots in time of the temporal grid")
    temporal_log2: int = setting(13, low=3, high=24, help="of the rows of its hashed levels")
    temporal_finest: int = setting(64, low=1, high=65536, help="cells per axis of its finest level")
    loop: bool = setting(False, help="time 1 is time 0 again")
    frozen: bool = setting(False, help="only the temporal grid is trained")
    lr_temporal: Schedule = setting(ramp(0.02, 0.002, curve="exp"), low=0)


class Field4D(HashField):
    """Density and colour that move: a static hash grid plus a temporal one."""

    kind: ClassVar[str] = "field4d"
    paper: ClassVar[str] = "Bahmani et al. 2023, arXiv:2311.17984"
    Settings: ClassVar[type] = MovingFieldSettings
    settings: MovingFieldSettings
    moves: ClassVar[bool] = True

    @classmethod
    def card(cls, settings: FieldSettings) -> SceneCard:
        assert isinstance(settings, MovingFieldSettings)
        (grid, shape), still = _moving(settings), super().card(settings)
        return replace(still, complaint=still.complaint or grid.complaint(settings.backend, shape))

    def __init__(self, settings: MovingFieldSettings, generator: torch.Generator) -> None:
        grid, shape = _moving(settings)
        self.moving = grid.made(*shape, settings.smoothstep)
        super().__init__(settings, generator)
        self.params["temporal"] = torch.zeros(settings.moments, self.moving.rows, settings.features)
        self._own(self.params)

    def groups(self) -> Mapping[str, ParamGroup]:
        groups = {**super().groups(), "temporal": ParamGroup(self.params["temporal"], self.settings.lr_temporal)}
        return {"temporal": groups["temporal"]} if self.settings.frozen else groups

    def table_at(self, time: Tensor) -> Tensor:
        """[rows, features] of the temporal grid at `time` []."""
        return between(self.params["temporal"], time, self.settings.loop)

    def features(self, unit: Tensor, view: Tensor | None, time: Tensor | None) -> Tensor:
        still = super().features(unit, view, time)
        if "temporal" not in self.params:  # while the static part is being built
            return still
        if view is None or time is None:
            moment = unit.new_zeros(()) if time is None else time.reshape(())
            return still + self._moved(unit, moment)
        parts = [self._moved(part, moment) for part, moment in zip(by_view(unit, view, len(time)), time, strict=True)]
        return still + torch.cat(parts)

    def slope(self, unit: Tensor, grad: Tensor, view: Tensor | None, time: Tensor | None) -> Tensor:
        still = super().slope(unit, grad, view, time)
        if view is None or time is None:
            moment = unit.new_zeros(()) if time is None else time.reshape(())
            return still + self._bent(unit, grad, moment)
        pairs = zip(by_view(unit, view, len(time)), by_view(grad, view, len(time)), time, strict=True)
        return still + torch.cat([self._bent(part, pull, moment) for part, pull, moment in pairs])

    def _moved(self, unit: Tensor, moment: Tensor) -> Tensor:
        """[M, width] of the temporal grid at a time []."""
        how = self.runs("hashgrid")
        return encode(unit, self.table_at(moment), self.moving, active_levels=self.active, backend=how)

    def _bent(self, unit: Tensor, grad: Tensor, moment: Tensor) -> Tensor:
        """[M, 3] gradient of those features . grad."""
        table, how = self.table_at(moment), self.runs("hashgrid")
        return position_gradient(unit, table, grad, self.moving, active_levels=self.active, backend=how)

    def cell_density(self, points: Tensor, turn: int) -> Tensor:
        """The most a cell holds at a few moments: refreshes go round all of them."""
        if "temporal" not in self.params:
            return super().cell_density(points, turn)
        moments = self.settings.moments
        some = torch.tensor([(turn * 3 + i) % moments for i in range(3)], device=points.device) / max(moments - 1, 1)
        return torch.stack([self.sigma(self.raw(points, None, time)) for time in some]).amax(0)

    @property
    def loops(self) -> bool:
        return self.settings.loop

    def offer_at(self, resolution: int, time: float) -> Offer:
        """Its density at a time, at the level that those take who do not look."""
        moment = self.params["table"].new_tensor([time])
        level = 0.0 if self.distance else 3 / self.settings.radius
        return self.level_set(resolution, level, time=moment)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Also of a field that does not move yet."""
        still = torch.zeros_like(self.params["temporal"]).detach()
        super().load_state_dict({"temporal": still, **state})


def _moving(s: MovingFieldSettings) -> tuple[GridSettings, tuple[int, int, int, int, int]]:
    """The layout and shape of the temporal grid; `growth` is of the static one."""
    return replace(s.hashgrid, growth=None), (s.levels, s.features, s.temporal_log2, s.base, s.temporal_finest)


def by_view(rows: Tensor, view: Tensor, count: int) -> list[Tensor]:
    """Samples [M, ...], which lie view after view, cut at the views. Where the cuts are is read by the host."""
    return list(rows.tensor_split(torch.searchsorted(view, torch.arange(1, count, device=view.device)).tolist()))
