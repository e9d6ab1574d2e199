# SPDX-License-Identifier: Apache-2.0
"""What keeps a training step from being captured as a CUDA graph: everything that two steps of a run do differently.

    python -m benchmarks.capture [--recipe NAME] [--json FILE]

Two steps of a recipe are recorded op by op, on the CPU. A graph replays the ops, shapes and numbers of the step that
was captured, so that it can stand for the other one only where these are the same. Printed are the launches of a step
(ops that are no views), and where numbers of the host, shapes or ops differ, with the line that made them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamlab import recipe
from dreamlab.metrics.figures import Check, report
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("cuda_ext", "dreamlab", "guidance", "renderers", "systems")
SILENT = ("view", "_unsafe_view", "detach", "empty", "alias")  # launch nothing, though torch does not mark all as views
FIRST = 6  # steps before the two: what is set up once has been


@dataclass(frozen=True)
class Op:
    name: str
    numbers: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    where: str
    launches: bool


def project_line() -> str:
    """The innermost line of the project that is being run; autograd's own work has none."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PARTS:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "backward"


class Recorder(TorchDispatchMode):
    """Writes down every op."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        name = func._schema.name.split("::")[1]
        view = func.is_view or name.removeprefix("new_").removesuffix("_like") in SILENT
        numbers = tuple(x for x in leaves if isinstance(x, bool | int | float))
        shapes = tuple(tuple(x.shape) for x in leaves if isinstance(x, Tensor))
        self.ops.append(Op(name, numbers, shapes, project_line(), not view))
        return func(*args, **(kwargs or {}))


def recorded(name: str) -> tuple[list[Op], list[Op]]:
    """Two steps of a packaged recipe, one after the other."""
    stage = Assembler(recipe.load(recipe.find(name), TABLES), "cpu").stage(0)
    ring, steps = Ring(METRICS, FIRST + 2, "cpu"), []
    for i in range(FIRST + 2):
        with Recorder() as recorder:
            step(stage, i, ring)
        steps.append(recorder.ops)
    return steps[-2], steps[-1]


def differences(first: list[Op], second: list[Op]) -> Counter[tuple[str, str]]:
    """(what, where) -> how often. Once the order of ops differs, the rest cannot be told apart and is left out."""
    found: Counter[tuple[str, str]] = Counter()
    for a, b in zip(first, second, strict=False):
        if a.name != b.name:
            found["other ops from here on", b.where] += 1
            return found
        if a.shapes != b.shapes:
            found["shapes", b.where] += 1
        elif a.numbers != b.numbers:
            found["numbers of the host", b.where] += 1
    if len(first) != len(second):
        found["more ops", "end of the step"] += abs(len(first) - len(second))
    return found


def measure(names: list[str]) -> list[Check]:
    checks = []
    for name in names:
        first, second = recorded(name)
        found = differences(first, second)
        launches = Counter(op.where.split("/")[0] for op in second if op.launches)
        places = {f"{what}: {where}": count for (what, where), count in sorted(found.items())}
        for place, count in places.items():
            print(f"{name:<20}{count:>4} {place}")
        note = ", ".join(f"{part} {count}" for part, count in launches.most_common())
        details: dict[str, object] = {"places": places, "launches": dict(launches)}
        checks.append(
            Check(
                f"capture_{name}", len(found), "places", None, "lower", f"{launches.total()} launches: {note}", details
            )
        )
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description=__doc__)
    parser.add_argument("--recipe", nargs="+", default=["sds", "toybox"], help="packaged recipes")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    options = parser.parse_args()
    return 0 if report(measure(options.recipe), options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
