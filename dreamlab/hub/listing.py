# SPDX-License-Identifier: Apache-2.0
"""What is said of models: sizes in words, a line each, a summary of a family."""

from __future__ import annotations

from dreamlab.hub import places, reachable
from dreamlab.hub.registry import SURE, UNKNOWN, HubModel, registry


def human(size: int) -> str:
    """Bytes as people count them, to two digits or three."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            value = size / scale
            return f"{value:.0f} {unit}" if value >= 99.5 else f"{value:.1f} {unit}"
    return f"{size} B"


def size_of(model: HubModel, variant: str = "") -> tuple[int, str]:
    """Bytes of its weights, and how well they are known; of what comes with the package, by looking."""
    found = places.find(model) if model.shipped else None
    if found is None or not found.whole:
        return model.size(variant)
    return sum((found.folder / weight.path).stat().st_size for weight in model.weights), SURE[0]


def text_of(model: HubModel, variant: str = "") -> str:
    """The size of a model's weights, and how far it is known."""
    size, sure = size_of(model, variant)
    if sure == UNKNOWN:
        return f"over {human(size)}" if size else "size unknown"
    return human(size) if sure == SURE[0] else f"{sure} {human(size)}"


def line(model: HubModel) -> str:
    """What `models ls` says of it."""
    where = reachable(model.name)
    gate = "gated, " if model.gated and where != "gated" else ""
    licence = f"{model.licence} ({gate}commercial use: {model.commercial})"
    return f"{model.name:<24} {model.families[0]:<12} {text_of(model):<16} {where:<12} {licence}"


def row(model: HubModel) -> dict[str, object]:
    """All that a listing says of a model."""
    found = places.find(model)
    size, sure = size_of(model)
    return {
        "name": model.name,
        "family": list(model.families),
        "layout": model.layout,
        "repo": model.repo,
        "mirrors": list(model.mirrors),
        "revision": model.revision,
        "bytes": size,
        "size": text_of(model),
        "sure": sure,
        "variants": list(model.variants),
        "licence": model.licence,
        "commercial": model.commercial,
        "gated": model.gated,
        "base": model.base,
        "where": reachable(model.name),
        "path": str(found.path) if found is not None and found.whole else "",
        "missing": list(found.missing) if found is not None else [],
    }


def summary(kind: str) -> tuple[str, str, str] | None:
    """Licences, sizes and reach of a guidance's models in words; None for one that has no weights."""
    where = {model: reachable(model.name) for model in registry().of_family(kind)}
    models = [model for model in where if where[model] != UNKNOWN]
    if not models:
        return None
    licences = dict.fromkeys(model.licence for model in models)
    sizes = sorted({size for model in models if (size := size_of(model)[0])})
    ends = [human(sizes[0]), human(sizes[-1])] if sizes else []
    amount = " to ".join(ends) if len(set(ends)) > 1 else text_of(models[0])
    reach: dict[str, list[str]] = {}
    for model in models:
        reach.setdefault(where[model], []).append(model.name)
    told = "; ".join(f"{', '.join(names)} {how}" for how, names in reach.items())
    return " or ".join(licences), amount, "shipped" if list(reach) == ["shipped"] else told
