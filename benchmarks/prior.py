# SPDX-License-Identifier: Apache-2.0
"""What the embedded prior costs, in process CPU time.

A step of the default recipe (four joint views, told the prompt and nothing) and a step of the training, each against
the same network of torch's own layers one after another, and against what a product of large matrices reaches."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Timing, interleave
from dreamlab.core.cameras import turntable
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.metrics.figures import Check, report
from dreamlab.toybox.training.data import Batch, draw_batch
from dreamlab.toybox.training.loss import errors
from dreamlab.toybox.training.trainer import Trainer, new_plan
from guidance.shared.dtypes import fast_dtype
from guidance.toybox import layers, net
from guidance.toybox.roles import ToyboxViews
from guidance.toybox.store import EVERY, Stored

VIEWS = 4
FORWARD_MS = 90.0  # of eight rows, on a busy machine
FORWARD_GAIN, FORWARD_SHARE, TRAIN_SHARE = 1.05, 0.45, 0.4
REPEATS = 4  # calls in one measurement
LARGE = 1024  # rows and columns of the product that is the limit


def by_torch(
    x: Tensor, told: Tensor | None = None, *, normed: bool = True, silu: bool = False, groups: int = 1
) -> Tensor:
    """`modulate` by torch's layers."""
    if normed:
        x = F.layer_norm(x.unflatten(-1, (groups, -1)), (x.shape[-1] // groups,)).flatten(-2)
    if told is not None:
        a, b = told.reshape(len(x), *(x.dim() - 2) * [1], -1).chunk(2, -1)
        x = x * (1 + a) + b
    return F.silu(x) if silu else x


def means(x: Tensor) -> Tensor:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


@contextmanager
def plain_layers() -> Iterator[None]:
    """The network of torch's own layers, every row by itself."""
    with (
        mock.patch.multiple(layers, swift=lambda: False, modulate=by_torch, pooled=means),
        mock.patch.multiple(net, halves_alike=lambda *_: 1, pooled=means),
    ):
        yield


def plainly(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with plain_layers():
            call()

    return run


def forward(trainer: Trainer, dtype: str) -> Callable[[], None]:
    """What a step asks of a network of the shipped shape; what it has learnt costs nothing."""
    prior = ToyboxViews(ToyboxViews.Settings(dtype=dtype), Stored(EVERY, "cosine", trainer.words, trainer.ema, {}))
    cameras, blank = turntable(VIEWS), torch.zeros(VIEWS, prior.size, prior.size, 1)
    frames = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(VIEWS, 3))
    told = prior.condition(Prompt("a red mushroom with a white stem"), cameras, frames)
    both = Condition.cat([told["text"], told["null"]])
    z, t = torch.randn(VIEWS, 3, prior.size, prior.size), torch.full((2 * VIEWS,), 500)

    def call() -> None:
        for _ in range(REPEATS):
            prior.predict(torch.cat([z, z]), t, both)

    return call


def operations(call: Callable[[], object]) -> int:
    """Of the products in a call of torch's layers."""
    with plain_layers(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def gain(name: str, ours: Timing, plain: Timing, floor: float | None) -> Check:
    ratios = [theirs / mine for theirs, mine in zip(plain.cpu, ours.cpu, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    note = f"torch's layers {1e3 * min(plain.cpu):.0f} ms, ours {1e3 * min(ours.cpu):.0f}"
    details = {"quartiles": [round(low, 2), round(high, 2)], "repeats": len(ratios)}
    return Check(name, round(statistics.median(ratios), 2), "x", floor, note=note, details=details)


def measure() -> list[Check]:
    plan, words = new_plan("cpu", EVERY)
    trainer = Trainer(plan, words)
    task = plan.only("image")
    sizes = (plan.net.half, plan.net.size)
    batches = {size: draw_batch(task, words, 0, size) for size in sizes}
    large = torch.randn(LARGE, LARGE).to(fast_dtype(torch.device("cpu")))
    calls: dict[str, Callable[[], object]] = {"limit": lambda: large @ large}
    for dtype in ("auto", "float32"):
        calls[f"forward_{dtype}"] = forward(trainer, dtype)
        calls[f"forward_{dtype}_plain"] = plainly(calls[f"forward_{dtype}"])
    for size in sizes:
        calls[f"train_{size}"] = partial(trainer.train_step, batches[size])
        calls[f"train_{size}_plain"] = plainly(calls[f"train_{size}"])
    calls["draw_64"] = partial(draw_batch, task, words, 1, 64)
    timings = interleave(calls, repeats=5)
    limit = 2 * LARGE**3 / min(timings["limit"].cpu)
    checks = [Check("limit", round(limit / 1e9), "GFLOP / CPU s", None, note=f"{LARGE} x {LARGE} of {large.dtype}")]
    checks += forward_checks(calls, timings, limit)
    for size in sizes:
        ours, batch = timings[f"train_{size}"], batches[size]
        work = operations(partial(learn, trainer, batch))
        each = 1e3 * min(ours.cpu) / plan.batch
        checks.append(Check(f"train_{size}", round(each, 2), "ms CPU / picture", None, "lower"))
        checks.append(gain(f"train_{size}_gain", ours, timings[f"train_{size}_plain"], None))
        share, note = work / min(ours.cpu) / limit, "of the limit; the optimiser's products not counted as work"
        floor = TRAIN_SHARE if size == plan.net.size else None
        checks.append(Check(f"train_{size}_share", round(share, 2), "", floor, note=note))
    draw = 1e3 * min(timings["draw_64"].cpu) / plan.batch
    return [*checks, Check("draw_64", round(draw, 2), "ms CPU / picture", None, "lower")]


def learn(trainer: Trainer, batch: Batch) -> None:
    """The products of a step without the optimiser's."""
    error, shown = errors(trainer.net, trainer.table, batch, trainer.chance(batch, 0, trainer.plan.only("image")))
    (error.mean() + shown).backward()


def forward_checks(calls: dict[str, Callable[[], object]], timings: dict[str, Timing], limit: float) -> Iterator[Check]:
    for dtype in ("auto", "float32"):
        ours, auto = timings[f"forward_{dtype}"], dtype == "auto"
        note = f"four views, told the prompt and nothing; {fast_dtype(torch.device('cpu'))}" if auto else ""
        ms = round(1e3 * min(ours.cpu) / REPEATS, 1)
        yield Check(f"forward_8x64_{dtype}", ms, "ms CPU", FORWARD_MS if auto else None, "lower", note)
        floor = FORWARD_GAIN if auto else None
        yield gain(f"forward_8x64_{dtype}_gain", ours, timings[f"forward_{dtype}_plain"], floor)
    share = operations(calls["forward_auto"]) / min(timings["forward_auto"].cpu) / limit
    yield Check("forward_8x64_share", round(share, 2), "", FORWARD_SHARE, note="of the limit")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    return 0 if report(measure(), parser.parse_args().json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
