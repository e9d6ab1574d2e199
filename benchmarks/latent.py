# SPDX-License-Identifier: Apache-2.0
"""A distillation step on Stable Diffusion's architecture at an eighth of its widths, through the path that runs take
(folder, recipe, stage, step), beside the same gradient as the loops of the field come to it; part of `bench step`.

Random weights: time needs the architecture alone. Before anything is timed the two gradients are held against each
other. What the same steps ask of the full-size networks is counted in benchmarks/ledger.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import ledger
from benchmarks.harness import Timing, interleave
from benchmarks.incumbent import Incumbent
from dreamlab import recipe
from dreamlab.core.errors import ModelError
from dreamlab.metrics.figures import Check, report
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from guidance.layouts.parts import Config, Layout
from guidance.layouts.random import layout_of, write_random

EIGHTH: dict[str, Config] = {  # of SD 1.5; at 128 pixels network and encoder keep their shares of a step
    "unet": {
        "attention_head_dim": 8, "block_out_channels": [40, 80, 160, 160], "cross_attention_dim": 96,
        "norm_num_groups": 8, "sample_size": 16,
    },
    "vae": {"block_out_channels": [16, 32, 64, 64], "norm_num_groups": 8, "sample_size": 128},
    "text_encoder": {
        "hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 12, "num_hidden_layers": 12,
        "projection_dim": 96,
    },
}  # fmt: skip
RULES = {
    "sds": "{kind: sds, cfg: 7.5}",
    "vsd": "{kind: vsd, net: adapter}",
    "ism": "{kind: ism, t_min: 0.95, t_max: 0.98}",  # far out on the path, where an inversion has all of its steps
}
SAME = 2e-3  # of the gradient's length, at most, between ours and theirs in float32
TEXT = """
prompt: a red mushroom with a white stem
stages:
  - name: shape
    scene: {{kind: gaussians, count: 500}}
    terms: [{{guidance: {{kind: sd, model: {model}, {more}}}, system: {rule}}}]
    views: {views}
    size: 128
"""


def eighth() -> Layout:
    """SD 1.5 without its safety checker, its depth kept and its widths divided by eight."""
    whole = layout_of("sd15")
    parts = [
        dataclasses.replace(part, tiny={**(part.deep or part.tiny), **EIGHTH[part.folder]}, deep=None)
        for part in whole.parts
        if part.folder in EIGHTH
    ]
    return dataclasses.replace(whole, parts=tuple(parts))


def folders(place: Path) -> dict[str, Path]:
    return {
        "model": write_random(eighth(), "tiny", place / "sd"),
        "tiny": write_random("taesd", "tiny", place / "taesd"),
    }


def built(rule: str, made: Mapping[str, Path], views: int = 1, **settings: object) -> BuiltStage:
    """The stage of a recipe with this rule."""
    more = ", ".join(f"{name}: {value}" for name, value in settings.items())
    text = TEXT.format(model=made["model"], more=more, rule=RULES[rule], views=views)
    return Assembler(recipe.load(text, TABLES), "cpu").stage(0)


class Ours:
    """The loop's own step, from the same draws every time."""

    def __init__(self, stage: BuiltStage) -> None:
        self.stage, self.ring = stage, Ring(METRICS, 10_000, "cpu")
        self.start = stage.streams.state_dict()
        self.scene = {name: group.tensor.detach().clone() for name, group in stage.scene.groups().items()}
        self.run()

    def again(self, call: Callable[[], None]) -> None:
        """`call` on the scene and the draws of the first step."""
        self.stage.streams.load_state_dict(self.start)
        with torch.no_grad():
            for name, group in self.stage.scene.groups().items():
                group.tensor.copy_(self.scene[name])
        call()

    def run(self) -> None:
        self.again(lambda: step(self.stage, 0, self.ring))

    def gradient(self, call: Callable[[], None]) -> Tensor:
        """Of every tensor of the scene, as the optimiser is handed it."""
        optimiser, found = self.stage.optimiser, list[Tensor]()
        inner = optimiser.step

        def spy(*arguments: object) -> Tensor:
            found.extend(
                g.tensor.grad.flatten().clone() for g in self.stage.scene.groups().values() if g.tensor.grad is not None
            )
            return inner(*arguments)  # type: ignore[arg-type]

        optimiser.step = spy  # type: ignore[method-assign, assignment]
        try:
            self.again(call)
        finally:
            optimiser.step = inner  # type: ignore[method-assign]
        return torch.cat(found)


