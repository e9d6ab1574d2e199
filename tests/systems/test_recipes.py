# SPDX-License-Identifier: Apache-2.0
"""Packaged recipes of the rules take a step; what a guidance cannot supply is said when the recipe is read."""

from __future__ import annotations

import math

import pytest

from benchmarks.systems import of_prompt, refusal, rules, served_by
from dreamlab import recipe
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step

SMALL = ("stages.0.scene.count=32", "stages.0.size=16")

TEXT = """
prompt: a red mushroom
stages:
  - name: shape
    scene: gaussians
    terms:
      - guidance: {{kind: oracle{guidance}}}
        system: {{{system}}}
        prompting: {{{prompting}}}
"""


@pytest.mark.parametrize("name", [*rules(), "sgc", "box", "cloud", "style", "video-oracle"])
def test_a_rules_recipe_takes_a_healthy_step_on_the_cpu(name: str) -> None:
    overrides = (*SMALL, *(served_by(name, "oracle") if name in rules() else ()))
    stage = Assembler(recipe.load(recipe.find(name), TABLES, overrides=overrides), "cpu").stage(0)
    ring = Ring(METRICS, 4, "cpu")
    for i in (0, stage.spec.steps - 1):
        step(stage, i, ring)
    for row in ring.drain():
        assert row["healthy"] == 1 and math.isfinite(row["loss"])


@pytest.mark.parametrize(("rule", "refused"), [("hifa", True), ("sds", False)])
def test_a_rule_that_compares_colours_must_be_shown_them(rule: str, refused: bool) -> None:
    text = TEXT.format(system=f"kind: {rule}", prompting="", guidance="") + "        see: normal_mask\n"
    made = recipe.load(text, TABLES)
    if not refused:
        return check(made)
    with pytest.raises(RecipeError, match=r"see: hifa compares colours"):
        check(made)


@pytest.mark.parametrize(
    ("system", "prompting", "guidance", "said"),
    [
        ("kind: csds", "", "", "csds needs the condition category, control, control_null, which oracle does not make"),
        ("kind: style", "", "", "style needs the condition content, style"),
        ("kind: grid", "", "", "grid needs the condition grid, grid_null"),
        ("kind: video", "", "", "video scores whole clips, which oracle here does not"),
        ("kind: jsd", "", "", "jsd needs the condition blind, blind_null"),
        ("kind: vsd, net: adapter", "", "", "vsd trains an adapter, which oracle does not offer"),
        ("kind: csm, visual: true", "", "", "csm needs the condition visual"),
        ("kind: sgc", "", "", "sgc needs the condition truth"),
        ("kind: sds", "views: hard", "", "sds needs the condition back, front, overhead, side"),
        ("kind: sds", "perp_neg: 1", "", "sds needs the condition back, front, overhead, side"),
        ("kind: sds", "camera: false", "", "sds needs the condition blind, blind_null"),
        ("kind: csd", "adaptive: 0.1", "", "the unconditional call is the gradient of csd"),
        ("kind: csd", "rescale: 0.5", "", "csd has no guidance that it could pull back"),
        ("kind: mvdream", "rescale: 0.5", "", "mvdream has no guidance that it could pull back"),
        ("kind: ism", "rescale: 0.5", "", None),
        ("kind: video, form: csd, frames: 4", "rescale: 0.5", ", clip: 4", "video has no guidance that it could"),
        ("kind: video, frames: 4", "rescale: 0.5", ", clip: 4", None),
        ("kind: nfsd, t_max: 0.01", "", "", "t_max falls to 0.01, below t_min 0.02"),
        ("kind: semantic", "", "", "semantic needs `regions`"),
        ("kind: cloud", "", "", "points: name a file of x y z lines"),
        ("kind: csd, negative: -1, null: 0", "", "", None),
        ("kind: vsd, width: 18", "", "", "width 18 is not a multiple of 4"),
        ("kind: bootstrapped, width: 18", "", "", "width 18 is not a multiple of 4"),
        ("kind: bootstrapped, net: adapter", "", "", "bootstrapped trains an adapter"),
        ("kind: ism, cfg_inversion: 2", "", "", None),
        ("kind: cds, weight: mix, clip: {from: 2, to: 8, end: 30 steps}", "", "", None),
        ("kind: jsd", "", ", sides: 8", None),
        ("kind: csds", "", ", instances: 2", None),
        ("kind: style", "", ", style: a blue mug", None),
        ("kind: style", "", ", style: a blue contraption", "style: no object of the toy world"),
        ("kind: grid", "", ", grids: true", None),
        ("kind: cloud, sketch: [{body: ball}]", "", "", None),
        ("kind: sds", "views: blend, perp_neg: 1, camera: false, adaptive: 0.1", ", sides: 8", None),
    ],
)
def test_what_cannot_be_supplied_is_said_when_the_recipe_is_read(
    system: str, prompting: str, guidance: str, said: str | None
) -> None:
    clips = ["stages.0.cameras.clip=4"] if "clip" in guidance else []
    text = TEXT.format(system=system, prompting=prompting, guidance=guidance)
    made = recipe.load(text, TABLES, overrides=clips)
    if said is None:
        check(made)
        return
    with pytest.raises((RecipeError, InputError)) as caught:
        check(made)
    told = str(caught.value)
    assert said in told and ("terms.0" in told or caught.type is InputError) and "\n" not in told


def test_the_bench_puts_another_guidance_and_prompt_into_every_term() -> None:
    text = "a blue cup with a red handle"
    for rule in rules("toybox"):
        changed = [*served_by(rule, "toybox"), *of_prompt(rule, text)]
        wanted = recipe.load(recipe.find(rule), TABLES, prompt=text, overrides=changed).stages[0]
        assert {term.guidance.kind for term in wanted.terms} == {"toybox"}
        regions = getattr(wanted.terms[0].system.settings, "regions", ())
        assert {region.prompt for region in regions} <= {text}
    assert {"jsd", "order", "semantic"} <= set(rules("toybox")) & set(rules("oracle"))
    assert "needs the condition blind" in (refusal("jsd", "truth") or "")
