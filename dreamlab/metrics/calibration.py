# SPDX-License-Identifier: Apache-2.0
"""What the judge does with what is known: true objects, trivial answers, wrong objects; by asset and by picture.

Thresholds are set on the training split; the tables are of the held-out split (colourings and instances).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.streams import derive
from dreamlab.metrics import impostors
from dreamlab.metrics.asset import TRIVIAL, Solid, instances, judging_cameras, true_answer
from dreamlab.metrics.janus import Sides
from dreamlab.metrics.judge import Judge, Verdict, views_of
from dreamlab.metrics.judge_data import NAMES, NONE, SHARE, SKIP, draw_labelled
from dreamlab.metrics.judge_net import JudgeNet, StoredJudge
from dreamlab.toybox.caption import Caption
from dreamlab.toybox.category import Category
from dreamlab.toybox.program import rotation
from dreamlab.toybox.scene import transformed
from dreamlab.toybox.shapes import CATEGORIES, finishes
from dreamlab.toybox.split import held_out_combination, held_out_instance
from dreamlab.toybox.training.data import draw_finishes
from dreamlab.toybox.training.plan import Plan
from guidance.toybox.net import NetSettings

LOWEST, HIGHEST = 0.4, 0.8  # bounds of a threshold
SEED_CALIBRATE, SEED_MEASURE = 101, 202
PICTURE_BATCHES = 12


@dataclass(frozen=True)
class Case:
    """One asset with what is asked of it and what it really is."""

    kind: str
    caption: Caption
    asset: Solid


def cases(seed: int, held_out: bool, rounds: int = 1) -> Iterable[Case]:
    """For every category: the truth, the trivial answers, and objects that are nearly right."""
    for index in range(rounds):
        rng = random.Random(derive(seed, "cases", index, held_out))  # noqa: S311
        captions = [_caption(rng, CATEGORIES[name], held_out) for name in NAMES]
        for i, caption in enumerate(captions):
            instance = _instance(rng, caption.category, held_out)
            truth = true_answer(caption, instance)
            yield Case("true", caption, truth)
            for name, answer in TRIVIAL.items():
                yield Case(name, caption, answer(caption, instance))
            other = captions[(i + 1 + rng.randrange(len(captions) - 1)) % len(captions)]
            mixed = impostors.mixed(rng, truth.program, true_answer(other, instance).program)
            yield Case("mixed", caption, Solid(mixed))
            yield Case("janus", caption, Solid(impostors.janus(truth.program)))
            over = torch.tensor(rotation((0.0, 0.0, 180.0)))
            yield Case("upside down", caption, Solid(transformed(truth.program, over)))
            around = torch.tensor(rotation((0.0, 180.0, 0.0)))
            yield Case("turned around", caption, Solid(transformed(truth.program, around)))
            yield Case("broken", caption, Solid(impostors.broken(rng, truth.program)))


def calibrated(net: JudgeNet, facts: dict[str, object]) -> dict[str, object]:
    """`facts` with thresholds that keep the true apart from the trivial answers of the training split."""
    bare = Judge(StoredJudge(net, NAMES, {}))
    true: list[float] = []
    false: list[float] = []
    for case in cases(SEED_CALIBRATE, held_out=False, rounds=2):
        if case.kind == "true" or case.kind in TRIVIAL:
            score = bare.asset(case.asset, case.caption.category).score
            (true if case.kind == "true" else false).append(score)
    batches = [draw_labelled(SEED_CALIBRATE, i) for i in range(PICTURE_BATCHES)]
    wanted = [bare.look(batch.rgb) for batch in batches]
    label = torch.cat([batch.label for batch in batches])
    best = torch.cat(wanted)
    shown = torch.tensor([kind == "true" for batch in batches for kind in batch.kind])
    picture_true = best[shown].gather(1, label[shown][:, None])[:, 0]
    picture_false = best[label == NONE][:, :-1].amax(1)
    return facts | {
        "asset_threshold": round(threshold(torch.tensor(true), torch.tensor(false), 0.01), 2),
        "picture_threshold": round(threshold(picture_true, picture_false, 0.05), 2),
    }


def threshold(true: Tensor, false: Tensor, share: float) -> float:
    """Half-way between what all but `share` of the true reach and what all but `share` of the false stay below."""
    low, high = float(true.quantile(share)), float(false.quantile(1 - share))
    return min(max((low + high) / 2, LOWEST), HIGHEST)


def tables(judge: Judge, rounds: int = 3, prior: Path | None = None) -> dict[str, object]:
    """Held-out figures: by kind of asset, by kind of picture, and (given a prior's folder) of its samples."""
    sampled = prior_row(judge, prior) if prior is not None else None  # first: a bad folder is said before the long part
    found: dict[str, list[tuple[Case, Verdict, bool | None]]] = {}
    sides: dict[int, Sides] = {}
    for case in cases(SEED_MEASURE, held_out=True, rounds=rounds):
        if id(case.caption) not in sides:
            truths = [true_answer(case.caption, seed) for seed in instances(case.caption.category, 4)]
            sides = {id(case.caption): Sides(truths)}
        rgb, alpha = views_of(case.asset, judging_cameras())
        fronts = sides[id(case.caption)].fronts_seen(rgb, alpha)
        verdict = judge.views(rgb, alpha, case.caption.category)
        found.setdefault(case.kind, []).append((case, verdict, None if fronts is None else fronts > 0.5))
    out: dict[str, object] = {
        "thresholds": {"asset": judge.asset_threshold, "picture": judge.picture_threshold},
        "assets": {kind: _asset_row(rows) for kind, rows in found.items()},
        "true assets refused": sorted({c.caption.category for c, v, _ in found["true"] if not v.accepted}),
        "spheres accepted": sorted({c.caption.category for c, v, _ in found["sphere"] if v.accepted}),
        "fronted categories without a Janus verdict": sorted(
            {c.caption.category for c, _, j in found["true"] if j is None and CATEGORIES[c.caption.category].fronted}
        ),
        "pictures": _pictures(judge),
    }
    if sampled is not None:
        out["samples of the prior"] = sampled
    return out


def _asset_row(rows: list[tuple[Case, Verdict, bool | None]]) -> dict[str, object]:
    janus = [flag for _, _, flag in rows if flag is not None]
    count = len(rows)
    return {
        "count": count,
        "accepted": sum(verdict.accepted for _, verdict, _ in rows) / count,
        "likeliest is what was asked": sum(v.category == case.caption.category for case, v, _ in rows) / count,
        "mean score": sum(verdict.score for _, verdict, _ in rows) / count,
        "mean none": sum(verdict.none for _, verdict, _ in rows) / count,
        "janus": sum(janus) / len(janus) if janus else None,
    }


def _pictures(judge: Judge) -> dict[str, object]:
    """Single pictures, softened and noised as in training: how many are named, how many get past the threshold."""
    tally: dict[str, list[tuple[bool, bool]]] = {}
    for index in range(PICTURE_BATCHES):
        batch = draw_labelled(SEED_MEASURE, index, held_out=True)
        probability = judge.look(batch.rgb)
        named, best = probability.argmax(1), probability[:, :-1].amax(1)
        for i, kind in enumerate(batch.kind):
            if (wanted := int(batch.label[i])) != SKIP:
                kept = bool(best[i] >= judge.picture_threshold) and int(named[i]) != NONE
                name = kind if (kind == "true") == (wanted != NONE) else f"{kind}, hardly changed"
                tally.setdefault(name, []).append((int(named[i]) == wanted, kept))
    return {
        kind: {
            "count": len(rows),
            "right": sum(right for right, _ in rows) / len(rows),
            "accepted as any category": sum(kept for _, kept in rows) / len(rows),
        }
        for kind, rows in sorted(tally.items())
    }


def prior_row(judge: Judge, folder: Path) -> dict[str, object]:
    """Pictures that a prior draws of held-out prompts."""
    from dreamlab.core.cameras import orbit
    from dreamlab.toybox.training.sample import held_out_prompts, sample
    from guidance.toybox.prior import Toybox

    prior = Toybox(Toybox.Settings(weights=str(folder)))
    prompts = held_out_prompts(NAMES)
    cameras = orbit([47.0 * i for i in range(len(prompts))], 20.0, 3.2, 42.0)
    rgb = sample(prior, prompts, cameras, 4.0, 25, seed=0)
    kept = [bool(judge.pictures(rgb[i : i + 1], name)[0]) for i, name in enumerate(NAMES)]
    none = judge.look(rgb).argmax(1) == NONE
    return {"count": len(kept), "accepted": sum(kept) / len(kept), "none": float(none.float().mean())}


def _caption(rng: random.Random, category: Category, held_out: bool) -> Caption:
    """Plain colours of the first two parts, on one side of the split (or any, where a side is empty)."""
    plan = Plan(NetSettings(1), share=SHARE | {"bare": 0.0, "main": 0.0, "three": 0.0, "pattern": 0.0, "material": 0.0})
    chosen = {}
    for _ in range(400):
        chosen = draw_finishes(rng, category, plan)
        looks = finishes(category, chosen)
        second = looks[category.nameable[1]].colour if len(category.nameable) > 1 else None
        distinct = second != looks[category.main].colour
        if distinct and held_out_combination(category.name, looks[category.main].colour, second) == held_out:
            break
    return Caption(category.name, {part: replace(finish) for part, finish in chosen.items()})


def _instance(rng: random.Random, name: str, held_out: bool) -> int:
    while True:
        seed = rng.randrange(100_000)
        if held_out_instance(name, seed) == held_out:
            return seed
