# SPDX-License-Identifier: Apache-2.0
"""What the recipe `image` makes of pictures that nobody here drew.

    python -m benchmarks.strangers --runs FOLDER [--only NAME,NAME] [--others] [--say] [--set SETTING]...
                                   [--before FOLDER] [--text FOLDER] [--json F] [--sheet F]

Runs that FOLDER holds already (FOLDER/NAME/...) are measured, the others made first (`--measure`: are not). Printed of
each: PSNR and silhouette IoU from the given side, needles, specks, whether the kind was read right, how far the colours
of the half that the picture does not show are from the picture's own (*off*), and how far those are from that half's
(*lacking*: what is white all over is near to a picture with some white, and lacks the rest). `--before` holds runs of
another time or with other settings: the same figures of those pictures of which both are there. `--text` holds finished
runs of the default recipe, for needles beside those; any prompts. `--reading` judges the reader alone, in seconds.
The prior's own named colours behind, as before a picture's were carried round, are these settings, for both stages
0 and 1: `--set "stages.0.terms.1.guidance={kind: toybox-novel, palette: false}" --set stages.0.terms.2.weight=0`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.stranger_set import Stranger, folder, known, others, tested, unknown
from configs import find
from dreamlab import pipeline
from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.threads import one_thread
from dreamlab.metrics.asset import Asset, Made
from dreamlab.metrics.colours import oklab, to_linear
from dreamlab.metrics.crispness import crisp_cameras, pictured, specks
from dreamlab.metrics.figures import Check, report
from dreamlab.metrics.needles import SIZE, needles
from dreamlab.recipe.picture import PictureSettings, read_picture
from dreamlab.run.folder import Run
from guidance.toybox.prior import folder_of
from guidance.toybox.reader import FILE, Reader, load, read

PALETTE, ROUNDS = 8, 12  # colours of a picture, by k-means
LIGHTNESS = 0.5  # weight of it: light differs from side to side
UNSEEN = tuple(range(105, 270, 30))  # azimuths, degrees from the picture's camera
HALVED = 0.5
FLOORS = {"psnr": 24.0, "iou": 0.93}
TESTED = 24
SHOWN = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)  # azimuths on the sheet


@dataclass(frozen=True)
class Measured:
    psnr: float  # dB, all of the picture before white
    iou: float
    needles: float
    thin: float  # share of what can be seen
    specks: float
    off: float  # of the unseen half's colours, as below
    lacking: float


def as_png(one: Stranger, place: Path) -> Path:
    from PIL import Image

    file = place / f"{one.name.replace(' ', '-')}.png"
    with Image.open(one.file) as picture:
        picture.convert("RGBA").save(file)
    return file


def finished(place: Path) -> Run | None:
    """The newest finished run of a folder."""
    files = sorted(place.glob("*/export/model.glb"), key=lambda file: file.stat().st_mtime)
    return Run.open(files[-1].parents[1]) if files else None


def made(one: Stranger, runs: Path, settings: Sequence[str] | None, say: bool) -> Run | None:
    """The newest finished run of a picture; else one with these settings, unless there are none."""
    place = runs / one.name.replace(" ", "-")
    if (run := finished(place)) is not None or settings is None:
        return run
    with tempfile.TemporaryDirectory() as own:
        said = [*settings, *([f"image.kind={one.kind}"] if say else [])]
        run = pipeline.create(None, find("image"), place, said, None, ["bench"], as_png(one, Path(own)))
    pipeline.execute(run)
    return run


def labs(rgb: Tensor) -> Tensor:
    return oklab(to_linear(rgb.clamp(0, 1))) * torch.tensor([LIGHTNESS, 1.0, 1.0])


def palette(colours: Tensor) -> Tensor:
    """[PALETTE, 3] k-means of [N, 3], from evenly spread quantiles of lightness."""
    centres = colours[colours[:, 0].argsort()][torch.linspace(0, len(colours) - 1, PALETTE).long()]
    for _ in range(ROUNDS):
        mine = torch.cdist(colours, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, mine, colours)
        count = torch.bincount(mine, minlength=PALETTE)[:, None]
        centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
    return centres


@dataclass(frozen=True)
class Colours:
    """Of the half that a picture does not show."""

    off: float  # OKLab distance of its pixels to the picture's palette
    lacking: float  # OKLab distance of the picture's pixels to that half's palette


def colours_of(run: Run) -> Colours:
    wanted, scene, _ = pipeline.finished_scene(run)
    given = read_picture(run.path / wanted.image.file, replace(wanted.image, file="", fill=0.0))
    unseen = labs(straight(pictured(Made(scene), turned(given.camera, UNSEEN), SIZE // 2)))
    own = labs(given.rgb[given.alpha[..., 0] > 0.9])
    return Colours(distance(unseen, palette(own)), distance(own, palette(unseen)))


def distance(colours: Tensor, near: Tensor) -> float:
    """Mean over colours of how far the nearest of some others is."""
    return float(torch.cdist(colours, near).amin(1).mean())


def straight(pictures: tuple[Tensor, Tensor]) -> Tensor:
    """[N, 3] colours of what is opaque, of pictures over white."""
    rgb, alpha = pictures
    solid = alpha[..., 0] > 0.9
    return (rgb[solid] - (1 - alpha[solid])) / alpha[solid]


def measured(run: Run) -> Measured:
    wanted, scene, _ = pipeline.finished_scene(run)
    asset = Made(scene)
    given = read_picture(run.path / wanted.image.file, replace(wanted.image, file="", fill=0.0))
    picture = torch.cat([given.rgb * given.alpha + 1 - given.alpha, given.alpha], -1).permute(2, 0, 1)[None]
    picture = F.interpolate(picture, (SIZE, SIZE), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    rgb, alpha = pictured(asset, given.camera, SIZE)
    front, true = alpha[0, ..., 0] > 0.5, picture[..., 3] > 0.5
    around = pictured(asset, beside(given.camera), SIZE)[1]
    found, colours = needles(around), colours_of(run)
    return Measured(
        psnr=float(-10 * (rgb[0] - picture[..., :3]).square().mean().log10()),
        iou=float((front & true).sum() / (front | true).sum()),
        needles=found.count,
        thin=found.share,
        specks=specks(around),
        off=colours.off,
        lacking=colours.lacking,
    )


def turned(camera: Cameras, by: Sequence[float]) -> Cameras:
    """A camera's elevation, distance and lens from elsewhere around."""
    azimuth = [float(camera.azimuth_deg[0]) + angle for angle in by]
    elevation, distance, lens = (float(v[0]) for v in (camera.elevation_deg, camera.distance, camera.fovy_deg))
    return orbit(azimuth, elevation, distance, lens)


