# SPDX-License-Identifier: Apache-2.0
"""What a training run is: every number that decides its weights, written into the run folder and read on resume."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass, field
from typing import Any

from dreamlab.core.errors import RecipeError
from dreamlab.core.streams import derive
from dreamlab.toybox.training.rates import falling
from dreamlab.toybox.training.roles import MIX, ROLES
from guidance.toybox.net import NetSettings
from guidance.toybox.store import EVERY
from guidance.toybox.told import RAY_CHANNELS
from guidance.toybox.volume import VOLUME_CHANNELS

SHARES: dict[str, float] = {  # of captions
    "bare": 0.06,  # "a mushroom": everything in its usual colours
    "main": 0.10,  # "a red mushroom"
    "both": 0.70,  # "a red mushroom with a white stem"
    "three": 0.14,  # and one more part
    "named": 0.08,  # of those: the main part by its own name, "a cat with white fur"
    "pattern": 0.08,  # of named parts: striped, checked, spotted
    "material": 0.08,  # of named parts: glossy, metal
    "action": 0.02,  # "a spinning windmill", at a random moment
}
# What differs by device. The numbers for cuda are meant for 25 minutes of a data centre GPU; they have not been run.
RECIPES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "cuda": {"batch": 256, "views": 4, "warmup": 50_000, "total": 10_000_000, "head_after": 4_000_000},
}


@dataclass(frozen=True)
class Plan:
    """Counts are in pictures seen, so that they mean the same at any batch size and after any interruption."""

    net: NetSettings
    role: str = "image"
    seed: int = 0
    table: str = "cosine"
    batch: int = 48
    views: int = 2  # pictures of one object in a batch, each with its own camera and background
    rate: float = 2.5e-3  # peak learning rate
    warmup: int = 3_000
    total: int = 450_000  # the rate falls linearly to zero over the last `cooldown` of these
    cooldown: float = 0.3
    even: float = 0.3  # the last part of the run, in which all pixels weigh the same; see `weighted_at`
    shape_for: int = 0  # until then only the volume learns, from what it shows: four times as many pictures a second
    head_after: int = 270_000  # from here on at full size; before, at half size
    head_every: int = 8  # before, too, one batch in so many is at full size, so that the head follows the rest
    ema: float = 0.999  # per step, reached from below: (1 + step) / (10 + step)
    tilt: float = 0.7  # t is u^tilt, u uniform: more of the noisy half, where shapes are decided
    drop_text: float = 0.1  # of a batch: its role says
    drop_camera: float = 0.1
    drop_hint: float = 0.1
    same_time: float = 0.75  # of the groups of a joint role have one noise level for all their pictures
    second_weight: float = 2.0  # extra loss weight where parts other than the main one project; see `weighted_at`
    instances: int = 300  # proportions of each category, before the held-out ones are taken away
    share: dict[str, float] = field(default_factory=lambda: dict(SHARES))

    @staticmethod
    def of(role: str, net: NetSettings, **changes: Any) -> Plan:
        """The plan of a role; `net` says how large the network is."""
        roles = [ROLES[name] for name in (MIX if role == EVERY else (role,))]
        hint, moments = (max(getattr(one, name) for one in (net, *roles)) for name in ("hint", "moments"))
        across = net.across or all(one.across for one in roles)
        told = {"hint": hint, "moments": moments, "rays": RAY_CHANNELS, "volume": VOLUME_CHANNELS, "across": across}
        made = Plan(dataclasses.replace(net, **told), role, **changes)
        if role == EVERY:
            return made
        made = made.only(role)
        return made if ROLES[role].hint else dataclasses.replace(made, drop_hint=1.0)

    def task(self, index: int) -> Plan:
        """The plan of batch `index`: of this role, or of one of the roles that a run for every one mixes."""
        dice = random.Random(derive(self.seed, "role", index))  # noqa: S311
        made = self.only(dice.choices(tuple(MIX), tuple(MIX.values()))[0]) if self.role == EVERY else self
        return dataclasses.replace(made, views=2) if dice.random() < ROLES[made.role].pairs else made

    @property
    def joint(self) -> int:
        """How many rows of a batch see each other."""
        return self.views if ROLES[self.role].joint > 1 else 1

    def only(self, role: str) -> Plan:
        """The same with what belongs to a role."""
        extra = ROLES[role]
        views = extra.joint if extra.joint > 1 else self.views
        share = self.share | dict(extra.share)
        made = dataclasses.replace(self, role=role, views=views, share=share)
        dropped = {name: getattr(extra, name) for name in ("drop_text", "drop_camera", "drop_hint")}
        return dataclasses.replace(made, **dropped)

    def rate_at(self, seen: int) -> float:
        return falling(self, seen, self.cooldown)

    def weighted_at(self, seen: int) -> bool:
        """Whether pixels of the object, and of its second part more, weigh more than the background.

        That teaches colours and small parts sooner, but a weight that depends on the truth makes E[w x] / E[w] the best
        answer: where the outline is in doubt, too much object. So the end weighs evenly.
        """
        return seen < (1 - self.even) * self.total

    def size_at(self, seen: int, step: int) -> int:
        if seen < self.shape_for:
            return self.net.half
        full = seen >= self.head_after or step % self.head_every == self.head_every - 1
        return self.net.size if full else self.net.half

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        try:
            table: dict[str, Any] = json.loads(text)
            share = SHARES | table["share"]  # a share that is newer than the run
            return Plan(**(table | {"net": NetSettings(**table["net"]), "share": share}))
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"plan.json is not a training plan of this version ({error!r})") from None
