# SPDX-License-Identifier: Apache-2.0
"""Turns a stage of a recipe into objects that can be stepped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from dreamlab.core.encoding import bag_of_words, squeezed
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.prompting import Asking
from dreamlab.core.schedules import Schedule
from dreamlab.core.streams import Streams, derive
from dreamlab.core.threads import one_thread
from dreamlab.core.types import Carve, EachTold, Emptying, Encoder, Guidance, Hearing, Maker, Prompt, Scene
from dreamlab.recipe import Recipe, Stage, Term
from dreamlab.recipe.bind import Spec
from dreamlab.recipe.checks import cards_of, check, own_words, packages, prompts_of, views_together
from dreamlab.recipe.given import placed
from dreamlab.recipe.picture import read_picture
from dreamlab.recipe.tables import TABLES
from dreamlab.run.optim import Adam
from dreamlab.run.particles import Abreast, Particles
from dreamlab.run.ranks import ALONE, Alone
from dreamlab.run.worlds import worlds_of
from renderers.become import Gathering, become
from renderers.surface.views import Kept
from systems.engine.residual import Supervised, System


@dataclass(frozen=True)
class BuiltTerm:
    """A term, ready to be evaluated."""

    name: str  # unique in its stage; telemetry and checkpoints use it
    guidance: Guidance
    system: System | Supervised
    weight: Schedule
    asking: Asking
    see: str
    views: str
    sample: int
    clip_pixel: float | None
    fold: int = 1  # views that are one row of latents ...
    moments: int = 1  # ... which holds so many of them
    at_once: int = 1  # rows in a row that its model sees at one time
    group: int = 1  # rows in a row that its model sees as one


@dataclass(frozen=True)
class Change:
    """A scene, or an object of one, that took over from an earlier stage's scene of another kind."""

    source: str  # the stage
    was: str
    now: str
    kept: Kept
    name: str = ""  # of the object


@dataclass
class BuiltStage:
    """Everything one step touches."""

    spec: Stage
    prompts: tuple[Prompt, ...]
    scene: Scene
    terms: tuple[BuiltTerm, ...]
    optimiser: Adam
    streams: Streams
    device: torch.device
    changes: tuple[Change, ...] = ()  # of representation, with how much of the picture they kept
    ranks: Alone = ALONE

    def turn(self, i: int) -> tuple[Scene, tuple[Prompt, ...]]:
        """The scene and prompts of step `i`: what a maker makes of its prompts takes turns, so many at a time; so do
        objects with words of their own, each alone."""
        if self.told:
            _, one, text = self.told[i % len(self.told)]
            return one, (replace(self.prompts[0], text=text),)
        if self.maker is None:
            return self.scene, self.prompts
        count = self.spec.at_once
        which = [(i * count + j) % len(self.prompts) for j in range(count)]
        made = [self.maker.made(index) for index in which]
        scene = made[0] if count == 1 else cast(Scene, Abreast(made))
        return scene, tuple(self.prompts[index] for index in which)

    @property
    def told(self) -> Sequence[tuple[str, Scene, str]]:
        return () if self.gathering is None else self.gathering.told

    @functools.cached_property
    def gathering(self) -> EachTold | None:
        return self.scene if isinstance(self.scene, EachTold) else None

    @functools.cached_property
    def maker(self) -> Maker | None:
        """Asked once: a protocol is asked attribute by attribute."""
        return self.scene if isinstance(self.scene, Maker) else None


def giver(scene: Scene) -> Scene:
    """The scene itself, or the first of its particles."""
    return scene.scenes[0] if isinstance(scene, Particles) else scene


class Lender(Protocol):
    """Guidances that outlive a run: a process that makes one run after another loads a model once."""

    def guidance(self, spec: Spec, device: torch.device, build: Callable[[], Guidance]) -> Guidance:
        """One that is there, as good as new, or a new one."""