def beside(camera: Cameras) -> Cameras:
    """Near the given side and around: where needles are looked for."""
    return turned(camera, (0.0, 15.0, -15.0, 60.0, 120.0, 180.0, 240.0, 300.0))


def in_text(place: Path) -> dict[str, float]:
    """Needles and specks of finished runs of a text, mean."""
    found = []
    for file in sorted(place.glob("**/recipe.yaml")):
        asset: Asset = Made(pipeline.finished_scene(Run.open(file.parent))[1])
        alpha = pictured(asset, crisp_cameras(8), SIZE)[1]
        found.append((needles(alpha).count, needles(alpha).share, specks(alpha)))
    return {
        name: sum(column) / len(found)
        for name, column in zip(("needles", "thin", "specks"), zip(*found, strict=True), strict=True)
    }


def reading(reader: Reader, some: Sequence[Stranger]) -> list[tuple[Stranger, str, float, bool]]:
    """Of each picture: what it is taken for, with what probability, and whether the reader is sure."""
    found = []
    with tempfile.TemporaryDirectory() as own:
        for one in some:
            seen = read(reader, read_picture(as_png(one, Path(own)), PictureSettings()))
            found.append((one, seen.kind, seen.likely[0][1], seen.sure))
    return found


def reading_checks(reader: Reader, place: Path) -> list[Check]:
    """How often the kind is right, how often it is sure and right, and how often it is sure of what has no name."""
    checks = []
    for name, some in (("test", tested(place)), ("others", others(place)), ("unknown", unknown(place))):
        seen = reading(reader, some)
        right = sum(kind == one.kind for one, kind, _, _ in seen)
        bold = sum(sure and kind != one.kind for one, kind, _, sure in seen)
        calm = sum(sure and kind == one.kind for one, kind, _, sure in seen)
        note = f"of {len(seen)}"
        if name != "unknown":
            checks += [Check(f"reader {name} right", right, "", 18.0 if name == "test" else None, note=note)]
            checks += [Check(f"reader {name} sure and right", calm, "", None, note=note)]
        checks += [Check(f"reader {name} sure and wrong", bold, "", None, "lower", note)]
    return checks


