# SPDX-License-Identifier: Apache-2.0
"""The page's modules that need no browser, run by node: a script is given JSON and answers with JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

STATIC = Path(__file__).parents[2] / "dreamlab" / "studio" / "static"


class Node:
    """Scripts beside a copy of the modules, which node takes for modules by the package.json beside them."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("node")
        if program is None:
            pytest.skip("needs node")
        self.program, self.folder = program, folder
        for name in ("panels", "ui"):
            shutil.copytree(STATIC / name, folder / name)
        (folder / "package.json").write_text('{"type": "module"}')

    def ask(self, imports: str, body: str, given: Any = None) -> Any:
        """What `body` returns, a function's body with `given` in it."""
        script = self.folder / "asked.js"
        script.write_text(
            f"{imports}\nimport {{ readFileSync }} from 'node:fs';\n"
            "const given = JSON.parse(readFileSync(0, 'utf8'));\n"
            f"const answer = await (async () => {{ {body} }})();\n"
            "process.stdout.write(JSON.stringify(answer ?? null));\n"
        )
        done = subprocess.run(
            [self.program, str(script)], input=json.dumps(given), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
