# SPDX-License-Identifier: Apache-2.0
"""Whether the roles of the embedded prior obey: samples of held-out prompts beside the truth and trivial answers.

Every object is a held-out colouring of a held-out instance. `obey(role, prior)` gives a table: one row per answer
(the truth measured like an answer, the samples, answers that did not listen), one column per figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit, turntable
from dreamlab.core.errors import ModelError
from dreamlab.core.types import Frames, Prompt, Reference
from dreamlab.metrics.asset import DISTANCE, FOVY_DEG, instances
from dreamlab.metrics.judge import judge
from dreamlab.metrics.judge_net import SIZE as JUDGED
from dreamlab.toybox.caption import parse
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.draw import draw
from dreamlab.toybox.grammar import say
from dreamlab.toybox.motion import ACTIONS, can
from dreamlab.toybox.program import Program, stack
from dreamlab.toybox.scoring import obedience
from dreamlab.toybox.shapes import CATEGORIES, program
from dreamlab.toybox.split import fraction
from dreamlab.toybox.training.sample import GRAY, ancestral, backdrop_of, sample, scene_of
from guidance.toybox.prior import Toybox
from guidance.toybox.roles import TOYBOXES

ELEVATION = 20.0
TURNS = (90.0, 180.0, -90.0)  # of the novel views
SEEN = 12  # instances of a category that training may have seen, for comparison
EXPLAINERS, AROUND, STRANGERS = 6, 12, 24  # of a picture: instances, azimuths of each, other categories
# Of guidance. A picture says more than a caption; at 4 frames flicker (flow 1.01 of a still clip's error; 0.96 at 2).
SCALE, SCALES = 4.0, {"novel": 2.0, "video": 2.0}
LIKE = 0.2  # cosine below which a clip is like no action
Figures = dict[str, float]


@dataclass(frozen=True)
class Held:
    """One held-out object."""

    prompt: str
    instance: int  # of the held-out side
    others: tuple[int, ...]  # instances that training may have seen
    azimuth_deg: float


@dataclass(frozen=True)
class Obeyed:
    """What was measured of a role: answer -> figure -> mean, and pictures for the sheet [K, N, S, S, 3]."""

    role: str
    count: int
    rows: dict[str, Figures]
    prompts: tuple[str, ...]
    tiles: Tensor


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn."""

    prior: str | None
    steps: int = 25
    scale: float | None = None  # none: the role's own
    seed: int = 0
    device: str = "cpu"

    def guidance(self, role: str) -> Toybox:
        kind = TOYBOXES[role]
        settings = kind.Settings() if self.prior is None else kind.Settings(weights=self.prior)
        return kind(settings).to(self.device)

    def strength(self, role: str) -> float:
        return SCALES.get(role, SCALE) if self.scale is None else self.scale

    def draw(self, guidance: Toybox, prompt: Prompt, cameras: Cameras, frames: Frames, index: int) -> Tensor:
        """[B, S, S, 3] samples; `frames` are what the guidance may look at (a surface, a background)."""
        told = guidance.condition(prompt, cameras, frames)
        seed = 1000 * self.seed + index
        how = self.strength(guidance.role), self.steps, seed
        backdrop = backdrop_of(guidance, frames)
        return ancestral(guidance, told["text"], told["null"], len(cameras), *how, backdrop).cpu()


def held_out(prompts: Sequence[str]) -> list[Held]:
    """The objects of some prompts, each from its own side."""
    found = []
    for prompt in prompts:
        name = parse(prompt).category
        seen = tuple(instances(name, SEEN, held_out=False))
        found.append(Held(prompt, instances(name, 1)[0], seen, round(360 * fraction("obey", prompt)) - 180.0))
    return found


def obey(
    role: str, prompts: Sequence[str], drawing: Drawing, tell: Callable[[str], None] = lambda line: None
) -> Obeyed:
    """Measure one role on some held-out prompts."""
    guidance = drawing.guidance(role)
    measures: dict[str, Callable[..., tuple[dict[str, Figures], Tensor]]] = {
        "control": control,
        "novel": novel,
        "video": video,
        "views": views,
    }
    measure = measures[role]
    if role == "video":
        prompts = [acted(prompt) for prompt in prompts]
    held, found, tiles = held_out(prompts), [], []
    extra = image_role(drawing) if role in ("control", "views") else None
    novel_mean = mean_views(held, guidance.size) if role == "novel" else None
    for i, one in enumerate(held):
        rows, strip = measure(one, i, drawing, guidance, extra if novel_mean is None else (novel_mean, len(held)))
        found.append(rows)
        tiles.append(strip)
        tell(f"{role} {i + 1}/{len(held)} {one.prompt}")
    means = {
        name: {figure: sum(rows[name][figure] for rows in found) / len(found) for figure in found[0][name]}
        for name in found[0]
    }
    return Obeyed(role, len(held), ratios(role, means), tuple(prompts), torch.stack(tiles))


