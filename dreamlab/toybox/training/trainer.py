# SPDX-License-Identifier: Apache-2.0
"""The training loop of the embedded prior: draw, step, average, and every few minutes save, look and measure.

The run folder holds plan.json, state.safetensors (weights, their average, the optimiser; counters in its header),
log.jsonl, sheets/ and prior/ (the averaged weights as the guidance loads them). All that is random in a step is derived
from (seed, step), so on one machine with fixed threads a resumed run ends byte-identical to an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from dreamlab.core import tensors
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import disk_errors, write_atomic, write_json
from dreamlab.core.noise import NoiseTable, make_table
from dreamlab.core.streams import derive
from dreamlab.toybox.training.data import Batch, ahead, draw_batch, in_turn, vocabulary
from dreamlab.toybox.training.loss import Chance, errors, shape_error
from dreamlab.toybox.training.moments import moments, remember
from dreamlab.toybox.training.muon import Muon, split
from dreamlab.toybox.training.plan import RECIPES, Plan
from dreamlab.toybox.training.roles import MIX, ROLES
from dreamlab.toybox.training.sample import sheet
from guidance.toybox.net import NetSettings, Prior, laid_out
from guidance.toybox.prior import Toybox
from guidance.toybox.roles import TOYBOXES
from guidance.toybox.store import EVERY, VOCABULARY, Stored, save
from guidance.toybox.words import Words

STATE, PLAN, LOG, PRIOR = "state.safetensors", "plan.json", "log.jsonl", "prior"
Kind = TypeVar("Kind")
WORD_TABLE = "encoder.table.weight"
ADDED = ("hint_", "moment.", "ray_", "seen_", "volume.", "across.")  # what a network may have more, starting silent


def opened(
    kind: type[Kind], who: str, folder: Path, resume: bool, changes: Mapping[str, int | float], mark: str = STATE
) -> Kind:
    """The plan of a training in `folder`, new or gone on with, with changes; written down. `mark`: the file without
    which there is nothing to go on with."""
    unknown = sorted(set(changes) - {each.name for each in dataclasses.fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise RecipeError(f"--{unknown[0].replace('_', '-')}: the {who} has no such setting")
    if resume and not (folder / mark).is_file():
        raise InputError(f"{folder}: nothing to resume here (no {mark}); leave out --resume to start")
    if (folder / STATE).is_file() and not resume:
        raise InputError(f"{folder}: holds a run already; add --resume, or choose another --out")
    try:
        former = json.loads((folder / PLAN).read_text(encoding="utf-8")) if resume else {}
        plan = kind(**(former | dict(changes)))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder / PLAN}: not a plan of a {who}'s training ({error}); start in another --out"
        ) from None
    with disk_errors("writing the plan", folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, dataclasses.asdict(plan))  # type: ignore[call-overload]
    return plan


class Trainer:
    """Network, average and optimiser of a plan, and how many pictures they have seen."""

    def __init__(self, plan: Plan, words: Words, device: str = "cpu") -> None:
        self.plan, self.words, self.device = plan, words, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(plan.seed, "weights") % 2**63)
            net = Prior(plan.net)
        self.net = laid_out(net.to(self.device))
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        hidden, rest = split(self.net)
        self.optimisers: tuple[torch.optim.Optimizer, ...] = (
            Muon(hidden, plan.rate),
            torch.optim.AdamW(rest, plan.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        )
        self.table: NoiseTable = make_table(plan.table).to(self.device)
        self.step, self.seen = 0, 0  # updates, and pictures (a run may change its batch when it is resumed)
        self.before = 0  # pictures that the prior it starts from had seen

    def start_from(self, stored: Stored) -> None:
        """Take over the weights of another role; what this role has more begins silent."""
        self.before = stored.facts.get("images", 0)
        for net in (self.net, self.ema):
            missing, unexpected = net.load_state_dict(stored.net.state_dict(), strict=False)
            if unexpected or any(not name.startswith(ADDED) for name in missing):
                raise InputError(f"the prior to start from does not fit the role {self.plan.role!r}")

    def chance(self, batch: Batch, key: object, task: Plan) -> Chance:
        generator = torch.Generator().manual_seed(derive(self.plan.seed, "noise", key))
        return Chance.draw(batch.rgb.shape, len(self.table), task, generator).to(self.device)

    def train_step(self, batch: Batch) -> tuple[int, Tensor, Tensor, Tensor]:
        """One update; returns the pictures' size, their errors and t_index, and the error of what the volume shows."""
        chance = self.chance(batch, self.step, self.plan.task(self.step))
        for group in (group for each in self.optimisers for group in each.param_groups):
            group["lr"] = self.plan.rate_at(self.seen)
        self.net.zero_grad(set_to_none=True)
        graded = batch.graded
        if self.seen < self.plan.shape_for:
            shown, graded = shape_error(self.net, batch, chance), torch.zeros_like(graded)
            error = shown.new_zeros(0)
            shown.backward()
        else:
            error, shown = errors(self.net, self.table, batch, chance)
            error = error[graded]
            (error.mean() + shown).backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for each in self.optimisers:
            each.step()
        self.step, self.seen = self.step + 1, self.seen + self.plan.batch
        keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.net.parameters()), 1 - keep)
        return batch.rgb.shape[1], error.detach(), chance.t_index[graded], shown.detach()

    @torch.no_grad()
    def held_out_error(self, size: int, role: str) -> tuple[float, float]:
        """The average's error on 96 fixed held-out pictures with fixed noise, whatever the batch of the plan; and that
        of what its volume shows."""
        plan, found = dataclasses.replace(self.plan, batch=32, views=2, tilt=1.0).only(role), []
        for index in range(3):
            batch = draw_batch(plan, self.words, index, size, str(self.device), held_out=True)
            chance = self.chance(batch, f"held out {index}", plan)
            error, shown = errors(self.ema, self.table, batch, chance)
            found.append((error[batch.graded].mean().item(), shown.item()))
        error, shown = (sum(column) / len(found) for column in zip(*found, strict=True))
        return error, shown

    def state(self) -> dict[str, Tensor]:
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        tensors |= moments(self.net, self.optimisers)
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor], step: int, seen: int, before: int = 0) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}

        fresh = self.net.encoder.table.weight.detach()
        for name, value in tensors.items():  # the world may have learnt words since: their rows start anew
            if name.endswith(WORD_TABLE) and not name.startswith("optimiser.step"):
                rows = fresh[len(value) :].to(value)
                tensors[name] = torch.cat([value, 0 * rows if name.startswith("optimiser.") else rows])
        self.net.load_state_dict(part("net."))
        self.ema.load_state_dict(part("ema."))
        remember(self.net, self.optimisers, tensors)
        self.step, self.seen, self.before = step, seen, before

    @property
    def images(self) -> int:
        """Pictures that these weights have seen."""
        return self.before + self.seen

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(MIX) if self.plan.role == EVERY else (self.plan.role,)

    def guidance(self, role: str) -> Toybox:
        """The average as a guidance on this device."""
        stored = Stored(self.plan.role, self.plan.table, self.words, self.ema, {})
        kind = TOYBOXES[role]
        return kind(kind.Settings(), stored).to(self.device)


