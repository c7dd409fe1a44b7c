"""What is asked of the server and what it replies, as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from thoonk_jobs import errors
from thoonk_jobs.job import Stored
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.scripts import Script

T = TypeVar("T")
Arg = str | bytes | int | float

AT_ONCE = 500
"""Items that one script call takes at most."""
BYTES_AT_ONCE = 4 * 1024 * 1024
"""Bytes of data that one script call takes at most, unless it has a single item."""

Refusals = list[errors.ThoonkError | None]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A script call.

    read     turns the answer into what the caller wants.
    job_ids  what a publish tried to publish.
    back     jobs that this process would wait for if there are none for it at the end of the call; 0: it does not.
    width    items of a call that may be sent together with others of its kind; 0: it may not.
    head     values of the answer before those of the items.
    """

    script: Script
    keys: QueueKeys
    args: tuple[Arg, ...]
    read: Callable[[Any], T]
    job_ids: tuple[str, ...] = ()
    back: int = 0
    width: int = 0
    head: int = 0


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """A plain command outside the slot of a queue."""

    args: tuple[Arg, ...]
    read: Callable[[Any], T]


class Taken(NamedTuple):
    """A job that a claim got."""

    id: str
    stored: Stored
    token: int


class Reply(NamedTuple):
    """What every script replies.

    now, skew  of the queue's elapsed clock, in ms.
    number     of the place in line at which this process waits for jobs since this call; 0 for none.
    alarm      ms until something is due; -1 for never.
    keeper     1: this process keeps the time.
    """

    now: int
    skew: int
    number: int
    alarm: int
    keeper: int
    answer: Any


class Look(NamedTuple):
    """What a look at a queue found. more: something else is due, look again at once."""

    more: bool
    taken: list[Taken]


class Probe(NamedTuple):
    """What a probe told of a queue.

    number   of the place in line at which this process waits; 0 for none.
    late     the alarm should have rung.
    born     when its first job came, in us: another one after all data was lost.
    event    number of the last move.
    unheard  jobs whose end or stall some process may not have heard.
    """

    number: int
    late: bool
    born: int
    event: int
    unheard: int


class Log(NamedTuple):
    """A part of the log of events.

    last     number of the last event.
    born     when the queue's first job came, in us: another one after all data was lost.
    first    number of the first event that is kept, or that comes next.
    entries  (number of the first event, row, when in ms, by whom, ids, reasons) each.
    """

    last: int
    born: int
    first: int
    entries: list[tuple[Any, ...]]


class Published(NamedTuple):
    """The answer to a publish.

    new_queue  the queue held nothing before: it is to be entered in the list of queues.
    more       finished jobs are over that were not forgotten yet: settle.
    answers    of each job, the id and record that it has now, or why it was refused.
    """

    new_queue: bool
    more: bool
    answers: list[tuple[str, Stored] | errors.ThoonkError]


def merged(asked: Sequence[Call[Any]]) -> Call[list[Any]]:
    """One call for calls of the same script and queue; its answer is the list of theirs."""
    first = asked[0]

    def read(answer: list[Any]) -> list[Any]:
        found, at = [], first.head
        for call in asked:
            found.append(call.read(answer[: first.head] + answer[at : at + call.width]))
            at += call.width
        return found

    args, ids = tuple(arg for call in asked for arg in call.args), tuple(id for call in asked for id in call.job_ids)
    return Call(first.script, first.keys, args, read, ids, max(call.back for call in asked))


def size(call: Call[Any]) -> int:
    """Bytes of the data of a call."""
    return sum(len(arg) for arg in call.args if isinstance(arg, bytes))
