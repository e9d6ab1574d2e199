# SPDX-License-Identifier: Apache-2.0
"""The one file that knows the three tables: turns a stage of a recipe into objects that can be stepped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from dreamlab.bind import Spec, Tables
from dreamlab.core.errors import RecipeError
from dreamlab.core.prompting import Asking
from dreamlab.core.schedules import Schedule
from dreamlab.core.streams import Streams, derive
from dreamlab.core.types import Guidance, Prompt, Scene
from dreamlab.optim import Adam
from dreamlab.particles import Particles
from dreamlab.recipe import Recipe, Stage, Term, takeovers
from dreamlab.regularisers import REGULARISERS
from dreamlab.worlds import oracle_world, true_pictures, understand
from guidance import GUIDANCE
from renderers import SCENES
from renderers.become import Kept, become, can_become
from systems import SYSTEMS
from systems.residual import System


@dataclass(frozen=True)
class BuiltTerm:
    """A term, ready to be evaluated."""

    name: str  # unique in its stage; telemetry and checkpoints use it
    guidance: Guidance
    system: System
    weight: Schedule
    clip: float | None
    asking: Asking
    see: str


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
    prompt: Prompt
    scene: Scene
    terms: tuple[BuiltTerm, ...]
    optimiser: Adam
    streams: Streams
    device: torch.device
    changes: tuple[Change, ...] = ()  # of representation, with how much of the picture they kept


def tables() -> Tables:
    """Section -> name -> class, for the recipe reader and for `list`."""
    return {"scenes": SCENES, "systems": SYSTEMS, "guidance": GUIDANCE, "regularisers": REGULARISERS}


def check(recipe: Recipe) -> None:
    """What cannot work together is said when the recipe is read, not at step 1."""
    kinds = {stage.name: stage.scene.kind for stage in recipe.stages}
    for i, stage in enumerate(recipe.stages):
        where = f"stages.{i} ({stage.name!r})"
        if stage.scene.source is not None and len(takeovers(stage.scene)) > 1:
            raise RecipeError(f"{where}: the scene starts from {stage.scene.source!r}, so none of its objects can")
        for source, kind in takeovers(stage.scene):
            if not can_become(kinds[source], kind):
                raise RecipeError(f"{where}: a {kinds[source]} scene cannot become {kind}")
        for j, term in enumerate(stage.terms):
            check_term(term, f"{where}: terms.{j}")
            if term.guidance.kind in ("oracle", "truth"):
                understand(recipe.prompt)
            listen = getattr(GUIDANCE[term.guidance.kind], "listen", None)
            if listen is not None:
                listen(term.guidance.settings, Prompt(recipe.prompt, recipe.negative))


def check_term(term: Term, where: str) -> None:
    """Whether a guidance has what a rule and its prompting ask for."""
    rule, guidance = SYSTEMS[term.system.kind], GUIDANCE[term.guidance.kind]
    offers = getattr(guidance, "offers", None)
    makes = guidance.variants if offers is None else offers(term.guidance.settings)
    asks = getattr(rule, "asks", None)
    needs = rule.needs | {getattr(term.system.settings, "against", None)} - {None} | term.prompting.needs()
    if missing := (needs if asks is None else needs | asks(term.system.settings)) - makes:
        raise RecipeError(
            f"{where}: {term.system.kind} needs the condition {', '.join(sorted(missing))}, "
            f"which {term.guidance.kind} does not make (it makes {', '.join(sorted(makes))})"
        )
    check_settings = getattr(rule, "check", None)
    if check_settings is not None and (complaint := check_settings(term.system.settings)):
        raise RecipeError(f"{where}.system: {complaint}")
    if term.prompting.adaptive > 0 and not getattr(rule, "guided", False):
        raise RecipeError(f"{where}.prompting.adaptive: the unconditional call is the gradient of {term.system.kind}")


def giver(scene: Scene) -> Scene:
    """The scene itself, or the first of its particles."""
    return scene.scenes[0] if isinstance(scene, Particles) else scene


class Assembler:
    """Builds the stages of one run; guidances with equal settings are shared."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        check(recipe)
        self.recipe = recipe
        self.device = torch.device(device)
        self.prompt = Prompt(recipe.prompt, recipe.negative)
        self.streams = Streams(recipe.seed, self.device)
        self._guidance: dict[Spec, Guidance] = {}

    def stage(self, index: int, earlier: Mapping[str, Scene] | None = None) -> BuiltStage:
        """Stage `index`; `earlier` holds the finished scenes that a `from:` may name (None: state is loaded after)."""
        spec = self.recipe.stages[index]
        scene, changes = self.scenes(spec), []
        if spec.scene.source is not None and earlier is not None:
            source = earlier[spec.scene.source]
            was = giver(source).kind
            scene, kept = self.succeed(source, scene)
            changes += [] if kept is None else [Change(spec.scene.source, was, spec.scene.kind, kept)]
        elif earlier is not None:
            changes = self.place(scene, earlier)
        terms = tuple(
            BuiltTerm(
                f"{j}_{term.system.kind}",
                self.guidance(term.guidance),
                SYSTEMS[term.system.kind](term.system.settings),
                term.weight,
                getattr(term.system.settings, "clip", None),
                Asking(term.prompting),
                term.see,
            )
            for j, term in enumerate(spec.terms)
        )
        return BuiltStage(spec, self.prompt, scene, terms, Adam(scene), self.streams, self.device, tuple(changes))

    def succeed(self, source: Scene, scene: Scene) -> tuple[Scene, Kept | None]:
        """What an earlier scene leaves to this stage's scene; particles take over in turn."""
        givers = source.scenes if isinstance(source, Particles) else (source,)
        if not isinstance(scene, Particles):
            return become(givers[0], scene, self.streams.init)
        if givers[0].kind == scene.scenes[0].kind:
            scene.load_state_dict(source.state_dict())
            return scene, None
        made = [become(givers[i % len(givers)], one, self.streams.init) for i, one in enumerate(scene.scenes)]
        scene.scenes = tuple(one for one, _ in made)
        return scene, made[0][1]

    def place(self, scene: Scene, earlier: Mapping[str, Scene]) -> list[Change]:
        """Objects of a scene that start from earlier stages, each from its own."""
        changes = []
        for one in scene.scenes if isinstance(scene, Particles) else (scene,):
            taking: Any = one
            for name, source in getattr(one, "taking", {}).items():
                before = giver(earlier[source])
                kept = taking.take(name, before, self.streams.init)
                changes += [] if kept is None else [Change(source, before.kind, taking.members[name].kind, kept, name)]
        return changes

    def reset_streams(self) -> None:
        """As at the very start of the run."""
        self.streams.load_state_dict(Streams(self.recipe.seed, self.device).state_dict())

    def scene(self, spec: Spec) -> Scene:
        """A scene at its start; draws from the `init` stream."""
        scene: Any = SCENES[spec.kind](spec.settings, self.streams.init)
        moved: Scene = scene.to(self.device)
        return moved

    def scenes(self, stage: Stage) -> Scene:
        """The scene of a stage at its start, or its particles."""
        if stage.particles == 1:
            return self.scene(stage.scene)
        made = [self.scene(stage.scene) for _ in range(stage.particles)]
        several: Any = Particles(made, derive(self.recipe.seed, "particles", stage.name))
        return cast(Scene, several)  # its penalties are its scenes', so they belong to no class

    def guidance(self, spec: Spec) -> Guidance:
        """A guidance, built once per run."""
        if spec not in self._guidance:
            if spec.kind == "oracle":
                seed = self.recipe.seed
                made: Any = GUIDANCE["oracle"](spec.settings, lambda prompt: oracle_world(prompt, spec.settings, seed))
            elif spec.kind == "truth":
                seed = self.recipe.seed
                made = GUIDANCE["truth"](spec.settings, lambda prompt: true_pictures(prompt, seed))
            else:
                made = GUIDANCE[spec.kind](spec.settings)
            self._guidance[spec] = made.to(self.device)
        return self._guidance[spec]
