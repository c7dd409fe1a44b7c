"""A queue from the operator's side, as flows: looking, mending, setting."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from thoonk_jobs import arguments, calls, flows, limits, settings
from thoonk_jobs.base import QueueBase
from thoonk_jobs.claiming import reason_text
from thoonk_jobs.errors import InvalidArgument
from thoonk_jobs.flows import Flow
from thoonk_jobs.job import Page
from thoonk_jobs.limits import Limited
from thoonk_jobs.machine import LIVE, State
from thoonk_jobs.session import verb_result


class Operating(QueueBase):
    """What operators and dashboards do."""

    def _stall(self, id: str, reason: str | None) -> Flow[None]:
        verb_result((yield calls.stall(self.keys, id, reason_text(reason))))

    def _operate(self, verb: str, id: str) -> Flow[None]:
        verb_result((yield calls.operate(self.keys, verb, [self.id_of(id)])))

    def _retract_all(self, state: State | str) -> Flow[int]:
        chosen = _state(state)
        if chosen not in LIVE:
            raise InvalidArgument(f"retract_all({state!r}): these cannot be withdrawn; give one of {', '.join(LIVE)}")
        return (yield from flows.operate_on_all(self.keys, "retract", chosen))

    def _jobs(self, state: State | str | None, limit: int, cursor: str | None) -> Flow[Page[Any]]:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument(f"limit={limit!r} is no number of jobs; give 1 or more")
        states = tuple(calls.INDEXES) if state is None else (_state(state),)
        if State.ABSENT in states:
            return Page([], None)
        found, then = yield from flows.jobs_page(self.keys, states, limit, _read_cursor(cursor, states))
        jobs = [self.make_job(id, stored) for id, stored in found]
        return Page(jobs, then and urlsafe_b64encode(b"\0".join((then[0].encode(), *then[1:]))).decode())

    def _pause(self, *, on: bool) -> Flow[None]:
        if on:
            yield from self.session.enter(self.keys)
        yield calls.pause(self.keys, on=on)

    def _limit(self, key: Limited, given: dict[str, Any]) -> Flow[None]:
        field, numbers = limits.field(key), limits.asked(key, given)
        yield from self.session.enter(self.keys)
        if (yield calls.limit(self.keys, field, numbers)):
            yield from flows.settle(self.keys)

    def _block(self, key: str, seconds: Any, reason: str) -> Flow[None]:
        if not (text := reason_text(reason)):
            raise InvalidArgument(f"reason={reason!r} is empty; say why {key!r} is blocked, for those who are refused")
        call = calls.block(self.keys, limits.key_text(key), limits.span(seconds, "seconds"), text)
        yield from self.session.enter(self.keys)
        yield call

    def _holder(self, unique: str) -> Flow[Any]:
        id = yield calls.holder(self.keys, arguments.text(unique, "unique"))
        if id is None:
            return None
        [stored] = yield calls.read(self.keys, [id])
        return stored and self.make_job(id, stored)

    def _configure(self, given: dict[str, Any]) -> Flow[None]:
        stored = {name: settings.stored(name, value) for name, value in given.items() if value is not None}
        yield from self.session.enter(self.keys)
        yield calls.configure(self.keys, stored)

    def _delete(self) -> Flow[None]:
        self.session.leave(self.keys)
        yield from flows.delete_queue(self.keys)


def _state(state: State | str) -> State:
    try:
        return State(state)
    except ValueError:
        raise InvalidArgument(f"state={state!r} is none; give one of {', '.join(State)}") from None


def _read_cursor(cursor: str | None, states: tuple[State, ...]) -> tuple[str, bytes, bytes] | None:
    if cursor is None:
        return None
    try:
        index, score, member = urlsafe_b64decode(cursor.encode()).split(b"\0", 2)
        float(score)
        if index.decode() not in {name for state in states for name in calls.INDEXES[state]}:
            raise ValueError(index)
    except ValueError:
        raise InvalidArgument(f"cursor={cursor!r} is none; give the cursor of a page of the same states") from None
    return index.decode(), score, member
