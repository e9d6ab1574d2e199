# SPDX-License-Identifier: Apache-2.0
"""Training of the judge: cross-entropy over the categories and none, and over the side of objects with a front.

One thread, a fixed number of steps, batches that depend on (seed, index) alone: equal commands give equal weights on
one machine and build.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from dreamlab.metrics.judge_data import NAMES, SKIP, draw_labelled
from dreamlab.metrics.judge_net import JudgeNet

RATE, DECAY, WARMUP = 3e-3, 0.02, 50
SIDE_WEIGHT = 0.3


def train(steps: int, seed: int, tell: Callable[[str], None] = print) -> JudgeNet:
    torch.manual_seed(seed)
    net = JudgeNet(len(NAMES)).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    right = seen = 0.0
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = draw_labelled(seed, step)
        with torch.autocast("cpu", torch.bfloat16):
            category, side = net(batch.rgb)
        loss = F.cross_entropy(category.float(), batch.label, ignore_index=SKIP)
        loss = loss + SIDE_WEIGHT * F.cross_entropy(side.float(), batch.side, ignore_index=SKIP)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        right += float((category.argmax(1) == batch.label).sum())
        seen += float((batch.label != SKIP).sum())
        if (step + 1) % 50 == 0:
            tell(f"step {step + 1}/{steps}: loss {float(loss.detach()):.3f}, right {right / seen:.3f}")
            right = seen = 0.0
    return net.eval()
