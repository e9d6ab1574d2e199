# SPDX-License-Identifier: Apache-2.0
"""Training of the student (`guidance.toybox.student`) on paths of its teacher, the prior as it is shipped.

First the teacher's deterministic sampler (eta = 0, eight times, guidance) is run for captions and cameras of the
training split, and of each path the states at the student's times and the picture at its end are kept. Then the student
learns to see that end in each of these states (Luhman & Luhman 2021, arXiv:2101.02388, there in the first alone). The
misfit is the pseudo-Huber distance of Song & Dhariwal 2023 (arXiv:2310.14189, eq. 8), pixel by pixel: where several
pictures may come of nearly the same noise it asks for one of them, as the median does, and not for their mean.

What one call cannot tell it still blurs. So later, of some of the pure noise, what is asked for is not the end of the
teacher's path but that of a path which begins with the student's own jump: the state half way down that its picture
leads to, and from there the teacher. As the student decides, the teacher goes along and sharpens.

Path `index` and step `index` are pure functions of (seed, index); paths lie in files, and the state is saved with its
counters: a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core import tensors
from dreamlab.core.errors import InputError
from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.core.noise import cfg
from dreamlab.core.streams import derive
from dreamlab.core.types import Condition
from dreamlab.run.signals import catching
from dreamlab.toybox.training.data import draw_caption
from dreamlab.toybox.training.loss import mixed_precision
from dreamlab.toybox.training.plan import SHARES, Plan
from dreamlab.toybox.training.rates import falling
from dreamlab.toybox.training.roles import cameras_of
from dreamlab.toybox.training.trainer import LOG, PLAN, STATE, Rhythm, opened
from guidance.shared.whole import Whole
from guidance.toybox.net import NetSettings, Text, laid_out
from guidance.toybox.prior import Toybox, folder_of, shared_of
from guidance.toybox.store import Stored, load
from guidance.toybox.student import FILE, TIMES, UNTAUGHT, Differences, packed
from systems.engine.trained import Trained

Guided = Callable[[Tensor, Tensor], Tensor]  # states and their alpha_bar [B] -> v under guidance
WAY = (999, 874, 749, 624, 500, 375, 250, 125)  # the teacher's times
ONWARD = WAY[4:]  # from where the teacher goes on after the student's first jump
CHUNK = 32  # paths of a file
PATHS = "paths"


@dataclass(frozen=True)
class StudentPlan:
    total: int = 24_000  # states looked at; the rate falls linearly to zero over the last two thirds
    batch: int = 16
    rate: float = 2e-3
    warmup: int = 800
    paths: int = 1_024
    scale: float = 4.0  # guidance of the teacher
    rank: int = 4
    first: float = 0.5  # share of the states that are pure noise
    own: float = 0.25  # share of the states, all pure noise, whose end is sought from where the student jumps to
    own_after: int = 12_000  # states
    bend: float = 0.03  # distance of colours in [-1, 1] above which a misfit counts as it is, not squared
    average: float = 0.995
    seed: int = 0

    def rate_at(self, seen: int) -> float:
        return falling(self, seen)

    def own_at(self, seen: int) -> int:
        """Of a batch."""
        return round(self.own * self.batch) if seen >= self.own_after else 0


@dataclass(frozen=True)
class Paths:
    """What the teacher made of noise, and what it was told."""

    states: Tensor  # [N, len(TIMES), S, S, 3]
    end: Tensor  # [N, S, S, 3] in [-1, 1]
    words: Tensor  # [N, L, D]
    mask: Tensor  # [N, L]
    camera: Tensor  # [N, features]
    seen: Tensor  # [N, h, w, C + 1] of the words' volume

    def take(self, rows: slice | Tensor) -> Paths:
        return Paths(*(getattr(self, field.name)[rows] for field in fields(Paths)))

    @staticmethod
    def cat(parts: list[Paths]) -> Paths:
        return Paths(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Paths)))


def way(
    prior: Toybox, told: Condition, untold: Condition, noise: Tensor, scale: float, times: Sequence[int] = WAY
) -> tuple[list[Tensor], Tensor]:
    """The teacher's states at `times` [B, S, S, 3] from noise at the first, and the picture at the end."""
    both = Condition.cat([told, untold])
    text = prior.text_of(both)

    def guided(z: Tensor, bar: Tensor) -> Tensor:
        said, silent = prior.velocity(torch.cat([z, z]), torch.cat([bar, bar]), text, both).chunk(2)
        return cfg(silent, said, scale)

    return down(guided, prior.table.alpha_bar, noise, times)


