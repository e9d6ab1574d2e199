# SPDX-License-Identifier: Apache-2.0
"""Pictures of held-out prompts by the student in one, two and four calls, beside its teacher in as many and in all its
steps, and beside the truth: judged, how crisp, how various, and what they cost.

    python -m benchmarks.student [--images 77] [--json FILE] [--sheet docs/images/student.png] [--student FOLDER/]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Condition
from dreamlab.metrics.figures import Check, report
from dreamlab.run.preview import save_sheet, to_bytes
from dreamlab.toybox.scoring.images import ImageScore, cameras_for, judged
from dreamlab.toybox.shapes import CATEGORIES
from dreamlab.toybox.training.sample import PROBES, held_out_prompts, sample, scene_of
from dreamlab.toybox.training.student import WAY, way
from guidance.toybox.layers import doubled, pooled
from guidance.toybox.prior import Toybox, shared_of
from guidance.toybox.student import ToyboxStudent

AT_ONCE = 16
SEEDS = 8  # of the same prompt and camera
SHOWN = PROBES[::2]  # on the sheet, a row each
TRUE, TEACHER, EIGHT = "true pictures", "teacher, 25 x 2, fresh noise", "teacher, 8 x 2"
TAKES = {EIGHT: (WAY, 4.0), "teacher, 4 x 2": (WAY[::2], 2.0), "teacher, 1 x 1": (WAY[:1], 1.0)}
CALLS = {"student, 4 x 1": 4, "student, 2 x 1": 2, "student, 1 x 1": 1}
FLOORS = {"student, 4 x 1": 0.90, "student, 1 x 1": 0.75}  # accepted by the judge
Drawing = Callable[[Sequence[str], Cameras, int], Tensor]


@dataclass(frozen=True)
class Row:
    """Of one way to draw. Energies are those of the true pictures' differences between neighbours, and of what lies
    beside the means of 2 x 2 pixels: 1 is as crisp as the world."""

    score: ImageScore
    edges: float
    detail: float
    various: float  # spread over seeds inside the object, over the teacher's in eight calls of two rows
    cpu_ms: float  # a picture


def told(prior: Toybox, prompts: Sequence[str], cameras: Cameras) -> tuple[Condition, Condition]:
    """The prompts, and nothing."""
    said = prior.captions({"null": ""} | {f"prompt {i}": text for i, text in enumerate(prompts)})
    which, view = torch.arange(len(prompts)) + 1, prior.view(cameras)
    asked, untold = (Condition({"caption": row, "camera": view}, shared_of(said)) for row in (which, 0 * which))
    return asked, untold


def noise_of(prior: Toybox, count: int, seed: int) -> Tensor:
    return torch.randn((count, prior.size, prior.size, 3), generator=torch.Generator().manual_seed(seed))


def drawings(teacher: Toybox, student: ToyboxStudent) -> Mapping[str, Drawing]:
    """Name -> pictures [B, S, S, 3] in [0, 1]."""

    def by_teacher(times: Sequence[int], scale: float) -> Drawing:
        def draw(prompts: Sequence[str], cameras: Cameras, seed: int) -> Tensor:
            noise = noise_of(teacher, len(prompts), seed)
            return way(teacher, *told(teacher, prompts, cameras), noise, scale, times)[1] / 2 + 0.5

        return draw

    def by_student(calls: int) -> Drawing:
        def draw(prompts: Sequence[str], cameras: Cameras, seed: int) -> Tensor:
            noise = noise_of(student, len(prompts), seed).permute(0, 3, 1, 2)
            return student.decode(student.draw(told(student, prompts, cameras)[0], noise, calls))

        return draw

    found: dict[str, Drawing] = {
        TEACHER: lambda prompts, cameras, seed: sample(teacher, prompts, cameras, 4.0, 25, seed)
    }
    found |= {name: by_teacher(*how) for name, how in TAKES.items()}
    return found | {name: by_student(calls) for name, calls in CALLS.items()}


def truths(prompts: Sequence[str], cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """True pictures before gray, and where the object is [N, S, S]."""
    frames = [scene_of(prompt, cameras[i : i + 1], size)[0] for i, prompt in enumerate(prompts)]
    return torch.cat([one.rgb for one in frames]), torch.cat([one.alpha[..., 0] > 0.5 for one in frames])


def energies(rgb: Tensor) -> tuple[float, float]:
    edges = sum(float(rgb.diff(dim=axis).square().mean()) for axis in (1, 2))
    return edges, float((rgb - doubled(pooled(rgb))).square().mean())


def spread(draw: Drawing, prompts: Sequence[str], cameras: Cameras, inside: Tensor) -> float:
    """Root mean square deviation over seeds, inside the objects."""
    drawn = torch.stack([draw(prompts, cameras, 1000 + seed) for seed in range(SEEDS)])
    return float(drawn.var(0).mean(-1)[inside].mean().sqrt())


def measure(images: int, student: ToyboxStudent) -> tuple[dict[str, Row], list[Tensor]]:
    """Every way's row; and the pictures of SHOWN, the truth first."""
    teacher = Toybox(Toybox.Settings())
    every = held_out_prompts(list(CATEGORIES))
    prompts = [every[i % len(every)] for i in range(images)]
    cameras = cameras_for(len(prompts))
    true, inside = truths(prompts, cameras, teacher.size)
    crisp, few = energies(true), slice(0, AT_ONCE // 2)
    rows = {TRUE: Row(judged(prompts, true), 1.0, 1.0, float("nan"), 0.0)}
    spreads = {}
    for name, draw in drawings(teacher, student).items():
        begun = time.process_time()
        parts = [slice(i, i + AT_ONCE) for i in range(0, len(prompts), AT_ONCE)]
        rgb = torch.cat([draw(prompts[part], cameras[part], part.start) for part in parts]).clamp(0, 1)
        spent = 1000 * (time.process_time() - begun) / len(prompts)
        spreads[name] = spread(draw, prompts[few], cameras[few], inside[few])
        found = energies(rgb)
        rows[name] = Row(judged(prompts, rgb), found[0] / crisp[0], found[1] / crisp[1], spreads[name], spent)
    shown = [prompts.index(prompt) for prompt in held_out_prompts(SHOWN) if prompt in prompts]
    pictures = [row.score.rgb[i] for i in shown for row in rows.values()]
    return rows, pictures


def checks(rows: Mapping[str, Row]) -> list[Check]:
    found = []
    for name, row in rows.items():
        said = {"accepted": row.score.accepted, "colours right": row.score.colours_right, "both": row.score.right}
        said |= {"edges, over the truth's": row.edges, "detail, over the truth's": row.detail}
        if name != TRUE:
            said |= {"spread over seeds, over the teacher's": row.various / rows[EIGHT].various}
        floors = {"accepted": FLOORS.get(name)}
        found += [Check(f"{name}: {what}", value, "", floors.get(what)) for what, value in said.items()]
        if name != TRUE:
            found.append(Check(f"{name}: CPU a picture", row.cpu_ms, "ms", None))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.student", description=__doc__)
    parser.add_argument("--images", type=int, default=len(CATEGORIES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="the truth and every way side by side, a row a prompt")
    parser.add_argument("--student", default="toybox-student", help="a shipped one by name, or its folder with a /")
    options = parser.parse_args(arguments)
    student = ToyboxStudent(ToyboxStudent.Settings(student=options.student))
    rows, pictures = measure(options.images, student)
    if options.sheet:
        save_sheet([to_bytes(one[None])[0] for one in pictures], options.sheet, columns=len(rows))
        print(options.sheet)
    return 0 if report(checks(rows), options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
