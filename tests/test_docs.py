# SPDX-License-Identifier: Apache-2.0
"""The documentation is followed to the letter."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("dreamlab", "systems", "guidance", "renderers", "cuda_ext", "configs", "tests")


def test_adding_a_system_as_the_page_says(tmp_path: Path) -> None:
    """One file, one table line, one recipe, one test: copied from the page into a copy of the tree, then run."""
    page = (ROOT / "docs" / "adding-a-system.md").read_text()
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    written = re.findall(r"^`([\w/.-]+)`\n```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in written] == [
        "systems/csd_example.py", "configs/csd-example.yaml", "tests/systems/test_csd_example.py"
    ]  # fmt: skip
    for name, text in written:
        (tmp_path / name).write_text(text)
    (difference,) = re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    table = tmp_path / "systems" / "__init__.py"
    lines = difference.splitlines(True)
    before = "".join(line[1:] or line for line in lines if not line.startswith("+"))
    after = "".join(line[1:] or line for line in lines)
    text = table.read_text()
    for old, new in zip(before.split("\n\n"), after.split("\n\n"), strict=True):
        kept = old.rstrip().removesuffix("}").rstrip()  # other rules may stand between the lines shown
        assert text.count(kept) == 1, f"the page shows lines that systems/__init__.py does not have: {kept}"
        text = text.replace(kept, new.rstrip().removesuffix("}").rstrip())
    table.write_text(text)

    def call(*command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "1 passed" in call("pytest", "-q", "tests/systems/test_csd_example.py")
    assert "Yu et al. 2023" in call("dreamlab", "list", "systems")
    assert "Classifier score distillation on the oracle" in call("dreamlab", "list", "recipes")
    made = call("dreamlab", "dream", "a red mushroom with a white stem", "stages.0.steps=2", "--recipe", "csd-example")
    assert (tmp_path / made.splitlines()[-1] / "export" / "model.glb").is_file()


def pages() -> dict[str, str]:
    return {page.name: page.read_text() for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def test_every_recipe_of_the_pages_is_accepted() -> None:
    from dreamlab import recipe
    from dreamlab.recipe.checks import check
    from dreamlab.recipe.tables import TABLES

    count = 0
    for name, text in pages().items():
        if name == "adding-a-system.md":  # its rule is not in our table; it has a test of its own
            continue
        for i, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
            check(recipe.load(block, TABLES, name=f"{name}, block {i}"))
            count += 1
    assert count >= 4


def test_every_dream_of_the_pages_is_accepted() -> None:
    """What stands behind `dreamlab dream` in code: its recipe, prompt and settings, up to the files that it names."""
    from dreamlab import recipe
    from dreamlab.cli.prompt import sorted_words
    from dreamlab.recipe.checks import check
    from dreamlab.recipe.tables import TABLES

    count = 0
    for name, text in pages().items():
        for line in re.findall(r"`dreamlab dream ([^`]*)`", text):
            if "..." in line or "[" in line.partition("=")[0] or name == "adding-a-system.md":
                continue  # a grammar, no command
            words = shlex.split(line)
            taken = {i + 1 for i, word in enumerate(words) if word.startswith("--")}
            options = {words[i - 1]: words[i] for i in taken}
            prompt, settings = sorted_words([w for i, w in enumerate(words) if i not in taken and w not in options])
            if prompt is None:
                continue
            file = recipe.find(options.get("--recipe", "image" if "--image" in options else "toybox"))
            check(recipe.load(file, TABLES, prompt=prompt, overrides=settings, negative=options.get("--negative")))
            count += 1
    assert count >= 5


def test_readme_commands_exist() -> None:
    """Every `make X` and `dreamlab X` that the README shows is there."""
    import typer.main

    from dreamlab.cli import app

    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"\bmake ([a-z]+)\b", readme)) <= targets
    assert set(re.findall(r"(?:^|`)dreamlab ([a-z]+)\b", readme, re.MULTILINE)) <= commands


def test_documented_links_exist() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_figures_in_the_pages_are_those_of_the_benches(tmp_path: Path) -> None:
    """Every table of figures says what the JSON beside it says; one that does not would be seen."""
    from benchmarks.tables import filled

    folder, count = ROOT / "docs" / "benchmarks", 0
    for name, text in pages().items():
        count += text.count("<!-- figures ")
        assert filled(text, folder) == text, f"{name}: run python -m benchmarks.tables"
    assert count >= 2
    check = {"name": "a", "value": 12.345, "unit": "x", "floor": 13, "better": "higher", "note": "as measured"}
    (tmp_path / "a.json").write_text(json.dumps({"checks": [check, check | {"name": "b", "better": "lower"}]}))
    page = "<!-- figures a.json -->\n| `a` | 99x | | told by a person |\n<!-- end -->\n"
    assert "| `a` | 12.35x | 13 **missed** | told by a person |" in (made := filled(page, tmp_path))
    assert "| `b` | 12.35x | at most 13 | as measured |" in made and filled(made, tmp_path) == made