@torch.no_grad()
def down(guided: Guided, bar: Tensor, z: Tensor, times: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """The states of the deterministic sampler at `times` from z at the first, and the picture at its end."""
    states, x0 = [], z
    for at, to in zip(times, (*times[1:], None), strict=True):
        states.append(z)
        v = guided(z, bar[at].expand(len(z)))
        x0 = (bar[at].sqrt() * z - (1 - bar[at]).sqrt() * v).clamp(-1, 1)
        if to is not None:
            z = moved(bar, z, x0, at, to)
    return states, x0


def moved(bar: Tensor, z: Tensor, x0: Tensor, at: int, to: int) -> Tensor:
    """The state at `to` on the deterministic way from z at `at` to the picture x0."""
    a, s, a_to, s_to = bar[at].sqrt(), (1 - bar[at]).sqrt(), bar[to].sqrt(), (1 - bar[to]).sqrt()
    return a_to * x0 + s_to * (z - a * x0) / s


def lengthened(text: Text, longest: int) -> tuple[Tensor, Tensor]:
    """Words and mask of captions as if they were as long as any."""
    short = longest - text.words.shape[1]
    return F.pad(text.words, (0, 0, 0, short)), F.pad(text.mask, (0, short), value=-torch.inf)


@torch.no_grad()
def paths(prior: Toybox, plan: StudentPlan, index: int, held_out: bool = False) -> Paths:
    """The paths of file `index`."""
    rng = random.Random(derive(plan.seed, "student captions", index, held_out))  # noqa: S311
    generator = torch.Generator().manual_seed(derive(plan.seed, "student noise", index, held_out))
    captions = Plan(NetSettings(1), share=SHARES | {"action": 0.0})
    texts = [draw_caption(rng, captions, held_out).text for _ in range(CHUNK)]
    view = prior.view(cameras_of("image", CHUNK, 1, generator))
    said = prior.captions({"null": ""} | {f"caption {i}": text for i, text in enumerate(texts)})
    which = torch.arange(CHUNK) + 1
    told, untold = (Condition({"caption": row, "camera": view}, shared_of(said)) for row in (which, 0 * which))
    noise = torch.randn((CHUNK, prior.size, prior.size, 3), generator=generator)
    states, end = way(prior, told, untold, noise, plan.scale)
    mine = torch.stack([states[WAY.index(t)] for t in TIMES], 1)
    text = prior.text_of(told)
    seen = prior.net.seen(text, view)
    if seen is None:
        raise InputError("this prior has no volume, so it has no student")
    words, mask = lengthened(text, prior.net.net.longest)
    half = {"states": mine, "end": end, "words": words, "mask": mask, "camera": view, "seen": seen}
    return Paths(**{name: value.half() for name, value in half.items()})


class Apprentice:
    """The student in training: what differs from the teacher, its average and its optimiser."""

    def __init__(self, plan: StudentPlan, teacher: Stored) -> None:
        self.plan, self.digest = plan, teacher.digest
        self.prior = Toybox(Toybox.Settings(), teacher)
        self.nothing = self.prior.captions({"null": ""})
        self.net = laid_out(teacher.net)
        self.differences = Differences(self.net, plan.rank)
        self.whole = Whole(self.net, lambda name: not name.startswith(UNTAUGHT))
        self.trained = Trained(self.differences.start(), betas=(0.9, 0.99))
        self.mean = self.trained.flat.clone()
        self.step, self.seen = 0, 0

    def clean(self, flat: Tensor, some: Paths, z: Tensor, at: Tensor) -> Tensor:
        """[B, S, S, 3] what it sees in states z at TIMES[at]."""
        bar = self.prior.table.alpha_bar[torch.tensor(TIMES)[at]]
        made = self.differences.added(self.trained.params(flat))
        text = Text(some.words.float(), some.mask.float())
        with self.whole.added(made), mixed_precision(z.device):
            v = self.net(z, bar, text, some.camera.float(), seen=some.seen.float())
        return bar.sqrt()[:, None, None, None] * z - (1 - bar).sqrt()[:, None, None, None] * v

    def train_step(self, all_paths: Paths) -> float:
        plan = self.plan
        generator = torch.Generator().manual_seed(derive(plan.seed, "student step", self.step))
        some, at = drawn(all_paths, plan, generator)
        z = some.states[torch.arange(plan.batch), at].float()
        leaf = self.trained.leaf()
        x0, wanted = self.clean(leaf, some, z, at), some.end.float()
        if own := plan.own_at(self.seen):
            rows = slice(0, own)  # of pure noise
            wanted[rows] = self.onward(some.take(rows), x0[rows].detach())
        loss = misfit(x0, wanted, plan.bend).mean()
        self.trained.learn(loss, leaf, plan.rate_at(self.seen))
        self.step, self.seen = self.step + 1, self.seen + plan.batch
        self.mean.lerp_(self.trained.flat, 1 - min(plan.average, (1 + self.step) / (10 + self.step)))
        return loss.item()

    @torch.no_grad()
    def onward(self, some: Paths, x0: Tensor) -> Tensor:
        """The end of the teacher that goes on from the state at ONWARD[0] to which a jump from noise to x0 leads."""
        net, rows = self.prior.net, len(x0)
        camera, nothing = some.camera.float(), self.nothing.rows(torch.zeros(rows, dtype=torch.long))
        silent, hidden = lengthened(nothing, net.net.longest)
        text = Text(torch.cat([some.words.to(silent), silent]), torch.cat([some.mask.to(hidden), hidden]))
        unsaid = net.seen(nothing, camera)
        assert unsaid is not None  # there are paths, so there is a volume
        seen, both = torch.cat([some.seen.to(unsaid), unsaid]), torch.cat([camera, camera])

        def guided(z: Tensor, bar: Tensor) -> Tensor:
            v = net(torch.cat([z, z]), torch.cat([bar, bar]), text, both, seen=seen)
            return cfg(v[rows:], v[:rows], self.plan.scale)

        bar, noise = self.prior.table.alpha_bar, some.states[:, TIMES.index(WAY[0])].float()
        return down(guided, bar, moved(bar, noise, x0.clamp(-1, 1), WAY[0], ONWARD[0]), ONWARD)[1]

    @torch.no_grad()
    def errors(self, some: Paths) -> list[float]:
        """The average's root mean squared distance from the ends of paths, in [0, 1], at each of TIMES."""
        found = []
        for at in range(len(TIMES)):
            z = some.states[:, at].float()
            x0 = self.clean(self.mean, some, z, torch.full((len(z),), at)).clamp(-1, 1)
            found.append(float((x0 - some.end.float()).square().mean().sqrt() / 2))
        return found

    def file(self) -> bytes:
        facts = {"images": self.seen, "seed": self.plan.seed}
        return packed(self.mean, self.plan.rank, self.digest, facts)

    def state(self) -> bytes:
        held = {f"trained.{name}": value for name, value in self.trained.state_dict().items()} | {"mean": self.mean}
        return tensors.packed(held, "counters", {"step": self.step, "seen": self.seen})

    def restore(self, path: Path) -> None:
        counters, held = tensors.unpacked(path, "counters")
        self.step, self.seen, self.mean = counters["step"], counters["seen"], held.pop("mean")
        self.trained.load_state_dict({name.removeprefix("trained."): value for name, value in held.items()})


class StudentFolder:
    """plan.json, paths/, state.safetensors, log.jsonl, student.safetensors."""

    def __init__(self, path: Path, plan: StudentPlan) -> None:
        self.path, self.plan = path, plan

    def paths(self, prior: Toybox, stopping: Callable[[], bool]) -> Paths | None:
        """All of the plan's, those that are missing made now; None if it was stopped meanwhile."""
        found = []
        for index in range(-(-self.plan.paths // CHUNK)):
            if stopping():
                return None
            found.append(self._chunk(prior, f"{index:04d}", index, False))
        return Paths.cat(found)

    def held_out(self, prior: Toybox) -> Paths:
        return self._chunk(prior, "held-out", 0, True)

    def _chunk(self, prior: Toybox, name: str, index: int, held_out: bool) -> Paths:
        path = self.path / PATHS / f"{name}.safetensors"
        if not path.is_file():
            made = paths(prior, self.plan, index, held_out)
            with disk_errors("writing the teacher's paths", self.path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, tensors.packed(vars(made), "paths", {"index": index}))
        return Paths(**tensors.unpacked(path, "paths")[1])

    def save(self, student: Apprentice) -> None:
        with disk_errors("saving the training state", self.path):
            write_atomic(self.path / STATE, student.state())
            write_atomic(self.path / FILE, student.file())

    def log(self, student: Apprentice, **line: float) -> None:
        rounded = {"images": student.seen} | {name: round(value, 5) for name, value in line.items()}
        with disk_errors("writing the log", self.path), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")


def train(student: Apprentice, folder: StudentFolder, minutes: float, stopping: Callable[[], bool]) -> None:
    """Until the plan's total, the time, or a signal; ends with a saved state."""
    end, rhythm = time.monotonic() + 60 * minutes, Rhythm()
    learnt = folder.paths(student.prior, lambda: stopping() or time.monotonic() > end)
    if learnt is None:
        return
    asked = folder.held_out(student.prior)

    def examined() -> None:
        found = zip(TIMES, student.errors(asked), strict=True)
        folder.log(student, **{f"held_out_{t}": error for t, error in found})

    losses, since = [], time.monotonic()
    while student.seen < student.plan.total and time.monotonic() < end and not stopping():
        losses.append(student.train_step(learnt))
        if rhythm.now("log"):
            rate = len(losses) * student.plan.batch / (time.monotonic() - since)
            folder.log(student, images_per_s=rate, loss=sum(losses) / len(losses))
            losses, since = [], time.monotonic()
        if rhythm.now("save"):
            folder.save(student)
        if rhythm.now("sheet"):
            examined()
    folder.save(student)
    if not stopping():
        examined()


def begin(out: Path, *, minutes: float, resume: bool, start: str, changes: Mapping[str, int | float]) -> int:
    """Start or go on with a student of the prior `start`; the exit code."""
    plan = opened(StudentPlan, "student", out, resume, changes, PLAN)
    student = Apprentice(plan, load(folder_of(start)))
    if (out / STATE).is_file():
        student.restore(out / STATE)
    with catching() as stop:
        train(student, StudentFolder(out, plan), minutes, lambda: stop.requested)
    return stop.exit_code if stop.requested else 0


def drawn(all_paths: Paths, plan: StudentPlan, generator: torch.Generator) -> tuple[Paths, Tensor]:
    """Some of the paths, and which of TIMES is looked at of each."""
    rows = torch.randint(len(all_paths.end), (plan.batch,), generator=generator)
    later = torch.randint(len(TIMES) - 1, (plan.batch,), generator=generator)
    pure = torch.arange(plan.batch) < round(plan.first * plan.batch)
    return all_paths.take(rows), torch.where(pure, len(TIMES) - 1, later)


def misfit(x: Tensor, true: Tensor, bend: float) -> Tensor:
    """[B, S, S] pseudo-Huber distance of colours."""
    return ((x - true).square().sum(-1) + bend**2).sqrt() - bend
