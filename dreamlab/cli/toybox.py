# SPDX-License-Identifier: Apache-2.0
"""`dreamlab toybox`: the procedural world, the embedded prior's training, the scoreboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dreamlab.cli.app import Device, check_device, toybox
from dreamlab.core.errors import RecipeError


@toybox.command("render")
def toybox_render(
    names: Annotated[list[str] | None, typer.Argument(metavar="[OBJECT]...", help="default: all of them")] = None,
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("toybox.png"),
    seed: Annotated[int, typer.Option(help="which instance of each")] = 0,
    size: Annotated[int, typer.Option(min=16, max=512, help="pixels per view")] = 96,
) -> None:
    """A contact sheet of the procedural world."""
    from dreamlab.cli.inspection import draw_sheet

    print(draw_sheet(names or [], out, seed, size))


@toybox.command("mesh")
def toybox_mesh(
    prompt: Annotated[str, typer.Argument(help="an object of the world, e.g. 'a mushroom'")],
    out: Annotated[Path, typer.Option(help="the .glb, .obj or .ply to write")] = Path("toybox.glb"),
    seed: Annotated[int, typer.Option(min=0, help="which instance")] = 0,
    painted: Annotated[bool, typer.Option("--painted", help="in its colours; else gray, to be painted")] = False,
) -> None:
    """A true object of the procedural world as a watertight mesh."""
    from dreamlab.cli.inspection import write_object

    print(write_object(prompt, out, seed, painted))


@toybox.command("train")
def toybox_train(
    role: Annotated[
        str,
        typer.Option(
            help="image, views, control, novel, video; every (one for all); reader, student, hollow; "
            "sd-vae, mv, sd, sd-control"
        ),
    ] = "image",
    out: Annotated[Path, typer.Option(help="run folder")] = Path("runs/toybox-prior"),
    minutes: Annotated[float, typer.Option(help="stop after this long; --resume goes on")] = 180.0,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="of the loop, and as many again while drawing")] = None,
    start: Annotated[
        str,
        typer.Option(
            help="prior that another role than image starts from; for mv and sd the run folder of sd-vae, or toybox-mv"
        ),
    ] = "toybox",
    resume: Annotated[bool, typer.Option("--resume", help="go on in --out with its plan")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="of a new run")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="pictures per step")] = None,
    views: Annotated[int | None, typer.Option(min=1, help="pictures of one object in a batch")] = None,
    rate: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    total: Annotated[int | None, typer.Option(min=1, help="pictures after which the rate has fallen to zero")] = None,
    cooldown: Annotated[float | None, typer.Option(min=0.01, max=1, help="share of it while the rate falls")] = None,
    head_after: Annotated[int | None, typer.Option(help="pictures after which training is at full size")] = None,
    shape_for: Annotated[int | None, typer.Option(help="pictures for which only the volume learns, first")] = None,
    texts: Annotated[int | None, typer.Option(min=0, help="mv, sd: steps of the text encoder, first")] = None,
) -> None:
    """Train the embedded prior from nothing but the procedural world."""
    from dreamlab.core.text import did_you_mean
    from dreamlab.toybox.training.command import HOLLOW, LATENT, READER, STUDENT, begin
    from dreamlab.toybox.training.roles import ROLES
    from guidance.toybox.store import EVERY

    check_device(device)
    known = (*ROLES, EVERY, READER, STUDENT, HOLLOW, *LATENT)
    if role not in known:
        raise RecipeError(f"--role {role!r}{did_you_mean(role, known)}")
    given = {"seed": seed, "batch": batch, "views": views, "rate": rate, "total": total}
    given |= {"cooldown": cooldown, "head_after": head_after, "shape_for": shape_for, "texts": texts}
    changes = {name: value for name, value in given.items() if value is not None}
    code = begin(
        out,
        role=role,
        minutes=minutes,
        device=device,
        threads=threads,
        resume=resume,
        start=start,
        changes=changes,
    )
    raise typer.Exit(code)


@toybox.command("score")
def toybox_score(
    systems: Annotated[str | None, typer.Option(help="comma-separated names (default: the recipe's)")] = None,
    scenes: Annotated[str | None, typer.Option(help="comma-separated names (default: the recipe's)")] = None,
    guidance: Annotated[str | None, typer.Option(help="toybox or oracle (default: the recipe's)")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each prompt")] = 1,
    prompts: Annotated[int, typer.Option(min=0, help="so many held-out prompts, one per category; 0: none")] = 8,
    steps: Annotated[int | None, typer.Option(min=1, help="of the first stage (default: the recipe's)")] = None,
    recipe: Annotated[str | None, typer.Option(help="name or file; of parts compared: toybox-gaussians")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="recipe setting key=value, repeatable")] = None,
    images: Annotated[int, typer.Option(min=0, help="also judge so many pictures drawn by the prior")] = 0,
    prior: Annotated[str, typer.Option(help="of --images: a shipped prior by name, or its folder")] = "toybox",
    out: Annotated[Path, typer.Option(help="folder of the cells; finished ones are not run again")] = Path("scores"),
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    device: Device = "cpu",
) -> None:
    """Held-out prompts x seeds, measured against the truth: a table, a contact sheet, JSON."""
    from dreamlab.toybox.scoring.report import Scored, command

    check_device(device)
    names = (systems, scenes, guidance)
    # Parts are compared by a recipe of one stage: in two, the second would make up for the first.
    recipe = recipe or ("toybox-gaussians" if any(names) else "toybox")
    command(Scored(*names, seeds, prompts, steps, recipe, tuple(settings or ()), images, prior, device), out, json)


@toybox.command("obey")
def toybox_obey(
    role: Annotated[str, typer.Option(help="views, control, novel, video, some with commas, or all")] = "all",
    prior: Annotated[str | None, typer.Option(help="a shipped prior by name, or its folder")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="so many held-out objects, one per category")] = 12,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="of the sampler")] = 25,
    scale: Annotated[float | None, typer.Option(help="of guidance; none: the role's own")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the samples")] = 0,
    out: Annotated[Path, typer.Option(help="folder of the contact sheets")] = Path("scores"),
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    device: Device = "cpu",
) -> None:
    """Whether the prior's roles do what they are told, beside the truth and trivial answers: tables and sheets."""
    from dreamlab.toybox.scoring.obey import Drawing
    from dreamlab.toybox.scoring.obey_report import command

    check_device(device)
    command(role, Drawing(prior, steps, scale, seed, device), prompts, out, json)
