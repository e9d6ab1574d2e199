# SPDX-License-Identifier: Apache-2.0
"""Verdicts: is this the asked object, from all sides?

An asset is drawn from twelve cameras over two backgrounds. It is accepted when the asked category is the likeliest of
all (none of these included) by the mean probability, and that mean reaches a threshold that was set on the training
split. The thresholds travel in the header of the weights; `python -m dreamlab.metrics calibrate` shows what they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError
from dreamlab.core.text import did_you_mean
from dreamlab.metrics.asset import Asset, judging_cameras
from dreamlab.metrics.judge_net import SIZE, StoredJudge, load

NONE = "none of these"
BACKGROUNDS = ((0.72, 0.72, 0.72), (0.30, 0.42, 0.40))
CHUNK = 64


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one asset."""

    accepted: bool
    category: str  # the likeliest, or NONE
    score: float  # mean probability of the asked category
    none: float  # mean probability of none of these
    by_view: tuple[float, ...]  # probability of the asked category in every view


class Judge:
    """The network with its thresholds."""

    def __init__(self, stored: StoredJudge) -> None:
        self.stored = stored
        self.categories = stored.categories
        self.asset_threshold = float(stored.facts.get("asset_threshold", 0.5))
        self.picture_threshold = float(stored.facts.get("picture_threshold", 0.5))

    def look(self, rgb: Tensor) -> Tensor:
        """Pictures [B, 64, 64, 3] -> probabilities [B, C + 1]."""
        if rgb.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"judge: pictures are [B, {SIZE}, {SIZE}, 3], got {tuple(rgb.shape)}")
        with torch.no_grad():
            found = [self.stored.net(part.float().clamp(0, 1))[0] for part in rgb.split(CHUNK)]
        return torch.cat(found).softmax(1)

    def features(self, rgb: Tensor) -> Tensor:
        """[B, F] unit vectors: pictures of like objects point alike, whatever their colours."""
        with torch.no_grad():
            found = torch.cat([self.stored.net.features(part.float().clamp(0, 1)) for part in rgb.split(CHUNK)])
        return torch.nn.functional.normalize(found, dim=1)

    def index(self, category: str) -> int:
        if category not in self.categories:
            raise InputError(f"judge: no category {category!r}{did_you_mean(category, self.categories)}")
        return self.categories.index(category)

    def name(self, index: int) -> str:
        return self.categories[index] if index < len(self.categories) else NONE

    def pictures(self, rgb: Tensor, category: str) -> tuple[Tensor, Tensor]:
        """Of single pictures: accepted [B] and the probability of the asked category [B]."""
        found = self.look(rgb)
        score = found[:, self.index(category)]
        return (score >= self.picture_threshold) & (found.argmax(1) == self.index(category)), score

    def views(self, rgb: Tensor, alpha: Tensor, category: str) -> Verdict:
        """Of one asset's views: premultiplied colour over black [V, 64, 64, 3], alpha [V, 64, 64, 1]."""
        wanted = self.index(category)
        looked = [self.look(rgb + (1 - alpha) * rgb.new_tensor(ground)) for ground in BACKGROUNDS]
        found = torch.stack(looked).mean(0)
        mean = found.mean(0)
        likeliest = int(mean.argmax())
        score = float(mean[wanted])
        return Verdict(
            accepted=likeliest == wanted and score >= self.asset_threshold,
            category=self.name(likeliest),
            score=score,
            none=float(mean[-1]),
            by_view=tuple(found[:, wanted].tolist()),
        )

    def asset(self, asset: Asset, category: str, cameras: Cameras | None = None) -> Verdict:
        return self.views(*views_of(asset, cameras or judging_cameras()), category)


def views_of(asset: Asset, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Premultiplied colour over black [V, S, S, 3] and alpha [V, S, S, 1], on the host."""
    device = asset.device
    with torch.no_grad():
        frames = asset.render(cameras.to(device), SIZE, torch.zeros(len(cameras), 3, device=device))
    return frames.rgb.cpu(), frames.alpha.cpu()


@lru_cache(maxsize=4)
def judge(path: Path | None = None) -> Judge:
    """The judge that comes with the package, or one from a file."""
    return Judge(load(path or Path(str(resources.files("dreamlab.metrics") / "weights" / "judge.safetensors"))))
