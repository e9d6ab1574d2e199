# SPDX-License-Identifier: Apache-2.0
"""What the page is before any browser: what goes out, what stays closed, and that it names what the engine has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from configs import names
from dreamlab.core.formats import ABOUT
from dreamlab.recipe.grammar import PRESETS
from dreamlab.studio.page import mount
from dreamlab.studio.page.head import MODULES, STATIC, STYLES, layered
from dreamlab.toybox.colours import COLOURS

SCRIPTS = sorted(path for path in STATIC.rglob("*.js") if path.name != "viewer.js")
MOST_LINES, MOST_EXAMPLE = 600, 1_000_000


@pytest.fixture(scope="module")
def page() -> Iterator[TestClient]:
    app = FastAPI(openapi_url=None)
    mount(app)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


class Links(HTMLParser):
    """Every address that a browser would ask for by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "content", "srcset", "poster")]


def test_the_page_names_no_other_host_and_forbids_them(page: TestClient) -> None:
    answer = page.get("/")
    links = Links()
    links.feed(answer.text)
    assert answer.status_code == 200 and "/static/shell.js" in links.found
    assert [link for link in links.found if re.match(r"(https?:)?//", link)] == []
    rules = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'self'"
    for sources in rules.values():
        allowed = {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
        assert set(sources.split()) <= allowed
    assert "unsafe" not in rules["connect-src"] + rules["default-src"]


CLOSED = """/gradio_api/upload /gradio_api/proxy=http://127.0.0.1:1/ /gradio_api/file=/etc/passwd /gradio_api/info
/gradio_api/queue/data /gradio_api/vibe-code/ /gradio_api/openapi.json /gradio_api/heartbeat/x /gradio_api/run/predict
/monitoring /docs /openapi.json /login /manifest.json /assets/%2e%2e%2fconfig"""


@pytest.mark.parametrize("address", CLOSED.split())
def test_what_the_page_does_not_need_of_gradio_is_closed(page: TestClient, address: str) -> None:
    assert page.get(address).status_code == 404
    assert page.post(address, content=b"x").status_code == 404


def test_styles_of_gradio_come_in_a_layer_below_ours(page: TestClient) -> None:
    (name,) = set(re.findall(r'href="\./(assets/index-[\w.-]+\.css)"', page.get("/").text))
    answer = page.get(f"/{name}")
    assert answer.headers["content-type"].startswith("text/css")
    assert answer.text.startswith("@layer gradio {") and answer.text.count("{") == answer.text.count("}")
    assert layered("a{b:c}") == "@layer gradio {\na{b:c}\n}\n"


def test_the_head_asks_only_for_what_is_there(page: TestClient) -> None:
    asked = re.findall(r'(?:src|href)="/static/([^"]+)"', page.get("/").text)
    assert [name for name in asked if not (STATIC / name).is_file()] == []
    assert {name for name in (*STYLES, *MODULES) if (STATIC / name).is_file()} <= set(asked)


def test_scripts_import_what_is_exported_and_write_no_markup() -> None:
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= MOST_LINES, path
        assert text.startswith("// SPDX-License-Identifier: Apache-2.0"), path
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), path
        for names_of, source in re.findall(r"^(?:import|export) \{([^}]*)\} from '([^']+)';", text, re.MULTILINE):
            target = STATIC / source.removeprefix("/static/") if source.startswith("/") else path.parent / source
            if target.name == "viewer.js":
                continue
            there = target.read_text("utf-8")
            exported = set(re.findall(r"^export (?:async )?(?:const|class|function) (\w+)", there, re.MULTILINE))
            for group in re.findall(r"^export \{([^}]*)\}", there, re.MULTILINE):
                exported |= {name.strip() for name in group.split(",")}
            wanted = {name.split(" as ")[0].strip() for name in names_of.split(",") if name.strip()}
            assert wanted <= exported, (path, wanted - exported)


