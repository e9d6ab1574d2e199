# SPDX-License-Identifier: Apache-2.0
"""Distillation steps beside an incumbent-shaped one: times on the CPU at a small size, operations at full size.

    dreamlab bench guidance [--json FILE]        needs diffusers

The small networks are Stable Diffusion 1.5's with an eighth of the widths, at 256 pixels, so that the parts of a step
keep their proportions. The incumbent's step calls the network once for each half of the guidance and one view at a
time, and decodes a picture that nobody uses. What other rules cost beside it has no floor here, for narrow networks
wait for memory. Operations are counted on the meta device with the published widths.
"""

from __future__ import annotations

import functools

import torch

from benchmarks.gpu import SD15, Shape, Steps, ratio, seconds
from dreamlab.metrics.figures import Check
from guidance.layouts.calls import encoder_flops, flops

SMALL = Shape(
    256, 2000, (77, 96),
    SD15.unet | {
        "sample_size": 32, "cross_attention_dim": 96, "attention_head_dim": 4, "norm_num_groups": 8,
        "block_out_channels": (40, 80, 160, 160),
    },
    SD15.vae | {"block_out_channels": (16, 32, 64, 64), "norm_num_groups": 8},
)  # fmt: skip
VIEWS, REPEATS = 4, 5


@functools.cache
def network(name: str, part: str, side: int, rows: int) -> float:
    """10^12 operations of one call."""
    return flops(name, part, side, side, batch=rows) / 1e12


def ledger() -> dict[str, float]:
    """10^12 operations of one step at 512 pixels (SDXL: 1024)."""
    half = network("sd15", "unet", 64, 1)
    way_back, decoded = (
        encoder_flops("sd15", 512, backward=True) / 1e12,
        encoder_flops("sd15", 512, way="decode") / 1e12,
    )
    tiny = encoder_flops("taesd", 512, backward=True) / 1e12
    exact_forward = encoder_flops("sd15", 512) / 1e12
    sds = 2 * half + way_back
    return {
        "sds_sd15": sds,
        "sds_sd15_incumbent": sds + decoded,
        "sds_sd15_tiny": 2 * half + tiny,
        "sds_sd15_hybrid": 2 * half + exact_forward + tiny,
        "ism_sd15": sds + 6 * half,
        "sds_sdxl": 2 * network("sdxl", "unet", 128, 1) + encoder_flops("sdxl", 1024, backward=True) / 1e12,
    }


def one_by_one(made: Steps) -> None:
    for _ in range(VIEWS):
        made.incumbent()


def measure(shape: Shape = SMALL, repeats: int = REPEATS) -> list[Check]:
    made = Steps(shape, "cpu", torch.float32)
    t = seconds(
        {
            "incumbent": lambda: one_by_one(made),
            "sds": lambda: made.sds(VIEWS),
            "vsd": lambda: made.sds(VIEWS, learning=True),
            "ism": lambda: made.sds(VIEWS, inversions=6),
        },
        "cpu",
        repeats,
    )
    counted = ledger()
    least = counted["sds_sd15_incumbent"] / counted["sds_sd15"]
    return [
        ratio("cpu_incumbent_over_sds", t["incumbent"], t["sds"], 1.3),
        ratio("cpu_vsd_over_sds", t["vsd"], t["sds"], None),
        ratio("cpu_ism_over_sds", t["ism"], t["sds"], None),
        Check("flops_incumbent_over_sds", round(least, 3), "x", 1.6),
        *(Check(f"tflop_{name}", round(value, 3), "TFLOP", None) for name, value in counted.items()),
    ]
