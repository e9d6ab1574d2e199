# SPDX-License-Identifier: Apache-2.0
"""What is said of a run on pretrained models before its first step, against published counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from configs import find
from dreamlab import preflight
from dreamlab.hub.registry import registry
from dreamlab.recipe import load
from dreamlab.recipe.checks import check
from dreamlab.recipe.models import models_of
from dreamlab.recipe.tables import TABLES
from guidance.latent.model import ModelSettings
from guidance.layouts import LAYOUTS
from guidance.sd import StableDiffusion

KNOWN = ("oracle", "truth", "picture", "dreamt")  # guidances that no step asks a network of
pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")


@pytest.mark.parametrize(
    ("cost", "count"),
    [("2", 2), ("1/2", 0.5), ("2 (1 at cfg 1)", 2), ("at most 2 x 10 + 2", 22), ("0", 0), ("2 per region", 2),
     ("2 + 1 own, 1 own trained (+ 1 with base: prior)", 5)],
)  # fmt: skip
def test_what_a_rule_says_of_its_cost_is_counted(cost: str, count: float) -> None:
    assert preflight.evaluations(cost) == count


def test_every_rule_s_cost_can_be_counted() -> None:
    for name, rule in TABLES.systems.items():
        assert preflight.evaluations(rule.cost) > 0 or rule.cost == "0", name


def test_a_step_of_sds_on_sd_costs_what_was_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two U-Nets of 0.8033 TFLOP and the encoder there and back of 2.268; 860 M and 83.7 M parameters."""
    monkeypatch.setenv("DREAMLAB_MODELS", str(tmp_path))
    wanted = load(find("paper/sds"), TABLES, overrides=["model=sd15", "stages.0.terms.0.guidance.dtype=float32"])
    (found,) = preflight.needs(wanted, torch.device("cpu"))
    assert found.name == "sd15" and found.flops == pytest.approx(2 * 0.8033e12 + 2.268e12, rel=0.01)
    assert found.bytes == pytest.approx(4 * (859_520_964 + 83_653_863) + 2 * 1586 * 2**20, rel=0.03)
    said = "\n".join(preflight.lines(wanted, torch.device("cpu")))
    assert "sd15 not here" in said and "TFLOP a step" in said and "memory: about 7" in said


PAPERS = sorted(path.stem for path in find("paper/sds").parent.glob("*.yaml"))


@pytest.mark.parametrize("name", PAPERS)
def test_every_recipe_of_a_paper_is_ready_for_its_models(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Read and checked; each of its published models is in the registry, and its layout counted at full size."""
    monkeypatch.setenv("DREAMLAB_MODELS", str(tmp_path))
    wanted = load(find(f"paper/{name}"), TABLES)
    check(wanted)
    for model in models_of(wanted):
        assert model in registry().models
    terms = [term for stage in wanted.stages for term in stage.terms if term.guidance.kind not in KNOWN]
    found = list(preflight.needs(wanted, torch.device("cpu")))
    assert len(found) == len(terms)
    for term, each in zip(terms, found, strict=True):
        cost = preflight.evaluations(TABLES.systems[term.system.kind].cost)
        assert each.bytes > 1.5e9 and (each.flops > 1e11 or cost == 0), (name, each)


def test_the_autoencoder_stays_in_float32_on_the_host() -> None:
    how = ["model=sd15", "stages.0.terms.0.guidance.dtype=bfloat16", "stages.0.terms.0.guidance.recompute=true"]
    (found,) = preflight.needs(load(find("paper/sds"), TABLES, overrides=how), torch.device("cpu"))
    assert found.bytes == 2 * 859_520_964 + 4 * 83_653_863


def test_a_folder_of_one_s_own_is_counted_as_the_layout_it_is_of(tmp_path: Path) -> None:
    """By its network's configuration; a fine-tuned model has the sizes of what it was made from."""
    for name, layout in (("mine", "sd15"), ("other", "sd21")):
        part = LAYOUTS[layout].part("unet")
        (tmp_path / name / "unet").mkdir(parents=True)
        config = {"_class_name": part.kind, "_diffusers_version": "0.6.0", **part.full}
        (tmp_path / name / "unet" / "config.json").write_text(json.dumps(config))

    def needs(model: str) -> list[preflight.Need]:
        overrides = [f"model={model}", "stages.0.terms.0.guidance.dtype=float32"]
        return list(preflight.needs(load(find("paper/sds"), TABLES, overrides=overrides), torch.device("cpu")))

    (named,), (mine,), (other,) = needs("sd15"), needs(str(tmp_path / "mine")), needs(str(tmp_path / "other"))
    assert (mine.bytes, mine.flops) == (named.bytes, named.flops)
    assert other.bytes > 4 * 865_910_724 and other.bytes - mine.bytes == 4 * (865_910_724 - 859_520_964)
    (tmp_path / "mine" / "unet" / "config.json").write_text(
        json.dumps({"_class_name": "UNet2DConditionModel", "block_out_channels": [8, 8, 8, 8]})
    )
    assert needs(str(tmp_path / "mine")) == []


def test_nothing_is_said_of_a_recipe_without_such_models() -> None:
    assert preflight.lines(load(find("toybox"), TABLES), torch.device("cpu")) == []
    assert ModelSettings in StableDiffusion.Settings.__mro__
