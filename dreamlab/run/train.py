# SPDX-License-Identifier: Apache-2.0
"""The loop: stages, steps, checkpoints, roll-backs. `step` is the whole of one optimisation step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cuda_ext import room
from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import Diverged, InputError, Interrupted
from dreamlab.core.pixels import limited
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Frames, Prompt, Relieving, Scene, Training
from dreamlab.core.views import chosen, sample_views
from dreamlab.recipe import Recipe, as_plain
from dreamlab.recipe.tables import TABLES
from dreamlab.run import checkpoint
from dreamlab.run.assemble import Assembler, BuiltStage, BuiltTerm, Change
from dreamlab.run.folder import Run
from dreamlab.run.lineage import CHECKPOINT_FORMAT, PARTS, check_fits
from dreamlab.run.materials import dress
from dreamlab.run.preview import handful, save_preview
from dreamlab.run.signals import StopSignal
from dreamlab.run.telemetry import Ring
from dreamlab.run.watching import Watcher
from systems.engine.residual import Distilled, Look, distil


@dataclass(frozen=True)
class Tick:
    """What a progress bar wants to know."""

    stage: str
    step: int  # within the stage
    steps: int
    done: int  # over all stages
    total: int
    metrics: dict[str, float]
    note: str = ""  # said once: what a change of representation kept


@dataclass
class Position:
    """Where a run stands, and what its guard remembers."""

    stage: int = 0
    step: int = 0
    rollbacks: int = 0
    rate_scale: float = 1.0
    bad_streak: int = 0
    finished: dict[str, Scene] = field(default_factory=dict)  # scenes of earlier stages

    def done(self, recipe: Recipe) -> int:
        """Steps over all stages."""
        return sum(earlier.steps for earlier in recipe.stages[: self.stage]) + self.step


def step(stage: BuiltStage, i: int, ring: Ring, rate_scale: float = 1.0) -> None:
    """One step in eight stations: cameras, render, look, residual, loss, backward, optimise, adapt.

    Nothing here waits for the device: a bad step is switched off by the `healthy` flag, counted when the ring is read.
    """
    spec, streams = stage.spec, stage.streams
    progress = Progress(i, spec.steps)
    scene, prompts = stage.turn(i)

    cameras, given = sample_views(spec.cameras, spec.given, spec.views, prompts[0].image, progress, streams.camera)
    cameras = cameras.to(stage.device)
    background = draw_background(spec.background, spec.views, spec.cameras.together, streams.background, given)
    training = Training(progress, streams.render)
    frames = stage.ranks.render(scene, cameras, spec.size, background.to(stage.device), training)

    loss = frames.rgb.new_zeros(())
    healthy = torch.ones((), dtype=torch.bool, device=stage.device)
    grad_rms = frames.rgb.new_zeros(())
    for term in stage.terms:
        seen, at, which = views_of(term, frames, cameras, given, streams.timestep)
        if len(at) == 0:
            continue
        z = stage.ranks.encode(functools.partial(latents, term), seen, which, term.fold)
        for told in portions(prompts, seen, at, z):
            distilled = looked(stage, term, progress, told)
            loss = loss + term.weight.at(progress) * distilled.loss / len(prompts)
            healthy = healthy & distilled.finite
            grad_rms = grad_rms + distilled.grad_rms / len(prompts)
    for name, weight in spec.regularisers.items():
        loss = loss + weight.at(progress) * stage.ranks.penalty(name, scene, frames)

    if loss.requires_grad:  # not so when no term has a view in this step
        loss.backward()
    stage.ranks.add_up(stage.scene)
    healthy = healthy & torch.isfinite(loss.detach())
    healthy = stage.optimiser.step(progress, healthy, frames.visible, rate_scale)
    if (moved := scene.adapt(progress, frames, healthy)) is not None:
        stage.optimiser.follow(moved)
    ring.push(i, loss=loss, grad_rms=grad_rms, alpha=frames.alpha.detach().mean(), healthy=healthy)


Told = tuple[Prompt, Frames, Cameras, Tensor]  # the views of one prompt, and their latents


def portions(prompts: Sequence[Prompt], seen: Frames, at: Cameras, z: Tensor) -> Iterator[Told]:
    """What each of a step's prompts has of its views."""
    if len(prompts) == 1:
        yield prompts[0], seen, at, z
        return
    views, rows = len(at) // len(prompts), len(z) // len(prompts)
    for j, prompt in enumerate(prompts):
        mine = range(views * j, views * (j + 1))
        yield prompt, seen.take(mine), at[mine.start : mine.stop], z[rows * j : rows * (j + 1)]


