# SPDX-License-Identifier: Apache-2.0
"""Every run folder of the root: pages of them, one with its family, its files, and several compared."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dreamlab.core.errors import DiskError, InputError
from dreamlab.core.files import Json
from dreamlab.core.settings import setting
from dreamlab.export.report import read_report
from dreamlab.jobs.asking import FieldError
from dreamlab.jobs.folders import located
from dreamlab.jobs.index import SORTS, RunRow
from dreamlab.run.checkpoint import committed
from dreamlab.studio.answers import Reply, invalid, unknown
from dreamlab.studio.api.about import CURVES
from dreamlab.studio.api.base import ID, Call, Endpoint
from dreamlab.studio.files import kind_of, sent
from dreamlab.studio.manifest import EXPORT, Listed, manifest

MOST_COMPARED = 4
MOST_FAMILY = 300  # members that are described
MOST_RECIPE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RunsQuery:
    """Which runs."""

    q: str = setting("", help="every word begins one of the prompt")
    favourite: bool | None = setting(None, help="only those, or only the others")
    deleted: bool = setting(False, help="those in the trash instead")
    sort: str = setting("newest", choices=tuple(SORTS), help="their order")
    limit: int = setting(50, low=1, high=200)
    cursor: str = setting("", help="`next` of the page before")


@dataclass(frozen=True, kw_only=True)
class CompareQuery:
    """Which runs are held against each other."""

    ids: tuple[str, ...] = setting(help="2 to 4, with commas")


def runs(call: Call) -> Reply:
    """A page of them."""
    asked = call.asked(RunsQuery)
    try:
        page = call.studio.index.page(
            text=asked.q, owner=call.owner, favourite=asked.favourite, trash=asked.deleted, sort=asked.sort,
            limit=asked.limit, cursor=asked.cursor,
        )  # fmt: skip
    except InputError as error:
        raise invalid(FieldError("cursor", str(error).removeprefix("cursor: "), asked.cursor[:80])) from None
    return Reply({"runs": [row.plain() for row in page.rows], "next": page.next or None})


def found(call: Call, identity: str) -> tuple[RunRow, Path]:
    """A run of the owner's and its folder; Refusal 404 for any other."""
    if not ID.fullmatch(identity):
        raise unknown(f"run {identity[:64]!r}")
    try:
        row = call.studio.index.row(identity, call.owner)
    except DiskError:
        raise
    except InputError:
        raise unknown(f"run {identity!r}") from None
    return row, located(call.studio.root, row.folder)


def run(call: Call) -> Reply:
    """One, with its recipe, what its export is like, and its family."""
    row, folder = found(call, call.path["id"])
    tree = call.studio.index.tree(row.id, call.owner).plain()
    described(call, tree, MOST_FAMILY)
    return Reply(
        row.plain()
        | {
            "yaml": _text(folder / "recipe.yaml"),
            "reports": reports(folder),
            "lineage": tree,
            "checkpoints": [int(path.name.partition("_")[2]) for path in committed(folder / "ckpt")],
            "files": [listed(row.id, each) for each in manifest(folder).values()],
        }
    )


def described(call: Call, tree: Json, most: int) -> int:
    """Say of a family's members what made them; returns how many more may be described."""
    try:
        row = call.studio.index.row(tree["id"], call.owner)
        kind = call.studio.queue.job(row.id).kind if row.job else "dream"
        tree |= {"kind": kind, "seed": row.seed, "recipe": row.recipe, "step": row.step, "created": row.created}
    except InputError:  # it is gone; its id is all that is known
        tree |= {"kind": "", "seed": None, "recipe": "", "step": 0, "created": ""}
    for child in tree["children"]:
        most = described(call, child, most - 1) if most > 0 else 0
    return most


def listed(identity: str, each: Listed) -> Json:
    told = {"name": each.name, "kind": each.kind, "bytes": each.bytes, "sha256": each.sha256}
    return told | {"url": address(identity, each.name)}


def address(identity: str, name: str) -> str:
    return f"/v1/runs/{identity}/files/{quote(name)}"


def reports(folder: Path) -> Json:
    """What the exports say of themselves, by preset; the usual one is `none`."""
    export = folder / EXPORT
    told = {"none": read_report(export)}
    if export.is_dir():
        told |= {each.name: read_report(each) for each in sorted(export.iterdir()) if each.is_dir()}
    return {
        name: {key: value for key, value in report.items() if key != "files"} for name, report in told.items() if report
    }


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:MOST_RECIPE].decode("utf-8", "replace")
    except OSError:
        return ""


def file(call: Call) -> Reply:
    """A file that the run's manifest names."""
    row, folder = found(call, call.path["id"])
    name = call.path["name"]
    there = manifest(folder).get(name)
    if there is None:
        raise unknown(f"file {name[:80]!r}")
    return sent(folder, name, call.headers, kind_of(name), there.sha256, saved_as(row, name), there.lasting)


def saved_as(row: RunRow, name: str) -> str:
    """A download is called after its prompt; files that name each other keep their names."""
    stem, dot, suffix = Path(name).name.rpartition(".")
    alone = suffix in ("glb", "mp4", "usdz", "ply", "stl", "splat", "spz", "gif") and row.prompt
    return f"{row.prompt[:60]} {stem}{dot}{suffix}" if alone else Path(name).name


def compare(call: Call) -> Reply:
    """Two to four runs: where their recipes differ, and their curves."""
    ids = tuple(dict.fromkeys(call.asked(CompareQuery).ids))
    if not 2 <= len(ids) <= MOST_COMPARED:
        raise invalid(FieldError("ids", f"must be 2 to {MOST_COMPARED} runs", ",".join(ids)[:80]))
    rows = [found(call, identity) for identity in ids]
    texts = [_text(folder / "recipe.yaml").splitlines() for _, folder in rows]
    return Reply({
        "runs": [row.plain() for row, _ in rows],
        "recipe": [difference(texts[0], text) for text in texts],
        "metrics": [CURVES.points(folder) for _, folder in rows],
        "reports": [reports(folder) for _, folder in rows],
    })  # fmt: skip


def difference(first: Sequence[str], other: Sequence[str]) -> list[Json]:
    """Lines that are not in both, each with a sign and its number in its own file, as the others stand around them."""
    made: list[Json] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, first, other, autojunk=False).get_opcodes():
        if tag != "equal":
            made += [{"sign": "-", "line": i + 1, "text": first[i]} for i in range(a, b)]
            made += [{"sign": "+", "line": i + 1, "text": other[i]} for i in range(c, d)]
    return made


ENDPOINTS = (
    Endpoint("GET", "/v1/runs", runs, "Your runs, also those of the command line", RunsQuery, refuses=(422, 507)),
    Endpoint("GET", "/v1/runs/{id}", run, "A run with its recipe, figures, files and family", refuses=(404, 507)),
    Endpoint("GET", "/v1/runs/{id}/files/{name*}", file, "A file of a run, by its name in the list", kind="*/*",
             refuses=(404, 416, 507)),
    Endpoint("GET", "/v1/compare", compare, "Where runs differ", CompareQuery, refuses=(404, 422, 507)),
)  # fmt: skip
