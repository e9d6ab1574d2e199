# SPDX-License-Identifier: Apache-2.0
"""A set of files that belong together, put in place of an older set: killed at any point, either set is whole.

All new files are written and flushed beside the old ones, under `.new/`. Then a journal names them, by one rename; from
there on the new set is the truth, and whoever comes next finishes the moves. A death before the journal leaves the old
set untouched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from dreamlab.core.files import Json, fsync_path, write_atomic, write_json
from dreamlab.run.crash import point

STAGE, JOURNAL = ".new", ".new.json"


class Staged:
    """Files on their way into a folder; `at` is where they lie meanwhile."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        complete(folder)
        self.folder, self.at, self.names = folder, folder / STAGE, list[str]()
        self.at.mkdir()

    def add(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            target = self.at / name
            target.parent.mkdir(exist_ok=True, parents=True)
            write_atomic(target, data)
            self.names.append(name)
            point("export.staged")

    def commit(self, gone: Iterable[str] = ()) -> list[Path]:
        """Put them in place, and take away the files that are `gone`."""
        point("export.before_journal")
        planned: Json = {"move": self.names, "remove": sorted(set(gone) - set(self.names))}
        write_json(self.folder / JOURNAL, planned)
        point("export.after_journal")
        complete(self.folder)
        return [self.folder / name for name in self.names]


def complete(folder: Path) -> None:
    """Finish what an export began to put in place before it was killed, or forget what it had not."""
    stage, journal = folder / STAGE, folder / JOURNAL
    if journal.is_file():
        planned = json.loads(journal.read_text(encoding="utf-8"))
        for name in planned["move"]:
            if (stage / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True, parents=True)
                (stage / name).replace(folder / name)
                point("export.moved")
        for name in planned["remove"]:
            (folder / name).unlink(missing_ok=True)
        fsync_path(folder)
        journal.unlink()
    if stage.is_dir():
        shutil.rmtree(stage)
