"""The conversations that take several steps: generators that yield calls and waits and get their answers.

Subscribe, look, then wait: a notice that comes between a look and a wait rings the bell, so none is missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, Protocol, TypeVar

from thoonk_jobs import calls, request
from thoonk_jobs.errors import BrokerUnavailable, ConfigError
from thoonk_jobs.job import Stored
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import LIVE, State
from thoonk_jobs.request import AT_ONCE, Call, Command, Look
from thoonk_jobs.timing import LOOK_AGAIN

T = TypeVar("T")
Flow = Generator[Any, Any, T]


class Ears(Protocol):
    """Where the waiting of a process is done; what is yielded is a step for its driver."""

    looks_first: bool

    def placed(self, keys: QueueKeys) -> bool: ...
    def look(self, call: Call[Look]) -> Any: ...
    def stand_in_line(self, keys: QueueKeys, n: int, lease: float, timeout: float | None) -> Any: ...
    def listen(self, keys: QueueKeys, id: str, timeout: float | None) -> Any: ...
    def pause(self, bell: Any, timeout: float | None) -> Any: ...
    def hears(self, keys: QueueKeys) -> bool: ...
    def unlisten(self, keys: QueueKeys, id: str, bell: Any) -> None: ...


def take(
    ears: Ears, keys: QueueKeys, look: Callable[[], Call[Look]], n: int, lease: float, timeout: float | None
) -> Flow[list[request.Taken]]:  # fmt: skip
    """Takes up to n jobs, or waits for the first: timeout 0 looks once, None waits for ever.

    look  makes the claim call of a get that does not wait.

    Where this process waits already and was told nothing, there is nothing to look at.
    """
    if timeout == 0 or (ears.looks_first and not ears.placed(keys)):
        found = Look(True, [])
        while found.more and not found.taken:
            found = yield ears.look(look())
        if found.taken or timeout == 0:
            return found.taken
    taken: list[request.Taken] = yield ears.stand_in_line(keys, n, lease, timeout)
    return taken


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def wait_for_end(ears: Ears, keys: QueueKeys, id: str, timeout: float | None) -> Flow[Stored | None]:
    """What is kept of a job once it is finished or stalled; None when it is gone. Raises TimeoutError."""
    until = None if timeout is None else time.monotonic() + timeout
    bell: Any = yield ears.listen(keys, id, timeout)
    state: State | None = None
    try:
        while True:
            patience = None
            bell.clear()
            if state is None:
                [state] = yield calls.watch(keys, [id], on=True)
            elif ears.hears(keys):  # else there is an outage: the bell rings at its end
                try:
                    [state] = yield calls.watch(keys, [id], on=True)
                except BrokerUnavailable:
                    patience = LOOK_AGAIN  # the bell rang for this look, and need not ring again
            if state not in LIVE or state is State.STALLED:
                [stored] = yield calls.read(keys, [id])
                return stored  # type: ignore[no-any-return]
            left = _left(until)
            if left == 0:
                raise TimeoutError(f"job {id!r} of queue {keys.queue!r} is still {state} after {timeout:g} s")
            yield ears.pause(bell, left if patience is None else min(patience, left or patience))
    finally:
        ears.unlisten(keys, id, bell)


def jobs_page(
    keys: QueueKeys, states: tuple[State, ...], limit: int, cursor: tuple[str, bytes, bytes] | None
) -> Flow[tuple[list[tuple[str, Stored]], tuple[str, bytes, bytes] | None]]:  # fmt: skip
    """Some jobs in these states, in the order of their indexes, and where to go on: (index, score, member).

    Each is named once, as it was read last, also one that moved meanwhile, if only because its lease was renewed.
    """
    indexes = [index for state in states for index in calls.INDEXES[state]]
    after: tuple[bytes, bytes] | None = None
    if cursor:
        indexes, after = indexes[indexes.index(cursor[0]) :], cursor[1:]
    found: dict[str, Stored] = {}
    for index in indexes:
        while True:
            entries = yield calls.listing(keys, index, after, min(limit - len(found), AT_ONCE))
            if not entries:
                break
            ids = [calls.id_of(index, member) for _, member in entries]
            stored = yield calls.read(keys, ids)
            found.update((id, job) for id, job in zip(ids, stored, strict=True) if job)
            after = entries[-1]
            if len(found) >= limit:
                return list(found.items()), (index, *after)
        after = None
    return list(found.items()), None


def settle(keys: QueueKeys) -> Flow[None]:
    """Settles all that is due, a bounded part at a time."""
    while (yield calls.settle(keys)):
        pass


def live_ids(keys: QueueKeys) -> Flow[list[str]]:
    """The ids of all live jobs, each once, also one that moved from index to index meanwhile."""
    found: dict[str, None] = {}
    for index in (index for state in LIVE for index in calls.INDEXES[state]):
        after: tuple[bytes, bytes] | None = None
        while entries := (yield calls.listing(keys, index, after, AT_ONCE)):
            found |= dict.fromkeys(calls.id_of(index, member) for _, member in entries)
            after = entries[-1]
    return list(found)


def operate_on_all(keys: QueueKeys, verb: str, state: State) -> Flow[int]:
    """Retries, reruns or retracts all jobs of a state, a bounded part at a time; how many it was."""
    done = 0
    for index in calls.INDEXES[state]:
        after: tuple[bytes, bytes] | None = None
        while entries := (yield calls.listing(keys, index, after, AT_ONCE)):
            refusals = yield calls.operate(keys, verb, [calls.id_of(index, member) for _, member in entries])
            done += refusals.count(None)
            after = entries[-1]
    return done


def listed(keys: QueueKeys, command: Command[bool]) -> Flow[None]:
    """Changes the list of queues. Whom nobody may tell, for want of a permission, sees it by and by."""
    if (yield command):
        with suppress(ConfigError):
            yield calls.announce(keys)


def delete_queue(keys: QueueKeys) -> Flow[None]:
    """Retracts what lives, then removes every key."""
    yield from listed(keys, calls.leave(keys))
    while (yield calls.delete(keys)):
        for state in LIVE:
            yield from operate_on_all(keys, "retract", state)


def in_parts(items: list[T], size: Callable[[T], int], width: Callable[[T], int] = lambda _: 1) -> Iterator[list[T]]:
    """The items in lists that one script call takes; width: how many it counts for."""
    part: list[T] = []
    number = weight = 0
    for item in items:
        if part and (number + width(item) > AT_ONCE or weight + size(item) > request.BYTES_AT_ONCE):
            yield part
            part, number, weight = [], 0, 0
        part.append(item)
        number += width(item)
        weight += size(item)
    if part:
        yield part


_tickets = count(1)


def new_ticket() -> str:
    """A ticket that no other claim of this process has."""
    return str(next(_tickets))
