# SPDX-License-Identifier: Apache-2.0
"""Rules that train networks of their own, killed and resumed: every network, cache and moment comes back."""

from __future__ import annotations

import signal
from pathlib import Path

from PIL import Image, ImageDraw

from tests.conftest import Commands, artefacts

# VSD sees the picture's own view, none in step 0 and 2, later one or two; the bootstrapped rule sees the others, one or
# two of them, none at the end, and dreams in every other step. There is a checkpoint after every step, so some come
# before a term's first step after a resume.
STATEFUL = """
prompt: a red mushroom with a white stem
image: {file: image.png}
stages:
  - name: shape
    scene: {kind: gaussians, count: 24, radius: 0.5}
    given: {share: {from: 0.15, to: 1}}
    terms:
      - {guidance: {kind: oracle, others: 1}, system: {kind: vsd, width: 8}, views: given}
      - guidance: {kind: oracle, others: 1}
        system: {kind: bootstrapped, width: 8, cycle: 2, dream: 0.5, renew: 1, cache: 3, polish: 1}
        views: others
      - {guidance: picture, system: photometric, views: given}
    steps: 9
    views: 2
    size: 12
export: {resolution: 16, turntable: 2, size: 32}
keeping: {checkpoint: 1, keep: 2, preview: 100, log: 2}
"""


def write_recipe(folder: Path) -> Path:
    picture = Image.new("RGBA", (32, 32))
    ImageDraw.Draw(picture).ellipse((4, 4, 27, 27), fill=(200, 30, 30, 255))
    picture.save(folder / "image.png")
    (folder / "stateful.yaml").write_text(STATEFUL)
    return folder / "stateful.yaml"


def test_killed_after_every_step(dreamlab: Commands, tmp_path: Path) -> None:
    """Each process makes one step and dies; the end is that of a run that was left alone, the rules' state and all."""
    arguments = ("dream", "--recipe", str(write_recipe(tmp_path)))
    whole = dreamlab(*arguments, "--out", "whole")
    assert whole.code == 0, whole.err
    golden = artefacts(tmp_path / whole.out.splitlines()[-1])
    assert {"system.0_vsd.safetensors", "system.1_bootstrapped.safetensors"} <= golden.keys()
    code = dreamlab(*arguments, "--out", "killed", DREAMLAB_CRASH_AT="ckpt.after_prune:1").code
    (run,) = (tmp_path / "killed").iterdir()
    attempts = 1
    while code == -signal.SIGKILL:
        ended = dreamlab("resume", str(run), DREAMLAB_CRASH_AT="ckpt.after_prune:1")
        code, attempts = ended.code, attempts + 1
    assert code == 0, ended.err
    assert attempts == 10 and artefacts(run) == golden
