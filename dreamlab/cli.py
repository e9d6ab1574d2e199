# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command is a few lines over the library; errors are one line and an exit code."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamlab.core.errors import DreamError, InputError, Interrupted, RecipeError

if TYPE_CHECKING:
    from dreamlab.runs import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Text or image to 3D and 4D assets by optimisation.",
)
toybox = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The procedural world.")
app.add_typer(toybox, name="toybox")

Device = Annotated[str, typer.Option(help="cpu or cuda")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from dreamlab import __version__

        print(f"dreamlab {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Text or image to 3D and 4D assets by optimisation."""


@app.command()
def dream(
    prompt: Annotated[str | None, typer.Argument(help="what to make; '-' reads it from stdin")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="recipe settings")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="packaged recipe or file; none: toybox, with --image: image")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="PNG or JPEG of the object, for recipes that follow one")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="read the prompt from this file")] = None,
    prompt_env: Annotated[str | None, typer.Option(help="read the prompt from this environment variable")] = None,
    negative: Annotated[str | None, typer.Option(help="what it must not look like")] = None,
    out: Annotated[Path, typer.Option(help="folder for run folders")] = Path("runs"),
    device: Device = "cpu",
) -> None:
    """Make an asset from a prompt: a new run, end to end. The last line of stdout is the run folder."""
    from dreamlab import pipeline
    from dreamlab.recipe import DEFAULT, find

    recipe = recipe or (DEFAULT if image is None else "image")
    spoken = recipe != DEFAULT and prompt_file is None and prompt_env is None  # a prompt, if any, is the argument
    own = spoken and prompt is None
    if spoken and prompt is not None and re.match(r"[a-z_]+(\.\w+)+=", prompt):  # nobody asks for that
        raise RecipeError(f'{prompt!r} stands where the prompt does; settings come after it: dream "a duck" {prompt}')
    text, more = (None, []) if own else read_prompt(prompt, prompt_file, prompt_env)
    check_device(device)
    settings = [*more, *(overrides or [])]
    run = pipeline.create(text, find(recipe), out, settings, negative, sys.argv, image)
    go(run, device)


@app.command()
def resume(run: RunPath, device: Device = "cpu") -> None:
    """Continue a run where its newest checkpoint is; a finished run is exported again."""
    from dreamlab.runs import Run

    check_device(device)
    go(Run.open(run), device)


@app.command()
def render(run: RunPath, device: Device = "cpu") -> None:
    """Turntable and contact sheet of a run as it stands."""
    from dreamlab import pipeline
    from dreamlab.runs import Run

    check_device(device)
    for path in pipeline.render_again(Run.open(run), device):
        print(path)


@app.command()
def export(
    run: RunPath,
    formats: Annotated[str | None, typer.Option(help="comma-separated: glb, obj, ply")] = None,
    device: Device = "cpu",
) -> None:
    """Write the mesh of a run again, in other formats if asked."""
    from dreamlab import pipeline
    from dreamlab.core.text import did_you_mean
    from dreamlab.recipe import FORMATS
    from dreamlab.runs import Run

    check_device(device)
    wanted = formats.split(",") if formats else None
    for name in wanted or ():
        if name not in FORMATS:
            raise RecipeError(f"--formats: {name!r} is not a format{did_you_mean(name, FORMATS)}")
    for path in pipeline.export_again(Run.open(run), device, wanted):
        print(path)


@app.command()
def inspect(path: Annotated[Path, typer.Argument(help="a run folder or a .glb, .obj or .ply file")]) -> None:
    """What is in a file or a run."""
    from dreamlab.inspection import describe

    for line in describe(path):
        print(line)


@app.command("list")
def list_(what: Annotated[str, typer.Argument(metavar="systems|scenes|guidance|recipes|objects")]) -> None:
    """What there is, one line each, with its paper."""
    from dreamlab.inspection import listing

    for line in listing(what):
        print(line)