def checks_of(rows: Mapping[str, Measured], right: Mapping[str, bool], text: Mapping[str, float]) -> list[Check]:
    """Means over the pictures, and each."""
    found = []
    for name in (each.name for each in fields(Measured)):
        every = {one: round(getattr(row, name), 4) for one, row in rows.items()}
        floor, better = FLOORS.get(name, text.get(name)), "higher" if name in FLOORS else "lower"
        unit = "dB" if name == "psnr" else ""
        found.append(Check(f"{name}", round(sum(every.values()) / len(rows), 4), unit, floor, better, details=every))
    floor, note = (18.0 if len(rows) == TESTED else None), f"of {len(rows)}"
    found.append(Check("kind right", sum(right.values()), "", floor, note=note, details=dict(right)))
    return found + [Check(f"text to 3D: {name}", round(value, 4), "", None, "lower") for name, value in text.items()]


def before_checks(rows: Mapping[str, Measured], before: Mapping[str, Measured]) -> list[Check]:
    """Both of the pictures of which there are two runs, and what is left of the colours' error."""
    found = []
    for name in (each.name for each in fields(Measured)):
        better, unit = "higher" if name in FLOORS else "lower", "dB" if name == "psnr" else ""
        then, now = ({one: round(getattr(of[one], name), 4) for one in before} for of in (before, rows))
        for when, every in (("before", then), ("of the same now", now)):
            mean, note = round(sum(every.values()) / len(every), 4), f"of {len(every)}"
            found.append(Check(f"{name} {when}", mean, unit, None, better, note, every))
    left = sum(rows[one].off for one in before) / sum(row.off for row in before.values())
    return [*found, Check("off left", round(left, 4), "x", HALVED, "lower", "of before's")]


def sheet(path: Path, runs: Mapping[str, Run]) -> None:
    """A strip for each picture: it, and the result from six sides, the given one first."""
    from PIL import Image, ImageDraw

    size, label = 96, 12
    columns, wide = 3, size * (len(SHOWN) + 1) + 6
    board = Image.new("RGB", (wide * columns, (size + label) * (-(-len(runs) // columns))), "white")
    pen = ImageDraw.Draw(board)
    for i, (name, run) in enumerate(runs.items()):
        left, top = i % columns * wide, i // columns * (size + label)
        wanted, scene, _ = pipeline.finished_scene(run)
        given = read_picture(run.path / wanted.image.file, replace(wanted.image, file="", fill=0.0))
        rgb = pictured(Made(scene), turned(given.camera, SHOWN), size)[0]
        own = (given.rgb * given.alpha + 1 - given.alpha).permute(2, 0, 1)[None]
        own = F.interpolate(own, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
        strip = torch.cat([*own, *rgb], 1).clamp(0, 1)
        board.paste(Image.fromarray((strip * 255).round().byte().numpy()), (left, top + label))
        pen.text((left + 3, top), name, fill="black")
    board.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strangers", description=__doc__)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--others", action="store_true", help="the pictures that may be looked at while building")
    parser.add_argument("--measure", action="store_true", help="make no runs")
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe, as on the command line")
    parser.add_argument("--say", action="store_true", help="runs are told the kind: the reader has no part in it")
    parser.add_argument("--reading", action="store_true")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    place, reader = folder(), load(folder_of("toybox-reader") / FILE)
    with one_thread():
        checks = reading_checks(reader, place) if given.reading or not given.runs else []
        if given.runs:
            names = {name for name in given.only.split(",") if name}
            some = known(place) if names else others(place) if given.others else tested(place)
            some = [one for one in some if not names or one.name in names]
            runs = {one.name: made(one, given.runs, None if given.measure else given.set, given.say) for one in some}
            found = {name: run for name, run in runs.items() if run is not None}
            if not found:
                parser.error(f"{given.runs}: holds no finished run of these pictures")
            right = {one.name: taken_for(reader, found[one.name]) == one.kind for one in some if one.name in found}
            rows = {name: measured(run) for name, run in found.items()}
            for name, row in rows.items():
                print(f"{name:<14}", *(f"{key} {value:.3g}" for key, value in vars(row).items()), flush=True)
            checks = checks_of(rows, right, in_text(given.text) if given.text else {}) + checks
            if given.before:
                then = {one.name: made(one, given.before, None, False) for one in some if one.name in found}
                checks += before_checks(rows, {name: measured(run) for name, run in then.items() if run is not None})
            if given.sheet:
                sheet(given.sheet, found)
        report(checks, given.json)


def taken_for(reader: Reader, run: Run) -> str:
    """What the reader takes a run's picture for, as the run stood it upright."""
    return read(reader, read_picture(run.path / "image.png", PictureSettings(fill=0.0))).kind


if __name__ == "__main__":
    main()
