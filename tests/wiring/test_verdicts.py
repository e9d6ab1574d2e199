# SPDX-License-Identifier: Apache-2.0
"""Who judges must say what is so: the judge's thresholds, `doctor` about a kernel that cannot run, `inspect` about a
run, and the figures that compare two scenes."""

from __future__ import annotations

import json
import shutil
import struct
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cuda_ext import build
from dreamlab.metrics.judge import BACKGROUNDS, NONE, Judge, judge
from dreamlab.metrics.judge_net import SIZE, StoredJudge
from renderers.surface.views import psnr, silhouette_iou
from tests.conftest import Commands


class Reader:
    """Says of a picture what its first pixel is: probabilities of cat, dog and nothing as its red, green and blue."""

    def __call__(self, rgb: Tensor) -> tuple[Tensor, None]:
        return rgb[:, 0, 0].clamp(min=1e-6).log(), None


def told(asset: float | None = 0.6, picture: float | None = 0.8) -> Judge:
    facts = {"asset_threshold": asset, "picture_threshold": picture}
    given = {name: value for name, value in facts.items() if value is not None}
    return Judge(StoredJudge(Reader(), ("cat", "dog"), given, ""))  # type: ignore[arg-type]


def views(*probabilities: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Opaque pictures, one a view."""
    rgb = torch.tensor(probabilities)[:, None, None].expand(-1, SIZE, SIZE, -1)
    return rgb, torch.ones(len(rgb), SIZE, SIZE, 1)


@pytest.mark.parametrize(
    ("seen", "asked", "accepted", "category", "score"),
    [
        ([(0.61, 0.3, 0.09)], "cat", True, "cat", 0.61),
        ([(0.59, 0.3, 0.11)], "cat", False, "cat", 0.59),
        ([(0.3, 0.61, 0.09)], "cat", False, "dog", 0.3),
        ([(0.3, 0.61, 0.09)], "dog", True, "dog", 0.61),
        ([(0.9, 0.05, 0.05), (0.4, 0.5, 0.1)], "cat", True, "cat", 0.65),  # the mean over views decides
        ([(0.9, 0.05, 0.05), (0.2, 0.2, 0.6)], "cat", False, "cat", 0.55),
        ([(0.1, 0.1, 0.8)], "cat", False, NONE, 0.1),
    ],
)
def test_an_asset_is_accepted_at_the_threshold_by_the_mean_of_its_views(
    seen: list[tuple[float, float, float]], asked: str, accepted: bool, category: str, score: float
) -> None:
    verdict = told().views(*views(*seen), asked)
    assert (verdict.accepted, verdict.category) == (accepted, category)
    assert verdict.score == pytest.approx(score) and len(verdict.by_view) == len(seen)
    assert verdict.none == pytest.approx(sum(one[2] for one in seen) / len(seen))


def test_what_is_not_covered_is_seen_over_both_grounds() -> None:
    rgb, alpha = views((0.0, 0.0, 0.0))
    verdict = told().views(rgb, 0 * alpha, "cat")
    grounds = [torch.tensor(ground) / sum(ground) for ground in BACKGROUNDS]
    assert verdict.score == pytest.approx(float(torch.stack(grounds).mean(0)[0]), abs=1e-5)


def test_single_pictures_have_a_threshold_of_their_own() -> None:
    rgb, _ = views((0.81, 0.1, 0.09), (0.79, 0.1, 0.11), (0.1, 0.85, 0.05))
    accepted, score = told().pictures(rgb, "cat")
    assert accepted.tolist() == [True, False, False]
    torch.testing.assert_close(score, torch.tensor([0.81, 0.79, 0.1]))
    assert told(None, None).asset_threshold == told(None, None).picture_threshold == 0.5


def test_the_shipped_judge_uses_the_thresholds_of_its_own_file() -> None:
    """Read from the safetensors header byte by byte."""
    data = Path(str(resources.files("dreamlab.metrics") / "weights" / "judge.safetensors")).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    facts: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["judge"])["facts"]
    it = judge()
    assert it.asset_threshold == facts["asset_threshold"] != facts["picture_threshold"] == it.picture_threshold


def test_psnr_and_overlap_are_their_formulas() -> None:
    a, b = torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4, 3)
    b[0] += 0.1  # 20 dB
    b[1] += 0.01  # 40 dB
    assert psnr(a, b) == pytest.approx(30.0, abs=1e-4) and psnr(a, a) == pytest.approx(100.0)
    one, two = torch.zeros(2, 4, 4, 1), torch.zeros(2, 4, 4, 1)
    one[0, :2], two[0, 1:] = 1.0, 1.0  # rows 0-1 and 1-3: one of four rows in both
    assert silhouette_iou(one, two) == pytest.approx((1 / 4 + 1) / 2), "two empty views agree"


def test_doctor_says_which_kernel_cannot_run(dreamlab: Commands, tmp_path: Path) -> None:
    """All libraries in a cache of their own; one is not a library, another loads and is another op's: these two are
    to be mended, and no other. `splat_scalar` serves a bench alone."""
    if build.compiler() is None:
        pytest.skip("needs a C++ compiler")
    (cache := tmp_path / "cache" / "native").mkdir(parents=True)
    ops = [op for op in build.operations() if op != "splat_scalar"]
    for op in ops:
        shutil.copy(build.build(op), cache)
    broken = cache / build.build("adam").name
    broken.write_bytes(b"\x7fELF this is no library")
    shutil.copy(build.build("sdf"), cache / build.build("texture").name)
    ended = dreamlab("doctor", DREAMLAB_CACHE=str(tmp_path / "cache"))
    assert ended.code in (0, 1) and "Traceback" not in ended.err
    verdicts = {line.split()[2].rstrip(":"): line.split()[0] for line in ended.out.splitlines() if " native " in line}
    verdicts.pop("splat_scalar", None)
    assert verdicts == {op: "fix" if op in ("adam", "texture") else "ok" for op in ops}


def test_inspect_reports_where_a_run_stands_and_what_a_file_holds(dreamlab: Commands, finished_run: Path) -> None:
    from tests.export.viewer import Glb

    ended = dreamlab("inspect", str(finished_run / "export" / "model.glb"))
    glb = Glb((finished_run / "export" / "model.glb").read_bytes())
    assert f"{len(glb.faces)} triangles" in ended.out.replace(",", "") and str(len(glb.points())) in ended.out
    ended = dreamlab("inspect", str(finished_run))
    assert "succeeded at step 12" in ended.out
    state = json.loads((finished_run / "state.json").read_text())
    (finished_run / "state.json").write_text(json.dumps(state | {"state": "interrupted", "step": 6}))
    assert "interrupted at step 6" in dreamlab("inspect", str(finished_run)).out
