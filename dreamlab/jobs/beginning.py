# SPDX-License-Identifier: Apache-2.0
"""The run that a request asks for, made by the same functions as the command line's, from what a stranger may say."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs import DEFAULT, PICTURED, find, names
from dreamlab import pipeline
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.text import did_you_mean, nearest, short
from dreamlab.jobs.allowed import overrides
from dreamlab.jobs.asking import BadRequest, FieldError, shown
from dreamlab.jobs.parents import Parent
from dreamlab.jobs.requests import BranchRequest, ContinueRequest, DreamRequest, TextureRequest
from dreamlab.jobs.states import LOCAL
from dreamlab.recipe import Recipe
from dreamlab.recipe.bind import plain
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run

Find = Callable[[str], Path]
HEADS = {"prompt": "prompt", "negative": "negative", "negative prompt": "negative"}  # of messages: their fields


@dataclass(frozen=True)
class Asker:
    """On whose word a job is made. `trusted`: of this machine's command line, who may name files and any setting;
    `find`: the file that a stranger's upload is."""

    owner: str = LOCAL
    trusted: bool = False
    find: Find = Path


def recipe_of(request: DreamRequest | TextureRequest) -> str:
    if request.recipe:
        return request.recipe
    return PICTURED if isinstance(request, DreamRequest) and request.image else DEFAULT


def new_run(out: Path, request: DreamRequest | TextureRequest, asker: Asker) -> Run:
    """A folder in `out` for a request; BadRequest names what of it cannot be."""
    source = _source(recipe_of(request), asker)
    seed = {} if request.seed is None else {"seed": request.seed}
    settings = overrides(source, request.prompt, {**request.settings, **seed}, asker.trusted)
    command, negative = as_command(request), request.negative or None
    with ExitStack() as stack:
        places = {name: _found(name, text, asker) for name, text in _files(request).items()}
        stack.enter_context(_told(places, asker))
        if isinstance(request, TextureRequest):
            shape = (command, request.fresh_uv, request.up)
            return pipeline.create_painting(request.prompt, places["mesh"], source, out, settings, negative, *shape)
        image = places.get("image")
        if "mask" in places:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            image = masked(places["image"], places["mask"], folder)
        return pipeline.create(request.prompt, source, out, settings, negative, command, image)


def branched_run(out: Path, request: ContinueRequest | BranchRequest, asker: Asker, parent: Parent) -> Run:
    """A folder in `out` that goes on from the parent's checkpoint."""
    run = Run(parent.folder)
    if isinstance(request, BranchRequest) and request.step is not None:
        _check_step(run, request.step)
    with _told({parent.id: parent.folder}, asker):
        if isinstance(request, ContinueRequest):
            lines = [_more_steps(run, None, request.steps)]
            return pipeline.branch(run, out, lines, ["dreamlab", "branch", parent.run, *lines], None)
        known = run.recipe_path()
        lines = overrides(known, request.prompt or parent.prompt, request.settings, asker.trusted)
        lines += [] if request.seed is None else [f"seed={request.seed}"]
        lines += [] if request.steps is None else [_more_steps(run, request.step, request.steps)]
        said = (("--step", request.step), ("--prompt", request.prompt), ("--negative", request.negative))
        words = [word for name, value in said if value is not None for word in (name, str(value))]
        command = ["dreamlab", "branch", parent.run, *lines, *words]
        return pipeline.branch(run, out, lines, command, None, request.step, request.prompt, request.negative)


def _check_step(run: Run, step: int) -> None:
    kept = [int(path.name[5:]) for path in committed(run.ckpt)]
    if step not in kept:
        said = "no checkpoint of this step is kept"
        raise BadRequest([FieldError("step", said, str(step), ", ".join(map(str, kept)))])


def _more_steps(run: Run, step: int | None, more: int) -> str:
    """So many more of the last stage: than it has made, or than it was to make where it has not begun."""
    stages = pipeline.load_recipe(run).stages
    meta = pipeline.standing(run, step, True).meta
    last = len(stages) - 1
    made = meta["step"] if meta.get("stage") == last else stages[last].steps
    return f"stages.{last}.steps={made + more}"