def image_role(drawing: Drawing) -> Toybox | None:
    """The same weights without what the role is told besides, where they serve that too."""
    try:
        return drawing.guidance("image")
    except ModelError:
        return None


def ratios(role: str, rows: dict[str, Figures]) -> dict[str, Figures]:
    """Figures that compare answers with the trivial one."""
    if role == "novel":  # squared errors so far; their mean over objects becomes a PSNR
        decibels = {
            name: {figure: -10 * math.log10(max(e, 1e-10)) for figure, e in row.items()} for name, row in rows.items()
        }
        copied = decibels["the given picture"]["all"]
        return {name: row | {"above copying": row["all"] - copied} for name, row in decibels.items()}
    if role == "video":
        still = rows["a still clip"]
        for row in rows.values():
            for figure in ("trajectory error", "flow error"):
                row[f"{figure} / still"] = row[figure] / max(still[figure], 1e-9)
    return rows


# ---- a surface to paint ---------------------------------------------------------------------------------------------
def control(
    one: Held, index: int, drawing: Drawing, guidance: Toybox, image: Toybox | None
) -> tuple[dict[str, Figures], Tensor]:
    """Given depth, normals and mask of a true object from two sides."""
    cameras = orbit([one.azimuth_deg, one.azimuth_deg + 120.0], ELEVATION, DISTANCE, FOVY_DEG)
    size = guidance.size
    true, shape = scene_of(one.prompt, cameras, size, one.instance)
    instance = scene_of(one.prompt, cameras, size, one.others[0])[0]
    other = scene_of(stranger(one.prompt), cameras, size, one.instance)[0]
    answers = {
        "the true picture": true.rgb,
        "samples": drawing.draw(guidance, Prompt(one.prompt), cameras, true, index),
    }
    if image is not None:
        how = drawing.strength("image"), drawing.steps, 1000 * drawing.seed + index
        untold = sample(image, [one.prompt] * len(cameras), cameras, *how)
        answers["samples without the surface"] = untold.cpu()
    answers |= {"another true instance": instance.rgb, "another object": other.rgb}
    target = ToldSurface(one, cameras, true, shape, size)
    rows = {name: target.figures(rgb) for name, rgb in answers.items()}
    normals = (true.normal + true.alpha) / 2 if true.normal is not None else true.rgb
    strip = [normals, true.rgb, answers["samples"], answers.get("samples without the surface", instance.rgb)]
    return rows, torch.stack(strip, 1).flatten(0, 1)


class ToldSurface:
    """What pictures of a given surface are measured against."""

    def __init__(self, one: Held, cameras: Cameras, true: Frames, shape: Program, size: int) -> None:
        self.true = true
        caption = parse(one.prompt)
        category = CATEGORIES[caption.category]
        gray = program(category.name, dict.fromkeys(category.parts, Finish("gray")), one.instance)
        lit = draw(gray, cameras, size)
        solid = lit.alpha[0, ..., 0] > 0.99
        self.gray = (lit.rgb[0] / lit.alpha[0].clamp(min=1e-3)).clamp(0, 1)
        self.part = obedience.inner(torch.where(solid, draw(shape, cameras, size).part[0], -1))
        own = stack([program(category.name, caption.finishes, i) for i in one.others[:EXPLAINERS]])
        turns = torch.arange(AROUND) * (360.0 / AROUND)
        around = orbit((cameras.azimuth_deg[:, None] + turns).flatten(), ELEVATION, DISTANCE, FOVY_DEG)
        looks = list(caption.finishes.values())
        others = sorted(
            (name for name in CATEGORIES if name != category.name), key=lambda name: fraction("other", name)
        )
        rest = stack(
            [program(n, dict(zip(CATEGORIES[n].nameable, looks, strict=False)), 0) for n in others[:STRANGERS]]
        )
        shown = [draw(own, around, size), draw(rest, cameras, size)]
        # [K, B * turns, ...] -> [B, K * turns, ...]
        self.colour, self.alpha, self.depth = (
            torch.cat(
                [getattr(each, name).unflatten(1, (len(cameras), -1)).transpose(0, 1).flatten(1, 2) for each in shown],
                1,
            )
            for name in ("rgb", "alpha", "depth")
        )

    def figures(self, rgb: Tensor) -> Figures:
        count = len(rgb)
        found = {"silhouette IoU": 0.0, "shading correlation": 0.0, "depth correlation": 0.0}
        for i in range(count):
            best = obedience.explained(rgb[i], self.colour[i], self.alpha[i])
            mask = self.true.alpha[i, ..., 0] > 0.5
            found["silhouette IoU"] += obedience.overlap(obedience.silhouette(rgb[i]), mask) / count
            found["shading correlation"] += obedience.shading(rgb[i], self.gray[i], self.part[i]) / count
            depths = (self.depth[i, best], self.alpha[i, best]), (self.true.depth[i], self.true.alpha[i])
            found["depth correlation"] += obedience.depth_agreement(*depths) / count
        return found


