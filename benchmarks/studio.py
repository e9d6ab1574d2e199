# SPDX-License-Identifier: Apache-2.0
"""How quick the studio answers, over sockets, by the clock: a hundred submissions at once, status while a job runs,
fifty pollers, the gallery of 10,000 finished runs. Beside each what it cost the processor, for a busy machine's clock
says little.

    python -m benchmarks.studio --json docs/benchmarks/studio.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks.index import RUNS, folders
from benchmarks.workers import used
from dreamlab.metrics.figures import Check, report

AT_ONCE, POLLERS, POLLED_S, ASKED = 100, 50, 15.0, 200
STATUS_FLOOR, PAGE_FLOOR = 0.5, 0.3  # s, 95 of 100
PROMPT = "a red mushroom with a white stem"
Made = TypeVar("Made")


class Asking:
    """A connection that stays, as a browser's does."""

    def __init__(self, port: int) -> None:
        self.wire = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.took: list[float] = []

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        data, headers = (None, {}) if body is None else (json.dumps(body), {"Content-Type": "application/json"})
        began = time.perf_counter()
        self.wire.request(method, path, data, headers)
        reply = self.wire.getresponse()
        told = json.loads(reply.read())
        self.took.append(time.perf_counter() - began)
        return reply.status, told


@contextmanager
def studio(root: Path, page: bool = False) -> Iterator[tuple[int, int]]:
    """Port and process of a studio on a folder of runs."""
    shown = "--page" if page else "--no-page"
    command = [sys.executable, "-m", "dreamlab", "studio", shown, "--port", "0", "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rstrip("/\n").rpartition(":")[2]), process.pid
        finally:
            process.send_signal(signal.SIGINT)


def late(took: list[float]) -> float:
    return statistics.quantiles(took, n=20)[-1] if len(took) > 1 else took[0]


def check(name: str, took: list[float], cpu: float, floor: float | None, note: str, **more: object) -> Check:
    details = {"clock": "wall", "median_s": round(statistics.median(took), 4), "requests": len(took)}
    details |= {"server_cpu_s_per_request": round(cpu / len(took), 5), "load": round(os.getloadavg()[0], 1)}
    return Check(name, round(late(took), 4), "s", floor, "lower", note, details | more)


def costing(pid: int, act: Callable[[], Made]) -> tuple[Made, float]:
    """What it gives, and the server's CPU seconds."""
    before = used(pid)
    made = act()
    return made, used(pid) - before


def body(seed: int, steps: int) -> dict[str, object]:
    settings = {"steps": steps, "size": 16, "stages.0.views": 1, "export.texture": 0, "export.fit": False}
    return {"prompt": PROMPT, "recipe": "oracle", "seed": seed, "settings": settings, "lane": "background"}


def begun(ask: Asking) -> str:
    """A job that runs for as long as the bench does."""
    _, job = ask("POST", "/v1/jobs", {**body(0, 100_000), "lane": "normal"})
    path = f"/v1/jobs/{job['id']}"
    while ask("GET", path)[1]["state"] == "queued":
        time.sleep(0.2)
    return path


def submissions(port: int) -> tuple[list[float], Counter[int], set[object]]:
    askers = [Asking(port) for _ in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(lambda i: askers[i]("POST", "/v1/jobs", body(i, 2)), range(AT_ONCE)))
    took = [asker.took[0] for asker in askers]
    return took, Counter(status for status, _ in said), {told.get("id") for status, told in said if status == 202}


def polling(port: int, path: str) -> list[float]:
    """Once a second each, as a page in view does."""
    askers = [Asking(port) for _ in range(POLLERS)]
    until = time.monotonic() + POLLED_S

    def poll(asker: Asking) -> None:
        while time.monotonic() < until:
            asker("GET", path)
            asker("GET", "/v1/jobs?limit=20")
            time.sleep(1.0)

    threads = [threading.Thread(target=poll, args=(asker,)) for asker in askers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for asker in askers for each in asker.took]


def jobs(root: Path) -> list[Check]:
    with studio(root) as (port, pid):
        ask = Asking(port)
        path = begun(ask)
        ask.took.clear()
        _, cpu = costing(pid, lambda: [ask("GET", path)[0] for _ in range(ASKED)])
        checks = [check("status", ask.took, cpu, STATUS_FLOOR, "while a job runs")]
        (took, answers, made), cpu = costing(pid, lambda: submissions(port))
        lost = answers[202] - len(made)
        note = f"{AT_ONCE} at once while a job runs: {dict(answers)}, {lost} doubled"
        checks.append(check("submission", took, cpu, None, note, answers=dict(answers), doubled=lost))
        took, cpu = costing(pid, lambda: polling(port, path))
        checks.append(
            check("pollers", took, cpu, STATUS_FLOOR, f"{POLLERS} pages, each once a second, while a job runs")
        )
        Asking(port)("POST", f"{path}/cancel", {})
    return checks


def gallery(root: Path) -> list[Check]:
    folders(root, RUNS)
    with studio(root) as (port, pid):
        first, ask = Asking(port), Asking(port)
        _, built = costing(pid, lambda: first("GET", "/v1/runs?limit=50"))

        def walk() -> list[float]:
            cursor = ""
            while True:
                told = ask("GET", f"/v1/runs?limit=50&cursor={cursor}")[1]
                if not (cursor := str(told["next"] or "")):
                    return ask.took

        took, cpu = costing(pid, walk)
        return [
            check("gallery_first", first.took, built, None, f"{RUNS} runs that nobody has looked at yet"),
            check("gallery_page", took, cpu, PAGE_FLOOR, f"every page of 50 of {RUNS} runs"),
        ]


def measure() -> list[Check]:
    with tempfile.TemporaryDirectory(prefix="studio-") as place:
        return [*jobs(Path(place, "jobs")), *gallery(Path(place, "gallery"))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    sys.exit(0 if report(measure(), parser.parse_args().json) else 1)
