# SPDX-License-Identifier: Apache-2.0
"""The grammar of a recipe: what a run is made of, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from dreamlab.core.cameras import OrbitSettings
from dreamlab.core.files import Json
from dreamlab.core.formats import ABOUT
from dreamlab.core.prompting import Prompting
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import Section, Spec, setting
from dreamlab.core.views import WHICH, GivenViews
from dreamlab.recipe.bind import plain
from dreamlab.recipe.picture import PictureSettings

BACKGROUNDS = ("random", "white", "black", "gray")
MATERIALS = ("none", "light", "words")
HOLLOWS = ("none", "prior")
SIGHTS = ("rgb", "normal", "normal_mask", "latent")
FORMATS = tuple(ABOUT)
ALL = "all"  # of the formats, those that can be written
PICTURES = ("sheet", "mp4", "gif", "poster")
PRESETS = ("none", "blender", "unity", "unreal", "godot", "web")  # dreamlab/export/presets.py says what they mean


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
class Materials:
    """How roughness and metallic of a surface are found when a stage has ended (docs/toybox.md)."""

    by: str = setting(
        "none", choices=MATERIALS, help="light: from pictures under the world's; words: the prior's answer"
    )
    views: int = setting(8, low=4, high=64, help="pictures that it is found from")
    size: int = setting(128, low=32, high=1024, help="pixels per side of a picture, by light")


@dataclass(frozen=True)
class Hollows:
    """What is taken out of an earlier stage's surface before this stage goes on with it (docs/toybox.md)."""

    by: str = setting("none", choices=HOLLOWS, help="prior: what the first term's guidance knows to be empty inside")


@dataclass(frozen=True)
class Stage:
    """One scene, what drives it, and for how long."""

    name: str
    scene: Annotated[Spec, Section("scenes")]
    terms: tuple[Term, ...]
    steps: int = setting(400, low=1, high=10_000_000)
    particles: int = setting(1, low=1, high=16, help="scenes trained in turn by the same terms (VSD)")
    at_once: int = setting(1, low=1, high=64, help="prompts or particles in one step, which share its views")
    views: int = setting(4, low=1, high=64, help="cameras per step")
    size: int = setting(64, low=8, high=2048, help="pixels per side of a training view")
    background: str = setting("random", choices=BACKGROUNDS, help="solid colour behind the object, per step")
    cameras: OrbitSettings = field(default_factory=OrbitSettings)
    given: GivenViews = field(default_factory=GivenViews)
    regularisers: Mapping[str, Schedule] = field(default_factory=dict)
    materials: Materials = field(default_factory=Materials)
    hollow: Hollows = field(default_factory=Hollows)


@dataclass(frozen=True)
class SplatSettings:
    """How Gaussians are written where a format leaves it open."""

    axes: str = setting(
        "rdf", choices=("rdf", "rub"), help="PLY, .splat: right, down, forward as 3DGS, or right, up, back"
    )
    padded: bool = setting(True, help="PLY: harmonics up to degree 3, as some programs demand")
    comments: bool = setting(True, help="PLY: axes and origin in its header; false for programs that choke on it")


@dataclass(frozen=True)
class Export:
    """What is left in `export/` at the end."""

    formats: tuple[str, ...] = setting(("glb",), choices=(*FORMATS, ALL))
    resolution: int = setting(96, low=16, high=512, help="cells per side of the grid the surface is found on")
    faces: int = setting(40_000, low=64, high=5_000_000, help="at most this many triangles")
    texture: int = setting(1024, low=0, high=8192, help="texels per side, a power of two; 0: colours of vertices")
    fit: bool = setting(True, help="the surface is drawn to the scene's own pictures: closer, some seconds more")
    preset: str = setting("none", choices=PRESETS, help="names, axes and extra files of the program it goes to")
    height: float | None = setting(None, above=0, high=1e5, help="metres in the file; missing: as it is, about 1")
    origin: str = setting("centre", choices=("centre", "bottom"), help="of the file: where the scene's is, or its feet")
    place: tuple[float, float, float, float] | None = setting(
        None, help="scale and shift from the scene's world into the file's, as --init sets them; height is asked first"
    )
    levels: bool = setting(False, help="also with a half, a quarter and a tenth of the triangles")
    provenance: bool = setting(True, help="prompt, seed and recipe are kept in the files")
    pictures: tuple[str, ...] = setting(("sheet", "mp4", "poster"), choices=PICTURES, help="what people look at")
    splats: SplatSettings = field(default_factory=SplatSettings)
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

    def with_(self, **changes: object) -> Recipe:
        """Another one with other settings, checked as a command line is: `with_(seed=3, **{"stages.0.steps": 50})`."""
        from dreamlab.recipe.changing import changed

        return changed(self, changes)


def as_plain(recipe: Recipe) -> Json:
    """The recipe as JSON-ready data, for artefacts that carry their own origin."""
    result: Json = plain(recipe)
    return result