@dataclass
class Rhythm:
    """Seconds between what the loop does besides stepping."""

    log: float = 20.0
    save: float = 180.0
    sheet: float = 300.0
    due: dict[str, float] = field(default_factory=dict)

    def now(self, what: str) -> bool:
        """Whether `what` is due, and if so it is due again only after its period."""
        clock = time.monotonic()
        if clock < self.due.setdefault(what, clock + getattr(self, what)):
            return False
        self.due[what] = clock + getattr(self, what)
        return True


class Folder:
    """The run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, plan: Plan) -> None:
        with disk_errors("writing the plan", self.path):
            (self.path / "sheets").mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / PLAN, plan.to_json().encode())

    def resumed(self, **changes: object) -> tuple[Plan, Words]:
        """The plan and the words so far, with `changes` to the plan and the words that the world has got since."""
        if not (self.path / STATE).is_file():
            raise InputError(f"{self.path}: nothing to resume here (no {STATE}); leave out --resume to start")
        plan = Plan.from_json((self.path / PLAN).read_text(encoding="utf-8"))
        words = Words.from_json((self.path / PRIOR / VOCABULARY).read_text(encoding="utf-8")).grown(vocabulary())
        net = dataclasses.replace(plan.net, vocabulary=len(words.tokens))
        return dataclasses.replace(plan, net=net, **changes), words  # type: ignore[arg-type]

    def restore(self, trainer: Trainer) -> None:
        """The last state, if one was saved."""
        if (self.path / STATE).is_file():
            counters, state = tensors.unpacked(self.path / STATE, "counters")
            trainer.load_state(state, **counters)

    def save(self, trainer: Trainer) -> None:
        counters = {"step": trainer.step, "seen": trainer.seen, "before": trainer.before}
        with disk_errors("saving the training state", self.path):
            write_atomic(self.path / STATE, tensors.packed(trainer.state(), "counters", counters))
            facts = {"images": trainer.images, "steps": trainer.step, "seed": trainer.plan.seed}
            save(self.path / PRIOR, trainer.plan.role, trainer.plan.table, trainer.words, trainer.ema, facts)

    def log(self, line: dict[str, float | int | str]) -> None:
        with disk_errors("writing the log", self.path), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Tally:
    """Errors since the last line of the log, by size of picture and by quarter of the noise table."""

    first: int  # pictures seen before them
    rows: list[tuple[int, Tensor, Tensor, Tensor]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def line(self, trainer: Trainer) -> dict[str, float | int | str]:
        line: dict[str, float | int | str] = {
            "images": trainer.images,
            "rate": trainer.plan.rate_at(trainer.seen),
            "images_per_s": round((trainer.seen - self.first) / (time.monotonic() - self.since), 1),
        }
        if self.rows:
            line["shown"] = round(torch.stack([shown for *_, shown in self.rows]).mean().item(), 5)
        for name, size in (("half", trainer.plan.net.half), ("full", trainer.plan.net.size)):
            rows = [(error, t) for found, error, t, _ in self.rows if found == size and len(error)]
            if rows:
                error, t = (torch.cat(column).cpu() for column in zip(*rows, strict=True))
                quarter = (4 * t) // len(trainer.table)
                line[f"loss_{name}"] = round(error.mean().item(), 5)
                line |= {f"{name}_q{q}": round(error[quarter == q].mean().item(), 5) for q in quarter.unique().tolist()}
        return line


def train(trainer: Trainer, folder: Folder, minutes: float, stopping: Callable[[], bool]) -> None:
    """Until the plan's total, the time, or a signal; always ends with a saved state."""
    end, rhythm, tally = time.monotonic() + 60 * minutes, Rhythm(), Tally(trainer.seen)
    told = (trainer.plan, trainer.words, trainer.step, trainer.seen, str(trainer.device))
    with ahead(*told) if trainer.device.type == "cuda" else contextlib.nullcontext(in_turn(*told)) as batches:
        while trainer.seen < trainer.plan.total and time.monotonic() < end and not stopping():
            tally.rows.append(trainer.train_step(next(batches)))
            if rhythm.now("log"):
                folder.log(tally.line(trainer))
                tally = Tally(trainer.seen)
            if rhythm.now("save"):
                folder.save(trainer)
            if rhythm.now("sheet"):
                look(trainer, folder)
    folder.save(trainer)
    if not stopping():  # who stops a run wants it to stop now
        look(trainer, folder)


