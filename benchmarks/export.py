# SPDX-License-Identifier: Apache-2.0
"""What an export costs as a cloud of Gaussians grows: from the scene to the complete mesh file and its report.

    python -m benchmarks.export [--json FILE] [--count N ...]

`shell`: as large as their distance, like Gaussians that have multiplied. `wide`: with a deviation of 0.03 m however
many they are, which is what a long training leaves where nothing pulls on sizes. `splats`: a million Gaussians in every
format of Gaussians. Seconds are CPU time of the process.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch

from dreamlab import recipe
from dreamlab.core.types import Mesh
from dreamlab.export import write_mesh
from dreamlab.export.product import Product
from dreamlab.export.splats.writers import SPLAT_WRITERS
from dreamlab.metrics.figures import Check, report
from dreamlab.recipe.tables import TABLES
from renderers.gaussians import Gaussians

COUNTS = (2_000, 20_000, 200_000)
FLOOR = (200_000, 10.0)  # Gaussians, and the most seconds that they may take
WIDE = 0.03  # metres
SPLATS = (1_000_000, 10.0)  # Gaussians, and the most seconds that a format of them may take
RECIPE = """
prompt: a red mushroom with a white stem
stages:
  - {name: cloud, scene: {kind: gaussians}, terms: [{guidance: truth, system: photometric}], steps: 1}
"""


def cloud(count: int, wide: bool) -> Gaussians:
    """On a ball with waves."""
    g = torch.Generator().manual_seed(1)
    out = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    radius = 0.7 * (1 + 0.15 * (12 * out[:, :1]).sin() * (5 * out[:, 1:2]).cos())
    size = WIDE if wide else 0.7 * math.sqrt(4 * math.pi / count)
    made = Gaussians(Gaussians.Settings(count=1), g)
    made.load_state_dict(
        {
            "means": radius * out,
            "log_scales": math.log(size) + 0.4 * torch.randn(count, 3, generator=g),
            "quats": torch.randn(count, 4, generator=g),
            "logit_opacity": 1.5 * torch.randn(count, generator=g),
            "logit_color": torch.randn(count, 3, generator=g),
        }
    )
    return made


def measured(count: int, wide: bool) -> Check:
    scene, wanted = cloud(count, wide), recipe.load(RECIPE, TABLES)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        (path,) = write_mesh(Path(folder), wanted.prompt, scene, wanted, 0, ("glb",), [])
        spent, size = time.process_time() - began, path.stat().st_size
    floor = FLOOR[1] if count == FLOOR[0] else None
    name = f"export_{'wide' if wide else 'shell'}_{count}"
    return Check(name, spent, "s", floor, "lower", f"GLB of {size / 1e6:.1f} MB")


def splat_file(kind: str, scene: Gaussians) -> Check:
    """From the scene to the bytes of a file."""
    began, walked = time.perf_counter(), time.process_time()
    splats = scene.splats()
    none = Mesh(*(torch.zeros(0, 3) for _ in range(4)))
    ((_, data),) = SPLAT_WRITERS[kind].write(Product("cloud", none, splats=splats)).items()
    taken, spent = time.perf_counter() - began, time.process_time() - walked
    name = f"export_{kind}_{len(splats.means)}"
    return Check(name, taken, "s", SPLATS[1], "lower", f"{len(data) / 1e6:.0f} MB, {spent:.1f} s of CPU")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="write the checks here")
    parser.add_argument("--count", type=int, nargs="+", default=list(COUNTS), help="Gaussians")
    options = parser.parse_args(arguments)
    measured(options.count[0], False)  # imports and first calls belong to no row
    checks = [measured(count, wide) for wide in (False, True) for count in options.count]
    million = cloud(SPLATS[0], False)
    checks += [splat_file(kind, million) for kind in SPLAT_WRITERS]
    return 0 if report(checks, options.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