def looked(stage: BuiltStage, term: BuiltTerm, progress: Progress, told: Told) -> Distilled:
    """A term's look at the views of one prompt."""
    prompt, seen, at, z = told
    streams, guidance = stage.streams, term.guidance
    conditions = guidance.condition(prompt, at, seen)
    clock = (progress, streams.noise, streams.timestep)
    rows, fold, company = at[:: term.fold], (term.fold, term.moments), stage.ranks.company(term.group)
    look = Look(guidance, z.detach(), conditions, *clock, seen, rows, term.asking, fold, term.at_once, company)
    return distil(term.system, look, z)


def roomy_step(run: Run, stage: BuiltStage, i: int, ring: Ring, rate_scale: float) -> None:
    """`step`; where memory does not suffice, again after a guidance has given something up, which the run keeps.

    Of the scene nothing has changed by then but gradients, and the random streams are put back. A network that a rule
    trains may have learnt from the step already, and learns from it twice.
    """
    alone = stage.ranks.count == 1  # others would wait for a step that is done again
    able = [term.guidance for term in stage.terms if alone and isinstance(term.guidance, Relieving)]
    before = stage.streams.state_dict() if able else {}
    while True:
        try:
            return step(stage, i, ring, rate_scale)
        except torch.OutOfMemoryError:
            given_up = next((what for guidance in able if (what := guidance.relieve())), "")
            if not given_up:
                raise
        # Outside of the handler: the exception's traceback keeps the failed step's tensors alive.
        run.event("memory", step=i, given_up=given_up)
        run.log(f"step {i} did not fit into memory: {given_up}")
        stage.streams.load_state_dict(before)
        for group in stage.scene.groups().values():
            group.tensor.grad = None


METRICS = ("loss", "grad_rms", "alpha", "healthy")


def views_of(
    term: BuiltTerm, frames: Frames, cameras: Cameras, given: int, stream: torch.Generator
) -> tuple[Frames, Cameras, list[int] | None]:
    """The part of a step that a term sees, and which rows of it that are; `given` views of the prompt's picture come
    first."""
    rows = chosen(term.views, term.sample, len(cameras), given, stream)
    return (frames, cameras, rows) if rows is None else (frames.take(rows), cameras[rows], rows)


def latents(term: BuiltTerm, frames: Frames) -> Tensor:
    """What a term distils into, [B, C, h, w]: an encoded picture, or four channels that a scene renders as latents.

    normal       encoded pictures of the normals, (n + 1) / 2 over black
    normal_mask  normals in [-1, 1] and alpha as the latents themselves (Fantasia3D's coarse stage)
    latent       the latents a latent field renders (Latent-NeRF, SJC)
    """
    if term.see == "rgb":
        return term.guidance.encode(limited(frames.rgb, term.clip_pixel))
    if term.see == "latent":
        if "latent" not in frames.extra:
            raise InputError("terms: see: latent needs a scene that renders latents: a field with latent: true")
        return frames.extra["latent"].permute(0, 3, 1, 2)
    if frames.normal is None:
        raise InputError(f"terms: see: {term.see} needs a scene that renders normals; for a field set scene.normals")
    if term.see == "normal":
        return term.guidance.encode(limited((frames.normal + frames.alpha) / 2, term.clip_pixel))
    return torch.cat([frames.normal, frames.alpha], -1).permute(0, 3, 1, 2)