class Assembler:
    """Builds the stages of one run; guidances with equal settings are shared; files are looked for in `folder`."""

    def __init__(
        self, recipe: Recipe, device: str, folder: Path = Path(), shelf: Lender | None = None, ranks: Alone = ALONE
    ) -> None:
        self.recipe = recipe = placed(recipe, folder)
        check(recipe)
        self.device = torch.device(device)
        for name in packages(recipe) if self.device.type != "cuda" else ():
            raise RecipeError(f"backend: {name}: it runs on CUDA only, and the run is on {device}; use --device cuda")
        image = read_picture(Path(recipe.image.file), recipe.image) if recipe.image.file else None
        self.prompts = tuple(replace(prompt, image=image) for prompt in prompts_of(recipe))
        self.streams = Streams(recipe.seed, self.device)
        self._guidance: dict[Spec, Guidance] = {}
        self._shelf, self.ranks = shelf, ranks

    def stage(self, index: int, earlier: Mapping[str, Scene] | None = None) -> BuiltStage:
        """Stage `index`; `earlier` holds the finished scenes that a `from:` may name (None: state is loaded after)."""
        spec = self.recipe.stages[index]
        if spec.given.used and self.prompts[0].image is None:
            raise InputError(f"stage {spec.name!r} takes views of the prompt's picture; give one with --image")
        scene, changes = self.scenes(spec), []
        if spec.scene.source is not None and earlier is not None:
            source = earlier[spec.scene.source]
            was = giver(source).kind
            scene, kept = self.succeed(source, scene, self.carver(spec, self.prompts[0]))
            changes += [] if kept is None else [Change(spec.scene.source, was, spec.scene.kind, kept)]
        elif earlier is not None:
            changes = self.place(spec, scene, earlier)
        terms = tuple(self.term(f"{j}_{term.system.kind}", term) for j, term in enumerate(spec.terms))
        ranks = self.ranks.by(views_together(spec))
        rest = (self.streams, self.device, tuple(changes), ranks)
        return BuiltStage(spec, self.prompts, scene, terms, Adam(scene), *rest)

    def term(self, name: str, spec: Term) -> BuiltTerm:
        card, _ = cards_of(spec)
        rule = TABLES.systems[spec.system.kind](spec.system.settings)
        shown = (spec.see, spec.views, spec.sample, spec.clip_pixel)
        guidance, asking = self.guidance(spec.guidance), Asking(spec.prompting)
        group = card.together // card.folds
        folds = card.folds, card.moments, group if card.one_time else 1, group
        return BuiltTerm(name, guidance, rule, spec.weight, asking, *shown, *folds)

    def carver(self, spec: Stage, prompt: Prompt) -> Carve | None:
        """What knows the inside of what a prompt asks for, if the stage wants it emptied."""
        if spec.hollow.by == "none":
            return None
        return cast(Emptying, self.guidance(spec.terms[0].guidance)).carver(prompt)

    def succeed(self, source: Scene, scene: Scene, carve: Carve | None) -> tuple[Scene, Kept | None]:
        """What an earlier scene leaves to this stage's scene; particles take over in turn."""
        givers = source.scenes if isinstance(source, Particles) else (source,)
        if not isinstance(scene, Particles):
            return become(givers[0], scene, self.streams.init, carve)
        if givers[0].kind == scene.scenes[0].kind:
            scene.load_state_dict(source.state_dict())
            return scene, None
        made = [become(givers[i % len(givers)], one, self.streams.init, carve) for i, one in enumerate(scene.scenes)]
        scene.scenes = tuple(one for one, _ in made)
        return scene, made[0][1]

    def place(self, spec: Stage, scene: Scene, earlier: Mapping[str, Scene]) -> list[Change]:
        """Objects of a scene that start from earlier stages, each from its own, emptied by its own words."""
        changes = []
        for one in scene.scenes if isinstance(scene, Particles) else (scene,):
            if not isinstance(one, Gathering):
                continue
            said = {name: text for name, _, text in one.told} if isinstance(one, EachTold) else {}
            for name, source in one.taking.items():
                before = giver(earlier[source])
                carve = self.carver(spec, replace(self.prompts[0], text=said[name])) if name in said else None
                kept = one.take(name, before, self.streams.init, carve)
                changes += [] if kept is None else [Change(source, before.kind, one.members[name].kind, kept, name)]
        return changes

    def reset_streams(self) -> None:
        """As at the very start of the run."""
        self.streams.load_state_dict(Streams(self.recipe.seed, self.device).state_dict())

    def scene(self, spec: Spec) -> Scene:
        """A scene at its start; draws from the `init` stream."""
        return TABLES.scenes[spec.kind](spec.settings, self.streams.init).to(self.device)

    def scenes(self, stage: Stage) -> Scene:
        """The scene of a stage at its start, or its particles."""
        if stage.particles == 1:
            scene = self.scene(stage.scene)
            if isinstance(scene, Maker):
                scene.tell(self.codes(stage), stage.at_once)
            return scene
        made = [self.scene(stage.scene) for _ in range(stage.particles)]
        several = Particles(made, derive(self.recipe.seed, "particles", stage.name), stage.at_once)
        return cast(Scene, several)  # its penalties are its scenes', so they belong to no class

    def codes(self, stage: Stage) -> Tensor:
        """[P, D] the prompts as the stage's first guidance encodes them, or as bags of words."""
        first, width = self.guidance(stage.terms[0].guidance), stage.scene.settings.code
        if isinstance(first, Encoder):
            return squeezed(torch.stack([first.encoding(prompt.text) for prompt in self.prompts]), width)
        return torch.stack([bag_of_words(prompt.text, width) for prompt in self.prompts])

    def guidance(self, spec: Spec) -> Guidance:
        """A guidance, built once per run, or taken from the shelf."""
        if spec not in self._guidance:
            build = functools.partial(self._built, spec)
            made = build() if self._shelf is None else self._shelf.guidance(spec, self.device, build)
            self._guidance[spec] = made
            if isinstance(made, Hearing):
                made.hear((*self.prompts, *(p for stage in self.recipe.stages for p in own_words(self.recipe, stage))))
        return self._guidance[spec]

    def _built(self, spec: Spec) -> Guidance:
        with one_thread():  # hundreds of small tensors
            return TABLES.guidance[spec.kind].build(spec.settings, worlds_of(self.recipe.seed)).to(self.device)