def look(trainer: Trainer, folder: Folder) -> None:
    """The error on held-out pictures of each role, and a sample sheet of the next one."""
    first, size = trainer.roles[0], trainer.plan.net.size
    (half, _), (full, shown) = (trainer.held_out_error(s, first) for s in (trainer.plan.net.half, size))
    others = {role: trainer.held_out_error(size, role)[0] for role in trainer.roles[1:]}
    line = {"images": trainer.images, "held_out_half": half, "held_out_full": full, "held_out_shown": shown}
    line |= {f"held_out_{role}": error for role, error in others.items()}
    folder.log({name: round(value, 5) for name, value in line.items()})
    sheets = folder.path / "sheets"
    role = trainer.roles[len(list(sheets.glob("*.png"))) % len(trainer.roles)]
    error = others.get(role, full)
    title = f"{role}: {trainer.images} images, held-out error {error:.4f}; the truth, then the prior's"
    sheet(sheets / f"{trainer.images:09d}-{role}.png", trainer.guidance(role), title)


def new_plan(device: str, role: str = "image", start: Stored | None = None, **changes: Any) -> tuple[Plan, Words]:
    """The plan of a fresh run on a device, with the words and the size of the prior it starts from, if there is one."""
    words = start.words if start else vocabulary()
    net = start.net.net if start else NetSettings(len(words.tokens))
    recipe = RECIPES[torch.device(device).type]
    if start:  # it knows the world already: a third of the pictures for one role, all at full size after half of them
        total = recipe.get("total", Plan.total) // (1 if role == EVERY else 3)
        usual = {"total": total, "head_after": total // 2, "rate": recipe.get("rate", Plan.rate) / 2}
        alone = ROLES[role].alone if role != EVERY and not recipe else {}
        changes = usual | dict(alone) | changes
    return Plan.of(role, net, **(recipe | changes)), words
