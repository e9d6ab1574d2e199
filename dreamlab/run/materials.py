# SPDX-License-Identifier: Apache-2.0
"""What a surface is made of, found at the end of a stage, region by region (`renderers.surface.regions`).

by: light   from pictures under the world's known light, in closed form (`renderers.light.recover`); for guidances whose
            pictures show highlights: the truth, the oracle, photographs under that light
by: words   for priors that draw a material by its word and show no highlight: the same state of the same views is
            looked at twice, told a look that the prior does draw and not told it; the word is where the answers differ
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras, fixed_orbit, orbit
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.core.types import Condition, Dresser, Dressing, Finishable, Frames, Guidance, Prompt, Scene, Wearing
from dreamlab.recipe.grammar import Stage
from dreamlab.run.assemble import BuiltStage
from renderers.light.lamp import F0, LampLight, factors, gloss, lit
from renderers.light.recover import MadeOf, recover
from renderers.surface.views import device_of

BACKDROP = 0.7  # gray that the pictures stand before
SURE = 0.5  # of the noise table, where a picture is read off the guidance's answer ...
DOUBTFUL = 0.75  # ... and where it is asked for a look: much of the colour is open, the shape is not
ANSWERS = -0.13  # log of the brightness, told a metal and not: where it falls by more the word is meant
SOLID, STRAIGHT = 0.999, 0.2  # of pixels that say something of a material: alpha, cosine to the eye
RING = 4
HEIGHTS = (20.0, 45.0)  # degrees, of rings in turn
TURNS = 2  # of finding regions and what they are made of
SHINE = 0.3  # share of a pixel's light above which it says nothing of its base colour


def dress(stage: BuiltStage) -> list[str]:
    """The stage's surface gets its material; a line for everything that was found. Several objects are left as they
    are: their file is coloured at its vertices."""
    how, scene, guidance = stage.spec.materials.by, stage.scene, stage.terms[0].guidance
    if how == "none" or not isinstance(scene, Finishable):
        return []
    prompt = stage.prompts[0]
    return (by_light if how == "light" else by_words)(scene, stage.spec, guidance, prompt)


@torch.no_grad()
def by_words(scene: Scene, spec: Stage, guidance: Guidance, prompt: Prompt) -> list[str]:
    """Where a prompt's words of material are, as the guidance answers to them."""
    assert isinstance(scene, Finishable) and isinstance(guidance, Dresser)
    usual, *asked = guidance.wearing(prompt.text)
    region = scene.regions()
    count = int(region.max()) + 1
    rough, metal = region.new_full((count,), usual.roughness, dtype=torch.float32), region.new_zeros(count).float()
    tint, lines = torch.ones(count, 3, device=region.device), list[str]()
    for one in asked:
        change = answer(scene, spec, guidance, one, region, count)
        mine = change < ANSWERS
        rough[mine], metal[mine], tint[mine] = one.roughness, one.metallic, 1 / (1 - one.mirrors)
        share = float(mine[region].float().mean())
        lines.append(f"{one.word}: {share:.0%} of the surface, roughness {one.roughness:g}, metallic {one.metallic:g}")
    scene.finish(Dressing(region, rough, metal, tint))
    return lines


def answer(scene: Scene, spec: Stage, guidance: Guidance, one: Wearing, region: Tensor, count: int) -> Tensor:
    """[R] log of how much brighter a region is when the guidance is told; 0 where nobody saw it."""
    assert isinstance(scene, Finishable) and isinstance(guidance, Dresser)
    total = torch.zeros(2, count, device=region.device)
    for i, cameras in enumerate(ring.to(region.device) for ring in rings(spec)):
        frames = drawn(scene, cameras, guidance.size)
        seen = scene.watched(cameras, guidance.size)
        z = guidance.encode(frames.rgb)
        state, t = noised(guidance, z, DOUBTFUL, i)
        solid = (frames.alpha.reshape(-1)[seen.hit] > SOLID).to(z)
        for row, words in enumerate((one.told, one.plain)):
            said = guidance.condition(Prompt(words), cameras, frames)["text"]
            light = srgb_to_linear(picture(guidance, state, t, said)).sum(-1).reshape(-1)[seen.hit]
            total[row].index_add_(0, region[seen.face], solid * light)
    told, plain = total.clamp(min=1e-6)
    return torch.where(total[1] > 1.0, (told / plain).log(), 0.0)


def noised(guidance: Guidance, z: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """A state so far along the noise table, and its times; of no stream of the run."""
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed)).to(z)
    t = torch.full((len(z),), int(share * len(guidance.table)), device=z.device)
    return guidance.table.add_noise(z, noise, t), t


