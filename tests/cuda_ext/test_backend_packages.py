# SPDX-License-Identifier: Apache-2.0
"""Packages that cannot stand in, are missing, or need CUDA say so in one line."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import backend


@pytest.mark.parametrize(
    ("op", "name", "expected"),
    [
        ("march", "nerfacc", "nerfacc is no stand-in: its march draws other samples"),
        ("hashgrid", "nerfacc", "is not one of auto, native, torch"),
        ("splat", "opengl", "is not one of auto, native, torch"),
    ],
)
def test_one_line_says_why(op: str, name: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        backend.choose(op, name, torch.zeros(1))
    assert "\n" not in str(caught.value)


def test_a_missing_package_or_device_is_named() -> None:
    with pytest.raises(ValueError, match=r"nvdiffrast.*not installed.*non-commercial"):
        backend.choose("raster", "nvdiffrast", torch.zeros(1), ("nvdiffrast",))
