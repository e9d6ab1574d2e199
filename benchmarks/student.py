# SPDX-License-Identifier: Apache-2.0
"""Pictures of held-out prompts by the student in one, two and four calls, beside its teacher in as many and in all its
steps, and beside the truth: judged, how crisp, how various, and what they cost.

    python -m benchmarks.student [--images 77] [--json FILE] [--sheet docs/images/student.png] [--student FOLDER/]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.startup import cpu_seconds
from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Condition
from dreamlab.imagined import imagined
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
STARTS = 3  # of a fresh process
SEEDS = 8  # of the same prompt and camera
SHOWN = PROBES[::2]  # on the sheet, a row each
TRUE, TEACHER, EIGHT = "true pictures", "teacher, 25 x 2, fresh noise", "teacher, 8 x 2"
TAKES = {EIGHT: (WAY, 4.0), "teacher, 4 x 2": (WAY[::2], 2.0), "teacher, 1 x 1": (WAY[:1], 1.0)}
CALLS = {"student, 4 x 1": 4, "student, 2 x 1": 2, "student, 1 x 1": 1}
FLOORS = {"student, 4 x 1": 0.90, "student, 1 x 1": 0.75}  # accepted by the judge
Drawing = Callable[[Sequence[str], Cameras, int], Tensor]


@dataclass(frozen=True)
class Row:
    """Of one way to draw. `edges` and `detail` are energies over the true pictures': of differences between neighbours,
    and of what lies beside the means of 2 x 2 pixels. 1 is as crisp as the world."""

    score: ImageScore
    edges: float
    detail: float
    various: float  # spread over seeds inside the object
    cpu_ms: float  # a picture


def told(prior: Toybox, prompts: Sequence[str], cameras: Cameras) -> tuple[Condition, Condition]:
    """The prompts, and nothing."""
    said = prior.captions({"null": ""} | {f"prompt {i}": text for i, text in enumerate(prompts)})
    which, view = torch.arange(len(prompts)) + 1, prior.view(cameras)
    asked, untold = (Condition({"caption": row, "camera": view}, shared_of(said)) for row in (which, 0 * which))
    return asked, untold


def drawings(teacher: Toybox, student: ToyboxStudent) -> Mapping[str, Drawing]:
    """Name -> pictures [B, S, S, 3] in [0, 1]."""

    def by_teacher(times: Sequence[int], scale: float) -> Drawing:
        def draw(prompts: Sequence[str], cameras: Cameras, seed: int) -> Tensor:
            shape = (len(prompts), teacher.size, teacher.size, 3)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            return way(teacher, *told(teacher, prompts, cameras), noise, scale, times)[1] / 2 + 0.5

        return draw

    def by_student(calls: int) -> Drawing:
        def draw(prompts: Sequence[str], cameras: Cameras, seed: int) -> Tensor:
            chance = torch.Generator().manual_seed(seed)
            return student.decode(student.draw(told(student, prompts, cameras)[0], chance, calls))

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
    crisp, few = energies(true), slice(0, AT_ONCE // 4)
    rows = {TRUE: Row(judged(prompts, true), 1.0, 1.0, 0.0, 0.0)}
    for name, draw in drawings(teacher, student).items():
        begun = time.process_time()
        parts = [slice(i, i + AT_ONCE) for i in range(0, len(prompts), AT_ONCE)]
        rgb = torch.cat([draw(prompts[part], cameras[part], part.start) for part in parts]).clamp(0, 1)
        spent = 1000 * (time.process_time() - begun) / len(prompts)
        various = spread(draw, prompts[few], cameras[few], inside[few])
        found = energies(rgb)
        rows[name] = Row(judged(prompts, rgb), found[0] / crisp[0], found[1] / crisp[1], various, spent)
    shown = [prompts.index(prompt) for prompt in held_out_prompts(SHOWN) if prompt in prompts]
    pictures = [row.score.rgb[i] for i in shown for row in rows.values()]
    return rows, pictures


def checks(rows: Mapping[str, Row]) -> list[Check]:
    """The share that the judge accepts; the rest in words."""
    found = []
    for name, row in rows.items():
        score = row.score
        note = f"both colours right {score.colours_right:.3f}, accepted and right {score.right:.3f}; "
        note += f"edges {row.edges:.2f}, detail {row.detail:.2f} of the truth's"
        if name != TRUE:
            spread_of = row.various / rows[EIGHT].various
            note += f"; spread {spread_of:.2f} of the teacher's; {row.cpu_ms:.0f} ms of CPU"
        details = {"colours_right": score.colours_right, "right": score.right, **_plain(row)}
        found.append(Check(name, score.accepted, "", FLOORS.get(name), note=note, details=details))
    return found


def _plain(row: Row) -> dict[str, float]:
    return {name: getattr(row, name) for name in ("edges", "detail", "various", "cpu_ms")}


def imagining() -> list[Check]:
    """CPU seconds of `dreamlab imagine` from nothing, beside those of `import torch` alone; and of another in a process
    that has imagined before."""
    taken: dict[str, list[float]] = {"imagine": [], "import torch": []}
    with tempfile.TemporaryDirectory() as folder:
        command = ("-m", "dreamlab", "imagine", "a red duck", "--out", f"{folder}/duck.png")
        for _ in range(STARTS):
            taken["imagine"].append(cpu_seconds(*command))
            taken["import torch"].append(cpu_seconds("-c", "import torch"))
    imagined("a red duck")
    begun = time.process_time()
    imagined("a blue house")
    taken["imagine again"] = [time.process_time() - begun]
    return [Check(f"CPU: {name}", statistics.median(found), "s", None) for name, found in taken.items()]


def make_small(path: Path) -> None:
    """In 256 colours: for a page."""
    from PIL import Image

    with Image.open(path) as sheet:
        few = sheet.quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


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
        make_small(options.sheet)
        print(options.sheet)
    return 0 if report(checks(rows) + imagining(), options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
