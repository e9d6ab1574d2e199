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


def text_of(model: HubModel, variant: str = "") -> str:
    """The size of a model's weights, and how far it is known."""
    size, sure = model.size(variant)
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
    size, sure = model.size()
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


def summary(family: str) -> tuple[str, str, str] | None:
    """Licences, sizes and reach of a guidance's models in words; None for one that has no weights."""
    models = registry().of_family(family)
    if not models:
        return None
    licences = list(dict.fromkeys(model.licence for model in models))
    sizes = sorted({model.size()[0] for model in models if model.size()[0]})
    size = f"{human(sizes[0])} to {human(sizes[-1])}" if len(sizes) > 1 else text_of(models[0])
    reach: dict[str, list[str]] = {}
    for model in models:
        reach.setdefault(reachable(model.name), []).append(model.name)
    if list(reach) == ["shipped"]:
        return " or ".join(licences), size, "shipped"
    return " or ".join(licences), size, "; ".join(f"{', '.join(names)} {where}" for where, names in reach.items())
