# SPDX-License-Identifier: Apache-2.0
"""What retention would remove of one's own, said before anything goes; nothing is changed here."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass

from dreamlab.core.settings import setting
from dreamlab.jobs.retention import PURGED, Policy, plan
from dreamlab.jobs.tidying import policy_of
from dreamlab.studio.answers import Reply
from dreamlab.studio.api.base import Call, Endpoint

MOST_TOLD = 200
NEVER = 1e5  # days


@dataclass(frozen=True, kw_only=True)
class RetentionQuery:
    """A policy to try; without any value the one that is set."""

    trash_days: float | None = setting(None, low=0, high=NEVER, help="in the trash, before it is gone for good")
    days: float | None = setting(None, low=0, high=NEVER, help="since a job ended, before it goes to the trash")
    quota_mib: float | None = setting(None, low=0, help="of all folders of yours; above it the oldest go for good")


def retention(call: Call) -> Reply:
    """What would go, and why. A policy is set on the machine: `dreamlab jobs prune --schedule`."""
    asked = call.asked(RetentionQuery)
    standing = policy_of(call.studio.root)
    tried = {name: value for name, value in asdict(asked).items() if value is not None}
    if "quota_mib" in tried:
        tried["owner_quota_mib"] = tried.pop("quota_mib")
    policy = dataclasses.replace(Policy(), **tried) if tried else standing
    planned = plan(call.studio.queue, policy or Policy(trash_days=NEVER))
    mine = [each for each in planned.going if each.job.owner == call.owner]
    going = [
        {"job": each.job.id, "prompt": each.job.prompt, "what": each.what, "why": each.why, "bytes": each.bytes}
        for each in mine[:MOST_TOLD]
    ]
    return Reply({
        "scheduled": standing is not None, "policy": None if policy is None else asdict(policy),
        "used": planned.of_owner.get(call.owner, 0), "count": len(mine), "going": going,
        "freed": sum(each.bytes for each in mine if each.what == PURGED),
    })  # fmt: skip


ENDPOINTS = (
    Endpoint("GET", "/v1/retention", retention, "What would be removed of yours, and why", RetentionQuery,
             refuses=(422, 507)),
)  # fmt: skip
