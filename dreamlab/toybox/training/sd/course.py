# SPDX-License-Identifier: Apache-2.0
"""A network on its way: weights, their average, optimisers, and the folder that outlives the process.

The folder holds plan.json, state.safetensors (counters in its header) and log.jsonl. All that is random in a step is
derived from (seed, step), so on one machine with fixed threads a resumed run ends as an uninterrupted one does.
"""

from __future__ import annotations

import copy
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamlab.core import tensors
from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.toybox.training.moments import moments, remember
from dreamlab.toybox.training.muon import Muon
from dreamlab.toybox.training.rates import falling
from dreamlab.toybox.training.trainer import LOG, STATE, Rhythm

Optimisers = tuple[torch.optim.Optimizer, ...]
# What reads or writes pictures, words and places; tables and vectors learn by AdamW anyway.
EDGES = ("conv_in.", "conv_out.", "embeddings.", "class_embedding.linear_1", "quant_conv")


@dataclass(frozen=True)
class CoursePlan:
    """Counts are in pictures seen, so that they mean the same at any batch size and after any interruption."""

    batch: int = 32  # of all lanes
    lanes: int = 2
    rate: float = 2e-3
    warmup: int = 4_000
    total: int = 1_000_000  # the rate falls linearly to zero over the last `cooldown` of these
    cooldown: float = 0.4
    ema: float = 0.999  # per step, reached from below
    seed: int = 0

    def rate_at(self, seen: int) -> float:
        return falling(self, seen, self.cooldown)


def optimisers_of(net: nn.Module, rate: float, lanes: int) -> Optimisers:
    """Muon for hidden matrices, in as many shares as there are lanes to take the steps; AdamW for the rest."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        edge = parameter.dim() < 2 or any(word in name for word in EDGES)
        (rest if edge else hidden).append(parameter)
    hidden.sort(key=torch.numel, reverse=True)
    shares = [Muon(hidden[lane::lanes], rate) for lane in range(lanes)]
    return *shares, torch.optim.AdamW(rest, rate, betas=(0.9, 0.99), weight_decay=0.01)


class Course(ABC):
    """What the trainings of this folder have in common; each says what a step's loss is and what to look at."""

    kind = ""  # of the run, in its plan

    def __init__(self, folder: Path, plan: CoursePlan, net: nn.ModuleDict) -> None:
        self.folder, self.plan = folder, plan
        self.net: nn.ModuleDict = net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.optimisers = optimisers_of(self.net, plan.rate, plan.lanes)
        self.lanes = ThreadPoolExecutor(plan.lanes, "lane")
        self.step, self.seen = 0, 0

    @abstractmethod
    def loss(self, lane: int) -> tuple[Tensor, dict[str, float]]:
        """Of one lane's pictures of step `self.step`, and what the log should have of it."""

    @abstractmethod
    def look(self) -> dict[str, float]:
        """Figures on held-out objects; writes a sheet of pictures beside them."""

    def ready(self, stopping: Callable[[], bool]) -> bool:
        """Whatever the next step needs is there; false if it was stopped on the way."""
        return not stopping()

    def train_step(self) -> dict[str, float]:
        self.ready(lambda: False)
        for group in (group for each in self.optimisers for group in each.param_groups):
            group["lr"] = self.plan.rate_at(self.seen)
        told = self.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        list(self.lanes.map(lambda each: each.step(), self.optimisers))
        self.step, self.seen = self.step + 1, self.seen + self.plan.batch
        keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - keep)
        return told

    def backward(self) -> dict[str, float]:
        """Mean gradient of the lanes: threads that meet once a step, where threads within each layer meet at each.
        Beside other programs that is the difference between a step in a second and one in six."""
        parameters = [parameter for parameter in self.net.parameters() if parameter.requires_grad]

        def run(lane: int) -> tuple[dict[str, float], tuple[Tensor, ...]]:
            torch.set_num_threads(1)
            loss, told = self.loss(lane)
            return {"loss": loss.item()} | told, torch.autograd.grad(loss, parameters)

        lanes = list(self.lanes.map(run, range(self.plan.lanes)))
        for parameter, *grads in zip(parameters, *(grads for _, grads in lanes), strict=True):
            parameter.grad = torch.stack(grads).mean(0) if len(grads) > 1 else grads[0]
        return mean_of([told for told, _ in lanes])

    def state(self) -> dict[str, Tensor]:
        held = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        held |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        return held | moments(self.net, self.optimisers)

    def save(self) -> None:
        data = tensors.packed(self.state(), "counters", {"step": self.step, "seen": self.seen})
        with disk_errors("saving the training state", self.folder):
            write_atomic(self.folder / STATE, data)

    def restore(self) -> None:
        counters, held = tensors.unpacked(self.folder / STATE, "counters")
        self.step, self.seen = counters["step"], counters["seen"]
        for prefix, net in (("net.", self.net), ("ema.", self.ema)):
            net.load_state_dict({n.removeprefix(prefix): v for n, v in held.items() if n.startswith(prefix)})
        remember(self.net, self.optimisers, held)

    def log(self, line: dict[str, float]) -> None:
        rounded = {"images": self.seen} | {name: round(value, 5) for name, value in line.items()}
        with disk_errors("writing the log", self.folder), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")

    def train(self, minutes: float, stopping: Callable[[], bool]) -> None:
        """Until the plan's total, the time, or a signal; always ends with a saved state."""
        end, since = time.monotonic() + 60 * minutes, time.monotonic()
        rhythm, lines, first = Rhythm(save=300.0, sheet=1200.0), [], self.seen
        while self.seen < self.plan.total and time.monotonic() < end and self.ready(stopping):
            lines.append(self.train_step())
            if rhythm.now("log"):
                speed = {"images_per_s": (self.seen - first) / (time.monotonic() - since)}
                self.log({"rate": self.plan.rate_at(self.seen)} | speed | mean_of(lines))
                lines, since, first = [], time.monotonic(), self.seen
            if rhythm.now("save"):
                self.save()
            if rhythm.now("sheet"):
                self.log(self.look())
        self.save()
        if not stopping():
            self.log(self.look())


def mean_of(lines: list[dict[str, float]]) -> dict[str, float]:
    """Name -> mean over the lines that have it."""
    names = dict.fromkeys(name for line in lines for name in line)
    found = {name: [line[name] for line in lines if name in line] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}
