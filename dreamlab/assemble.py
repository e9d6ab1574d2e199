# SPDX-License-Identifier: Apache-2.0
"""The one file that knows the three tables: turns a stage of a recipe into objects that can be stepped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dreamlab.bind import Spec, Tables
from dreamlab.core.encoding import bag_of_words, squeezed
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.prompting import Asking
from dreamlab.core.schedules import Schedule
from dreamlab.core.streams import Streams, derive
from dreamlab.core.types import Guidance, Maker, Prompt, Scene
from dreamlab.optim import Adam
from dreamlab.particles import Particles
from dreamlab.picture import read_picture
from dreamlab.recipe import Recipe, Stage, Term, takeovers
from dreamlab.regularisers import REGULARISERS
from dreamlab.worlds import oracle_world, true_pictures, understand
from guidance import GUIDANCE
from renderers import SCENES
from renderers.become import Kept, become, can_become
from systems import SYSTEMS
from systems.residual import Stateless, System

PICTURED = {"picture", "toybox-novel"}  # guidance that follows `image`
SHAPE_FILES = {"mesh": "file", "dmtet": "mesh"}  # scenes that may start from a file: the setting that names it


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
    views: str
    sample: int
    clip_pixel: float | None


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

    def turn(self, i: int) -> tuple[Scene, Prompt]:
        """The scene and prompt of step `i`: what a maker makes of its prompts takes turns."""
        which = i % len(self.prompts)
        return (self.scene.made(which) if isinstance(self.scene, Maker) else self.scene), self.prompts[which]


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
        check_prompts(recipe, stage, where)
        for j, term in enumerate(stage.terms):
            check_term(term, f"{where}: terms.{j}")
            check_views(stage, term, f"{where}: terms.{j}")
            listen = getattr(GUIDANCE[term.guidance.kind], "listen", None)
            for prompt in prompts_of(recipe):
                if term.guidance.kind in ("oracle", "truth"):
                    understand(prompt.text)
                    if style := getattr(term.guidance.settings, "style", ""):
                        understand(style, "style")
                if listen is not None:
                    listen(term.guidance.settings, prompt)


def prompts_of(recipe: Recipe) -> tuple[Prompt, ...]:
    """The prompts of a run in the order of their turns."""
    return tuple(Prompt(text, recipe.negative) for text in (recipe.prompt, *recipe.prompts))


def check_prompts(recipe: Recipe, stage: Stage, where: str) -> None:
    """Whether a stage can serve several prompts, if the recipe has several."""
    makers = sorted(kind for kind, scene in SCENES.items() if issubclass(scene, Maker))
    if stage.scene.kind in makers and stage.particles > 1:
        raise RecipeError(f"{where}.particles: {stage.scene.kind} is one generator; it has no particles")
    if recipe.prompts and stage.scene.kind not in makers:
        raise RecipeError(
            f"{where}.scene: {stage.scene.kind} is of one prompt and the recipe lists prompts; use {', '.join(makers)}"
        )
    if recipe.prompts and looks(recipe):
        raise RecipeError(f"{where}: a term follows the picture of one prompt and the recipe lists prompts")
    for j, term in enumerate(stage.terms if recipe.prompts else ()):
        if not issubclass(SYSTEMS[term.system.kind], Stateless):
            raise RecipeError(
                f"{where}.terms.{j}: {term.system.kind} remembers the renders of one prompt and the recipe lists "
                "prompts; use a rule that keeps no state, as asd and sds"
            )
        if term.prompting.adaptive > 0:
            raise RecipeError(f"{where}.terms.{j}.prompting.adaptive: learns from one prompt, the recipe lists prompts")


def looks(recipe: Recipe) -> bool:
    """Whether some term follows a given picture."""
    kinds = {term.guidance.kind for stage in recipe.stages for term in stage.terms}
    return bool(kinds & PICTURED)


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
    rescaled = getattr(rule, "rescaled", None)
    if term.prompting.rescale > 0 and not (rescaled and rescaled(term.system.settings)):
        raise RecipeError(f"{where}.prompting.rescale: {term.system.kind} has no guidance that it could pull back")
    if term.see != "rgb" and getattr(rule, "colours", False):
        raise RecipeError(f"{where}.see: {term.system.kind} compares colours, so its guidance must be shown rgb")


def giver(scene: Scene) -> Scene:
    """The scene itself, or the first of its particles."""
    return scene.scenes[0] if isinstance(scene, Particles) else scene


def check_views(stage: Stage, term: Term, where: str) -> None:
    """Whether the views that a term sees are there, and are such as its guidance can speak of."""
    only = getattr(GUIDANCE[term.guidance.kind], "sees", term.views)
    if only != term.views:
        raise RecipeError(f"{where}.views: {term.guidance.kind} knows the {only} ones alone; write views: {only}")
    if term.views == "given" and max(stage.given.share.values) == 0:
        raise RecipeError(f"{where}.views: none is given; set the stage's given.share, say to 0.25")


class Assembler:
    """Builds the stages of one run; guidances with equal settings are shared; files are looked for in `folder`."""

    def __init__(self, recipe: Recipe, device: str, folder: Path = Path()) -> None:
        check(recipe)
        self.recipe, self.folder = recipe, folder
        self.device = torch.device(device)
        image = read_picture(self.given(recipe.image.file), recipe.image) if recipe.image.file else None
        self.prompts = tuple(replace(prompt, image=image) for prompt in prompts_of(recipe))
        self.streams = Streams(recipe.seed, self.device)
        self._guidance: dict[Spec, Guidance] = {}

    def stage(self, index: int, earlier: Mapping[str, Scene] | None = None) -> BuiltStage:
        """Stage `index`; `earlier` holds the finished scenes that a `from:` may name (None: state is loaded after)."""
        spec = self.recipe.stages[index]
        if spec.given.used and self.prompts[0].image is None:
            raise InputError(f"stage {spec.name!r} takes views of the prompt's picture; give one with --image")
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
                term.views,
                term.sample,
                term.clip_pixel,
            )
            for j, term in enumerate(spec.terms)
        )
        return BuiltStage(spec, self.prompts, scene, terms, Adam(scene), self.streams, self.device, tuple(changes))

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

    def given(self, file: str) -> Path:
        """A file that the recipe names: the run's own copy, or where the name says."""
        return self.folder / file if (self.folder / file).is_file() else Path(file)

    def scene(self, spec: Spec) -> Scene:
        """A scene at its start; draws from the `init` stream."""
        settings, name = spec.settings, SHAPE_FILES.get(spec.kind)
        if name is not None and getattr(settings, name):
            settings = replace(settings, **{name: str(self.given(getattr(settings, name)))})
        scene: Any = SCENES[spec.kind](settings, self.streams.init)
        moved: Scene = scene.to(self.device)
        return moved

    def scenes(self, stage: Stage) -> Scene:
        """The scene of a stage at its start, or its particles."""
        if stage.particles == 1:
            scene = self.scene(stage.scene)
            if isinstance(scene, Maker):
                scene.tell(self.codes(stage))
            return scene
        made = [self.scene(stage.scene) for _ in range(stage.particles)]
        several: Any = Particles(made, derive(self.recipe.seed, "particles", stage.name))
        return cast(Scene, several)  # its penalties are its scenes', so they belong to no class

    def codes(self, stage: Stage) -> Tensor:
        """[P, D] the prompts as the stage's first guidance encodes them, or as bags of words."""
        first, width = self.guidance(stage.terms[0].guidance), stage.scene.settings.code
        encoding = getattr(first, "encoding", None)
        if encoding is not None:
            return squeezed(torch.stack([encoding(prompt.text) for prompt in self.prompts]), width)
        return torch.stack([bag_of_words(prompt.text, width) for prompt in self.prompts])

    def guidance(self, spec: Spec) -> Guidance:
        """A guidance, built once per run."""
        if spec not in self._guidance:
            if spec.kind == "oracle":
                seed = self.recipe.seed
                made: Any = GUIDANCE["oracle"](
                    spec.settings, cache(lambda prompt: oracle_world(prompt, spec.settings, seed))
                )
            elif spec.kind == "truth":
                seed = self.recipe.seed
                made = GUIDANCE["truth"](spec.settings, cache(lambda prompt: true_pictures(prompt, seed)))
            else:
                made = GUIDANCE[spec.kind](spec.settings)
            self._guidance[spec] = made.to(self.device)
        return self._guidance[spec]