@app.command()
def show(what: Annotated[str, typer.Argument(metavar="recipe")], name: str) -> None:
    """Print a packaged recipe."""
    from dreamlab.recipe import find

    if what != "recipe":
        raise RecipeError(f"show {what!r}: only `show recipe NAME` exists")
    path = find(name)
    if not path.is_file():
        raise InputError(f"{path}: no such recipe file")
    print(path.read_text("utf-8"), end="")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar="kernels|prior|scenes|startup|step|systems")],
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    scaling: Annotated[
        bool, typer.Option(help="kernels: cost against count, resolution and views, with exponents")
    ] = False,
) -> None:
    """Ratios measured side by side: a table on stdout, JSON in a file. Exit 1 when a floor is missed."""
    from dreamlab.inspection import measure

    raise typer.Exit(0 if measure(what, json, scaling) else 1)


@app.command()
def doctor() -> None:
    """Versions, devices, kernels, disk, ports, and what to do about each."""
    from dreamlab.doctor import examine

    for line in examine():
        print(line)


@toybox.command("render")
def toybox_render(
    names: Annotated[list[str] | None, typer.Argument(metavar="[OBJECT]...", help="default: all of them")] = None,
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("toybox.png"),
    seed: Annotated[int, typer.Option(help="which instance of each")] = 0,
    size: Annotated[int, typer.Option(min=16, max=512, help="pixels per view")] = 96,
) -> None:
    """A contact sheet of the procedural world."""
    from dreamlab.inspection import draw_sheet

    print(draw_sheet(names or [], out, seed, size))


@toybox.command("mesh")
def toybox_mesh(
    prompt: Annotated[str, typer.Argument(help="an object of the world, e.g. 'a mushroom'")],
    out: Annotated[Path, typer.Option(help="the .glb, .obj or .ply to write")] = Path("toybox.glb"),
    seed: Annotated[int, typer.Option(min=0, help="which instance")] = 0,
    painted: Annotated[bool, typer.Option("--painted", help="in its colours; else gray, to be painted")] = False,
) -> None:
    """A true object of the procedural world as a watertight mesh."""
    from dreamlab.inspection import write_object

    print(write_object(prompt, out, seed, painted))


@toybox.command("train")
def toybox_train(
    role: Annotated[
        str, typer.Option(help="image, views, control, novel, video; every (one for all); reader")
    ] = "image",
    out: Annotated[Path, typer.Option(help="run folder")] = Path("runs/toybox-prior"),
    minutes: Annotated[float, typer.Option(help="stop after this long; --resume goes on")] = 180.0,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="of the loop, and as many again while drawing")] = None,
    start: Annotated[str, typer.Option(help="prior that another role than image starts from")] = "toybox",
    resume: Annotated[bool, typer.Option("--resume", help="go on in --out with its plan")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="of a new run")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="pictures per step")] = None,
    views: Annotated[int | None, typer.Option(min=1, help="pictures of one object in a batch")] = None,
    rate: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    total: Annotated[int | None, typer.Option(min=1, help="pictures after which the rate has fallen to zero")] = None,
    cooldown: Annotated[float | None, typer.Option(min=0.01, max=1, help="share of it while the rate falls")] = None,
    head_after: Annotated[int | None, typer.Option(help="pictures after which training is at full size")] = None,
    shape_for: Annotated[int | None, typer.Option(help="pictures for which only the volume learns, first")] = None,
) -> None:
    """Train the embedded prior from nothing but the procedural world."""
    from dreamlab.core.text import did_you_mean
    from dreamlab.toybox.training.command import READER, begin
    from dreamlab.toybox.training.roles import ROLES
    from guidance.toybox_store import EVERY

    check_device(device)
    if role not in (*ROLES, EVERY, READER):
        raise RecipeError(f"--role {role!r}{did_you_mean(role, (*ROLES, EVERY, READER))}")
    given = {"seed": seed, "batch": batch, "views": views, "rate": rate, "total": total}
    given |= {"cooldown": cooldown, "head_after": head_after, "shape_for": shape_for}
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
    recipe: Annotated[str, typer.Option(help="name of a packaged recipe, or a file")] = "toybox",
    settings: Annotated[list[str] | None, typer.Option("--set", help="recipe setting key=value, repeatable")] = None,
    images: Annotated[int, typer.Option(min=0, help="also judge so many pictures drawn by the prior")] = 0,
    prior: Annotated[str, typer.Option(help="of --images: a shipped prior by name, or its folder")] = "toybox",
    out: Annotated[Path, typer.Option(help="folder of the cells; finished ones are not run again")] = Path("scores"),
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
    device: Device = "cpu",
) -> None:
    """Held-out prompts x seeds, measured against the truth: a table, a contact sheet, JSON."""
    from dreamlab.toybox.scoring.report import Wanted, command

    check_device(device)
    names = (systems, scenes, guidance)
    command(Wanted(*names, seeds, prompts, steps, recipe, tuple(settings or ()), images, prior, device), out, json)


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


