# SPDX-License-Identifier: Apache-2.0
"""What gradio is told of the page: a header, a place per tab, and no inputs or events of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio import Blocks

TABS = ("create", "watch", "queue", "gallery", "lab", "export", "compare")
TITLE = "DreamLab"
FONT = "DreamLab Inter"  # static/fonts/inter.woff2, named in studio.css


def build() -> Blocks:
    """The page's parts; each is a custom element that a module under /static/ defines."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML("<dl-shell></dl-shell>", elem_id="dl-head", elem_classes=["dl-app", "dl-head"], apply_default_css=False)
        for tab in TABS:
            gr.HTML(
                f"<dl-{tab}></dl-{tab}>",
                elem_id=f"dl-tab-{tab}",
                elem_classes=["dl-app", "dl-tab", f"dl-tab-{tab}"],
                apply_default_css=False,
            )
    return page


def theme() -> object:
    """gradio's plainest, with our font: its default asks another host for one."""
    import gradio as gr

    fonts = [gr.themes.Font(name) for name in (FONT, "system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    return gr.themes.Base(font=fonts, font_mono=mono)
