"""The state machine: one table, and the questions that everything else asks it.

Whatever decides about a job's state lives here. The guards of the Lua scripts, the `transitions` model, the text of
statemachine.md, the names of events and the matrix of tests are made from `TRANSITIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from transitions import Machine


class State(StrEnum):
    """Where a job is. Its place in this list is the number that the server stores."""

    ABSENT = "absent"
    SCHEDULED = "scheduled"
    WAITING = "waiting"
    AVAILABLE = "available"
    CLAIMED = "claimed"
    STALLED = "stalled"
    FINISHED = "finished"


class Outcome(StrEnum):
    """How a finished job ended. Its place in this list, counted from 1, is the number that the server stores."""

    SUCCESS = "success"
    ERROR = "error"
    EXPIRED = "expired"
    RETRACTED = "retracted"


class EventName(StrEnum):
    """What subscribers hear."""

    TASK_AVAILABLE = "TASK_AVAILABLE"
    TASK_SCHEDULED = "TASK_SCHEDULED"
    TASK_WAITING = "TASK_WAITING"
    TASK_CLAIMED = "TASK_CLAIMED"
    TASK_DONE = "TASK_DONE"
    TASK_ERROR = "TASK_ERROR"
    TASK_FAILED = "TASK_FAILED"
    TASK_STALLED = "TASK_STALLED"
    TASK_CANCELLED = "TASK_CANCELLED"
    TASK_RETRIED = "TASK_RETRIED"
    TASK_RETRACTED = "TASK_RETRACTED"
    TASK_REMOVED = "TASK_REMOVED"
    TASK_PROGRESS = "TASK_PROGRESS"
    TASK_ABORTED = "TASK_ABORTED"


MEANINGS = {
    State.ABSENT: "No job has this id: never published, or purged.",
    State.SCHEDULED: "Due later: delayed, dated, or backing off after a failed attempt.",
    State.WAITING: "Held by a limit, or by other jobs that must succeed first.",
    State.AVAILABLE: "Ready; the next worker may claim it.",
    State.CLAIMED: "Held by one worker, whose token and lease are valid.",
    State.STALLED: "In the holding area until somebody retries or retracts it.",
    State.FINISHED: "Over, with an outcome; kept for a while to be read, and to answer repeated requests.",
}
LIVE = tuple(state for state in State if state not in (State.ABSENT, State.FINISHED))
SLOTTED = (State.AVAILABLE, State.CLAIMED)
"""The states in which a job holds its slot of the limits on running jobs."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A row: from any of `sources` to `target`.

    silent   the move continues an earlier request (a limit let go, a time came), so repeating that request still
             finds its own row as the job's last one.
    outcome  what a move to finished ends with.
    """

    name: str
    sources: tuple[State, ...]
    target: State
    who: str
    events: tuple[EventName, ...]
    meaning: str
    silent: bool = False
    outcome: Outcome | None = None

    @property
    def code(self) -> int:
        """The number that the server stores and answers; a new row goes to the end of the table."""
        return CODES[self.name]


def _table() -> tuple[Transition, ...]:
    absent, scheduled, waiting, available, claimed, stalled, finished = State
    on = EventName
    return (
        Transition("publish", (absent,), available, "publisher", (on.TASK_AVAILABLE,), "A new job, ready at once."),
        Transition("schedule", (absent,), scheduled, "publisher", (on.TASK_SCHEDULED,), "A new job, due later."),
        Transition("hold", (absent, scheduled, stalled, finished), waiting, "script", (on.TASK_WAITING,),
                   "Stands for a row that would make the job available while a limit is full.", silent=True),
        Transition("park", (available,), waiting, "script", (on.TASK_WAITING,),
                   "A limit was set or lowered below what is available.", silent=True),
        Transition("postpone", (scheduled, waiting, available), scheduled, "publisher", (on.TASK_SCHEDULED,),
                   "A unique job was replaced by newer data."),
        Transition("promote", (scheduled,), available, "alarm", (on.TASK_AVAILABLE,), "Its time has come.",
                   silent=True),
        Transition("release", (waiting,), available, "script", (on.TASK_AVAILABLE,), "A slot became free.",
                   silent=True),
        Transition("claim", (available,), claimed, "worker", (on.TASK_CLAIMED,),
                   "A worker takes the job, with a new token and a lease."),
        Transition("finish", (claimed,), finished, "worker", (on.TASK_DONE,), "The work is done; there may be a result.",
                   outcome=Outcome.SUCCESS),
        Transition("fail", (claimed,), finished, "worker", (on.TASK_DONE, on.TASK_ERROR), "The work failed for good.",
                   outcome=Outcome.ERROR),
        Transition("reattempt", (claimed,), available, "worker", (on.TASK_FAILED,),
                   "An attempt failed, others are left; again at once, at the back of its class."),
        Transition("reattempt_later", (claimed,), scheduled, "worker", (on.TASK_FAILED,),
                   "An attempt failed, others are left; again after its back-off."),
        Transition("exhaust", (claimed,), stalled, "worker, alarm", (on.TASK_STALLED,),
                   "The last attempt failed, or too many claims were lost or given back."),
        Transition("cancel", (claimed,), available, "worker", (on.TASK_CANCELLED,),
                   "The worker gives the job back: it keeps its priority and goes to the back of its class."),
        Transition("defer", (claimed,), scheduled, "worker", (on.TASK_CANCELLED,),
                   "The worker gives the job back for later."),
        Transition("expire", (claimed,), available, "alarm", (on.TASK_CANCELLED,),
                   "The lease ran out; another worker may take the job, which keeps its place."),
        Transition("stall", (claimed, available, scheduled, waiting), stalled, "worker, operator", (on.TASK_STALLED,),
                   "Set aside by its worker or by an operator; a claimant is told."),
        Transition("retry", (stalled,), available, "operator", (on.TASK_RETRIED,),
                   "Out of the holding area; failures, cancels and lost claims start anew."),
        Transition("rerun", (finished,), available, "operator, worker", (on.TASK_RETRIED,),
                   "A finished job runs once more, as a new run."),
        Transition("lapse", (available, scheduled, waiting, claimed), finished, "alarm", (on.TASK_DONE, on.TASK_ERROR),
                   "Not done in time; a claimant is told.", outcome=Outcome.EXPIRED),
        Transition("retract", (scheduled, waiting, available, claimed, stalled), finished, "publisher, operator",
                   (on.TASK_RETRACTED,), "Withdrawn; a claimant is told.", outcome=Outcome.RETRACTED),
        Transition("purge", (finished,), absent, "script, alarm", (on.TASK_REMOVED,),
                   "What was kept of the finished job is forgotten.", silent=True),
    )  # fmt: skip


TRANSITIONS = _table()
CODES = {row.name: code for code, row in enumerate(TRANSITIONS, 1)}
ROWS = {row.name: row for row in TRANSITIONS}


def allowed(state: State) -> tuple[str, ...]:
    """The rows that lead out of a state."""
    return tuple(row.name for row in TRANSITIONS if state in row.sources)


def model(subject: Any = None, initial: State = State.ABSENT) -> Machine:
    """The table as a machine of the `transitions` package: for questions, pictures and tests, never the hot path.

    subject  an object that gets the rows as methods and a `state`; without one the machine itself does.
    """
    return Machine(
        model=subject if subject is not None else Machine.self_literal,
        states=[state.value for state in State],
        transitions=[
            {"trigger": row.name, "source": [source.value for source in row.sources], "dest": row.target.value}
            for row in TRANSITIONS
        ],
        initial=initial.value,
        auto_transitions=False,
    )
