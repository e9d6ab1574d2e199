# SPDX-License-Identifier: Apache-2.0
"""What the recipe `video` makes of actions: `python -m benchmarks.motion --runs FOLDER [--json F] [--sheet F]`.

The objects and actions are those of `dreamlab toybox obey --role video`, held out. Every prompt is made as a user makes
it; what FOLDER holds already is measured (`--measure`: nothing is made). Against the true clip, as samples of the prior
are measured: trajectory and flow error over a still clip's, and whether the action is recognised. At time 0 the object
stands still: the scoreboard's judge, the colours of both parts, and the gradients of its edges at 512 pixels, the true
object being as large; `--still FOLDER` has runs of the default recipe of the same objects without their action, for
edges beside those. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from dreamlab import dream, pipeline
from dreamlab.core.files import write_json
from dreamlab.core.threads import one_thread
from dreamlab.core.types import Scene
from dreamlab.metrics import colours
from dreamlab.metrics.asset import Made
from dreamlab.metrics.crispness import crisp_cameras, crispness, nearest, pictured
from dreamlab.metrics.figures import Check, report
from dreamlab.metrics.geometry import RESOLUTION, shape_of_mesh
from dreamlab.metrics.judge import views_of
from dreamlab.metrics.measure import Yardstick, true_answer
from dreamlab.run.folder import Run
from dreamlab.toybox.caption import Caption, parse
from dreamlab.toybox.scoring.board import prompts
from dreamlab.toybox.scoring.obey import GRAY, acted, clip_cameras, clip_of, held_out, measured_clip

FRAMES, SIZE, SHOWN = 8, 64, 128
FLOORS = {"trajectory / still": 0.24, "flow / still": 0.6, "recognised": 0.75}
LESS = ("trajectory", "flow", "seconds", "stray")  # how figures begin of which less is better


@dataclass(frozen=True)
class Measured:
    """One prompt, and what came of it."""

    trajectory: float  # error in pixels of 64
    trajectory_still: float  # of a still clip
    flow: float
    flow_still: float
    recognised: float
    accepted: float  # as what it is, at time 0
    main: float  # share of the main part's pixels that have its colour
    second: float  # of the second part's: what it takes of the first's is missing here
    rim: float  # gradient energy of alpha over the truth's, at 512 pixels
    inner: float  # of the colours
    stray: float
    seconds: float  # of CPU, from the prompt to the files; 0: not known


def made(prompt: str, runs: Path, recipe: str, may_run: bool) -> tuple[Run, float] | None:
    """The finished run of a prompt, and what it cost."""
    costs = runs / "seconds.json"
    known = json.loads(costs.read_text()) if costs.is_file() else {}
    for folder in sorted(runs.glob("*/state.json")):
        run = Run.open(folder.parent)
        if run.spec().get("prompt") == prompt and run.state().get("state") == "succeeded":
            return run, float(known.get(prompt, 0.0))
    if not may_run:
        return None
    began = sum(os.times()[:4])  # its children's, too
    run = Run.open(dream(prompt, out=runs, progress=False, recipe=recipe).path)
    spent = sum(os.times()[:4]) - began
    write_json(costs, known | {prompt: round(spent, 1)})
    return run, spent


def clip(scene: Scene, size: int = SIZE) -> Tensor:
    """[T, S, S, 3] as the true clip is seen."""
    with torch.no_grad():
        frames = scene.render(clip_cameras(FRAMES), size, torch.full((FRAMES, 3), GRAY))
    return frames.rgb[..., :3].clamp(0, 1)


def still(prompt: str) -> Caption:
    """What it is of, without its action."""
    return replace(parse(prompt), action=None)


def standing(scene: Scene, caption: Caption) -> dict[str, float]:
    """What can be said of it at time 0, seen as large as the true objects are."""
    yard, asset = Yardstick(caption), Made(scene)
    found = shape_of_mesh(asset.mesh(RESOLUTION))
    rgb, alpha = views_of(asset, yard.moved_cameras(found, yard.cameras))
    read = [float(one.votes[colours.NAMES.index(one.asked)]) for one in colours.read(rgb, alpha, caption, yard.stencil)]
    truths = [true_answer(caption, seed) for seed in yard.seeds]
    cameras = yard.moved_cameras(found, crisp_cameras())
    truth = truths[nearest(asset, truths, crisp_cameras())]
    crisp = crispness(pictured(asset, cameras), pictured(truth, crisp_cameras()))
    verdict = yard.judge.views(rgb, alpha, caption.category)
    shown = {"rim": crisp.rim, "inner": crisp.inner, "stray": crisp.stray}
    return {"accepted": float(verdict.accepted), "main": read[0], "second": read[-1], **shown}


def measured(prompt: str, run: Run, seconds: float) -> Measured:
    (one,) = held_out([prompt])
    scene = pipeline.finished_scene(run)[1]
    figures = measured_clip(one, clip_of(prompt, one.instance, SIZE, FRAMES).rgb, {"made": clip(scene)})
    mine, rests = figures["made"], figures["a still clip"]
    moves = {name: mine[f"{name} error"] for name in ("trajectory", "flow")}
    moves |= {f"{name}_still": rests[f"{name} error"] for name in ("trajectory", "flow")}
    told = standing(scene, still(prompt))
    return Measured(**moves, recognised=mine["action recognised"], **told, seconds=round(seconds, 1))


def edges(runs: Path, asked: Sequence[str]) -> dict[str, float]:
    """Mean gradients of finished runs of the objects that stand still."""
    wanted = {str(still(prompt)): still(prompt) for prompt in asked}
    found = []
    for file in sorted(runs.glob("*/export/model.glb")):
        recipe, scene, _ = pipeline.finished_scene(Run.open(file.parents[1]))
        if (caption := wanted.get(str(parse(recipe.prompt)))) is not None:
            found.append(standing(scene, caption))
    return {name: sum(row[name] for row in found) / len(found) for name in ("rim", "inner")} | {"count": len(found)}


def checks_of(rows: Mapping[str, Measured], beside: Mapping[str, float]) -> list[Check]:
    """Means over the prompts, and each; errors over a still clip's as `obey` has them, mean over mean."""
    found, note = [], f"of {len(rows)}"
    mean = {each.name: sum(getattr(row, each.name) for row in rows.values()) / len(rows) for each in fields(Measured)}
    known = [row.seconds for row in rows.values() if row.seconds]
    del mean["seconds"]
    if known:
        mean["seconds"] = sum(known) / len(known)
    mean |= {f"{name} / still": mean[name] / max(mean[f"{name}_still"], 1e-9) for name in ("trajectory", "flow")}
    for name, value in mean.items():
        every = {prompt: round(getattr(row, name), 4) for prompt, row in rows.items() if hasattr(row, name)}
        better, unit = "lower" if name.startswith(LESS) else "higher", {"seconds": "s"}.get(name, "")
        said = f"of {len(known)}" if name == "seconds" else note
        found.append(Check(name, round(value, 4), unit, FLOORS.get(name), better, said, every))
    return found + [Check(f"still recipe: {name}", round(value, 4), "", None) for name, value in beside.items()]


