# SPDX-License-Identifier: Apache-2.0
"""Every rule on the second device: its steps, and those that follow after its state came back from a checkpoint, twice,
are the steps that it takes on the CPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import configs
from dreamlab.recipe.tables import SYSTEMS
from dreamlab.run import train
from tests.device.pretend import the_device
from tests.device.runs import begun, steps

TERM = "stages.0.terms.0."
# Rules whose recipe has another name, and settings beside those of the recipe that reach more of a rule.
RECIPES = {"photometric": "fit-gaussians", "video": "video-oracle"}
MORE: dict[str, tuple[tuple[str, ...], ...]] = {
    "bootstrapped": (
        ("system.renew=1", "system.cache=2", "system.polish=2"),
        ("system.cycle=2", "system.dream=0.5", "system.polish=2", "system.base=prior"),
    ),
    "cfd": ((), ("system.refresh=0.01",)),
    "photometric": (("system={kind: photometric, ssim: 0.2, mask: 1, normal: 1, depth: 1, rank: 1}",),),
    "sds": ((), ("prompting={adaptive: 0.9, rescale: 0.5}",)),
    "order": ((), ("prompting={views: blend, perp_neg: 1.0, camera: false}",)),
    "jsd": (("prompting.views=hard",),),
    "mvdream": (("guidance={kind: oracle, others: 3}",),),  # its own has no pictures of twelve pixels
    "vsd": ((), ("system.base=prior", "system.cfg_own=2", "system.predicts=eps")),
}
PICTURE = Path(__file__).parents[2] / "docs/images/roles-image-given.png"
PICTURED = {  # rules that follow one; their recipes' models are replaced by what computes in float32 everywhere
    "palette": (f"image.file={PICTURE}", "stages.0.terms.1.guidance={kind: oracle, others: 2}")
}
CASES = [(name, more) for name in SYSTEMS for more in MORE.get(name, ((),))]


def figures(name: str, more: tuple[str, ...], folder: Path, device: str) -> list[dict[str, float]]:
    """Two steps, and twice a checkpoint, a way back and one more."""
    source = Path(configs.find(RECIPES.get(name, name))).read_text(encoding="utf-8")
    small = (
        "stages.0.size=12",
        "stages.0.steps=6",
        "stages.0.scene.count=24",
        "keeping.checkpoint=1000",
        *PICTURED.get(name, ()),
    )
    run, wanted, assembler = begun(source, folder, device, *small, *(TERM + each for each in more))
    stage = assembler.stage(0, {})
    found = steps(stage, [0, 1], assembler.device)
    position = train.Position(0, 2)
    for _ in range(2):
        train.save(run, wanted, stage, position, position.step)
        assembler.reset_streams()
        position, stage = train.restore(run, wanted, assembler)
        found += steps(stage, [position.step], assembler.device)
        position.step += 1
    return found


@pytest.mark.parametrize(("name", "more"), CASES)
def test_a_rule_on_the_device(name: str, more: tuple[str, ...], tmp_path: Path, one_thread: None) -> None:
    expected = figures(name, more, tmp_path / "cpu", "cpu")
    with the_device() as device:
        found = figures(name, more, tmp_path / "device", device)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["healthy"] == theirs["healthy"] == 1
        # A network of a rule's own is summed in another order, and Adam makes steps of full size of that.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02 if name in ("vsd", "bootstrapped") else 1e-5)
