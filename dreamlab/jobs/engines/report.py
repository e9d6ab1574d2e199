# SPDX-License-Identifier: Apache-2.0
"""How a batch stands, read from the store alone."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from dreamlab.core.files import Json
from dreamlab.core.text import short
from dreamlab.jobs.engines.bucket import Bucket
from dreamlab.jobs.engines.ledger import Ledger, Task, row_of
from dreamlab.jobs.engines.manifest import Manifest, read_manifest

SIDE, QUALITY, SHOWN = 130, 76, 500  # of a picture on the page, and how many of them


@dataclass(frozen=True)
class BatchStanding:
    """Of all jobs."""

    total: int
    done: int
    given_up: int
    begun: int  # claimed at least once, and neither done nor given up
    attempts: int
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def waiting(self) -> int:
        return self.total - self.done - self.given_up - self.begun

    @property
    def open(self) -> int:
        return self.begun + self.waiting

    def lines(self) -> list[str]:
        said = f"{self.done} of {self.total} done, {self.begun} begun, {self.waiting} waiting, {self.given_up} given up"
        causes = (f"  {count} x {cause}" for cause, count in self.causes.most_common())
        return [said, f"{self.attempts} attempts", *causes]


def standing(bucket: Bucket) -> BatchStanding:
    manifest = read_manifest(bucket)
    done = given_up = begun = attempts = 0
    causes = Counter[str]()
    for shard in manifest.shards():
        ended = {row_of(key) for key in bucket.names(f"done/{shard:05d}/")}
        poison = [key for key in bucket.names(f"poison/{shard:05d}/")]
        claims = bucket.names(f"claims/{shard:05d}/")
        rows = {int(key.split("/")[2]) for key in claims}
        causes.update(cause_of(bucket, key) for key in poison)
        done, given_up, attempts = done + len(ended), given_up + len(poison), attempts + len(claims)
        begun += len(rows - ended - {row_of(key) for key in poison})
    return BatchStanding(sum(manifest.shards().values()), done, given_up, begun, attempts, causes)


def cause_of(bucket: Bucket, key: str) -> str:
    told = json.loads(bucket.get(key) or b"{}")
    return f"exit {told.get('code')}: {short(str(told.get('why', '')), 160)}"


def retry_failed(bucket: Bucket) -> int:
    """All that was given up is open again; how many."""
    ledger, count = Ledger(bucket, "retry", lambda: 0.0), 0
    for shard in read_manifest(bucket).shards():
        for key in bucket.names(f"poison/{shard:05d}/"):
            count += ledger.forgive(Task(shard, row_of(key)))
    return count


def page(bucket: Bucket, url: str) -> str:
    """The report: figures, failures by cause, and every picture, in one file that needs nothing else."""
    manifest, now = read_manifest(bucket), standing(bucket)
    made = list(_finished(bucket, manifest))
    spent = sorted(float(told["results"].get("seconds", 0)) for _, told, _ in made)
    figures = {
        f"of {now.total} done": now.done,
        "begun": now.begun,
        "waiting": now.waiting,
        "given up": now.given_up,
        "attempts": now.attempts,
        "seconds a job, in the middle": f"{spent[len(spent) // 2]:g}" if spent else "none",
    }
    tiles = "".join(f"<div><b>{value}</b>{html.escape(name)}</div>" for name, value in figures.items())
    shares = (("done", now.done), ("begun", now.begun), ("lost", now.given_up))
    bar = "".join(f'<i class="{kind}" style="width:{100 * count / now.total:.2f}%"></i>' for kind, count in shares)
    causes = "".join(
        f"<tr><td>{count}</td><td>{html.escape(cause)}</td></tr>" for cause, count in now.causes.most_common()
    )
    failed = f"<h2>Given up, by cause</h2><table>{causes}</table>" if causes else ""
    hidden = f"<p>The first {len(made)} of {now.done}.</p>" if now.done > len(made) else ""
    cells = "".join(_cell(*each) for each in made)
    return _PAGE.format(title=html.escape(url), tiles=tiles, bar=bar, failed=failed, hidden=hidden, cells=cells)


def _finished(bucket: Bucket, manifest: Manifest) -> Iterator[tuple[Task, Json, bytes | None]]:
    shown = 0
    for shard in manifest.shards():
        for key in bucket.names(f"done/{shard:05d}/"):
            if shown == SHOWN:
                return
            shown += 1
            task, told = manifest.task(shard, row_of(key)), json.loads(bucket.get(key) or b"{}")
            name = next((n for n in told["results"].get("files", {}) if n.endswith("poster.png")), "export/contact.png")
            yield task, told, bucket.get(f"runs/{task.key}/{told['attempt']}/{name}")


def _cell(task: Task, told: Json, picture: bytes | None) -> str:
    prompt, seconds = html.escape(str(task.wanted.get("prompt", ""))), told["results"].get("seconds", 0)
    shown = "" if picture is None else f'<img alt="{prompt}" loading="lazy" src="{_small(picture)}">'
    tried = f", attempt {told['attempt']}" if told["attempt"] > 1 else ""
    return f"<figure>{shown}<figcaption>{prompt}<small>{seconds:g} s{tried}</small></figcaption></figure>"


def _small(picture: bytes) -> str:
    """As an address that holds it."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((SIDE * 2, SIDE * 2))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: light-dark(#1c2024, #e8eaed); --soft: light-dark(#5a6270, #a2a9b4);
  --paper: light-dark(#f5f6f8, #16181b); --card: light-dark(#fff, #202327); --line: light-dark(#e3e6ea, #33383e); }}
body {{ font: 14px/20px system-ui, sans-serif; margin: 0 auto; max-width: 1440px; padding: 32px 24px;
  color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 22px; line-height: 28px; margin: 0 0 16px; overflow-wrap: anywhere; }}
h2 {{ font-size: 16px; margin: 24px 0 8px; }} p, small {{ color: var(--soft); }}
header {{ display: flex; flex-wrap: wrap; gap: 8px 40px; color: var(--soft); margin-bottom: 12px; }}
header b {{ display: block; font-size: 24px; line-height: 30px; color: var(--ink); }}
.bar {{ display: flex; height: 6px; border-radius: 3px; overflow: hidden; background: var(--line);
  margin-bottom: 24px; }}
.done {{ background: #2f9e6e; }} .begun {{ background: #4c7ef3; }} .lost {{ background: #d1495b; }}
table {{ border-collapse: collapse; margin-bottom: 24px; }} td {{ padding: 4px 16px 4px 0; vertical-align: top; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }}
figure {{ margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }}
img {{ width: 100%; aspect-ratio: 1; object-fit: contain; display: block; background: #fff; }}
figcaption {{ padding: 6px 10px 8px; }} small {{ display: block; }}
</style>
<h1>{title}</h1><header>{tiles}</header><div class="bar">{bar}</div>{failed}{hidden}<main>{cells}</main></html>
"""