def as_command(request: DreamRequest | TextureRequest) -> list[str]:
    """The command line that makes the same run; files are named as they came."""
    said = {**request.settings, **({} if request.seed is None else {"seed": request.seed})}
    settings = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in said.items()]
    more = ["--recipe", recipe_of(request)] + (["--negative", request.negative] if request.negative else [])
    if isinstance(request, TextureRequest):
        return ["dreamlab", "texture", request.mesh, request.prompt, *settings, *more]
    return [
        "dreamlab",
        "dream",
        request.prompt,
        *settings,
        *more,
        *(["--image", request.image] if request.image else []),
    ]


def guidance_key(recipe: Recipe) -> str:
    """The same for jobs that load the same guidances."""
    specs = {json.dumps(plain(term.guidance), sort_keys=True) for stage in recipe.stages for term in stage.terms}
    kinds = sorted({term.guidance.kind for stage in recipe.stages for term in stage.terms})
    return f"{'+'.join(kinds)}:{hashlib.sha256('|'.join(sorted(specs)).encode()).hexdigest()[:12]}"


def check_webhook(address: str) -> None:
    from dreamlab.jobs.notify import check_url

    try:
        check_url(address)
    except InputError as error:
        said = str(error).removeprefix("webhook: ")
        raise BadRequest([FieldError("webhook", said, shown(address), "a public https address")]) from None


def _source(name: str, asker: Asker) -> Path:
    """The recipe's file; a stranger has those of the package alone."""
    known = names()
    if not asker.trusted and name not in known:
        said = "is not in the package" + (did_you_mean(short(name), known) if nearest(name, known) else "")
        raise BadRequest([FieldError("recipe", said, shown(name), ", ".join(known))])
    return find(name)


def _files(request: DreamRequest | TextureRequest) -> dict[str, str]:
    if isinstance(request, TextureRequest):
        return {"mesh": request.mesh}
    if request.mask and not request.image:
        raise BadRequest([FieldError("mask", "is of a picture: give the image, too")])
    return {name: text for name, text in (("image", request.image), ("mask", request.mask)) if text}


def _found(name: str, text: str, asker: Asker) -> Path:
    try:
        return asker.find(text)
    except InputError as error:
        raise BadRequest([FieldError(name, str(error), shown(text), "the id of an upload")]) from None


@contextmanager
def _told(places: Mapping[str, Path], asker: Asker) -> Iterator[None]:
    """What the engine says of a request, as an error of the field that it is about; places of this machine are not
    told to strangers."""
    try:
        yield
    except BadRequest:
        raise
    except (RecipeError, InputError) as error:
        if asker.trusted:
            raise
        said, loc = str(error), ""
        for name, place in places.items():
            loc = name if f"{name} {place}" in said else loc
            said = said.replace(f"{name} {place}", name).replace(str(place), name)
        head, _, rest = said.partition(": ")
        setting = re.match(r"(?:stages|export|image)[\w.]*", head)
        if not loc and head in HEADS:
            loc, said = HEADS[head], rest
        elif not loc and setting is not None:
            loc = f"settings.{setting[0]}"
        raise BadRequest([FieldError(loc, said)]) from error


def masked(image: Path, mask: Path, folder: Path) -> Path:
    """The picture with the mask as its alpha, as a file in `folder`."""
    import torch
    from torch.nn.functional import interpolate

    from dreamlab.export.png import png_bytes
    from dreamlab.recipe.picture import read_pixels

    picture, drawn = read_pixels(image), read_pixels(mask)
    cover = (drawn[..., :3].mean(-1) * drawn[..., 3])[None, None]
    cover = interpolate(cover, picture.shape[:2], mode="bilinear", align_corners=False, antialias=True)[0, 0]
    place = folder / "image.png"
    place.write_bytes(png_bytes(torch.cat([picture[..., :3], cover[..., None]], -1)))
    return place
