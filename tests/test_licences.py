# SPDX-License-Identifier: Apache-2.0
"""What the default set-up installs: no CUDA package, and licences that let anyone do anything."""

from __future__ import annotations

import importlib.metadata as metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|HPND|MPL|Mozilla|Unlicense|Zlib|CC0|CNRI|Public Domain)",
    re.IGNORECASE,
)
RESTRICTED = re.compile(r"\b(A?GPL|LGPL|non-?commercial|proprietary|NVIDIA|CC[- ]BY[- ]NC)", re.IGNORECASE)
CUDA = re.compile(r"^(nvidia-|cuda-|triton$|pytorch-triton|cupy)", re.IGNORECASE)


def default_closure() -> dict[str, metadata.Distribution]:
    """Every distribution that installing dreamlab without extras brings, by walking the installed metadata."""
    found: dict[str, metadata.Distribution] = {}
    todo = ["dreamlab"]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name == "dreamlab":
                pytest.skip("dreamlab is not installed here (run through `make test`)")
            raise
        for text in found[name].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return found


def licence_of(distribution: metadata.Distribution) -> str:
    info = distribution.metadata
    classifiers = [line for line in info.get_all("Classifier") or [] if line.startswith("License ::")]
    text = info.get("License-Expression") or " ".join(classifiers) or (info.get("License") or "").strip()
    if text:
        return text[:400]
    for file in distribution.files or []:
        if "licen" in file.name.lower():
            return Path(str(file.locate())).read_text(errors="replace")[:400]
    return ""


def test_no_cuda_package() -> None:
    assert not [name for name in default_closure() if CUDA.match(name)]


def test_torch_is_the_pinned_one() -> None:
    assert metadata.version("torch").split("+")[0] == "2.13.0"


def test_every_licence_of_the_default_set_up_is_permissive() -> None:
    bad = {}
    for name, distribution in default_closure().items():
        licence = licence_of(distribution)
        if not PERMISSIVE.search(licence) or RESTRICTED.search(licence):
            bad[name] = licence[:120]
    assert not bad


def test_the_check_itself_would_notice() -> None:
    for text in (
        "GPL-3.0-or-later",
        "LGPLv2",
        "NVIDIA Source Code License (non-commercial)",
        "License :: Other/Proprietary",
    ):
        assert RESTRICTED.search(text) or not PERMISSIVE.search(text)
    assert CUDA.match("nvidia-cublas") and CUDA.match("triton")


def test_notices_name_every_direct_dependency() -> None:
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for text in declared:
        assert Requirement(text).name in notices, text