def same(rule: str, made: Mapping[str, Path], views: int = 1) -> float:
    """How far the incumbent's gradient is from ours, as a share of its length, in float32."""
    stage = built(rule, made, views, dtype="float32")
    ours, theirs = Ours(stage), Incumbent(stage)
    kept = {name: value.clone() for name, value in stage.terms[0].system.state_dict().items()}
    mine = ours.gradient(lambda: step(stage, 0, ours.ring))
    if kept:  # what the rule trains: both are asked before they learn
        for name, value in stage.terms[0].system.state_dict().items():
            value.copy_(kept[name])
    other = ours.gradient(theirs.step)
    return float((mine - other).norm() / mine.norm())


def compared(
    name: str, fast: Timing, slow: Timing, floor: float | None, better: str = "higher", **more: object
) -> Check:
    """slow / fast in process CPU time, pair by pair."""
    pairs = [s / f for s, f in zip(slow.cpu, fast.cpu, strict=True)]
    low, _, high = statistics.quantiles(pairs, n=4)
    details = {
        "quartiles": [round(low, 3), round(high, 3)], "slow_cpu_ms": round(1e3 * slow.cpu_median, 2),
        "fast_cpu_ms": round(1e3 * fast.cpu_median, 2), "repeats": len(pairs), **more,
    }  # fmt: skip
    return Check(name, round(statistics.median(pairs), 3), "x", floor, better, "", details)


def measure() -> list[Check]:
    """Timed at an eighth of the widths, and counted at full size."""
    with tempfile.TemporaryDirectory(prefix="latent-") as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tiny encoder's random gradient
        return [*checks(folders(Path(place))), *ledger.checks()]


def checks(made: Mapping[str, Path], repeats: int = 9) -> list[Check]:
    apart = {
        f"{rule}{views}": same(rule, made, views) for rule, views in (("sds", 1), ("sds", 4), ("vsd", 1), ("ism", 1))
    }
    for name, share in apart.items():
        if not share < SAME:
            raise ModelError(
                f"bench step: {name}: the incumbent's gradient differs from ours by {share:.3g} of its length"
            )
    stages = {name: built(name, made) for name in RULES}
    stages["sds4"] = built("sds", made, 4)
    stages["hybrid"] = built("sds", made, encoder="hybrid", tiny=made["tiny"], tiny_floor=-1)
    stages["tiny"] = built("sds", made, encoder="tiny", tiny=made["tiny"], tiny_floor=-1)
    stages["recompute"] = built("sds", made, recompute="true")
    ours = {name: Ours(stage) for name, stage in stages.items()}
    theirs = {name: Incumbent(stages[name]) for name in (*RULES, "sds4")}
    cached = Incumbent(stages["sds"], listening=False)

    def old(name: str, one: Incumbent) -> Callable[[], None]:
        return lambda: ours[name].again(one.step)

    calls = {name: one.run for name, one in ours.items()}
    calls |= {f"old_{name}": old(name, one) for name, one in theirs.items()}
    t = interleave({**calls, "old_cached": old("sds", cached)}, repeats)
    return [
        Check(
            "latent_gradients_apart", float(f"{max(apart.values()):.2g}"), "", SAME, "lower", "of their length", apart
        ),
        compared("latent_sds_vs_incumbent", t["sds"], t["old_sds"], 1.2),
        compared("latent_sds_vs_incumbent_text_cached", t["sds"], t["old_cached"], 1.1),
        compared("latent_sds_vs_incumbent_4_views", t["sds4"], t["old_sds4"], 1.3),
        compared("latent_vsd_vs_incumbent", t["vsd"], t["old_vsd"], 1.0),
        compared("latent_ism_vs_incumbent", t["ism"], t["old_ism"], 1.0),
        compared("latent_vsd_over_sds", t["sds"], t["vsd"], None, "lower"),
        compared("latent_ism_over_sds", t["sds"], t["ism"], None, "lower"),
        compared("latent_exact_over_hybrid", t["hybrid"], t["sds"], None),
        compared("latent_exact_over_tiny", t["tiny"], t["sds"], None),
        compared("latent_recompute_over_kept", t["sds"], t["recompute"], None, "lower"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent", description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    return 0 if report(measure(), parser.parse_args().json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
