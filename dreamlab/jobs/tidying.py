# SPDX-License-Identifier: Apache-2.0
"""Retention by itself: a policy that somebody has set is applied by the supervisor every hour. None is set at first:
nothing is removed then."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from dreamlab.core.errors import DreamError, RecipeError
from dreamlab.core.files import write_json
from dreamlab.jobs.asking import bind
from dreamlab.jobs.database import FOLDER
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.retention import Policy, carry_out, plan

EVERY_S = 3600.0
FILE = "retention.json"


def policy_file(root: Path) -> Path:
    return root / FOLDER / FILE


def policy_of(root: Path) -> Policy | None:
    """What is to be kept here; None: everything."""
    path = policy_file(root)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from None
    try:
        return bind(Policy, json.loads(text))
    except ValueError:
        raise RecipeError(f"{path}: is no JSON; nothing is removed") from None
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}; nothing is removed") from None


def set_policy(root: Path, policy: Policy | None) -> None:
    """From now on; None: nothing is removed by itself any more."""
    if policy is None:
        policy_file(root).unlink(missing_ok=True)
    else:
        write_json(policy_file(root), asdict(policy))


class Tidier(threading.Thread):
    """Beside the supervisor; what it was killed in is planned anew by the next."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        super().__init__(name="retention", daemon=True)
        self.root, self.say = root, say

    def run(self) -> None:
        with Queue(self.root) as queue:
            while True:
                self.round(queue)
                threading.Event().wait(EVERY_S)

    def round(self, queue: Queue) -> None:
        """Away with what the policy of this moment gives no room."""
        try:
            policy = policy_of(self.root)
            for each in [] if policy is None else carry_out(queue, plan(queue, policy)):
                self.say(f"job {each.job.id}: {each.what}, {each.why}")
        except (DreamError, OSError) as error:  # a full disk, a policy that is none: in an hour again
            self.say(f"retention: {error}")
