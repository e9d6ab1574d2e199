# SPDX-License-Identifier: Apache-2.0
"""All figures of one asset, against one prompt: `Yardstick(caption)` once per prompt, `measure(asset)` per asset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import Diverged, InputError
from dreamlab.metrics import colours
from dreamlab.metrics.appearance import Appearance, appearance, deviation
from dreamlab.metrics.asset import TRIVIAL, Asset, Solid, instances, judging_cameras, true_answer
from dreamlab.metrics.geometry import (
    RESOLUTION,
    Body,
    Likeness,
    compare,
    shape_of_mesh,
    shape_of_program,
)
from dreamlab.metrics.janus import GROUND, Sides
from dreamlab.metrics.judge import Judge, Verdict, judge, views_of
from dreamlab.metrics.judge_net import SIZE
from dreamlab.metrics.retrieval import distractors, likelihood, retrieved
from dreamlab.toybox.caption import Caption, parse

TRUTHS = 6  # instances that stand for a prompt, all of the held-out side
READERS = 4  # of them whose parts are the stencil
QUICK = slice(0, 12, 3)  # cameras for the colours of distractors


@dataclass(frozen=True)
class Figures:
    """What was measured of one asset. None: the question does not apply to this prompt."""

    accepted: bool
    category: str
    score: float
    none: float
    janus: bool | None
    main: str | None  # colours found; None: the part is missing
    second: str | None
    main_right: bool
    second_right: bool | None
    iou: float
    iou_aligned: float
    chamfer: float
    saturation: float  # of the asset over the true mean
    contrast: float
    saturation_off: float  # standard deviations of the true pictures
    contrast_off: float
    retrieved: bool

    @property
    def colours_right(self) -> bool:
        return self.main_right and self.second_right is not False


class Yardstick:
    """What a prompt is measured against; holds no asset."""

    def __init__(self, prompt: str | Caption, with_judge: Judge | None = None, truths: int = TRUTHS) -> None:
        self.caption = parse_plain(prompt) if isinstance(prompt, str) else prompt
        self.judge = with_judge or judge()
        self.cameras = judging_cameras()
        self.seeds = instances(self.caption.category, truths)

    @cached_property
    def shapes(self) -> list[Body]:
        return [shape_of_program(true_answer(self.caption, seed).program) for seed in self.seeds]

    @cached_property
    def looks(self) -> list[Appearance]:
        return [appearance(*views_of(true_answer(self.caption, seed), self.cameras)) for seed in self.seeds]

    @cached_property
    def sides(self) -> Sides:
        return Sides([true_answer(self.caption, seed) for seed in self.seeds[:READERS]])

    @cached_property
    def stencil(self) -> colours.Stencil:
        return colours.stencil(self.caption.category, self.cameras, SIZE, self.seeds[:READERS])

    @cached_property
    def rivals(self) -> list[tuple[Caption, colours.Stencil]]:
        """Distractors with the places of their parts, for few cameras and instances."""
        made: dict[str, colours.Stencil] = {}
        found = []
        for caption in distractors(self.caption):
            name = caption.category
            if name not in made:
                made[name] = colours.stencil(name, self.cameras[QUICK], SIZE, instances(name, 2))
            found.append((caption, made[name]))
        return found

    def trivial(self) -> dict[str, Solid]:
        """The answers that a figure must beat, by name."""
        return {name: answer(self.caption, self.seeds[0]) for name, answer in TRIVIAL.items()}

    def measure(self, asset: Asset) -> tuple[Figures, Tensor]:
        """The figures, and the mean feature of the views [F] for diversity."""
        rgb, alpha = views_of(asset, self.cameras)
        verdict = self.judge.views(rgb, alpha, self.caption.category)
        try:
            found = shape_of_mesh(asset.mesh(RESOLUTION))
            likeness = compare(found, self.shapes)
        except Diverged:  # nothing to extract
            found, likeness = None, Likeness(0.0, 0.0, float("inf"))
        cameras = self.cameras if found is None or found.spread <= 0 else self.moved_cameras(found, self.cameras)
        rgb_aligned, alpha_aligned = views_of(asset, cameras)
        read = colours.read(rgb_aligned, alpha_aligned, self.caption, self.stencil)
        features = self.judge.features(rgb + (1 - alpha) * GROUND).mean(0)
        fronts = self.sides.fronts_seen(rgb_aligned, alpha_aligned)
        hit = self._retrieved(verdict, rgb_aligned, alpha_aligned, rgb, alpha)
        return self._figures(verdict, read, likeness, appearance(rgb, alpha), fronts, hit), features

    def moved_cameras(self, found: Body, cameras: Cameras) -> Cameras:
        """Cameras that see the asset as these would after its alignment with the mean truth."""
        centre = torch.stack([truth.centre for truth in self.shapes]).mean(0)
        spread = sum(truth.spread for truth in self.shapes) / len(self.shapes)
        factor = min(max(spread / found.spread, 0.4), 2.5)
        pose = cameras.camera_to_world.clone()
        pose[:, :3, 3] = (pose[:, :3, 3] - centre) / factor + found.centre
        return replace(cameras, camera_to_world=pose)

    def _retrieved(
        self, verdict: Verdict, rgb_aligned: Tensor, alpha_aligned: Tensor, rgb: Tensor, alpha: Tensor
    ) -> bool:
        """All colours are read from the same quick cameras, the prompt's own too."""
        probability = self.judge.look(rgb + (1 - alpha) * GROUND)
        by_name = dict(zip(self.judge.categories, probability.mean(0).tolist(), strict=False))
        quick = rgb_aligned[QUICK], alpha_aligned[QUICK]
        mine = colours.stencil(self.caption.category, self.cameras[QUICK], SIZE, self.seeds[:2])

        def score(caption: Caption, where: colours.Stencil) -> float:
            return likelihood(caption, by_name[caption.category], colours.read(*quick, caption, where))

        return retrieved(score(self.caption, mine), [score(*rival) for rival in self.rivals])

    def _figures(
        self,
        verdict: Verdict,
        read: list[colours.PartColour],
        likeness: Likeness,
        look: Appearance,
        fronts: float | None,
        hit: bool,
    ) -> Figures:
        saturation = [true.saturation for true in self.looks]
        contrast = [true.contrast for true in self.looks]
        second = read[1] if len(read) > 1 else None
        return Figures(
            accepted=verdict.accepted,
            category=verdict.category,
            score=verdict.score,
            none=verdict.none,
            janus=None if fronts is None else fronts > 0.5,
            main=read[0].found,
            second=second.found if second else None,
            main_right=read[0].right,
            second_right=second.right if second else None,
            iou=likeness.iou,
            iou_aligned=likeness.iou_aligned,
            chamfer=likeness.chamfer,
            saturation=look.saturation / max(sum(saturation) / len(saturation), 0.02),
            contrast=look.contrast / max(sum(contrast) / len(contrast), 0.02),
            saturation_off=deviation(look.saturation, saturation),
            contrast_off=deviation(look.contrast, contrast),
            retrieved=hit,
        )


def parse_plain(prompt: str) -> Caption:
    """A prompt that can be measured: one object of the world, standing still."""
    try:
        caption = parse(prompt)
    except ValueError as error:
        raise InputError(f"prompt: {error} (see: dreamlab list objects)") from None
    if caption.unknown:
        raise InputError(f"prompt: {caption.report()}")
    if caption.relation or caption.action:
        raise InputError(f"prompt: {prompt!r} names a relation or an action; the scoreboard measures single objects")
    return caption
