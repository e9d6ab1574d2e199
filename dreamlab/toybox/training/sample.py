# SPDX-License-Identifier: Apache-2.0
"""Sampling from the prior, and contact sheets of held-out prompts: true picture beside what the prior draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.noise import cfg
from dreamlab.core.types import Condition
from dreamlab.files import write_atomic
from dreamlab.toybox.caption import parse
from dreamlab.toybox.colours import COLOURS
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.split import fraction, held_out_combination
from dreamlab.toybox.training.data import Drawn, render
from guidance.toybox import Toybox
from guidance.toybox_net import camera_features

PROBES = (
    *("mushroom", "mug", "chair", "house", "cube", "pyramid", "car", "airplane"),
    *("duck", "snowman", "ice cream", "lamp", "cat", "boat", "castle", "guitar"),
)
LOOKS = ((30.0, 20.0), (-140.0, 20.0))  # azimuth, elevation
GRAY = 0.7


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


@torch.no_grad()
def sample(guidance: Toybox, prompts: Sequence[str], cameras: Cameras, scale: float, steps: int, seed: int) -> Tensor:
    """[B, H, W, 3]: DDIM from pure noise, one picture for each prompt and camera; x0 is clamped on the way."""
    count, table = len(prompts), guidance.table
    captions = guidance.captions({"null": ""} | {f"prompt {i}": text for i, text in enumerate(prompts)})
    shared = {"words": captions.words, "mask": captions.mask}
    device = captions.mask.device
    camera = camera_features(cameras).to(device)
    index = torch.arange(count, device=device) + 1
    both = Condition({"caption": torch.cat([index, 0 * index]), "camera": torch.cat([camera, camera])}, shared)
    shape = (count, 3, guidance.size, guidance.size)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    times = torch.linspace(len(table) - 1, 0, steps + 1, device=device).round().long()
    for t_from, t_to in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        t = torch.full((count,), t_from, device=device)
        text, null = guidance.predict(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        a, s = table.signal_noise(t, z)
        x0 = ((z - s * cfg(null, text, scale)) / a).clamp(-1, 1)
        a_to, s_to = table.signal_noise(torch.full_like(t, t_to), z)
        z = a_to * x0 + s_to * (z - a * x0) / s
    return guidance.decode(x0).clamp(0, 1)


def sheet(path: Path, guidance: Toybox, title: str, *, scale: float = 4.0, steps: int = 25, seed: int = 0) -> None:
    """Write a PNG: for each held-out prompt two true views and the prior's pictures from the same two cameras."""
    prompts = held_out_prompts()
    cameras = orbit([a for a, _ in LOOKS] * len(prompts), [e for _, e in LOOKS] * len(prompts), 3.2, 42.0)
    objects = [Drawn(parse(prompt), prompt, 0) for prompt in prompts]
    true, _ = render(objects, cameras, torch.full((len(cameras), 3), GRAY), guidance.size, 0.0, "cpu")
    drawn = sample(guidance, [prompt for prompt in prompts for _ in LOOKS], cameras, scale, steps, seed).cpu()
    tiles = torch.cat([true.unflatten(0, (-1, len(LOOKS))), drawn.unflatten(0, (-1, len(LOOKS)))], 1)
    write_atomic(path, _png(tiles, prompts, title))


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