def evaluated(script: str) -> object:
    """What a module of the page says, run by Node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    command = [node, "--input-type=module", "-e", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=STATIC)
    return json.loads(done.stdout)


def test_export_offers_what_can_be_written() -> None:
    offered = evaluated(
        "import { FORMATS, PRESETS } from './export/table.js';"
        "console.log(JSON.stringify([FORMATS.map((one) => one.name), PRESETS.map(([name]) => name)]))"
    )
    assert isinstance(offered, list)
    assert sorted(offered[0]) == sorted(ABOUT) and sorted(offered[1]) == sorted(PRESETS)


def test_cards_and_colours_are_the_engines() -> None:
    presets = (STATIC / "create/presets.js").read_text("utf-8")
    recipes = re.findall(r"recipe: '([\w-]+)'", presets) + re.findall(r"(?:draft|balanced|best): '([\w-]+)'", presets)
    assert len(recipes) >= 8 and set(recipes) <= set(names())
    pictures = re.findall(r"picture: '([\w-]+\.webp)'", presets)
    assert len(pictures) == 5
    assert [name for name in pictures if not (STATIC / "example" / name).is_file()] == []
    listed = re.search(r"const COLOURS = \[(.*)\];", (STATIC / "create/picture.js").read_text("utf-8"))
    assert listed and re.findall(r"'(\w+)'", listed[1]) == list(COLOURS)


def test_the_example_is_small_and_says_how_it_was_made() -> None:
    files = list((STATIC / "example").iterdir())
    assert sum(path.stat().st_size for path in files) < MOST_EXAMPLE
    said = json.loads((STATIC / "example/example.json").read_text())
    assert said["recipe"] in names() and said["prompt"] in said["command"] and said["seconds"] > 0
    assert (STATIC / "example/model.glb").read_bytes()[:4] == b"glTF"


COMMANDS: list[tuple[dict[str, object], str]] = [
    ({"prompt": "a red mushroom", "seed": 7}, "dreamlab dream 'a red mushroom' --recipe toybox --seed 7"),
    (
        {
            "prompt": "it's $HOME",
            "seed": 1,
            "negative": "a `b`",
            "settings": {"steps": 9, "export.formats": ["glb", "stl"]},
        },
        "dreamlab dream 'it'\\''s $HOME' --recipe toybox --negative 'a `b`' --seed 1 steps=9 export.formats=glb,stl",
    ),
    (
        {"prompt": "x", "seed": 3, "count": 2, "mode": "mesh", "recipe": "texture"},
        "dreamlab texture 'my mesh.glb' x --recipe texture --seed 3\n"
        "dreamlab texture 'my mesh.glb' x --recipe texture --seed 4",
    ),
]


@pytest.mark.parametrize(("draft", "line"), COMMANDS)
def test_the_copied_command_means_the_same_to_a_shell(draft: dict[str, object], line: str, tmp_path: Path) -> None:
    said = evaluated(
        "import { Draft, command } from './create/draft.js'; const draft = new Draft();"
        f"draft.put({json.dumps(draft)}); console.log(JSON.stringify(command(draft, 'my mesh.glb')))"
    )
    assert said == line
    (tmp_path / "dreamlab").write_text('#!/bin/sh\nfor each in "$@"; do printf "%s\\0" "$each"; done\n')
    (tmp_path / "dreamlab").chmod(0o755)
    spoken = ["/bin/sh", "-c", line.splitlines()[0]]
    heard = subprocess.run(spoken, env={"PATH": str(tmp_path)}, capture_output=True, check=True)
    assert str(draft["prompt"]) in heard.stdout.decode().split("\0")


def test_a_link_of_nonsense_is_a_form_all_the_same() -> None:
    said = evaluated(
        "import { Draft } from './create/draft.js';"
        "const read = (values) => { const { mode, recipe, seed, count, settings } = Draft.read(values);"
        " return [mode, recipe, seed, count, settings]; };"
        "console.log(JSON.stringify([read({}), read({ mode: 'x', seed: '-1', count: '99', settings: '{' }),"
        " read({ mode: 'mesh', seed: '2147483648', settings: '[1]' }), read({ seed: '12', settings: '{\"a.b\":1}' })]))"
    )
    assert said == [
        ["words", "toybox", None, 1, {}],
        ["words", "toybox", None, 16, {}],
        ["mesh", "texture", None, 1, {}],
        ["words", "toybox", 12, 1, {"a.b": 1}],
    ]
