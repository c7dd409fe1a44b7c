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


def _row(name: str, sources: str, target: str, who: str, events: str, meaning: str, **more: Any) -> Transition:
    names = tuple(EventName[f"TASK_{word}"] for word in events.split())
    return Transition(name, tuple(map(State, sources.split(", "))), State(target), who, names, meaning, **more)


# fmt: off
TRANSITIONS = (
    # name, from, to, who, events, meaning
    _row("publish", "absent", "available", "publisher", "AVAILABLE",
         "A new job, ready at once."),
    _row("schedule", "absent", "scheduled", "publisher", "SCHEDULED",
         "A new job, due later."),
    _row("hold", "absent, scheduled, stalled, finished", "waiting", "script", "WAITING",
         "Stands for a row that would make the job available while a limit is full.", silent=True),
    _row("park", "available", "waiting", "script", "WAITING",
         "A limit was set or lowered below what is available, or a more urgent job took the slot.", silent=True),
    _row("postpone", "scheduled, waiting, available", "scheduled", "publisher", "SCHEDULED",
         "A unique job was replaced by newer data that starts later, or was due later itself."),
    _row("promote", "scheduled", "available", "alarm", "AVAILABLE",
         "Its time has come.", silent=True),
    _row("release", "waiting", "available", "script", "AVAILABLE",
         "A slot became free.", silent=True),
    _row("claim", "available", "claimed", "worker", "CLAIMED",
         "A worker takes the job, with a new token and a lease."),
    _row("finish", "claimed", "finished", "worker", "DONE",
         "The work is done; there may be a result.", outcome=Outcome.SUCCESS),
    _row("fail", "claimed", "finished", "worker", "DONE ERROR",
         "The work failed for good.", outcome=Outcome.ERROR),
    _row("reattempt", "claimed", "available", "worker", "FAILED",
         "An attempt failed, others are left; again at once, at the back of its class."),
    _row("reattempt_later", "claimed", "scheduled", "worker", "FAILED",
         "An attempt failed, others are left; again after its back-off."),
    _row("exhaust", "claimed", "stalled", "worker, alarm", "STALLED",
         "The last attempt failed, or too many claims were lost or given back."),
    _row("cancel", "claimed", "available", "worker", "CANCELLED",
         "The worker gives the job back: it keeps its priority and goes to the back of its class."),
    _row("defer", "claimed", "scheduled", "worker", "CANCELLED",
         "The worker gives the job back for later."),
    _row("expire", "claimed", "available", "alarm", "CANCELLED",
         "The lease ran out; another worker may take the job, which keeps its place."),
    _row("stall", "claimed, available, scheduled, waiting", "stalled", "worker, operator", "STALLED",
         "Set aside by its worker or by an operator; a claimant is told."),
    _row("retry", "stalled", "available", "operator", "RETRIED",
         "Out of the holding area; failures, cancels and lost claims start anew."),
    _row("rerun", "finished", "available", "operator, worker", "RETRIED",
         "A finished job runs once more, as a new run."),
    _row("lapse", "available, scheduled, waiting, claimed", "finished", "alarm", "DONE ERROR",
         "Not done in time; a claimant is told.", outcome=Outcome.EXPIRED),
    _row("retract", "scheduled, waiting, available, claimed, stalled", "finished", "publisher, operator", "RETRACTED",
         "Withdrawn; a claimant is told.", outcome=Outcome.RETRACTED),
    _row("purge", "finished", "absent", "script, alarm", "REMOVED",
         "What was kept of the finished job is forgotten.", silent=True),
)
# fmt: on
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
