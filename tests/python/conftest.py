# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a notebook's kernel."""

from __future__ import annotations

import sys
import types

import pytest

from dreamlab.python import notebook


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for IPython in a kernel, as far as it is asked; what it would show, in turn."""
    shown: list[str] = []

    class HTML:
        def __init__(self, data: str) -> None:
            self.data = data

    class Handle:
        def update(self, what: HTML) -> None:
            shown.append(what.data)

    def display(what: HTML, display_id: bool) -> Handle:
        assert display_id is True
        shown.append(what.data)
        return Handle()

    ipython, shows = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    shows.HTML, shows.display = HTML, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shows)
    monkeypatch.setattr(notebook, "EVERY_S", 0.0)
    return shown
