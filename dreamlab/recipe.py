# SPDX-License-Identifier: Apache-2.0
"""The recipe: what a run is made of, read once from YAML and overrides into frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamlab.bind import Binder, Section, Spec, Tables, plain
from dreamlab.core.cameras import OrbitSettings
from dreamlab.core.errors import RecipeError
from dreamlab.core.prompting import Prompting
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from dreamlab.core.text import check_prompt, did_you_mean
from dreamlab.core.views import WHICH, GivenViews
from dreamlab.picture import PictureSettings
from dreamlab.yaml_source import Source, Tree, parse, read_file

DEFAULT = "toybox"  # of `make dream`
BACKGROUNDS = ("random", "white", "black", "gray")
SIGHTS = ("rgb", "normal", "normal_mask", "latent")
FORMATS = ("glb", "ply", "obj")


@dataclass(frozen=True)
class Term:
    """A guidance, the rule that turns its predictions into a gradient, and how much it counts."""

    guidance: Annotated[Spec, Section("guidance")]
    system: Annotated[Spec, Section("systems")]
    weight: Schedule = setting(constant(1.0), low=0, help="factor of this term's loss")
    prompting: Prompting = field(default_factory=Prompting)
    see: str = setting("rgb", choices=SIGHTS, help="what of the frames the guidance is shown")
    views: str = setting(
        "all", choices=WHICH, help="which of the stage's: those of the prompt's picture (given), or the others"
    )
    clip_pixel: float | None = setting(None, above=0, help="largest gradient on a channel of a pixel; direction kept")
    sample: int = setting(0, low=0, high=64, help="so many of those views, drawn anew in each step; 0: all of them")


@dataclass(frozen=True)
class Stage:
    """One scene, what drives it, and for how long."""

    name: str
    scene: Annotated[Spec, Section("scenes")]
    terms: tuple[Term, ...]
    steps: int = setting(400, low=1, high=10_000_000)
    particles: int = setting(1, low=1, high=16, help="scenes trained in turn by the same terms (VSD)")
    views: int = setting(4, low=1, high=64, help="cameras per step")
    size: int = setting(64, low=8, high=2048, help="pixels per side of a training view")
    background: str = setting("random", choices=BACKGROUNDS, help="solid colour behind the object, per step")
    cameras: OrbitSettings = field(default_factory=OrbitSettings)
    given: GivenViews = field(default_factory=GivenViews)
    regularisers: Mapping[str, Schedule] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """What is left in `export/` at the end."""

    formats: tuple[str, ...] = setting(("glb",), choices=FORMATS)
    resolution: int = setting(96, low=16, high=512, help="cells per side of the grid the surface is found on")
    faces: int = setting(40_000, low=64, high=5_000_000, help="at most this many triangles")
    turntable: int = setting(48, low=2, high=720, help="frames of turntable.mp4")
    size: int = setting(256, low=32, high=2048, help="pixels per side of the turntable")


@dataclass(frozen=True)
class Keeping:
    """How often a run writes down what it has, in steps."""

    checkpoint: int = setting(100, low=1)
    keep: int = setting(2, low=1, high=1000, help="checkpoints kept")
    preview: int = setting(100, low=1)
    log: int = setting(10, low=1, help="steps between readings of the metrics")


@dataclass(frozen=True)
class Guard:
    """When a non-finite step is skipped, when the run rolls back, and when it gives up."""

    skips: int = setting(5, low=1, help="bad steps in a row before rolling back to the last checkpoint")
    rollbacks: int = setting(2, low=0, help="roll-backs, each halving the learning rates, before giving up")


@dataclass(frozen=True)
class Recipe:
    """One command runs all of it."""

    prompt: str
    stages: tuple[Stage, ...]
    prompts: tuple[str, ...] = setting((), help="learnt beside `prompt` by one generator (scene: hyper_field)")
    negative: str = ""
    seed: int = setting(0, low=0, high=2**31 - 1)
    image: PictureSettings = field(default_factory=PictureSettings)
    export: Export = field(default_factory=Export)
    keeping: Keeping = field(default_factory=Keeping)
    guard: Guard = field(default_factory=Guard)


def load(
    text_or_path: str | Path,
    tables: Tables,
    *,
    prompt: str | None = None,
    negative: str | None = None,
    overrides: Sequence[str] = (),
    name: str = "recipe",
) -> Recipe:
    """A recipe from a file (`Path`) or text, with `key=value` overrides; prompts given here are literal and win."""
    source = Source()
    from_file = isinstance(text_or_path, Path)
    tree = read_file(Path(text_or_path), source) if from_file else parse(str(text_or_path), name, source)
    if not isinstance(tree, dict) or not tree:
        raise RecipeError(f"{text_or_path if from_file else name}: a recipe is a mapping")
    tree = _apply(tree, overrides, source)
    for key, literal in (("prompt", prompt), ("negative", negative)):
        if literal is not None:
            tree[key] = source.add(literal, False, f"the {key} given", 0)
    recipe: Recipe = Binder(source, tables).dataclass(Recipe, tree, "", "a recipe")
    check_prompt(recipe.prompt)
    if recipe.negative:
        check_prompt(recipe.negative, "negative prompt")
    for i, text in enumerate(recipe.prompts):
        check_prompt(text, f"prompts.{i}")
        if text in (recipe.prompt, *recipe.prompts[:i]):
            raise RecipeError(f"prompts.{i}: {text!r} is there already; a prompt is learnt once")
    _check(recipe, tables)
    return recipe


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load(dump(r)) == r`."""
    return yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)