def go(run: Run, device: str) -> None:
    """Run a folder with a progress bar; print what was made, the run folder last."""
    from dreamlab import pipeline
    from dreamlab.progress import Bar

    print(f"run folder: {run.path}", file=sys.stderr)
    try:
        with Bar() as bar:
            files = pipeline.execute(run, device, bar.update)
    except Interrupted as error:
        print(f"{error}. Resume: dreamlab resume {run.path}", file=sys.stderr)
        raise
    print(f"other formats: dreamlab export {run.path} --formats glb,obj,ply", file=sys.stderr)
    for path in files:
        print(path)
    print(run.path)


def read_prompt(prompt: str | None, file: Path | None, env: str | None) -> tuple[str, list[str]]:
    """The prompt as given, byte for byte, from one place; an argument beside a file or variable is an override."""
    if file is not None and env is not None:
        raise RecipeError("give the prompt once: --prompt-file or --prompt-env")
    more = [prompt] if prompt is not None and (file or env) else []
    if file is not None:
        try:
            return file.read_bytes().decode("utf-8").removesuffix("\n"), more
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as a UTF-8 prompt ({error})") from None
    if env is not None:
        if env not in os.environ:
            raise InputError(f"--prompt-env: the variable {env} is not set")
        return os.environ[env], more
    if prompt is None:
        raise RecipeError('dream needs a prompt, e.g. dreamlab dream "a red mushroom with a white stem"')
    if prompt == "-":
        try:
            return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n"), more
        except UnicodeDecodeError as error:
            raise InputError(f"stdin: not UTF-8 text ({error.reason})") from None
    return prompt, more


def check_device(device: str) -> None:
    """Said before anything is built."""
    import torch

    if device.split(":")[0] not in ("cpu", "cuda"):
        raise RecipeError(f"--device {device!r}: cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        build = "this torch has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise InputError(f"--device cuda: {build}; use --device cpu, or see `dreamlab doctor`")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exceptions become one line on stderr and the documented exit code."""
    # Threads that wait spin for some microseconds, then sleep. Seen with the default recipe: alone 54 it/s (47 without
    # the spin, 60 spinning for ever), beside two busy programs 24 (22, 10). OpenMP reads this when torch is loaded,
    # which no import above has done.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    warnings.showwarning = lambda message, *where, **more: print(f"note: {message}", file=sys.stderr)
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except Interrupted as error:
        sys.exit(error.exit_code)
    except DreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing is wrong here
        sys.exit(0)
    except Exception as error:
        shown = getattr(error, "format_message", None)  # the parser's own complaints about the command line
        if shown is not None:
            print(f"error: {' '.join(shown().split())}", file=sys.stderr)
            sys.exit(2)
        if os.environ.get("DREAMLAB_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        print(f"error: {type(error).__name__}: {text} (a defect; DREAMLAB_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
