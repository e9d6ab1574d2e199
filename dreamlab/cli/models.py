# SPDX-License-Identifier: Apache-2.0
"""`dreamlab models`: the models of others, where they are, and how they come here."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dreamlab.cli.app import Device, models
from dreamlab.core.errors import ModelError

EVERY_S = 5.0
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="of `models ls`")]


@models.command("ls")
def ls(
    family: Annotated[str | None, typer.Option(help="only models of this guidance")] = None,
    json: Annotated[bool, typer.Option("--json", help="all that is known of them, as JSON")] = False,
) -> None:
    """Name, guidance, size, licence, commercial use, and whether it is here."""
    from dreamlab.core.errors import RecipeError
    from dreamlab.core.text import did_you_mean
    from dreamlab.hub.listing import line, row
    from dreamlab.hub.registry import registry

    known = registry()
    if family is not None and family not in known.classes:
        raise RecipeError(f"--family {family!r}{did_you_mean(family, known.classes)}")
    chosen = known.of_family(family) if family else known.models.values()
    if json:
        from json import dumps

        print(dumps([row(model) for model in chosen], indent=1))
        return
    for model in chosen:
        print(line(model))


@models.command("path")
def path(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Where a model lies, for other programs."""
    from dreamlab.hub import located

    print(located(name))


@models.command("prefetch")
def prefetch(
    names: Names,
    variant: Annotated[str, typer.Option(help="fp16: the half as large files, where there are any")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be fetched")] = False,
    allow_pickle: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="a pickle by its name, that you trust; repeatable")
    ] = None,
) -> None:
    """Fetch models of the registry; what was begun is gone on with, and every file is hashed."""
    from dreamlab.hub import prefetch as fetching
    from dreamlab.hub.download import check_room, room
    from dreamlab.hub.listing import human
    from dreamlab.hub.places import models_folder
    from dreamlab.hub.registry import registry

    plans = [fetching.plan(registry().find(name), variant) for name in names]
    total = sum(plan.bytes for plan in plans if not plan.there)
    for plan in plans:
        print("\n".join(plan.lines()), file=sys.stdout if dry_run else sys.stderr, flush=True)
    if dry_run:
        print(f"{human(total)} in all, {human(room(models_folder()))} free in {models_folder()}")
        return
    check_room(f"model {', '.join(names)}", total, models_folder())
    meter = Meter()
    for plan in plans:
        print(fetching.prefetch(plan, allow_pickle or (), meter.say, meter), flush=True)
        if plan.model.base:
            meter.say(f"{plan.model.name} is used with {plan.model.base}: dreamlab models prefetch {plan.model.base}")


class Meter:
    """How far a file has come, a line now and then; on standard error, for the last lines of the other are places."""

    def __init__(self) -> None:
        self.since, self.base = time.monotonic(), -1

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self.since, self.base = time.monotonic(), -1

    def __call__(self, there: int, total: int) -> None:
        from dreamlab.hub.listing import human

        now = time.monotonic()
        if self.base < 0:
            self.since, self.base = now, there
        elif (elapsed := now - self.since) >= EVERY_S:
            share = f"{100 * there // total} % of {human(total)}" if total else human(there)
            print(f"  {share}, {human(round((there - self.base) / elapsed))}/s", file=sys.stderr, flush=True)
            self.since, self.base = now, there