def sheet(path: Path, runs: Mapping[str, Run]) -> None:
    """For each prompt true frames above what was made."""
    from PIL import Image, ImageDraw

    label, columns = 12, 2
    wide, high = SIZE * FRAMES + 6, 2 * SIZE + label
    board = Image.new("RGB", (wide * columns, high * -(-len(runs) // columns)), "white")
    pen = ImageDraw.Draw(board)
    for i, (prompt, run) in enumerate(runs.items()):
        left, top = i % columns * wide, i // columns * high
        (one,) = held_out([prompt])
        true, mine = clip_of(prompt, one.instance, SIZE, FRAMES).rgb, clip(pipeline.finished_scene(run)[1])
        strip = torch.cat([torch.cat([*each], 1) for each in (true, mine)]).clamp(0, 1)
        board.paste(Image.fromarray((strip * 255).round().byte().numpy()), (left, top + label))
        pen.text((left + 3, top), prompt, fill="black")
    board.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.motion", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--recipe", default="video")
    parser.add_argument("--measure", action="store_true", help="make no runs")
    parser.add_argument("--still", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    asked = [acted(prompt) for prompt in prompts(given.prompts)]
    rows, runs = {}, {}
    with one_thread():
        for prompt in asked:
            there = made(prompt, given.runs, given.recipe, not given.measure)
            if there is None:
                continue
            runs[prompt] = there[0]
            rows[prompt] = measured(prompt, *there)
            print(prompt, *(f"{name} {value:.3g}" for name, value in asdict(rows[prompt]).items()), flush=True)
        if not rows:
            parser.error(f"{given.runs}: holds no finished run of these prompts")
        beside = edges(given.still, [*rows]) if given.still else {}
        if given.sheet:
            sheet(given.sheet, runs)
    report(checks_of(rows, beside), given.json)


if __name__ == "__main__":
    main()
