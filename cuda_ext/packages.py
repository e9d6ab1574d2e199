# SPDX-License-Identifier: Apache-2.0
"""Packages of others that can run ops instead of ours, for those who name them. This table is all there is."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    ops: tuple[str, ...]  # what it can run instead of ours; `march` is also its compositing
    licence: str
    install: str


PACKAGES = {
    "gsplat": Package(("splat",), "Apache-2.0", "pip install gsplat"),
    "nvdiffrast": Package(
        ("raster", "interpolate", "texture", "antialias"),
        "NVIDIA Source Code License, non-commercial use only",
        "build it from github.com/NVlabs/nvdiffrast",
    ),
    "nerfacc": Package(("march",), "MIT", "pip install nerfacc"),
    "tinycudann": Package(("hashgrid",), "BSD-3-Clause", "build it from github.com/NVlabs/tiny-cuda-nn"),
}
OURS = ("auto", "native", "torch")
BACKENDS = (*OURS, *PACKAGES)


def able(*ops: str) -> tuple[str, ...]:
    """The packages that have one of these ops."""
    return tuple(name for name, package in PACKAGES.items() if set(package.ops) & set(ops))


def for_op(backend: str, op: str) -> str:
    """What a backend chosen for several ops means for one of them: what a package has not is left to `auto`."""
    return "auto" if backend in PACKAGES and op not in PACKAGES[backend].ops else backend


def lacking(package: str) -> str:
    """One line that says that it is not installed; empty when it is."""
    entry = PACKAGES[package]
    found = importlib.util.find_spec(package) is not None
    return "" if found else f"it is not installed ({entry.install}; licence {entry.licence})"


def licence(package: str) -> str:
    """What it runs and under which licence, in a line."""
    entry = PACKAGES[package]
    return f"{package} runs {', '.join(entry.ops)}; its licence: {entry.licence}"
