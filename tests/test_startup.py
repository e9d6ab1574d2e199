# SPDX-License-Identifier: Apache-2.0
"""Guards of the wait before anything happens: what may be loaded by a command, and on the way to the first step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guidance import GUIDANCE
from renderers import SCENES
from systems import SYSTEMS
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
OURS = {"dreamlab", "systems", "renderers", "guidance", "cuda_ext", "configs"}
# What the command line is made of. rich: of the parser, for its own help; numpy: sizes of pictures.
COMMAND = OURS | {"typer", "rich", "pydantic", "pydantic_core", "annotated_types", "annotated_doc", "numpy"}
COMMAND |= {"typing_extensions", "typing_inspection", "shellingham", "click", "pygments"}
STEP = COMMAND | {"torch", "torchgen", "safetensors", "omegaconf", "yaml", "tqdm"}
# What torch has loaded when it is imported; its compilers come with the first thing that needs one.
LATE = ("torch._dynamo", "torch._inductor", "sympy", "scipy", "trimesh", "skimage", "PIL", "transformers", "diffusers")

LOADED = """
import json, os, sys
def loaded():
    files = [(name, getattr(module, "__file__", None) or "") for name, module in list(sys.modules.items())]
    print(json.dumps([name for name, file in files if "site-packages" in file or name.split(".")[0] in OURS]))
    sys.stdout.flush()
    os._exit(0)
"""


def modules(code: str, *arguments: str) -> set[str]:
    """The modules of packages that a program has loaded when it calls `loaded`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"OURS = {OURS!r}\n{LOADED}\n{code}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def strangers(found: set[str], known: set[str]) -> set[str]:
    return {name for name in found if name.split(".")[0] not in known and not name.startswith(("__editable__", "_"))}


def test_the_command_line_loads_the_parser_alone() -> None:
    found = modules("import dreamlab.cli\nloaded()")
    assert not strangers(found, COMMAND)
    assert not {name for name in found if name.startswith(("torch", "systems.", "renderers.", "guidance."))}


def test_the_package_alone_loads_nothing() -> None:
    found = modules("import dreamlab\nassert 'dream' in dir(dreamlab)\nloaded()")
    assert {name for name in found if name.split(".")[0] in OURS} == {"dreamlab"} and not strangers(found, OURS)


@pytest.mark.parametrize(
    "words", ["list systems", "list scenes", "list guidance", "list objects", "list formats", "models ls"]
)
def test_lists_need_no_torch(words: str) -> None:
    found = modules(
        "from dreamlab.cli import main\nimport sys\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    loaded()",
        *words.split(),
    )
    assert "dreamlab.cli" in found and "torch" not in found


def test_the_first_step_comes_before_what_it_does_not_need(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    hook = """
import importlib.abc
class Hook(importlib.abc.MetaPathFinder):  # the step is replaced when the command itself loads it
    def find_spec(self, name, path=None, target=None):
        if name == "dreamlab.pipeline":
            sys.meta_path.remove(self)
            from dreamlab.run import train
            made = train.step
            train.step = lambda *given: (made(*given), loaded())
sys.meta_path.insert(0, Hook())
from dreamlab.cli import main
main(["dream", "a red mushroom", "--recipe", sys.argv[1], "--out", sys.argv[2]])
"""
    found = modules(hook, str(tmp_path / "tiny.yaml"), str(tmp_path / "runs"))
    assert {"torch", "renderers.gaussians", "systems.sds", "guidance.oracle"} <= found
    assert not strangers(found, STEP)
    assert not {name for name in found if name.startswith(LATE)}
    # One rule and one scene of the tables, and what they stand on.
    rules = {name for name in found if name.startswith("systems.") and not name.startswith("systems.engine")}
    scenes = {name for name in found if name.count(".") == 1 and name.startswith("renderers.")}
    assert rules == {"systems.sds"}
    assert not {"renderers.hash_field", "renderers.dmtet", "renderers.mesh", "renderers.compose"} & scenes


@pytest.mark.parametrize("table", [SYSTEMS, SCENES, GUIDANCE], ids=lambda table: table.package)
def test_what_a_listing_reads_is_what_the_entries_say(table: object) -> None:
    from dreamlab.core.table import Table

    assert isinstance(table, Table)
    for name in table:
        said, entry = table.spoken(name), table[name]
        described = " ".join((entry.__doc__ or "").split())
        assert said.line.endswith(".") and described.startswith(said.line), name
        assert said.paper == entry.paper and said.cost == getattr(entry, "cost", ""), name


def test_a_name_beside_the_table_is_none() -> None:
    assert "os.system" not in SYSTEMS and "sds" in SYSTEMS
    with pytest.raises(KeyError):
        SYSTEMS["os.system"]
