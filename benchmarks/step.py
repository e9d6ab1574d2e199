# SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes, and what the loop itself costs around a scene and a model that do nothing;
with diffusers and transformers at hand, a step on Stable Diffusion's architecture too (benchmarks/latent.py)."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import interleave
from dreamlab import recipe
from dreamlab.core.cameras import Cameras
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Condition, Frames, ParamGroup, Prompt, Training
from dreamlab.metrics.figures import Check, report
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.optim import Adam
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step

STEPS = 20
SHARE = 0.01  # of the default recipe's step, at most


class NullScene:
    """One parameter; its frames are its value."""

    kind = "null"

    def __init__(self) -> None:
        self.value = torch.full((1, 1), 0.5, requires_grad=True)

    def groups(self) -> Mapping[str, ParamGroup]:
        return {"value": ParamGroup(self.value, constant(0.01))}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        rgb = self.value.expand(len(cameras), 4, 4, 3)
        return Frames(rgb, rgb[..., :1], rgb[..., :1].detach(), background)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> None:
        return


class NullGuidance:
    """Answers the state itself."""

    variants = frozenset({"text", "null"})

    def __init__(self, table: object) -> None:
        self.table = table

    def encode(self, rgb: Tensor) -> Tensor:
        return rgb.permute(0, 3, 1, 2)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        empty = Condition({"row": torch.zeros(len(cameras))})
        return {"text": empty, "null": empty}

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        return z_t


def null_stage(like: BuiltStage) -> BuiltStage:
    """The same stage with a scene and a guidance that cost nothing."""
    from dataclasses import replace

    scene = NullScene()
    terms = tuple(replace(term, guidance=NullGuidance(term.guidance.table)) for term in like.terms)  # type: ignore[arg-type]
    return replace(like, scene=scene, terms=terms, optimiser=Adam(scene))  # type: ignore[arg-type]


def shares(stage: BuiltStage, ring: Ring) -> dict[str, float]:
    """Milliseconds per step spent in rendering, guidance and the whole, by wrapping the two calls."""
    spent = {"render": 0.0, "guidance": 0.0}

    def timed(name: str, call: object) -> object:
        def wrapper(*arguments: object) -> object:
            began = time.perf_counter()
            result = call(*arguments)  # type: ignore[operator]
            spent[name] += time.perf_counter() - began
            return result

        return wrapper

    stage.scene.render = timed("render", stage.scene.render)  # type: ignore[method-assign, assignment]
    for term in stage.terms:
        term.guidance.condition = timed("guidance", term.guidance.condition)  # type: ignore[method-assign, assignment]
        term.guidance.predict = timed("guidance", term.guidance.predict)  # type: ignore[method-assign, assignment]
    began = time.perf_counter()
    for i in range(STEPS):
        step(stage, i, ring)
    whole = time.perf_counter() - began
    ring.drain()
    return {name: 1e3 * value / STEPS for name, value in (spent | {"step": whole}).items()}


def measure(name: str = recipe.DEFAULT) -> list[Check]:
    """Of the loop, and of latent models where their libraries are installed."""
    if not all(importlib.util.find_spec(library) for library in ("diffusers", "transformers")):
        return loop(name)
    from benchmarks import latent

    return [*loop(name), *latent.measure()]


def loop(name: str = recipe.DEFAULT) -> list[Check]:
    wanted = recipe.load(recipe.find(name), TABLES)
    stage = Assembler(wanted, "cpu").stage(0)
    empty = null_stage(stage)
    ring = Ring(METRICS, 10_000, "cpu")

    def steps(built: BuiltStage) -> None:
        for i in range(STEPS):
            step(built, i, ring)
        ring.drain()

    timings = interleave({"null": lambda: steps(empty), "real": lambda: steps(stage)})
    ratios = [a / b for a, b in zip(timings["null"].cpu, timings["real"].cpu, strict=True)]
    null_ms = 1e3 * min(timings["null"].wall) / STEPS
    parts = {key: round(value, 2) for key, value in shares(stage, ring).items()}
    details = {"parts_ms": parts, "real_cpu_ms": round(1e3 * timings["real"].cpu_median / STEPS, 2)}
    return [
        Check("loop_share_of_step", round(statistics.median(ratios), 4), "", SHARE, "lower", str(parts), details),
        Check("loop_ms_per_step", round(null_ms, 3), "ms", None, "lower"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    return 0 if report(measure(), parser.parse_args().json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