def draw_background(kind: str, views: int, together: int, stream: torch.Generator, given: int = 0) -> Tensor:
    """[B, 3]; one draw whatever the kind, so that changing it moves no other stream. Views that a model sees together
    (frames of a clip, a ring of cameras) stand before one colour, as pictures of one scene do; the first `given` are
    the prompt's picture's, each by itself."""
    drawn = torch.rand(views, 3, generator=stream, device=stream.device)
    place = torch.arange(views, device=drawn.device)
    drawn = drawn[torch.where(place < given, place, (place - given) // together * together + given)]
    fixed = {"white": 1.0, "black": 0.0, "gray": 0.5}
    return torch.full_like(drawn, fixed[kind]) if kind in fixed else drawn


def train(
    run: Run,
    recipe: Recipe,
    assembler: Assembler,
    on_tick: Callable[[Tick], None] = lambda tick: None,
    stop: StopSignal | None = None,
    watcher: Watcher | None = None,
) -> Scene:
    """Optimise until the recipe is done, from the newest checkpoint if there is one; returns the last scene."""
    stop = stop or StopSignal()
    assembler.ranks.listen(stop)
    watcher = watcher or Watcher(run)
    position, stage = assembler.ranks.in_turn(functools.partial(restore, run, recipe, assembler))
    run.set_state(step=position.done(recipe))
    while True:
        try:
            run_stage(run, recipe, stage, position, on_tick, stop, watcher)
        except _Unstable:
            back = functools.partial(roll_back, run, recipe, assembler, position)
            position, stage = assembler.ranks.in_turn(back)
            continue
        if position.stage + 1 == len(recipe.stages):
            return stage.scene
        position.finished[stage.spec.name] = stage.scene
        position.stage, position.step = position.stage + 1, 0
        stage = assembler.stage(position.stage, position.finished)
        record_changes(run, stage)


def record_changes(run: Run, stage: BuiltStage) -> None:
    """What scenes kept of those of another kind that they took over from."""
    for each in stage.changes:
        words = {"source": each.source, "was": each.was, "now": each.now} | ({"object": each.name} if each.name else {})
        numbers = {"psnr": each.kept.psnr, "silhouette_iou": each.kept.iou, "views": each.kept.views}
        run.event("became", stage=stage.spec.name, **words, **numbers)
        run.log(note_of(stage.spec.name, each))


def note_of(stage: str, change: Change) -> str:
    """One line for the log and the terminal."""
    place, kept = f"{stage}, {change.name}" if change.name else stage, change.kept
    measure = f"keeping {kept.psnr:.1f} dB and {kept.iou:.3f} of the silhouettes over {kept.views} views"
    return f"{place}: {change.source} became {change.now}, {measure}"


def run_stage(
    run: Run,
    recipe: Recipe,
    stage: BuiltStage,
    position: Position,
    on_tick: Callable[[Tick], None],
    stop: StopSignal,
    watcher: Watcher,
) -> None:
    """The steps of one stage, from `position.step` to its end."""
    spec, keeping = stage.spec, recipe.keeping
    stage.ranks.settle(stage.scene, position.done(recipe))
    before = sum(earlier.steps for earlier in recipe.stages[: position.stage])
    total = sum(each.steps for each in recipe.stages)
    ring = Ring(METRICS, keeping.log, stage.device)
    note = "\n".join(note_of(spec.name, each) for each in stage.changes)
    began = time.monotonic()
    while position.step < spec.steps:
        roomy_step(run, stage, position.step, ring, position.rate_scale)
        position.step += 1
        halts = functools.partial(stage.ranks.halts, stop)
        last = position.step == spec.steps
        if last:
            note = "\n".join((*filter(None, (note,)), *dressed(run, stage)))
        done = before + position.step
        if position.step % keeping.log == 0 or last or halts():
            rows = ring.drain()
            watch(recipe, position, rows)
            room.report()
            elapsed = time.monotonic() - began
            run.event("metrics", stage=spec.name, global_step=done, seconds=round(elapsed, 3), **rows[-1])
            on_tick(Tick(spec.name, position.step, spec.steps, done, total, rows[-1], note))
            note = ""
        turn = (position.step - 1) // keeping.preview
        if position.step % keeping.preview == 0 or last:
            preview(run, stage, done, turn, watcher)
        elif watcher.strips.due():
            with watcher.strips.spending():
                preview(run, stage, done, turn + watcher.strips.times, watcher)
        watcher.look(stage.scene, done, last)
        if position.step % keeping.checkpoint == 0 or last or halts():
            save(run, recipe, stage, position, done)
        if halts() and done < total:
            run.set_state(state="interrupted", step=done)
            raise Interrupted(f"stopped at step {done}/{total}", stop.exit_code)


def dressed(run: Run, stage: BuiltStage) -> list[str]:
    """What the stage's surface turns out to be made of, before anybody looks at it or keeps it."""
    lines = dress(stage)
    for line in lines:
        run.event("material", stage=stage.spec.name, found=line)
        run.log(line)
    return lines


def preview(run: Run, stage: BuiltStage, done: int, turn: int, watcher: Watcher) -> None:
    """A picture of the scene as it forms; of many prompts the next few. Where the truth is known, how near it is."""
    if not run.writes():
        return
    path, which = run.previews / f"step_{done:06d}.png", handful(stage.scene, turn)
    seen: list[Frames] = []
    save_preview(stage.scene, path, stage.device, which=which, saw=seen.append)
    run.event("preview", path=path.name, **({} if which is None else {"prompts": which}))
    watcher.compare(done, seen, which)


class _Unstable(Exception):
    """Too many non-finite steps in a row."""


def watch(recipe: Recipe, position: Position, rows: list[dict[str, float]]) -> None:
    """Count bad steps in a row; too many end the attempt."""
    for row in rows:
        position.bad_streak = 0 if row["healthy"] else position.bad_streak + 1
        if position.bad_streak >= recipe.guard.skips:
            raise _Unstable


def roll_back(run: Run, recipe: Recipe, assembler: Assembler, position: Position) -> tuple[Position, BuiltStage]:
    """To the last checkpoint, with half the rates; after the last allowed one the run ends with what it has."""
    rollbacks, scale = position.rollbacks + 1, position.rate_scale / 2
    if rollbacks > recipe.guard.rollbacks:
        run.set_state(state="failed", error="diverged")
        raise Diverged(
            f"{run.path}: the optimisation stays non-finite after {recipe.guard.rollbacks} roll-backs; "
            f"the last good checkpoint is kept in {run.ckpt}. Lower the learning rates or the guidance scale"
        )
    run.event("rollback", rollbacks=rollbacks, rate_scale=scale)
    run.log(f"non-finite for {recipe.guard.skips} steps: rolled back, learning rates x {scale:g}")
    run.set_state(rollbacks=rollbacks, rate_scale=scale)
    assembler.reset_streams()
    return restore(run, recipe, assembler)


def save(run: Run, recipe: Recipe, stage: BuiltStage, position: Position, global_step: int) -> None:
    """Commit everything the next step depends on."""
    if not run.writes():
        return
    needed = {source for later in recipe.stages[position.stage + 1 :] for source, _ in TABLES.takeovers(later.scene)}
    kept = (stage.scene.state_dict(), stage.optimiser.state_dict(), stage.streams.state_dict())
    parts: dict[str, dict[str, Tensor]] = dict(zip(PARTS, kept, strict=True))
    for term in stage.terms:
        for part, state in (("system", term.system.state_dict()), ("asking", term.asking.state_dict())):
            if state:
                parts[f"{part}.{term.name}"] = state
    for name, scene in position.finished.items():
        if name in needed:
            parts[f"finished.{name}"] = scene.state_dict()
    meta = {
        "format": CHECKPOINT_FORMAT,
        "recipe": as_plain(recipe),
        "device": stage.device.type,  # a random stream goes on only on the kind of device it began on
        "stage": position.stage,
        "stage_name": stage.spec.name,
        "step": position.step,
        "global_step": global_step,
        "bad_streak": position.bad_streak,
    }
    path = checkpoint.write(run.ckpt, global_step, parts, meta, recipe.keeping.keep)
    run.event("checkpoint", path=path.name)
    run.set_state(state="running", step=global_step)


def restore(run: Run, recipe: Recipe, assembler: Assembler) -> tuple[Position, BuiltStage]:
    """From the newest whole checkpoint, or from the start."""
    state = run.state()
    position = Position(rollbacks=state.get("rollbacks", 0), rate_scale=state.get("rate_scale", 1.0))
    found = checkpoint.read_newest(run.ckpt, warn=run.warn)
    if found is None:
        if state.get("step", 0) > 0:
            raise InputError(
                f"{run.ckpt}: holds no checkpoint, and the run had come to step {state['step']}; start a new run"
            )
        return position, assembler.stage(0, {})
    check_fits(run, recipe, found, assembler.device.type)
    position.stage, position.step = found.meta["stage"], found.meta["step"]
    position.bad_streak = found.meta["bad_streak"]
    for spec in recipe.stages[: position.stage]:
        if f"finished.{spec.name}" in found.parts:
            position.finished[spec.name] = assembler.scenes(spec)
            position.finished[spec.name].load_state_dict(found.parts[f"finished.{spec.name}"])
    stage = assembler.stage(position.stage)
    stage.scene.load_state_dict(found.parts["scene"])
    stage.optimiser.load_state_dict(found.parts["optimiser"])
    for term in stage.terms:
        term.system.load_state_dict(found.parts.get(f"system.{term.name}", {}))
        term.asking.load_state_dict(found.parts.get(f"asking.{term.name}", {}))
    assembler.streams.load_state_dict(found.parts["streams"])  # last: building scenes has drawn from them
    return position, stage