def names() -> dict[str, str]:
    """The recipes that come with the package: name -> the comment on its first line."""
    found = {}
    for folder, prefix in ((resources.files("configs"), ""), (resources.files("configs") / "paper", "paper/")):
        for entry in sorted(folder.iterdir(), key=lambda e: (e.name != f"{DEFAULT}.yaml", e.name)):
            if entry.name.endswith(".yaml"):
                first = entry.read_text("utf-8").splitlines()[0]
                found[prefix + entry.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return found


def find(name_or_file: str) -> Path:
    """The path of a packaged recipe by name, or of a file by path."""
    known = names()
    if name_or_file not in known and (name_or_file.endswith((".yaml", ".yml")) or set(name_or_file) & {"/", "\\"}):
        return Path(name_or_file)
    if name_or_file not in known:
        raise RecipeError(f"recipe {name_or_file!r} is not in the package{did_you_mean(name_or_file, known)}")
    return Path(str(resources.files("configs") / f"{name_or_file}.yaml"))


def _apply(tree: dict[str, Tree], overrides: Sequence[str], source: Source) -> dict[str, Tree]:
    """Merge `a.b.c=value` into the tree; a stage may be named instead of numbered (`stages.shape.steps=9`)."""
    container = OmegaConf.create(tree)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {text!r}: write key=value, e.g. stages.0.steps=200")
        parts = key.split(".")
        if parts[0] == "prompt":
            raise RecipeError("the prompt is given as the command's argument, never as an override")
        if parts[0] == "prompts":
            raise RecipeError("prompts are listed in the recipe file, never given as an override")
        stages = tree.get("stages")
        if parts[0] == "stages" and len(parts) > 1 and isinstance(stages, list):
            by_name = {_stage_name(stage, source): i for i, stage in enumerate(stages)}
            if not parts[1].isdigit():
                if parts[1] not in by_name:
                    raise RecipeError(f"override {key!r}: no stage {parts[1]!r}{did_you_mean(parts[1], by_name)}")
                parts[1] = str(by_name[parts[1]])
            if int(parts[1]) >= len(stages):
                raise RecipeError(f"override {key!r}: the recipe has {len(stages)} stages, counted from 0")
        try:
            parsed = parse(value, f"override {key}", source, numbered=False)
            # Another kind brings its own settings: the old one's must not linger.
            whole = isinstance(parsed, dict) and "kind" in parsed
            OmegaConf.update(container, ".".join(parts), parsed, merge=not whole, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, IndexError, AttributeError):
            raise RecipeError(f"override {key!r}: there is no such place in the recipe") from None
    merged = OmegaConf.to_container(container, resolve=False)
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def _stage_name(stage: Tree, source: Source) -> str:
    found = stage.get("name") if isinstance(stage, dict) else None
    return source.scalars[found].text if isinstance(found, int) else ""


def _check(recipe: Recipe, tables: Tables) -> None:
    """Rules that span fields."""
    if not recipe.stages:
        raise RecipeError("stages: a recipe needs at least one stage")
    if not recipe.export.formats:
        raise RecipeError(f"export.formats: name at least one of {', '.join(FORMATS)}")
    seen: list[str] = []
    for i, stage in enumerate(recipe.stages):
        where = f"stages.{i} ({stage.name!r})"
        if not stage.name.replace("_", "").replace("-", "").isalnum():
            raise RecipeError(f"{where}: a stage's name is letters, digits, '-' and '_'")
        if stage.name in seen:
            raise RecipeError(f"{where}: two stages have this name")
        if stage.cameras.fixed and min(stage.given.widen.values) < 1:
            raise RecipeError(f"{where}: given.widen moves cameras, cameras.fixed never do; leave one out")
        if not stage.terms:
            raise RecipeError(f"{where}: needs at least one term")
        for source, _ in takeovers(stage.scene):
            if source not in seen:
                raise RecipeError(f"{where}: scene.from {source!r} is not an earlier stage{did_you_mean(source, seen)}")
        known = (*tables["regularisers"], *tables["scenes"][stage.scene.kind].penalties)
        for name in stage.regularisers:
            if name not in known:
                raise RecipeError(f"{where}: regularisers.{name} is not known{did_you_mean(name, known)}")
        seen.append(stage.name)


def takeovers(scene: Spec) -> tuple[tuple[str, str], ...]:
    """(stage, kind that starts from it) of a scene and of the objects in it."""
    own = () if scene.source is None else ((scene.source, scene.kind),)
    return (*own, *getattr(scene.settings, "takeovers", ()))


def as_plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-ready data, for artefacts that carry their own origin."""
    result: dict[str, Any] = plain(recipe)
    return result
