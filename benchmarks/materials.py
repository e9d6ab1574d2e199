# SPDX-License-Identifier: Apache-2.0
"""A sheet of material balls: a row per environment, red plastic and gold from smooth to rough, by the split sum; the
last row is the first one by Monte Carlo with shadows.

    python -m benchmarks.materials [--out docs/images/materials.png] [--size 64]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.types import Mesh
from dreamlab.run.preview import save_sheet, to_bytes
from renderers.light.environment import ENVIRONMENTS
from renderers.mesh import TexturedMesh

ROUGHNESSES = (0.05, 0.3, 0.6, 0.95)
FINISHES = (((0.75, 0.08, 0.06), 0.0), ((1.0, 0.78, 0.34), 1.0))  # base colour in sRGB, metallic


def balls(light: str, shading: str, size: int, samples: int) -> list[np.ndarray]:
    """One picture per finish and roughness."""
    import trimesh

    wanted = TexturedMesh.Settings(
        texture=64, shading=shading, lights=(light,), samples=samples, roughness=(0.045, 1.0), metallic=(0.0, 1.0)
    )
    made = TexturedMesh(wanted, torch.Generator().manual_seed(0))
    shape = trimesh.creation.icosphere(subdivisions=4, radius=0.9)
    vertices = torch.from_numpy(np.array(shape.vertices, np.float32))
    made.wear(Mesh(vertices, torch.from_numpy(np.array(shape.faces, np.int64)), vertices, vertices / 0.9))
    found = []
    for base, metallic in FINISHES:
        for roughness in ROUGHNESSES:
            with torch.no_grad():
                made.params["texture"][..., :3] = torch.special.logit(torch.tensor(base).clamp(max=0.999))
                made.params["texture"][..., 3] = torch.special.logit(torch.tensor((roughness - 0.045) / 0.955))
                made.params["texture"][..., 4] = 12.0 if metallic else -12.0
                frames = made.render(orbit([15.0], 12.0, 3.0, 38.0), size, torch.full((1, 3), 0.12))
            found.append(to_bytes(frames.rgb)[0])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.materials", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/materials.png"))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16, help="per pixel from light and from lobe, last row")
    options = parser.parse_args(arguments)
    names = [name for name in ENVIRONMENTS if name != "white"]
    pictures = [ball for name in names for ball in balls(name, "pbr", options.size, 1)]
    pictures += balls(names[0], "montecarlo", options.size, options.samples)
    save_sheet(pictures, options.out, columns=len(FINISHES) * len(ROUGHNESSES))
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