def stranger(prompt: str) -> str:
    """The usual object of another category, chosen by a hash."""
    name = parse(prompt).category
    return min((other for other in CATEGORIES if other != name), key=lambda other: fraction("stranger", name, other))


# ---- a picture to turn ----------------------------------------------------------------------------------------------
def views_around(one: Held) -> Cameras:
    """The given picture's camera, then the turned ones."""
    return orbit([one.azimuth_deg + turn for turn in (0.0, *TURNS)], ELEVATION, DISTANCE, FOVY_DEG)


def mean_views(held: Sequence[Held], size: int) -> Tensor:
    """[turns, S, S, 3]: the mean of all true novel views."""
    return torch.stack([scene_of(one.prompt, views_around(one), size, one.instance)[0].rgb[1:] for one in held]).mean(0)


def novel(
    one: Held, index: int, drawing: Drawing, guidance: Toybox, extra: tuple[Tensor, int]
) -> tuple[dict[str, Figures], Tensor]:
    """Given a true picture, from where it was not taken; without a word, and with its caption."""
    cameras = views_around(one)
    frames, _ = scene_of(one.prompt, cameras, guidance.size, one.instance)
    alpha = frames.alpha[0]
    straight = ((frames.rgb[0] - GRAY * (1 - alpha)) / alpha.clamp(min=1e-3)).clamp(0, 1)
    given = Reference(straight, alpha, cameras[:1])
    empty = Frames(frames.rgb[1:], frames.alpha[1:], frames.depth[1:], frames.background[1:])
    drawn, told = (
        drawing.draw(guidance, Prompt(text, image=given), cameras[1:], empty, index) for text in ("", one.prompt)
    )
    true, (mean, count) = frames.rgb[1:], extra
    others = (count * mean - true) / max(count - 1, 1)  # an answer must not know its own truth
    instance = scene_of(one.prompt, cameras, guidance.size, one.others[0])[0].rgb[1:]
    answers = {
        "samples": drawn,
        "samples with the caption": told,
        "another true instance": instance,
        "the given picture": frames.rgb[:1].expand_as(true),
        "the mean picture": others if count > 1 else mean,
        "the background": torch.full_like(true, GRAY),
    }
    rows = {}
    for name, rgb in answers.items():
        error = (rgb - true).square().mean((1, 2, 3)).tolist()
        rows[name] = {f"{turn:+.0f} deg": value for turn, value in zip(TURNS, error, strict=True)}
        rows[name]["all"] = sum(error) / len(error)
    return rows, torch.cat([frames.rgb[:1], true, drawn, told])


# ---- a clip ---------------------------------------------------------------------------------------------------------
def acted(prompt: str) -> str:
    """The prompt in an action that its object can do, chosen by a hash."""
    caption = parse(prompt)
    able = [name for name in ACTIONS if can(CATEGORIES[caption.category], name)]
    return say(replace(caption, action=min(able, key=lambda name: fraction("acted", prompt, name))))


def clip_of(prompt: str, instance: int, size: int, frames: int) -> Frames:
    """True frames of it."""
    return scene_of(prompt, clip_cameras(frames), size, instance)[0]


def clip_cameras(frames: int) -> Cameras:
    """At even times, from the front and a little to the side."""
    return replace(orbit([30.0] * frames, ELEVATION, DISTANCE, FOVY_DEG), time=torch.arange(frames) / frames)


def video(
    one: Held, index: int, drawing: Drawing, guidance: Toybox, extra: object
) -> tuple[dict[str, Figures], Tensor]:
    """Told an action; no picture is given, so the instance is the sample's own."""
    del extra
    size, count = guidance.size, guidance.together
    true = clip_of(one.prompt, one.instance, size, count)
    drawn = drawing.draw(guidance, Prompt(one.prompt), clip_cameras(count), true, index)
    return measured_clip(one, true.rgb, {"samples": drawn}), torch.cat([true.rgb, drawn])


