# SPDX-License-Identifier: Apache-2.0
"""What `doctor` found of this machine's kernels, kept beside them: nothing that was tried and is unchanged is tried
again, so that the next `doctor` answers at once. Only what was well is kept, and only of the CPU: a device can be taken
out of a machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from cuda_ext.build import COMPILERS
from dreamlab.core.files import write_json
from dreamlab.core.threads import cores

PACKAGE = Path(__file__).parents[2]
FILE = "tried.json"
ASKED = ("DREAMLAB_ISA", "CXX", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY")
WELL = "ok    "


def key(cache: Path) -> str:
    """Of everything that a trial depends on: our sources, the libraries in the cache, compiler, torch and processor."""
    digest = hashlib.sha256()
    sources = [*(PACKAGE / "cuda_ext").rglob("*"), Path(__file__).with_name("trial.py"), *cache.glob("*.so")]
    for path in sorted(path for path in sources if path.suffix in (".py", ".h", ".cpp", ".cu", ".so")):
        digest.update(path.name.encode() + path.read_bytes())
    compiler = [shutil.which(name) for name in COMPILERS]
    made = [os.stat(path).st_mtime_ns for path in compiler if path]  # noqa: PTH116
    words = [os.environ.get(name) for name in ASKED]
    torch = importlib.metadata.version("torch")
    digest.update(repr([compiler, made, cores(), words, torch, platform.python_version(), processor()]).encode())
    return digest.hexdigest()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def remembered(cache: Path, find: Callable[[], list[str]], again: bool) -> list[str]:
    """`find`'s lines, or those it gave when nothing of its subject was different."""
    if Path("/dev/nvidia0").exists():
        return find()
    kept = cache / FILE
    if not again:
        try:
            held = json.loads(kept.read_text("utf-8"))
            if held["key"] == key(cache):
                return [*held["lines"], f"{WELL}kernels as tried {held['when']}; doctor --again tries them anew"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
    lines = find()
    if all(line.startswith((WELL, "note")) for line in lines):
        import datetime

        when = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
        write_json(kept, {"key": key(cache), "when": when, "lines": lines})  # after it: libraries may have been built
    return lines
