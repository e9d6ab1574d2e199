# SPDX-License-Identifier: Apache-2.0
"""Jobs as rows and back."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields

from dreamlab.core.files import Json
from dreamlab.jobs.states import Error, Job, JobChange, Worker

COLUMNS = tuple(field.name for field in fields(Job))
_PLAIN = ("request", "batch_values")


def row_of(job: Job) -> dict[str, str | int | float | None]:
    found = {name: getattr(job, name) for name in COLUMNS}
    found |= {name: json.dumps(found[name], ensure_ascii=False, sort_keys=True) for name in _PLAIN}
    found["key"] = job.key or None
    found["error"] = None if job.error is None else json.dumps(job.error.plain(), ensure_ascii=False)
    found["favourite"] = int(job.favourite)
    return found


def job_of(row: sqlite3.Row) -> Job:
    found = {name: row[name] for name in COLUMNS}
    found |= {name: _object(row[name]) for name in _PLAIN}
    found["key"] = row["key"] or ""
    error = None if row["error"] is None else _object(row["error"])
    found["error"] = None if error is None else Error(*(str(error.get(n, "")) for n in ("code", "message", "hint")))
    found["favourite"] = bool(row["favourite"])
    return Job(**found)


def change_of(row: sqlite3.Row) -> JobChange:
    return JobChange(*(row[field.name] for field in fields(JobChange)))


def worker_of(row: sqlite3.Row) -> Worker:
    found = {field.name: row[field.name] for field in fields(Worker)}
    return Worker(**(found | {"holds": tuple(json.loads(row["holds"]))}))


def _object(text: str) -> Json:
    value = json.loads(text)
    return value if isinstance(value, dict) else {}
