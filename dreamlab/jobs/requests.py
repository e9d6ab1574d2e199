# SPDX-License-Identifier: Apache-2.0
"""What may be asked of the queue, kind by kind, with the bounds of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from dreamlab.core.files import Json
from dreamlab.core.settings import bounds_of, setting
from dreamlab.core.text import did_you_mean
from dreamlab.jobs.asking import BadRequest, FieldError, bind, shown
from dreamlab.jobs.states import LANES, NORMAL
from dreamlab.recipe.grammar import Export

MOST_SEED = 2**31 - 1
MOST_STEPS = 10_000_000
MAPS = ("all", "base", "rough_metal", "normal")
UPLOAD = "id of an upload"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How a job waits, and who hears of its end."""

    lane: str = setting(NORMAL, choices=LANES, help="background: when nothing else waits")
    priority: int = setting(0, low=-100, high=100, help="larger first")
    webhook: str = setting("", help="https address that is told when it ends")


@dataclass(frozen=True, kw_only=True)
class DreamRequest(Waiting):
    """A new run of a prompt, or of a picture."""

    prompt: str = setting(help="what to make, in words")
    negative: str = setting("", help="what it must not look like")
    recipe: str = setting("", help="packaged recipe; none: toybox, with a picture: image")
    seed: int | None = setting(None, low=0, high=MOST_SEED, help="none: the recipe's")
    count: int = setting(1, low=1, high=64, help="so many runs, with seeds that follow one another")
    settings: Mapping[str, object] = field(default_factory=dict)
    image: str = setting("", help=f"{UPLOAD}: a picture to follow")
    mask: str = setting("", help=f"{UPLOAD}: white where the object of the picture is")


@dataclass(frozen=True, kw_only=True)
class TextureRequest(Waiting):
    """Other materials for a mesh that stays what it is."""

    prompt: str = setting(help="what it is to look like, in words")
    mesh: str = setting(help=f"{UPLOAD}: GLB, OBJ, PLY or STL")
    negative: str = setting("", help="what it must not look like")
    recipe: str = setting("texture", help="packaged recipe whose first scene is a mesh")
    seed: int | None = setting(None, low=0, high=MOST_SEED, help="none: the recipe's")
    count: int = setting(1, low=1, high=64, help="so many runs, with seeds that follow one another")
    settings: Mapping[str, object] = field(default_factory=dict)
    maps: tuple[str, ...] = setting(("all",), choices=MAPS, help="what to write")
    fresh_uv: bool = setting(False, help="texture coordinates of its own for every place, in a new set")
    up: str = setting("y", choices=("y", "z"), help="the file's axis that points up")


@dataclass(frozen=True, kw_only=True)
class ContinueRequest(Waiting):
    """More steps of the last stage, as a run of its own; the other one stays as it is."""

    steps: int = setting(low=1, high=MOST_STEPS, help="so many more")


@dataclass(frozen=True, kw_only=True)
class BranchRequest(Waiting):
    """A run that starts where another stood, with other words, rules or seed for the steps to come."""

    step: int | None = setting(None, low=0, help="of a checkpoint that is kept; none: the newest")
    prompt: str | None = setting(None, help="what to make from there on, in words")
    negative: str | None = setting(None, help="what it must not look like")
    seed: int | None = setting(None, low=0, high=MOST_SEED, help="of what is drawn from there on")
    steps: int | None = setting(None, low=1, high=MOST_STEPS, help="so many more of the last stage")
    settings: Mapping[str, object] = field(default_factory=dict)


def _as_exported(name: str) -> Any:
    """A field with the bounds of the recipe's own one; none: as the recipe says."""
    (found,) = (each for each in fields(Export) if each.name == name)
    return setting(None, **vars(bounds_of(found)))


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Waiting):
    """The files of a run once more, in other formats and sizes; none: as its recipe says."""

    formats: tuple[str, ...] | None = _as_exported("formats")
    preset: str | None = _as_exported("preset")
    faces: int | None = _as_exported("faces")
    texture: int | None = _as_exported("texture")
    height: float | None = _as_exported("height")
    origin: str | None = _as_exported("origin")
    levels: bool | None = _as_exported("levels")
    provenance: bool | None = _as_exported("provenance")


Request: TypeAlias = DreamRequest | TextureRequest | ContinueRequest | BranchRequest | ExportRequest
REQUESTS: Mapping[str, type[Request]] = {
    "dream": DreamRequest,
    "texture": TextureRequest,
    "continue": ContinueRequest,
    "branch": BranchRequest,
    "export": ExportRequest,
}
NEW = ("dream", "texture")  # the others are of a job that is there


def kind_of(request: Request) -> str:
    return next(kind for kind, cls in REQUESTS.items() if type(request) is cls)


def request_of(kind: object, given: object) -> Request:
    """A request as it was sent, or BadRequest with every field that is wrong."""
    if not isinstance(kind, str) or kind not in REQUESTS:
        known = did_you_mean(kind, REQUESTS) if isinstance(kind, str) else ""
        raise BadRequest([FieldError("kind", f"is none of them{known}", shown(kind), ", ".join(REQUESTS))])
    request = bind(REQUESTS[kind], given)
    if isinstance(request, ExportRequest) and request.texture and request.texture & (request.texture - 1):
        said = f"is no power of two, which engines want; {1 << request.texture.bit_length()} is"
        raise BadRequest([FieldError("texture", said, shown(request.texture), "0, or a power of two")])
    return request


def plain_request(request: Request) -> Json:
    """What of a request is worth keeping: all that is not as it would be anyway."""
    usual = {each.name: each.default for each in fields(request)}
    found = {name: getattr(request, name) for name in usual if name not in ("lane", "priority")}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value != usual[name] and value != {}
    }


def export_changes(request: Json) -> list[str]:
    """The settings of a kept export request, as `pipeline.export_again` takes them."""
    names = [each.name for each in fields(ExportRequest) if each.name not in {f.name for f in fields(Waiting)}]
    return [f"export.{name}={_text(request[name])}" for name in names if request.get(name) is not None]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
