# SPDX-License-Identifier: Apache-2.0
"""DreamLab: text or image to 3D and 4D assets by distilling a diffusion prior.

    import dreamlab

    run = dreamlab.dream("a red mushroom", steps=100)

Importing this package is cheap on purpose: it loads neither torch nor any model. What it offers beside its version is
loaded when somebody asks for it.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Name -> module and name in it; a closed list. The engine lies above this file and is never imported by it on its own.
_OFFERED = {
    "dream": ("dreamlab.python.making", "dream"),
    "open": ("dreamlab.python.making", "open_run"),
    "runs": ("dreamlab.python.making", "list_runs"),
    "Run": ("dreamlab.python.made", "DreamRun"),
    "Recipe": ("dreamlab.recipe.grammar", "Recipe"),
    "recipe": ("dreamlab.recipe", ""),  # the package, which can be called
    "Client": ("dreamlab.python.client", "Client"),
    "RemoteJob": ("dreamlab.python.remote", "RemoteJob"),
    "DreamError": ("dreamlab.core.errors", "DreamError"),
}
# Not `open`, which a star would put in the place of Python's own.
__all__ = ["Client", "DreamError", "Recipe", "RemoteJob", "Run", "__version__", "dream", "recipe", "runs"]


def __getattr__(name: str) -> object:
    if name not in _OFFERED:
        raise AttributeError(f"module 'dreamlab' has no attribute {name!r}")
    place, within = _OFFERED[name]
    module = importlib.import_module(place)
    return getattr(module, within) if within else module


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