def measured_clip(one: Held, true: Tensor, clips: dict[str, Tensor]) -> dict[str, Figures]:
    """Figures of some clips [T, S, S, 3] of an object's action and of answers that did not listen, against true
    frames."""
    count, size = true.shape[:2]
    caption = parse(one.prompt)
    able = [name for name in ACTIONS if can(CATEGORIES[caption.category], name)]
    known = {
        name: [clip_of(say(replace(caption, action=name)), i, size, count).rgb for i in one.others[:2]] for name in able
    }
    answers = clips | {
        "another true instance": clip_of(one.prompt, one.others[-1], size, count).rgb,
        "the true clip backwards": true.flip(0),
        "another action": known[next(name for name in reversed(able) if name != caption.action)][0],
        "a still clip": true[:1].expand_as(true),
    }
    told = ToldMotion(true, known, str(caption.action))
    return {name: told.figures(clip) for name, clip in answers.items()}


class ToldMotion:
    """What clips of a told action are measured against: errors in pixels, and which action a clip is most like."""

    def __init__(self, true: Tensor, known: dict[str, list[Tensor]], action: str) -> None:
        self.action, self.reach = action, max(true.shape[1] // 6, 1)
        self.way, self.where = obedience.trajectory(true), obedience.covered(true)
        self.flow = obedience.flow(true, self.reach)
        self.known = {name: [obedience.stirring(clip) for clip in clips] for name, clips in known.items()}

    def figures(self, clip: Tensor) -> Figures:
        way = obedience.trajectory(clip) - self.way
        where = self.where | obedience.covered(clip)
        apart = (obedience.flow(clip, self.reach) - self.flow).norm(dim=-1)
        mine = obedience.stirring(clip)
        like = {name: max(obedience.likeness(mine, each) for each in clips) for name, clips in self.known.items()}
        best = max(like, key=lambda name: like[name])
        return {
            "trajectory error": float(way.square().sum(-1).mean().sqrt()),
            # Over the true object's blocks: a clip that covers the whole picture must not thin its error out.
            "flow error": float(apart[where].sum()) / max(int(self.where.sum()), 1),
            "action recognised": float(best == self.action and like[best] > LIKE),
        }


# ---- four views -----------------------------------------------------------------------------------------------------
def views(
    one: Held, index: int, drawing: Drawing, guidance: Toybox, image: Toybox | None
) -> tuple[dict[str, Figures], Tensor]:
    """Four pictures from around: do they show one object?"""
    size, count = guidance.size, guidance.together
    cameras = turntable(count, ELEVATION, DISTANCE, FOVY_DEG)
    true = scene_of(one.prompt, cameras, size, one.instance)[0]
    mixed = [scene_of(one.prompt, cameras[i : i + 1], size, one.others[i])[0].rgb for i in range(count)]
    answers = {"a true object": true.rgb, "samples": drawing.draw(guidance, Prompt(one.prompt), cameras, true, index)}
    if image is not None:
        seed = 1000 * drawing.seed + index
        how = drawing.strength("image"), drawing.steps, seed
        answers["samples one by one"] = sample(image, [one.prompt] * count, cameras, *how).cpu()
    answers["four true instances"] = torch.cat(mixed)
    answers["one view four times"] = true.rgb[1:2].expand_as(true.rgb)
    target = Around(one, cameras, size)
    rows = {name: target.figures(rgb) for name, rgb in answers.items()}
    return rows, torch.cat([true.rgb, answers["samples"], answers.get("samples one by one", true.rgb)])


class Around:
    """What pictures from around are measured against: many true objects of the prompt."""

    def __init__(self, one: Held, cameras: Cameras, size: int) -> None:
        caption = parse(one.prompt)
        self.category = caption.category
        known = stack([program(caption.category, caption.finishes, i) for i in one.others[len(cameras) :]])
        shown = draw(known, cameras, size)
        self.colour, self.alpha = shown.rgb, shown.alpha
        self.judge = judge() if size == JUDGED else None

    def figures(self, rgb: Tensor) -> Figures:
        together, more = obedience.nearest_objects(rgb, self.colour, self.alpha)
        found = {"nearest object, dB": together, "each its own, dB more": more}
        if self.judge is None:
            return found
        return found | {"accepted views": float(self.judge.pictures(rgb, self.category)[0].float().mean())}
