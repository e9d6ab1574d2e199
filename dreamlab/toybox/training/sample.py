# SPDX-License-Identifier: Apache-2.0
"""Sampling from the prior, and contact sheets of held-out prompts: true picture beside what the prior draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit, turntable
from dreamlab.core.files import write_atomic
from dreamlab.core.noise import cfg
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from dreamlab.toybox.caption import parse
from dreamlab.toybox.colours import COLOURS
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import Program
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import fraction, held_out_combination
from dreamlab.toybox.training.data import Drawn, program_of
from guidance.toybox.prior import Toybox, shared_of

PROBES = (
    *("mushroom", "mug", "chair", "house", "cube", "pyramid", "car", "airplane"),
    *("duck", "snowman", "ice cream", "lamp", "cat", "boat", "castle", "guitar"),
)
ACTED = (
    *(
        "a spinning red windmill with white blades",
        "a nodding yellow duck",
        "a bouncing blue ball",
        "a waving green penguin",
    ),
    *("a rocking purple boat", "a rolling orange car with black wheels", "a spinning pink cube"),
    "a nodding brown dog",
)
LOOKS = ((30.0, 20.0), (-140.0, 20.0))  # azimuth, elevation
GRAY = 0.7
EDGE = 2  # pixels of a picture's edge that no object of the world reaches


def held_out_prompts(names: Sequence[str] = PROBES) -> list[str]:
    """For each category one held-out colouring of its first two parts: the one with the smallest hash."""
    prompts = []
    for name in names:
        parts = CATEGORIES[name].nameable
        pairs = [(a, b) for a in COLOURS for b in (COLOURS if len(parts) > 1 else ("",)) if a != b]
        held = [(a, b) for a, b in pairs if held_out_combination(name, a, b or None)]
        main, second = min(held or pairs, key=lambda pair: fraction("probe", name, *pair))
        prompts.append(f"{main} {name}" + (f" with {second} {parts[1]}" if second else ""))
    return prompts


def sample(guidance: Toybox, prompts: Sequence[str], cameras: Cameras, scale: float, steps: int, seed: int) -> Tensor:
    """[B, H, W, 3] of the image role: one picture for each prompt and camera."""
    count = len(prompts)
    captions = guidance.captions({"null": ""} | {f"prompt {i}": text for i, text in enumerate(prompts)})
    shared = shared_of(captions)
    device = captions.mask.device
    camera = guidance.view(cameras).to(device)
    index = torch.arange(count, device=device) + 1
    told, untold = (Condition({"caption": caption, "camera": camera}, shared) for caption in (index, 0 * index))
    return ancestral(guidance, told, untold, count, scale, steps, seed)


@torch.no_grad()
def ancestral(
    guidance: Toybox,
    told: Condition,
    untold: Condition,
    count: int,
    scale: float,
    steps: int,
    seed: int,
    backdrop: Tensor | None = None,
) -> Tensor:
    """[count, H, W, 3] from pure noise with guidance; x0 is clamped on the way. A known `backdrop` [count, 3] is held
    at the pictures' edge.

    The sampler is that of Song et al. 2021, eq. 12, with eta = 1: each step puts fresh noise in the place of old, and
    so forgives the network errors that the deterministic one (eta = 0) carries to the end.
    """
    table, both = guidance.table, Condition.cat([told, untold])
    device = both.rows["camera"].device
    shape = (count, 3, guidance.size, guidance.size)
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        each = guidance.together if guidance.one_noise else 1
        drawn = torch.randn((-(-count // each), *shape[1:]), generator=generator)
        return drawn.repeat_interleave(each, 0)[:count].to(device)

    z = noise()
    solid = None if backdrop is None else guidance.encode(backdrop[:, None, None].expand(shape[0], *shape[2:], 3)).to(z)
    edge = F.pad(torch.zeros(shape[2] - 2 * EDGE, shape[3] - 2 * EDGE, device=device), [EDGE] * 4, value=1.0).bool()
    times = torch.linspace(len(table) - 1, 0, steps + 1, device=device).round().long()
    for t_from, t_to in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        t = torch.full((count,), t_from, device=device)
        text, null = guidance.predict(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        a, s = table.signal_noise(t, z)
        x0 = ((z - s * cfg(null, text, scale)) / a).clamp(-1, 1)
        if solid is not None:
            x0 = torch.where(edge, solid, x0)
        a_to, s_to = table.signal_noise(torch.full_like(t, t_to), z)
        fresh = s_to / s * (1 - (a / a_to) ** 2).sqrt()
        kept = (s_to**2 - fresh**2).sqrt() * (z - a * x0) / s
        z = a_to * x0 + kept + fresh * noise()
    return guidance.decode(x0).clamp(0, 1)


def sheet(path: Path, guidance: Toybox, title: str, *, scale: float = 4.0, steps: int = 25, seed: int = 0) -> None:
    """Write a PNG: for each held-out prompt the true pictures, and the prior's from the same cameras."""
    if guidance.role == "image":
        prompts: Sequence[str] = held_out_prompts()
        cameras = orbit([a for a, _ in LOOKS] * len(prompts), [e for _, e in LOOKS] * len(prompts), 3.2, 42.0)
        true = torch.cat([scene_of(prompt, cameras[: len(LOOKS)], guidance.size)[0].rgb for prompt in prompts])
        drawn = sample(guidance, [prompt for prompt in prompts for _ in LOOKS], cameras, scale, steps, seed).cpu()
        tiles = torch.cat([picture.unflatten(0, (-1, len(LOOKS))) for picture in (true, drawn)], 1)
    else:
        prompts = ACTED if guidance.role == "video" else held_out_prompts(PROBES[::2])
        tiles = torch.stack([torch.cat(role_pictures(guidance, p, scale, steps, seed)) for p in prompts])
    write_atomic(path, _png(tiles, prompts, title, columns=4 if guidance.role == "image" else 2))


