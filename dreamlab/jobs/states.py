# SPDX-License-Identifier: Apache-2.0
"""What the queue knows of a job, and what the way an attempt ended means for it."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamlab.core.errors import DiskError, DreamError, InputError, OutOfMemory
from dreamlab.core.files import Json

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED, INTERRUPTED = STATES = (
    "queued",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "interrupted",  # does not run, could go on, waits for a person: the disk is full, it was killed again and again
)
ENDED = (SUCCEEDED, FAILED, CANCELLED, INTERRUPTED)  # nothing more happens by itself
AGAIN = (FAILED, CANCELLED, INTERRUPTED)  # what `retry` takes
KINDS = ("dream", "texture", "continue", "branch", "export")
NORMAL, BACKGROUND = LANES = ("normal", "background")
STOP, KEEP = CANCELS = ("stop", "keep")
LOCAL = "local"  # the owner where nobody signs in
MOST_TRIES = 3  # attempts in a row that something killed and that came no further, before a person must look

ASKED_TO_STOP = 75  # the run's own word for: stopped after a checkpoint, run me again
_NEEDS_CARE = DiskError.exit_code
_NEEDS_ROOM = OutOfMemory.exit_code


_ALPHABET = string.ascii_lowercase + string.digits


def new_id() -> str:
    """For a job without a run of its own, or a batch; as the runs' are."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(12))


class JobUnknown(InputError):
    """No job has this id, or none that its asker may see."""


class Conflict(InputError):
    """What was asked does not go with the state a job is in."""


class QueueFull(DreamError):
    """More is waiting than the queue takes; `retry_after` seconds say when to ask again."""

    exit_code = 75

    def __init__(self, message: str, own: bool, retry_after: int = 30) -> None:
        super().__init__(message)
        self.own, self.retry_after = own, retry_after  # own: it is the owner's limit, not that of all


class QueueBusy(DreamError):
    """Others held the database for longer than one waits."""

    exit_code = 75


@dataclass(frozen=True)
class Error:
    """Why a job ended badly: a word for programs, a line for people, and what to do."""

    code: str
    message: str
    hint: str = ""

    def plain(self) -> Json:
        return {"code": self.code, "message": self.message, "hint": self.hint}


@dataclass(frozen=True)
class Job:
    """One row of the queue. Whoever submits gives the upper half; the queue writes the lower one."""

    id: str
    kind: str
    owner: str = LOCAL
    run: str = ""  # name of the run's folder
    prompt: str = ""
    recipe: str = ""
    seed: int = 0
    request: Json = field(default_factory=dict)
    parent: str = ""
    retried_from: str = ""
    batch: str = ""
    batch_values: Json = field(default_factory=dict)
    lane: str = NORMAL
    priority: int = 0  # larger ones first
    key: str = ""  # the same key of the same owner is the same job
    guidance: str = ""  # what a worker that holds it need not load
    wants: str = ""  # kind of device: cpu or cuda; none: any
    webhook: str = ""

    state: str = QUEUED
    place: float = 0.0  # order among those of one lane and priority
    device: str = ""  # of the newest attempt
    attempt: int = 0  # counts every claim: the fence
    tries: int = 0  # attempts that something killed, since one that came further
    passed: int = 0  # times that a warmer job was taken instead
    worker: int = 0
    cancel: str = ""
    created: str = ""
    queued: str = ""
    started: str = ""
    finished: str = ""
    exit_code: int | None = None
    error: Error | None = None
    stopped_at: int | None = None
    favourite: bool = False
    deleted: str = ""  # since when it lies in the trash
    seq: int = 0  # of its last change

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def owns_run(self) -> bool:
        """Whether the folder is this job's own, rather than one that it writes files of."""
        return self.kind != "export"


@dataclass(frozen=True)
class JobChange:
    """One change of one job, in the order of all."""

    seq: int
    job: str
    owner: str
    state: str
    attempt: int
    what: str  # submitted, claimed, finished, superseded, cancel, retried, moved, favourite, deleted, restored
    time: str


@dataclass(frozen=True)
class Worker:
    """A process that runs jobs on one device, one after the other."""

    id: int
    pid: int
    started: int  # of the process, as the system counts it: a number is soon another's
    boot: str
    device: str
    job: str
    attempt: int
    holds: tuple[str, ...]
    heartbeat: float  # seconds since 1970
    state: str  # idle, busy, leaving


@dataclass(frozen=True)
class Orders:
    """What a worker hears when it says that it is alive."""

    cancel: str = ""  # stop, or keep: stop, and export what there is
    fenced: bool = False  # the job is no longer this attempt's: touch nothing more, leave
    leave: bool = False  # end after this job


@dataclass(frozen=True)
class Judgement:
    """What becomes of a job after an attempt."""

    state: str
    tries: int


def was_killed(exit_code: int) -> bool:
    """By a signal: as Python says it of a child (-9), or as a shell does (137)."""
    return exit_code < 0 or exit_code > 128


def judge(exit_code: int, job: Job, given_up: bool = False, further: bool = False) -> Judgement:
    """How an attempt's exit code goes on; `job` as it was while the attempt ran; `given_up`: it did not end by itself,
    and the code is what its supervisor makes of that; `further`: it left a newer checkpoint than it found."""
    if exit_code == 0:
        return Judgement(SUCCEEDED, job.tries)
    stopped = exit_code in (ASKED_TO_STOP, _NEEDS_ROOM) or was_killed(exit_code)
    if job.cancel == STOP and (stopped or given_up):
        return Judgement(CANCELLED, job.tries)
    if exit_code == ASKED_TO_STOP:
        return Judgement(QUEUED, job.tries)
    if was_killed(exit_code):
        tries = 0 if further else job.tries + 1
        return Judgement(INTERRUPTED if tries >= MOST_TRIES else QUEUED, tries)
    if exit_code == _NEEDS_ROOM:  # once more, in a fresh process
        again = job.exit_code != _NEEDS_ROOM and job.tries + 1 < MOST_TRIES
        return Judgement(QUEUED if again else FAILED, job.tries + 1)
    return Judgement(INTERRUPTED if exit_code == _NEEDS_CARE else FAILED, job.tries)


_SAID: Mapping[int, tuple[str, str, str]] = {
    1: ("defect", "an error that nobody foresaw", "the log says where; retry, or report it with the log"),
    2: ("recipe", "the recipe cannot be meant as written", "change the setting that is named and submit again"),
    3: ("input", "a prompt, picture or file cannot be used", "give another one and submit again"),
    4: ("model", "a model is not here or not for this", "dreamlab models ls says which are here"),
    5: ("memory", "memory ran out, twice", "ask for fewer views or a smaller size"),
    6: ("diverged", "the optimisation did not stay finite", "lower the learning rates or the guidance scale"),
    7: ("disk", "the disk is full or not writable", "free some space, then retry: it goes on from its checkpoint"),
    ASKED_TO_STOP: ("stopped", "stopped after a checkpoint", "retry: it goes on from there"),
}


def error_of(exit_code: int, message: str = "") -> Error:
    """The error of an attempt, in the words of its exit code where it left none of its own."""
    if was_killed(exit_code):
        number = -exit_code if exit_code < 0 else exit_code - 128
        likely = ", likely because memory ran out" if number == 9 else ""
        said = message or f"killed by signal {number}{likely}"
        return Error("killed", said, "retry: it goes on from its checkpoint")
    code, usual, hint = _SAID.get(exit_code, _SAID[1])
    return Error(code, message or usual, hint)
