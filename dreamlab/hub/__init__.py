# SPDX-License-Identifier: Apache-2.0
"""Models of others: which there are, whether they are here, and how they come here.

Nothing is fetched while something runs: `dreamlab models prefetch` is asked for it, or it does not happen.
"""

from __future__ import annotations

from pathlib import Path

from dreamlab.core.errors import ModelError

FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
EMBEDDED = "; --on-missing embedded runs on the prior that comes with the package"


def located(model: str, family: str | None = None) -> Path:
    """The folder or file of a model of the registry, or of a path of the user's own; never fetches."""
    from dreamlab.hub import places
    from dreamlab.hub.registry import registry

    known = registry()
    if model in known.models or not is_path(model):
        entry = known.find(model)
        if family is not None and family not in entry.families:
            fit = ", ".join(other.name for other in known.of_family(family)) or "none in the registry"
            raise ModelError(f"model {model}: is for guidance {entry.families[0]}; for {family}: {fit}, or model: PATH")
        found = places.find(entry)
        if found is None or not found.whole:
            raise ModelError(_absent(model))
        if entry.within:
            from dreamlab.hub import within

            return within.made(entry)
        return found.path
    path = Path(model).expanduser()
    if path.is_dir():
        if family is not None:
            places.check_family(path, family, known)
    elif not path.is_file():
        raise ModelError(
            f"model {model}: no such folder or file; a name of `dreamlab models ls`, or a path"
            f"{'' if family in known.estimators else EMBEDDED}"
        )
    elif path.suffix not in FILES:
        raise ModelError(f"model {model}: is no file of weights ({', '.join(FILES)}), nor a folder of a model")
    return path.absolute()


def is_path(model: str) -> bool:
    """Whether a setting names a place instead of a model."""
    try:
        return bool(set(model) & {"/", "\\"}) or model.startswith("~") or Path(model).exists()
    except (OSError, ValueError):  # longer than any name, or with a byte that no name has
        return False


def _absent(name: str) -> str:
    from dreamlab.hub import places
    from dreamlab.hub.listing import text_of
    from dreamlab.hub.registry import registry

    entry = registry().find(name)
    found = places.find(entry)
    if entry.shipped:
        return f"model {name}: its weights did not come with this installation; install dreamlab again{EMBEDDED}"
    if found is None:
        lacks = f"is not on this machine ({text_of(entry)}{', gated' if entry.gated else ''})"
    else:
        lacks = f"{found.path} lacks {len(found.missing)} files of it ({', '.join(found.missing[:2])}, ...)"
        lacks = lacks.replace(", ...)", ")") if len(found.missing) <= 2 else lacks
    other = "a path" if registry().estimators.intersection(entry.families) else f"model: PATH{EMBEDDED}"
    return f"model {name}: {lacks}; dreamlab models prefetch {name}, or {other}"


def reachable(name: str) -> str:
    """`shipped` (with the package), `here`, `by prefetch`, `gated` (a licence must be accepted first) or `unknown`."""
    from dreamlab.hub import places
    from dreamlab.hub.registry import registry

    entry = registry().models.get(name)
    if entry is None:
        return "unknown"
    found = places.find(entry)
    if found is not None and found.whole:
        return "shipped" if entry.shipped else "here"
    if entry.shipped:
        return "unknown"
    return "gated" if entry.gated else "by prefetch"
