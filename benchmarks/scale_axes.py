# SPDX-License-Identifier: Apache-2.0
"""What `bench scale` lets grow: an axis is a number of something and a piece of work of that size, which is prepared
outside the clock."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

Work = Callable[[], object]


@dataclass(frozen=True)
class Axis:
    about: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Work]
    from_size: int  # constant costs hide the slope below it
    unit: str = "CPU s"


def _gaussians(count: int) -> Work:
    from benchmarks.bench_splat import make_case

    return make_case(count, 512).both


def _pixels(count: int) -> Work:
    from benchmarks.bench_splat import make_case

    return make_case(50_000, round(math.sqrt(count))).both


def _views(count: int) -> Work:
    from benchmarks.bench_splat import make_case

    return make_case(20_000, 256, count).both


def _samples(count: int) -> Work:
    from benchmarks.bench_hashgrid import make_case

    return make_case(count).both


def _triangles(count: int) -> Work:
    from benchmarks.bench_raster import make_case

    return make_case(count, 512).both


def _rays(count: int) -> Work:
    """A picture of a field as it starts, which is a ball: march, hash grid, network, composite; no gradient."""
    import torch

    from dreamlab.core.cameras import turntable
    from renderers.hash_field import HashField

    scene = HashField(HashField.Settings(), torch.Generator().manual_seed(0))
    cameras, size, white = turntable(1), round(math.sqrt(count)), torch.ones(1, 3)

    def call() -> None:
        with torch.no_grad():
            scene.render(cameras, size, white)

    return call


_COLOURS = ("red", "blue", "green", "yellow", "purple", "white", "black", "orange")
_KINDS = ("mushroom", "mug", "pear", "dice", "duck", "car", "house", "table")


def _prompts(count: int) -> Work:
    """An amortised run from its start through one step for each of its prompts."""
    from benchmarks.amortised import trained
    from dreamlab import recipe
    from dreamlab.recipe.tables import TABLES

    texts = [f"a {_COLOURS[(i + i // 8) % 8]} {_KINDS[i % 8]}" for i in range(count)]
    wanted = recipe.load(recipe.find("sds-many"), TABLES, prompt=texts[0], overrides=[f"stages.0.steps={count}"])
    wanted = replace(wanted, prompts=tuple(texts[1:]))
    return lambda: trained(wanted)


def _steps(count: int) -> Work:
    """What a reader of a run folder does: its events are read, as the studio and `resume` do."""
    from dreamlab.run.folder import Run

    folder = Path(tempfile.mkdtemp(prefix="dreamlab-scale-"))
    row = {"time": "2026-01-01T00:00:00.000+00:00", "kind": "metrics", "stage": "shape", "loss": 0.123456789}
    lines = (json.dumps(row | {"global_step": i, "seconds": 0.01 * i}) for i in range(0, count, 10))
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return lambda: len(Run(folder).events())


AXES: Mapping[str, Axis] = {
    "gaussians": Axis(
        "Gaussians, 512 px, forward and backward", (1_000, 10_000, 100_000, 300_000, 1_000_000, 3_000_000),
        _gaussians, 100_000,
    ),
    "pixels": Axis(
        "pixels, 50k Gaussians, forward and backward", tuple(s * s for s in (64, 128, 256, 512, 1024, 2048)),
        _pixels, 512**2,
    ),
    "views": Axis("views, 20k Gaussians, 256 px", (1, 2, 4, 8, 16, 32), _views, 4),
    "samples": Axis(
        "hash-grid samples, 16 levels of 2^19 rows", (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000),
        _samples, 100_000,
    ),
    "triangles": Axis(
        "triangles, 512 px, raster and antialias", (1_000, 10_000, 100_000, 300_000, 1_000_000), _triangles, 100_000
    ),
    "rays": Axis("rays through a field", tuple(s * s for s in (32, 64, 128, 256, 512)), _rays, 128**2),
    "prompts": Axis("prompts of an amortised run, a step each", (2, 4, 8, 16, 32, 64), _prompts, 8),
    "steps": Axis("steps of a run folder that is read", (1_000, 10_000, 100_000, 1_000_000), _steps, 100_000),
}  # fmt: skip
