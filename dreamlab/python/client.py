# SPDX-License-Identifier: Apache-2.0
"""A studio elsewhere, from Python: `dreamlab.Client("http://127.0.0.1:7860").dream("a red mushroom").wait()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from dreamlab.core.files import Json
from dreamlab.python.remote import RemoteJob
from dreamlab.python.wire import StudioWire

PAGE = 200


class Client:
    """The studio at an address; `token` where it wants one. `timeout`: seconds for an answer; `patience`: how long a
    request is sent again to a studio that is busy, or does not answer because it is starting again."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0, patience: float = 60.0) -> None:
        self.wire = StudioWire(url, token, timeout, patience)

    def __repr__(self) -> str:
        return f"<dreamlab.Client {self.wire.url}>"

    def sign_in(self, name: str, password: str) -> str:
        """As a user of that studio; the token that it gives, which serves a while as `token`, too."""
        self.wire.token = str(self.wire.post("v1/login", {"name": name, "password": password})["token"])
        return self.wire.token

    def dream(
        self,
        prompt: str = "",
        *,
        recipe: str | None = None,
        steps: int | None = None,
        seed: int | None = None,
        negative: str | None = None,
        image: str | Path | None = None,
        mask: str | Path | None = None,
        lane: str | None = None,
        priority: int | None = None,
        webhook: str | None = None,
        **settings: object,
    ) -> RemoteJob:
        """Ask for a new run; it waits in the studio's queue. Settings as those of `dreamlab.dream`."""
        asked = {"recipe": recipe, "seed": seed, "negative": negative, "lane": lane, "priority": priority}
        asked |= {"webhook": webhook, "image": self.upload(image), "mask": self.upload(mask)}
        return self._submit({"kind": "dream", "prompt": prompt}, asked, steps, settings)

    def texture(
        self,
        mesh: str | Path,
        prompt: str,
        *,
        recipe: str | None = None,
        steps: int | None = None,
        seed: int | None = None,
        negative: str | None = None,
        maps: Sequence[str] | None = None,
        **settings: object,
    ) -> RemoteJob:
        """Ask for other materials of a mesh of your own, which stays what it is."""
        asked = {"recipe": recipe, "seed": seed, "negative": negative, "mesh": self.upload(mesh), "maps": maps}
        return self._submit({"kind": "texture", "prompt": prompt}, asked, steps, settings)

    def batch(
        self,
        job: Mapping[str, object],
        zip: Mapping[str, Sequence[object]] | None = None,
        cross: Mapping[str, Sequence[object]] | None = None,
    ) -> list[RemoteJob]:
        """Many jobs by one request: lists in `zip` go side by side, each in `cross` with every other. All, or none."""
        body = {"job": dict(job)} | ({"zip": dict(zip)} if zip else {}) | ({"cross": dict(cross)} if cross else {})
        return [RemoteJob(self.wire, found) for found in self.wire.post("v1/batches", body)["jobs"]]

    def job(self, id: str) -> RemoteJob:
        return RemoteJob(self.wire, self.wire.get(f"v1/jobs/{quote(id, safe='')}"))

    def jobs(
        self,
        *,
        state: str | Sequence[str] | None = None,
        text: str | None = None,
        batch: str | None = None,
        favourite: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[RemoteJob]:
        """The newest first; all of them, page by page as they are looked at, or at most `limit`."""
        query = {"state": state, "q": text, "batch": batch, "favourite": favourite}
        for found in self._pages("v1/jobs", "jobs", query, limit):
            yield RemoteJob(self.wire, found)

    def runs(
        self, *, text: str | None = None, favourite: bool | None = None, sort: str = "newest", limit: int | None = None
    ) -> Iterator[Json]:
        """Every run folder of the studio, also those of its command line, as the gallery lists them."""
        return self._pages("v1/runs", "runs", {"q": text, "favourite": favourite, "sort": sort}, limit)

    def run(self, id: str) -> Json:
        """One of them, with its recipe, its report and its family."""
        return self.wire.get(f"v1/runs/{quote(id, safe='')}")

    def recipes(self) -> list[Json]:
        return list(self.wire.get("v1/recipes")["recipes"])

    def system(self) -> Json:
        """What the studio is and has."""
        return self.wire.get("v1/system")

    def pause(self) -> None:
        """No job is begun from now on."""
        self.wire.post("v1/queue/pause")

    def resume(self) -> None:
        self.wire.post("v1/queue/resume")

    def upload(self, file: str | Path | None) -> str | None:
        """The id of a file there; none of none."""
        return None if file is None else str(self.wire.upload("v1/uploads", Path(file))["id"])

    def _submit(
        self, body: Json, asked: Mapping[str, object], steps: int | None, settings: Mapping[str, object]
    ) -> RemoteJob:
        given = {key: value for key, value in asked.items() if value is not None}
        more = dict(settings) | ({} if steps is None else {"steps": steps})
        return RemoteJob(self.wire, self.wire.post("v1/jobs", body | given | ({"settings": more} if more else {})))

    def _pages(self, path: str, key: str, query: Mapping[str, object], limit: int | None) -> Iterator[Json]:
        cursor, left = None, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.wire.get(path, **query, limit=size, cursor=cursor)
            yield from page[key]
            left = None if left is None else left - len(page[key])
            if not (cursor := page.get("next")):
                return
