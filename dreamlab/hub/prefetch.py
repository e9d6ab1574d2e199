# SPDX-License-Identifier: Apache-2.0
"""Fetching the files of a model into our folder of models: which, from where, whether they fit, in what order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import ModelError, RecipeError
from dreamlab.hub import lock, places
from dreamlab.hub.download import Absent, Fetched, Progress, RemoteFile, check_room, fetch
from dreamlab.hub.listing import human
from dreamlab.hub.registry import UNKNOWN, HubModel, WeightFile
from dreamlab.hub.wire import endpoint, refuse_offline

Say = Callable[[str], None]


@dataclass(frozen=True)
class FetchPlan:
    """What a fetch would bring."""

    model: HubModel
    small: tuple[str, ...]  # those that are not here yet
    weights: tuple[WeightFile, ...]  # likewise
    there: bool  # the whole model is on this machine already, somewhere

    @property
    def bytes(self) -> int:
        """That are still to come, as far as the registry knows; what was begun counts as there."""
        return sum(max(weight.size[0] - _begun(weight, places.own(self.model)), 0) for weight in self.weights)

    @property
    def open(self) -> tuple[str, ...]:
        """Weights of which not even the number of parameters is known."""
        return tuple(weight.path for weight in self.weights if weight.size[1] == UNKNOWN)

    def lines(self) -> list[str]:
        name = self.model.name
        if self.there:
            found = places.find(self.model)
            return [f"{name}: is here: {found.path if found else ''}"]
        files = [f"  {weight.path}  {_amount(weight)}" for weight in self.weights]
        small = [f"  {len(self.small)} small files"] if self.small else []
        more = ", and files of unknown size" if self.open else ""
        head = f"{name}: {human(self.bytes)}{more} from {self.model.repo} to {places.own(self.model)}"
        return [head, *files, *small]


def _begun(weight: WeightFile, folder: Path) -> int:
    """Bytes of a file that was not fetched to its end, and of shards that were."""
    place = folder / weight.path
    found = [place.with_name(place.name + ".part")]
    if weight.shards != 1:
        found += [path for path in place.parent.glob(f"{place.stem}-*-of-*") if path.suffix in (".part", place.suffix)]
    return sum(path.stat().st_size for path in found if path.is_file())


def _amount(weight: WeightFile) -> str:
    size, sure = weight.size
    return "size unknown" if sure == UNKNOWN else human(size) if sure == "known" else f"{sure} {human(size)}"


def plan(model: HubModel, variant: str = "") -> FetchPlan:
    if variant and variant not in model.variants:
        said = f"variants: {', '.join(model.variants)}" if model.variants else "it has none"
        raise RecipeError(f"model {model.name}: no variant {variant!r}; {said}")
    if model.shipped:
        raise ModelError(f"model {model.name}: comes with the package; there is nothing to fetch")
    folder = places.own(model)
    small = tuple(path for path in model.small if not (folder / path).is_file())
    weights = tuple(weight for weight in model.chosen(variant) if not places.files_of(weight, folder))
    found = places.find(model)
    elsewhere = found is not None and found.whole and found.where != "here" and not variant
    return FetchPlan(model, small, weights, elsewhere or not (small or weights))


def prefetch(
    todo: FetchPlan, allow_pickle: Collection[str] = (), say: Say = lambda line: None, progress: Progress | None = None
) -> Path:
    """Brings what is missing; the folder or file that is there then. What was begun is gone on with."""
    model = todo.model
    if todo.there:
        found = places.find(model)
        assert found is not None
        return found.path
    refuse_offline(f"model {model.name}")
    _refuse_pickles(todo, allow_pickle)
    with lock.held(model.name):
        check_room(f"model {model.name}", todo.bytes, places.models_folder())
        bringing = _Bringing(model, say, progress or (lambda there, total: None))
        for path in todo.small:
            bringing.file(path, small=True)
        for weight in todo.weights:
            bringing.weights(weight)
        for path in model.maybe:
            if not (bringing.folder / path).is_file():
                bringing.maybe(path)
    found = places.find(model)
    assert found is not None
    return found.path


def _refuse_pickles(todo: FetchPlan, allowed: Collection[str]) -> None:
    for weight in todo.weights:
        name = Path(weight.path).name
        if weight.pickle and name not in allowed:
            raise ModelError(
                f"model {todo.model.name}: {name} is a pickle, a format that can carry programs (ours are read without "
                f"them); if you trust {todo.model.repo}: --allow-pickle {name}"
            )


class _Bringing:
    """The files of one model, one after another, all of one commit."""

    def __init__(self, model: HubModel, say: Say, progress: Progress) -> None:
        self.model, self.say, self.progress = model, say, progress
        self.folder, self.pins = places.own(model), lock.pinned(model.name)

    def _sources(self) -> Iterator[tuple[str, str]]:
        """Repositories with the revision to ask for; the one that files came from before is the first."""
        repos = [self.model.repo, *self.model.mirrors]
        for repo in sorted(repos, key=lambda repo: repo != self.pins.repo):
            known = self.model.revision if repo == self.model.repo and self.model.revision != UNKNOWN else ""
            yield repo, known or (self.pins.commit if repo == self.pins.repo else "") or "main"

    def _wanted(self, repo: str, revision: str, path: str, weight: WeightFile | None, small: bool) -> RemoteFile:
        page = f"{endpoint()}/{repo}"
        url = f"{repo}/{path}" if repo.startswith("https:") else f"{page}/resolve/{revision}/{path}"
        known = weight if weight is not None and weight.shards == 1 else WeightFile(path)
        return RemoteFile(
            url=url,
            path=self.folder / path,
            what=f"model {self.model.name}: {path}",
            bytes=known.bytes,
            sha256=known.sha256 or self.pins.sha256.get(path, ""),
            by="the registry" if known.sha256 else "its first fetch",
            small=small,
            gated=self.model.gated,
            page=page if url.startswith(page) else "",
        )

    def _from_any(self, path: str, weight: WeightFile | None, small: bool) -> Fetched:
        tried = []
        for repo, revision in self._sources():
            try:
                arrived = fetch(self._wanted(repo, revision, path, weight, small), self.progress)
            except Absent as absent:
                tried.append(str(absent))
                continue
            if self.pins.repo != repo:
                self.pins.repo, self.pins.commit = repo, arrived.commit
            self.pins.commit = self.pins.commit or arrived.commit
            self.pins.sha256[path] = arrived.sha256
            lock.pin(self.model.name, self.pins)
            return arrived
        raise Absent(" and ".join(tried))

    def file(self, path: str, weight: WeightFile | None = None, small: bool = False) -> None:
        """ModelError says where it was looked for."""
        try:
            arrived = self._from_any(path, weight, small)
        except Absent as absent:
            raise ModelError(
                f"model {self.model.name}: {absent}: removed, renamed, or never there; a copy of your own goes "
                "by model: PATH"
            ) from None
        if not small:
            self.say(f"  {path}  {human(arrived.bytes)}  sha256 {arrived.sha256}")

    def maybe(self, path: str) -> None:
        """From where the other files came, or not at all."""
        repo, revision = next(self._sources())
        with suppress(Absent):
            self.pins.sha256[path] = fetch(self._wanted(repo, revision, path, None, small=True)).sha256
            lock.pin(self.model.name, self.pins)

    def weights(self, weight: WeightFile) -> None:
        if weight.shards == 1:
            return self.file(weight.path, weight)
        if weight.shards == 0:
            try:
                arrived = self._from_any(weight.path, weight, small=False)
                return self.say(f"  {weight.path}  {human(arrived.bytes)}  sha256 {arrived.sha256}")
            except Absent:  # then it was split
                pass
        if not (self.folder / weight.index).is_file():
            self.file(weight.index, small=True)
        for path in self._shards(weight):
            if not (self.folder / path).is_file():
                self.file(path)
        return None

    def _shards(self, weight: WeightFile) -> tuple[str, ...]:
        try:
            return places.shards_of(weight, self.folder / weight.index)
        except ModelError:  # not kept, or the next fetch would find it here
            (self.folder / weight.index).unlink(missing_ok=True)
            self.pins.sha256.pop(weight.index, None)
            lock.pin(self.model.name, self.pins)
            raise
