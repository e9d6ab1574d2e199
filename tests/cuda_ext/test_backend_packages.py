# SPDX-License-Identifier: Apache-2.0
"""Packages that cannot stand in, are missing, or need CUDA say so in one line."""

from __future__ import annotations

import warnings

import pytest
import torch

from cuda_ext import backend, packages
from dreamlab.core.errors import RecipeError


@pytest.mark.parametrize(
    ("op", "name", "expected"),
    [
        ("hashgrid", "nerfacc", "'nerfacc' is not one of auto, native, torch, tinycudann"),
        ("march", "gsplat", "'gsplat' is not one of auto, native, torch, nerfacc"),
        ("splat", "opengl", "'opengl' is not one of auto, native, torch, gsplat"),
        ("adam", "gsplat", "'gsplat' is not one of auto, native, torch$"),
    ],
)
def test_one_line_says_why(op: str, name: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        backend.choose(op, name, torch.zeros(1))
    assert "\n" not in str(caught.value)


def test_what_cannot_run_is_the_users_affair_and_no_defect() -> None:
    """The command line prints it alone, without a word of a defect."""
    for op, name, like in (("splat", "gsplat", torch.zeros(1)), ("march", "native", torch.zeros(1).double())):
        with pytest.raises(RecipeError, match=f"^{op}: backend '{name}' is not available: "):
            backend.choose(op, name, like)


def test_a_missing_package_or_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    for op in packages.PACKAGES["nvdiffrast"].ops:
        with pytest.raises(ValueError, match=r"nvdiffrast.*not installed.*non-commercial"):
            backend.choose(op, "nvdiffrast", torch.zeros(1))


def test_a_package_serves_its_own_ops_and_leaves_the_others() -> None:
    assert packages.for_op("nvdiffrast", "antialias") == "nvdiffrast"
    assert packages.for_op("nvdiffrast", "hashgrid") == "auto"
    assert [packages.for_op("torch", op) for op in ("raster", "hashgrid")] == ["torch", "torch"]


def test_auto_picks_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where all of them are there."""
    monkeypatch.setattr(backend, "missing", lambda package, like: "")
    ops = {op for package in packages.PACKAGES.values() for op in package.ops}
    assert {backend.choose(op, "auto", torch.zeros(1)) for op in ops} <= {"native", "torch"}


def test_a_licence_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "missing", lambda package, like: "")
    backend.name_licence.cache_clear()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(3):
            assert backend.choose("texture", "nvdiffrast", torch.zeros(1)) == "nvdiffrast"
            assert backend.choose("splat", "gsplat", torch.zeros(1)) == "gsplat"
    backend.name_licence.cache_clear()
    assert [str(each.message).split(";")[1] for each in heard] == [
        " its licence: NVIDIA Source Code License, non-commercial use only",
        " its licence: Apache-2.0",
    ]
