# SPDX-License-Identifier: Apache-2.0
"""A run as a notebook shows it: its words, and the asset in a 3D view that needs nothing but the page itself.

The view is the studio's own, a frame with everything in it: no server, no request. A notebook keeps what it shows, so
it is kept small; where the asset is too large, or the view is not installed, there is a picture.
"""

from __future__ import annotations

import base64
import html
from importlib import resources
from pathlib import Path
from typing import Protocol

from dreamlab.export.report import REPORT
from dreamlab.python.notebook import STYLE, picture_address

MOST = 8 << 20  # characters of all of it
HEIGHT = 420  # pixels
LABEL = "3D view; drag to turn, wheel to come nearer"
# What is put in is base64: no character of it means anything to HTML or to a script.
FRAME = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<style>html,body,#view{margin:0;height:100%}#view{aspect-ratio:auto}</style><div id="view"></div>
<script type="module">
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const address = (text, type) => URL.createObjectURL(new Blob([bytes(text)], {type}));
const {Viewer} = await import(address("@VIEWER@", "text/javascript"));
window.view = new Viewer(document.getElementById("view"), {label: "@LABEL@"});
window.shown = window.view.load(address("@ASSET@", "model/gltf-binary"), {keepCamera: false});
</script>"""


class Showable(Protocol):
    """What of a run is shown."""

    path: Path

    @property
    def prompt(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def step(self) -> int: ...

    @property
    def error(self) -> str: ...


def page_of(run: Showable) -> str:
    """The run in HTML."""
    said = [f"{run.state} at step {run.step}", str(run.path)] + ([run.error] if run.error else [])
    lines = "".join(f'<div style="opacity:.7">{html.escape(line)}</div>' for line in said)
    words = f'<div style="{STYLE}"><b>{html.escape(run.prompt)}</b>{lines}</div>'
    return words + (_view(run.path / "export") or _picture(run.path))


def _view(export: Path) -> str:
    asset, viewer = asset_of(export), resources.files("dreamlab") / "studio" / "static" / "viewer.js"
    if asset is None or not viewer.is_file():
        return ""
    code = viewer.read_bytes()
    if 4 * (len(code) + asset.stat().st_size) / 3 > MOST - (64 << 10):
        return ""
    parts = {"VIEWER": base64.b64encode(code), "ASSET": base64.b64encode(asset.read_bytes()), "LABEL": LABEL.encode()}
    page = FRAME
    for name, data in parts.items():
        page = page.replace(f"@{name}@", data.decode())
    # Scripts and nothing else: a frame of its own origin, which sees nothing of the notebook.
    size = f"width:100%;max-width:640px;height:{HEIGHT}px;border:0;border-radius:8px"
    return f'<iframe title="{LABEL}" sandbox="allow-scripts" style="{size}" srcdoc="{html.escape(page)}"></iframe>'


def asset_of(export: Path) -> Path | None:
    """What the view can draw: the mesh, or Gaussians in glTF; of several prompts, the first one's."""
    for folder in (export, *sorted(path for path in export.glob("0-*") if path.is_dir())):
        for name in ("model.glb", "splats.glb"):
            if (folder / name).is_file() and (folder / REPORT).is_file():
                return folder / name
    return None


def _picture(run: Path) -> str:
    previews = sorted((run / "previews").glob("step_*.png"), key=lambda path: (len(path.name), path.name))
    for path in (run / "export" / "poster.png", run / "export" / "contact.png", *previews[::-1]):
        if address := picture_address(path) if path.is_file() else "":
            return f'<img alt="picture of the asset" style="max-width:512px" src="{address}">'
    return ""