def picture(guidance: Guidance, state: Tensor, t: Tensor, said: Condition) -> Tensor:  # [B, H, W, 3] sRGB
    """What a guidance takes a noisy state for."""
    x0 = guidance.table.x0(state, guidance.predict(state, t, said), t)
    return guidance.decode(x0).clamp(0, 1)


def rings(spec: Stage) -> Iterator[Cameras]:
    """Cameras around the object, so many as the stage wants, four and four."""
    distance, fovy = (sum(limits) / 2 for limits in (spec.cameras.distance, spec.cameras.fovy_deg))
    for i in range(-(-spec.materials.views // RING)):
        turn = 45.0 * i
        azimuths = [360.0 * j / RING + turn for j in range(RING)]
        yield orbit(azimuths, HEIGHTS[i % len(HEIGHTS)], distance, fovy)


def drawn(scene: Scene, cameras: Cameras, size: int) -> Frames:
    """Before gray."""
    backdrop = torch.full((len(cameras), 3), BACKDROP, device=cameras.camera_to_world.device)
    return scene.render(cameras, size, backdrop)


@torch.no_grad()
def by_light(scene: Scene, spec: Stage, guidance: Guidance, prompt: Prompt) -> list[str]:
    """From what the guidance shows of many views, under the light that it shows them in; and once more, for what had a
    highlight on it may have fallen into two regions."""
    assert isinstance(scene, Finishable)
    cameras, size = fixed_orbit(spec.cameras, spec.materials.views).to(device_of(scene)), spec.materials.size
    frames = drawn(scene, cameras, size)
    shown, alpha = pictures(guidance, prompt, cameras, frames)
    seen = scene.watched(cameras, size)
    at, pixels = lit(seen.normal, seen.to_eye), shown.flatten(0, 2)[seen.hit]
    solid = (alpha.reshape(-1)[seen.hit] > SOLID) & ((seen.normal * seen.to_eye).sum(-1) > STRAIGHT)
    for _ in range(TURNS):
        region = scene.regions()
        which, count = region[seen.face], int(region.max()) + 1
        clear = solid & inner(which, seen.hit, len(cameras), size)
        few = clear.nonzero()[:, 0]
        light = LampLight(*(each[few] for each in at))
        found = recover(pixels[few], which[few], seen.hit[few] // size**2, count, light)
        bare = freed(frames, seen.hit, pixels, clear, at, found, which)
        scene.finish(Dressing(region, found.roughness, found.metallic, torch.ones_like(found.base)), cameras, bare)
    share = torch.bincount(region, minlength=count) / len(region)
    rough, metal = (float((share * each).sum()) for each in (found.roughness, found.metallic))
    return [f"{count} regions of like colour: mean roughness {rough:.2f}, metallic {metal:.2f}"]


def inner(which: Tensor, hit: Tensor, views: int, size: int) -> Tensor:
    """[M] bool: pixels all of whose neighbours show the same region: where a part ends is off by a pixel or two."""
    label = which.new_full((views, 1, size, size), -1).float()
    label.view(-1)[hit] = which.float()
    most, least = F.max_pool2d(label, 3, 1, 1), -F.max_pool2d(-label, 3, 1, 1)
    return (most == least).view(-1)[hit]


def freed(
    frames: Frames, hit: Tensor, pixels: Tensor, clear: Tensor, at: LampLight, found: MadeOf, which: Tensor
) -> Frames:
    """Pictures of the base colour alone; empty where a highlight or an edge leaves nothing to tell it by."""
    rough, metal = found.roughness[which, None], found.metallic[which, None]
    scale, offset = factors(at, rough, metal)
    base = linear_to_srgb(((srgb_to_linear(pixels) - offset) / scale.clamp(min=1e-3)).clamp(0, 1))
    shine = (F0 * (1 - metal) + found.base[which] * metal) * gloss(at, rough)
    matte = (shine <= SHINE * srgb_to_linear(pixels)).all(-1)
    there = (clear & matte).to(base)[:, None]
    rgb, alpha = torch.zeros_like(frames.rgb), torch.zeros_like(frames.alpha)
    rgb.view(-1, 3)[hit], alpha.view(-1, 1)[hit] = base * there, there
    return Frames(rgb, alpha, frames.depth, torch.zeros_like(frames.background))


def pictures(guidance: Guidance, prompt: Prompt, cameras: Cameras, frames: Frames) -> tuple[Tensor, Tensor]:
    """What the guidance shows [B, H, W, 3] in place of the frames, and where both are solid [B, H, W, 1]."""
    said = guidance.condition(prompt, cameras, frames)
    if "truth" in said:
        rows = said["truth"].rows
        return rows["rgb"].clamp(0, 1), torch.minimum(rows.get("alpha", frames.alpha), frames.alpha)
    z = guidance.encode(frames.rgb)
    return picture(guidance, *noised(guidance, z, SURE, 0), said["text"]), frames.alpha
