# SPDX-License-Identifier: Apache-2.0
"""The set of pictures that nobody here drew: what the rule takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import stranger_set
from dreamlab.core.errors import InputError
from dreamlab.toybox.shapes import CATEGORIES


def test_the_rule_takes_whole_names_the_first_of_a_kind_and_every_second(tmp_path: Path) -> None:
    """Cat, cat face (no whole name), car by its other name, a second mushroom-like file of two code points, a star by
    a longer name; a variation selector is none."""
    for stem in ("1f408", "1f431", "1f697", "1f344-200d-1f408", "2b50", "2602-fe0f", "1f34e"):
        (tmp_path / f"{stem}.webp").touch()
    found = [(one.file.stem, one.name, one.kind) for one in stranger_set.known(tmp_path)]
    assert found == [("2602-fe0f", "umbrella", "umbrella"), ("1f408", "cat", "cat"), ("1f697", "automobile", "car")]
    assert [one.name for one in stranger_set.tested(tmp_path)] == ["umbrella", "automobile"]
    assert [one.name for one in stranger_set.others(tmp_path)] == ["cat"]


def test_without_the_package_the_way_to_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stranger_set.FOLDER, str(tmp_path))
    with pytest.raises(InputError, match=r"npm install .*fluent-emoji-3d@1\.1\.0"):
        stranger_set.folder()


@pytest.mark.skipif(not os.environ.get(stranger_set.FOLDER), reason="needs @lobehub/fluent-emoji-3d: DREAMLAB_EMOJI")
def test_of_the_package_the_rule_takes_24_kinds_of_the_world() -> None:
    place = stranger_set.folder()
    some = stranger_set.tested(place)
    assert len(some) == 24 == len({one.kind for one in some}) and {one.kind for one in some} <= set(CATEGORIES)
    assert len(stranger_set.others(place)) == 23 and not {one.kind for one in stranger_set.unknown(place)} - {""}