@models.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="default: all here")] = None,
) -> None:
    """Hash the files that are here; a hash that nobody knows is recorded at first use. Exit 4 where one differs."""
    from dreamlab.hub import located
    from dreamlab.hub.places import find
    from dreamlab.hub.registry import registry
    from dreamlab.hub.verify import verify as verdicts

    known = registry()
    for name in names or ():
        located(known.find(name).name)  # says what is missing
    bad = []
    for model in [known.find(name) for name in names] if names else known.models.values():
        if find(model) is None:
            continue
        held: dict[str, int] = {}
        for verdict in verdicts(model):
            if verdict.wrong:
                bad.append(f"{model.name}: {verdict.path} {verdict.wrong}")
                print(f"wrong {bad[-1]}", flush=True)
            held[verdict.by] = held.get(verdict.by, 0) + (not verdict.wrong)
        said = ", ".join(f"{count} against {by}" for by, count in held.items() if count)
        print(f"ok    {model.name}: {said}" if said else f"      {model.name}", flush=True)
    if bad:
        raise ModelError(f"{len(bad)} files are not what they should be; remove them and prefetch the model again")


@models.command("random")
def random(
    name: Annotated[str, typer.Argument(metavar="NAME", help="of `models ls`, or of a layout")],
    out: Annotated[Path, typer.Option(help="the folder to make")],
    size: Annotated[str, typer.Option(help="tiny, or full")] = "tiny",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """A folder in a model's true layout with random weights: speed and memory need the architecture alone."""
    from typing import get_args

    from dreamlab.core.errors import RecipeError
    from dreamlab.core.text import did_you_mean
    from dreamlab.hub.download import check_room
    from dreamlab.hub.registry import registry
    from guidance.layouts.parts import Size

    sizes: dict[str, Size] = {each: each for each in get_args(Size)}
    if size not in sizes:
        raise RecipeError(f"--size {size!r}{did_you_mean(size, sizes)}")
    known = registry().models
    layout = known[name].layout if name in known else name
    if not layout:
        raise ModelError(f"model {name}: its layout is none that can be written")
    try:
        from guidance.layouts.build import describe
        from guidance.layouts.random import layout_of, write_random

        parts = layout_of(layout).parts
        # At full size random weights are written in fp16, tiny ones in fp32.
        numbers = sum(
            made.parameters + made.buffers for made in (describe(layout, p.folder, sizes[size]) for p in parts)
        )
        check_room(f"{layout}, {size}", numbers * (2 if size == "full" else 4), out.absolute())
        print(write_random(layout, sizes[size], out, seed))
    except ModuleNotFoundError as error:
        raise ModelError(f"models random: {error.name} is not installed: pip install 'dreamlab[models]'") from None


@models.command("draw")
def draw(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="of `models ls`, or a path")],
    prompt: Annotated[str, typer.Argument(help="what the picture shows")],
    out: Annotated[Path, typer.Option(help="a .png")],
    guidance: Annotated[str, typer.Option(help="of a path: which guidance reads it")] = "sd",
    negative: Annotated[str, typer.Option(help="what it must not show")] = "",
    steps: Annotated[int, typer.Option(min=1, max=1000)] = 25,
    scale: Annotated[float, typer.Option(min=0, help="of guidance; 1: none")] = 7.5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "cpu",
) -> None:
    """Let a model draw one picture: to see what it knows, or to begin from (`dream --image`)."""
    from dreamlab.core.device import known_device
    from dreamlab.core.errors import RecipeError
    from dreamlab.core.files import write_atomic
    from dreamlab.core.text import check_prompt, did_you_mean
    from dreamlab.core.types import Prompt
    from dreamlab.export.png import png_bytes
    from dreamlab.hub.registry import registry
    from dreamlab.recipe.tables import TABLES
    from guidance.latent.drawing import PICTURES, drawn_picture

    known = registry().models
    kind = known[model].families[0] if model in known else guidance
    if kind not in PICTURES:
        raise RecipeError(f"{model}: {kind} draws no single picture from a text alone{did_you_mean(kind, PICTURES)}")
    check_prompt(prompt)
    made = TABLES.guidance[kind]
    settings = made.Settings(model=model, null="negative" if negative else "empty")  # type: ignore[call-arg]
    built = made.build(settings, None).to(known_device(device))
    write_atomic(out, png_bytes(drawn_picture(built, Prompt(prompt, negative), steps, scale, seed)))
    print(out)
