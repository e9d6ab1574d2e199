# SPDX-License-Identifier: Apache-2.0
"""The head of the page: our styles and modules, and nothing that asks another host."""

from __future__ import annotations

import re
from pathlib import Path

STATIC = Path(__file__).parents[1] / "static"
STYLES = ("studio.css", "shell.css", "create.css", "export.css", "panels.css")
MODULES = ("shell.js", "create.js", "export.js", "watch.js", "queue.js", "gallery.js", "lab.js", "compare.js")

# Before the first paint: the scheme that was chosen, and the tab.
EARLY = """<script>
(() => {
  const root = document.documentElement;
  const kept = localStorage.getItem('dreamlab-theme');
  const machine = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  root.classList.toggle('dark', (kept ?? machine) === 'dark');
  root.dataset.tab = new URLSearchParams(location.search).get('tab') ?? 'create';
})();
</script>"""

FOREIGN = (
    re.compile(r'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*>'),
    re.compile(r"\s*<link[^>]*manifest[^>]*>"),
    re.compile(r"\s*<script>(?:(?!</script>).)*iframeResizer\.contentWindow(?:(?!</script>).)*</script>", re.DOTALL),
)
# Scripts and styles of this server alone; gradio's front end makes functions of strings.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)


def head() -> str:
    """What is put before </head>; parts that are not in this version are left out."""
    styles = [f'<link rel="stylesheet" href="/static/{name}">' for name in STYLES if (STATIC / name).is_file()]
    modules = [f'<script type="module" src="/static/{name}"></script>' for name in MODULES if (STATIC / name).is_file()]
    font = '<link rel="preload" href="/static/fonts/inter.woff2" as="font" type="font/woff2" crossorigin>'
    icon = '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
    return "\n".join((EARLY, icon, font, *styles, *modules))


def rewritten(page: str) -> str:
    """gradio's page with our head and without what names other hosts."""
    for pattern in FOREIGN:
        page = pattern.sub("", page)
    return page.replace("</head>", f"{head()}\n</head>", 1)


def layered(style: str) -> str:
    """A style sheet of gradio's in a layer, which comes before all that has none: its reset would win over ours."""
    return f"@layer gradio {{\n{style}\n}}\n"
