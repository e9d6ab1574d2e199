# SPDX-License-Identifier: Apache-2.0
"""What the embedded prior costs: a forward pass of eight pictures, and a picture in training; process CPU time."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import interleave
from dreamlab.core.cameras import turntable
from dreamlab.core.types import Frames, Prompt
from dreamlab.metrics.figures import Check, report
from dreamlab.toybox.training.data import draw_batch
from dreamlab.toybox.training.trainer import Trainer, new_plan
from guidance.toybox.prior import Toybox, fast_dtype
from guidance.toybox.store import Stored

BATCH = 8
FORWARD_MS = 120.0  # 60 ms on each of two cores
REPEATS = 4  # calls in one measurement


def forward(trainer: Trainer, dtype: str) -> Callable[[], None]:
    """Eight pictures through a network of the shipped shape; what it has learnt costs nothing."""
    stored = Stored("image", "cosine", trainer.words, trainer.ema, {})
    prior = Toybox(Toybox.Settings(dtype=dtype), stored)
    cameras, blank = turntable(BATCH), torch.zeros(BATCH, prior.size, prior.size, 1)
    frames = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(BATCH, 3))
    told = prior.condition(Prompt("a red mushroom with a white stem"), cameras, frames)["text"]
    z, t = torch.randn(BATCH, 3, prior.size, prior.size), torch.full((BATCH,), 500)

    def call() -> None:
        for _ in range(REPEATS):
            prior.predict(z, t, told)

    return call


def measure() -> list[Check]:
    plan, words = new_plan("cpu")
    trainer = Trainer(plan, words)
    batches = {size: draw_batch(plan, words, 0, size) for size in (plan.net.half, plan.net.size)}
    names = {"auto": "auto", "float32": "float32"}
    calls: dict[str, Callable[[], object]] = {name: forward(trainer, dtype) for name, dtype in names.items()}
    for size, batch in batches.items():
        calls[f"train_{size}"] = partial(trainer.train_step, batch)
    calls["draw_64"] = partial(draw_batch, plan, words, 1, 64)
    timings = interleave(calls, repeats=5)
    checks = []
    for name in names:
        ms = 1e3 * min(timings[name].cpu) / REPEATS
        floor = FORWARD_MS if name == "auto" else None
        note = f"{fast_dtype(torch.device('cpu'))}" if name == "auto" else ""
        checks.append(Check(f"forward_8x64_{name}", round(ms, 1), "ms CPU", floor, "lower", note))
    for name in (*(f"train_{size}" for size in batches), "draw_64"):
        checks.append(
            Check(name, round(1e3 * min(timings[name].cpu) / plan.batch, 2), "ms CPU / picture", None, "lower")
        )
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    return 0 if report(measure(), parser.parse_args().json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