def scene_of(prompt: str, cameras: Cameras, size: int, instance: int = 0) -> tuple[Frames, Program]:
    """True frames of a prompt's object before gray; it moves when the cameras have times and the prompt says how."""
    caption = parse(prompt)
    times = tuple(cameras.time.tolist()) if caption.action and cameras.time is not None else (0.0,)
    programs = program_of(Drawn(caption, prompt, instance, times))
    shown = draw(programs, cameras, size, per_program=len(programs) > 1)
    picture = {name: getattr(shown, name).flatten(0, 1) for name in ("alpha", "depth", "normal")}
    backdrop = torch.full((len(cameras), 3), GRAY)
    return Frames(shown.over(GRAY).flatten(0, 1), background=backdrop, **picture), programs


def role_pictures(
    guidance: Toybox, prompt: str, scale: float, steps: int, seed: int, instance: int = 0
) -> tuple[Tensor, Tensor]:
    """True and drawn pictures [J, H, W, 3] of one prompt in the guidance's role."""
    joint = guidance.together
    cameras = turntable(4, 20.0, 3.2, 42.0)
    if guidance.role == "video":
        cameras = replace(orbit([30.0] * joint, 20.0, 3.2, 42.0), time=torch.arange(joint) / joint)
    frames, _ = scene_of(prompt, cameras, guidance.size, instance)
    given = None
    if guidance.role == "novel":
        alpha = frames.alpha[0]
        straight = (frames.rgb[0] - GRAY * (1 - alpha)) / alpha.clamp(min=1e-3)
        given = Reference(straight.clamp(0, 1), alpha, cameras[:1])
    told = guidance.condition(Prompt(prompt, image=given), cameras, frames)
    backdrop = backdrop_of(guidance, frames)
    return frames.rgb, ancestral(guidance, told["text"], told["null"], len(cameras), scale, steps, seed, backdrop).cpu()


def backdrop_of(guidance: Toybox, frames: Frames) -> Tensor | None:
    """What is known of the samples' backdrop: a novel view stands before that of its given picture. Elsewhere the prior
    is free to choose one; held at the edge it would seldom be the one inside."""
    return frames.background if guidance.role == "novel" else None


def _png(tiles: Tensor, captions: Sequence[str], title: str, columns: int = 4) -> bytes:
    """Rows of tiles [K, N, S, S, 3] with their captions above."""
    import io

    from PIL import Image, ImageDraw

    count, wide, size = tiles.shape[0], tiles.shape[1], tiles.shape[2]
    label, head = 12, 14
    rows = -(-count // columns)
    page = Image.new("RGB", (columns * (wide * size + 4), head + rows * (size + label)), "white")
    pen = ImageDraw.Draw(page)
    pen.text((2, 1), title, fill="black")
    pictures = (tiles.clamp(0, 1) * 255).round().byte().permute(0, 2, 1, 3, 4).reshape(count, size, wide * size, 3)
    for i, (picture, caption) in enumerate(zip(pictures.numpy(), captions, strict=True)):
        left, top = (i % columns) * (wide * size + 4), head + (i // columns) * (size + label)
        pen.text((left + 2, top), caption, fill="black")
        page.paste(Image.fromarray(picture), (left, top + label))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
