# SPDX-License-Identifier: Apache-2.0
"""docs/rest.md is followed to the letter, against a studio that works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dreamlab.studio.api.all import V1
from tests.studio.serving import ROOT, serving

PAGE = (ROOT / "docs" / "rest.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
HERE = "http://127.0.0.1:7860"


def test_the_page_as_it_is_written(tmp_path: Path) -> None:
    """Every block in its order: shells each by themselves, Python as one program that goes on after each of them."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert len(BLOCKS) >= 6
    before: list[str] = []
    with serving(tmp_path / "runs") as server:
        for language, text in BLOCKS:
            text = text.replace(HERE, server.url)
            if language == "python":
                before.append(text)
                command = [sys.executable, "-c", "\n".join(before)]
            else:
                command = ["bash", "-euc", text.replace("curl -s", "curl --fail-with-body -s")]
            done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            assert done.stdout, text
            if language == "python" and "model.glb" in text:
                assert "succeeded" in done.stdout


def test_every_address_of_the_page_is_there() -> None:
    known = {re.sub(r"\{[^}]+\}", "ID", each.path) for each in V1}
    for address in set(re.findall(r"/v1/[a-z]+(?:/ID)?(?:/[a-z]+)?", PAGE)) - {"/v1/runs/ID/files"}:
        assert address in known or any(each.startswith(address) for each in known), address


def test_what_the_page_says_of_the_caps() -> None:
    from dreamlab.core.text import MAX_PROMPT
    from dreamlab.jobs.queue import MOST_OF_AN_OWNER, MOST_WAITING
    from dreamlab.studio.guard import MOST_BODY, MOST_UPLOAD
    from dreamlab.studio.sniff import MOST_PIXELS
    from dreamlab.studio.uploads import LASTS_S

    said = " ".join(PAGE.split())
    assert f"a prompt has {MAX_PROMPT} characters, a body {MOST_BODY >> 20} MiB, a file {MOST_UPLOAD >> 20} MiB" in said
    assert f"{MOST_PIXELS // 1_000_000} megapixels" in said and LASTS_S == 7 * 86400
    assert f"{MOST_OF_AN_OWNER} of an owner's jobs and {MOST_WAITING} in all may wait" in said
