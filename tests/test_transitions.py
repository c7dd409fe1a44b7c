"""Every state against every row of the table, asked on real servers: the table itself says what must happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from audit import changed
from desk import STATES, Desk, plain

from thoonk_jobs import Broker, calls
from thoonk_jobs.errors import JobExists, JobNotFound, NotUnique, StaleClaim, ThoonkError, TransitionRefused
from thoonk_jobs.machine import CODES, ROWS, TRANSITIONS, Outcome, State
from thoonk_jobs.request import Call

JOB, OTHER = "job", "other"
NO_TOKEN = 12345
NEVER = 1000.0
"""Seconds that pass in no test: what is due then never moves."""


@pytest.fixture(scope="module")
def brokers() -> Iterator[dict[str, Broker]]:
    """One a server for all tests here: there are many."""
    made: dict[str, Broker] = {}
    yield made
    for broker in made.values():
        broker.close()


@pytest.fixture
def desk(url: str, brokers: dict[str, Broker], client: redis.Redis, namespace: str) -> Desk:
    broker = brokers.setdefault(url, Broker(url))
    return Desk(broker.session.wire, client, namespace)


# How a job comes into each state. Every recipe answers the token of the job's last claim.


@dataclass(frozen=True)
class Recipe:
    """A way into a state.

    hidden  nothing of the job is kept for reading, though its record is there.
    """

    name: str
    state: State
    make: Callable[[Desk, dict[str, Any]], int | None]
    hidden: bool = False


def _published(desk: Desk, spec: dict[str, Any], **more: Any) -> None:
    wanted = {"keep": 3600.0, "max_attempts": 5, "unique": "name", **spec, **more}
    wanted.pop("lease", None)
    desk.do(desk.publish(JOB, **wanted))


def _taken(desk: Desk, spec: dict[str, Any], **more: Any) -> int:
    _published(desk, spec, **more)
    return desk.take(JOB, lease=spec.get("lease", NEVER))


def _never(desk: Desk, spec: dict[str, Any]) -> None:
    return None


def _purged(desk: Desk, spec: dict[str, Any]) -> int:
    token = _bare(desk, spec)
    desk.advance(60)
    desk.settle()
    return token


def _delayed(desk: Desk, spec: dict[str, Any]) -> None:
    _published(desk, spec, delay=spec.get("delay", NEVER))


def _dated(desk: Desk, spec: dict[str, Any]) -> None:
    _published(desk, spec, delay=None, run_at=desk.now / 1000 + spec.get("delay", NEVER))


def _now(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "delay"}


def _deferred(desk: Desk, spec: dict[str, Any]) -> int:
    token = _taken(desk, _now(spec))
    desk.do(calls.cancel(desk.keys, JOB, token, "later", spec.get("delay", NEVER), counted=False))
    return token


def _held_by_queue(desk: Desk, spec: dict[str, Any]) -> None:
    desk.do(desk.limit(None, 0))
    _published(desk, _now(spec))


def _held_by_key(desk: Desk, spec: dict[str, Any]) -> None:
    desk.do(desk.limit("blue", 0))
    _published(desk, _now(spec), key="blue")


def _parked(desk: Desk, spec: dict[str, Any]) -> None:
    _published(desk, _now(spec), key="blue")
    desk.do(desk.limit("blue", 0))


def _retried_and_held(desk: Desk, spec: dict[str, Any]) -> int:
    token = _stalled_by_worker(desk, spec)
    desk.do(desk.limit(None, 0))
    desk.do(calls.operate(desk.keys, "retry", [JOB]))
    return token


def _fresh(desk: Desk, spec: dict[str, Any]) -> None:
    _published(desk, _now(spec))


def _given_back(desk: Desk, spec: dict[str, Any]) -> int:
    token = _taken(desk, _now(spec))
    desk.do(calls.cancel(desk.keys, JOB, token, "busy", 0, counted=False))
    return token


def _once_more(desk: Desk, spec: dict[str, Any]) -> int:
    token = _finished(desk, {**_now(spec), "keep": 3600.0})
    desk.do(calls.operate(desk.keys, "rerun", [JOB]))
    return token


def _claimed(desk: Desk, spec: dict[str, Any]) -> int:
    return _taken(desk, _now(spec))


def _claimed_again(desk: Desk, spec: dict[str, Any]) -> int:
    _given_back(desk, spec)
    return desk.take(JOB, lease=spec.get("lease", NEVER))


def _stalled_by_worker(desk: Desk, spec: dict[str, Any]) -> int:
    token = _taken(desk, _now(spec))
    desk.do(calls.stall(desk.keys, JOB, "odd", token))
    return token


def _stalled_by_operator(desk: Desk, spec: dict[str, Any]) -> int:
    token = _taken(desk, _now(spec))
    desk.do(calls.stall(desk.keys, JOB, "odd"))
    return token


def _exhausted(desk: Desk, spec: dict[str, Any]) -> int:
    token = _taken(desk, _now(spec), max_attempts=1)
    desk.do(calls.fail(desk.keys, JOB, token, b'e"no"', final=False, delay=0))
    return token


def _finished(desk: Desk, spec: dict[str, Any]) -> int:
    token = _taken(desk, _now(spec))
    desk.do(calls.finish(desk.keys, JOB, token, b"j1"))
    return token


def _failed(desk: Desk, spec: dict[str, Any]) -> int:
    token = _taken(desk, _now(spec))
    desk.do(calls.fail(desk.keys, JOB, token, b'e"no"', final=True, delay=0))
    return token


def _retracted(desk: Desk, spec: dict[str, Any]) -> None:
    _published(desk, spec)
    desk.do(calls.operate(desk.keys, "retract", [JOB]))


def _lapsed(desk: Desk, spec: dict[str, Any]) -> None:
    _published(desk, spec, expires_in=5)
    desk.advance(5)
    desk.settle()


def _bare(desk: Desk, spec: dict[str, Any]) -> int:
    return _finished(desk, {**spec, "keep": 0.0})


RECIPES = (
    Recipe("never published", State.ABSENT, _never),
    Recipe("purged", State.ABSENT, _purged),
    Recipe("delayed", State.SCHEDULED, _delayed),
    Recipe("dated", State.SCHEDULED, _dated),
    Recipe("deferred", State.SCHEDULED, _deferred),
    Recipe("held by the queue", State.WAITING, _held_by_queue),
    Recipe("held by its key", State.WAITING, _held_by_key),
    Recipe("parked", State.WAITING, _parked),
    Recipe("retried and held", State.WAITING, _retried_and_held),
    Recipe("new", State.AVAILABLE, _fresh),
    Recipe("given back", State.AVAILABLE, _given_back),
    Recipe("run once more", State.AVAILABLE, _once_more),
    Recipe("claimed", State.CLAIMED, _claimed),
    Recipe("claimed again", State.CLAIMED, _claimed_again),
    Recipe("stalled by its worker", State.STALLED, _stalled_by_worker),
    Recipe("stalled by an operator", State.STALLED, _stalled_by_operator),
    Recipe("exhausted", State.STALLED, _exhausted),
    Recipe("finished", State.FINISHED, _finished),
    Recipe("failed", State.FINISHED, _failed),
    Recipe("retracted", State.FINISHED, _retracted),
    Recipe("lapsed", State.FINISHED, _lapsed),
    Recipe("bare", State.FINISHED, _bare, hidden=True),
)


# The requests that stand for each row.


@dataclass(frozen=True)
class Request:
    """A request that asks for a row, and for no other.

    who      "claimant", who brings a token; "operator"; "publisher"; "anybody", who is never refused.
    rows     those by which the same script knows a request that it answered before.
    spec     how the job is published, so that this row is the one that is asked for.
    prepare  what is set before the job is published.
    ready    what happens once it is in its state: time passes, a limit fills up.
    only     the states of the row that this request can start from; None for all.
    bare     it moves only what is bare.
    not_for  recipes after which nothing is due, whatever the state.
    over     limits that are below what runs, once it is answered.
    """

    row: str
    call: Callable[[Desk, State, int], Call[Any]]
    who: str = "anybody"
    rows: tuple[str, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Desk], None] = lambda desk: None
    ready: Callable[[Desk], None] = lambda desk: None
    only: tuple[State, ...] | None = None
    bare: bool = False
    not_for: tuple[str, ...] = ()
    way: str = ""

    def may_move(self, recipe: Recipe) -> bool:
        """Whether the table lets this request move a job that is where the recipe leaves it."""
        if recipe.name in self.not_for or (recipe.hidden and self.who == "operator"):
            return False
        return recipe.state in (self.only or ROWS[self.row].sources) and recipe.hidden >= self.bare


def _pass(seconds: float) -> Callable[[Desk], None]:
    return lambda desk: desk.advance(seconds)


def _settle(desk: Desk, state: State, token: int) -> Call[Any]:
    return calls.settle(desk.keys)


def _fill(desk: Desk) -> None:
    """The limit of the queue is what runs at present, one of which is another job."""
    desk.do(desk.publish("blocker"))
    held = desk.contents()
    desk.do(desk.limit(None, len(held.in_state(State.AVAILABLE, State.CLAIMED))))


def _fill_and_pass(desk: Desk) -> None:
    _fill(desk)
    desk.advance(11)


def _hold(desk: Desk, state: State, token: int) -> Call[Any]:
    """What would make the job available."""
    if state is State.ABSENT:
        return desk.publish(JOB)
    if state is State.SCHEDULED:
        return calls.settle(desk.keys)
    return calls.operate(desk.keys, "rerun" if state is State.FINISHED else "retry", [JOB])


def _replace(**spec: Any) -> Callable[[Desk, State, int], Call[Any]]:
    return lambda desk, state, token: desk.publish(OTHER, "newer", unique="name", conflict=2, **spec)


def _lift(desk: Desk, state: State, token: int) -> Call[Any]:
    limits = desk.contents()["limits"]
    return desk.limit("blue" if b"kblue" in limits else None, None)


def _fail(*, final: bool = False, delay: float = 0) -> Callable[[Desk, State, int], Call[Any]]:
    return lambda desk, state, token: calls.fail(desk.keys, JOB, token, b'e"no"', final=final, delay=delay)


def _cancel(*, delay: float = 0) -> Callable[[Desk, State, int], Call[Any]]:
    return lambda desk, state, token: calls.cancel(desk.keys, JOB, token, "why", delay)


def _operate(verb: str) -> Callable[[Desk, State, int], Call[Any]]:
    return lambda desk, state, token: calls.operate(desk.keys, verb, [JOB])


FAIL = ("fail", "reattempt", "reattempt_later", "exhaust")
CANCEL = ("cancel", "defer", "exhaust")

REQUESTS = (
    Request("publish", lambda desk, *_: desk.publish(JOB, "newer"), "publisher"),
    Request("schedule", lambda desk, *_: desk.publish(JOB, "newer", delay=10), "publisher"),
    Request("hold", _hold, "operator", rows=("retry",), spec={"delay": 10}, ready=_fill_and_pass),
    Request("park", lambda desk, *_: desk.limit(None, 0)),
    Request("postpone", _replace(delay=7), "replacer"),
    Request("promote", _settle, spec={"delay": 10}, ready=_pass(10)),
    Request("promote", lambda desk, *_: desk.claim(0), spec={"delay": 10}, ready=_pass(10), way="by a claim"),
    Request("release", _lift),
    Request("claim", lambda desk, *_: desk.claim()),
    Request("finish", lambda desk, state, token: calls.finish(desk.keys, JOB, token, b"j2"), "claimant", ("finish",)),
    Request("fail", _fail(final=True), "claimant", FAIL),
    Request("reattempt", _fail(), "claimant", FAIL),
    Request("reattempt_later", _fail(delay=9), "claimant", FAIL),
    Request("exhaust", _fail(delay=9), "claimant", FAIL, spec={"max_attempts": 1}, way="by failing"),
    Request("exhaust", _cancel(), "claimant", CANCEL, prepare=lambda desk: desk.set(max_cancels="1"),
            way="by cancelling"),
    Request("exhaust", _settle, spec={"lease": 9}, prepare=lambda desk: desk.set(max_lost="1"), ready=_pass(9),
            way="by losing"),
    Request("cancel", _cancel(), "claimant", CANCEL),
    Request("defer", _cancel(delay=9), "claimant", CANCEL),
    Request("expire", _settle, spec={"lease": 9}, ready=_pass(9)),
    Request("expire", lambda desk, *_: desk.claim(0), spec={"lease": 9}, ready=_pass(9), way="by a claim"),
    Request("stall", lambda desk, state, token: calls.stall(desk.keys, JOB, "odd", token), "claimant", ("stall",),
            only=(State.CLAIMED,), way="by its worker"),
    Request("stall", lambda desk, *_: calls.stall(desk.keys, JOB, "odd"), "operator", ("stall",), way="by an operator"),
    Request("retry", _operate("retry"), "operator", ("retry",)),
    Request("rerun", _operate("rerun"), "operator", ("rerun",)),
    Request("lapse", _settle, spec={"expires_in": 50}, ready=_pass(50), not_for=("run once more",)),
    Request("retract", _operate("retract"), "operator", ("retract",)),
    Request("purge", _settle, ready=_pass(60), bare=True),
)  # fmt: skip


def _name(each: Recipe | Request) -> str:
    return f"{each.name} ({each.state})" if isinstance(each, Recipe) else f"{each.row} {each.way}".strip()


def test_the_matrix_has_every_state_and_every_row():
    assert {recipe.state for recipe in RECIPES} == set(State)
    assert {request.row for request in REQUESTS} == set(ROWS)
    assert len(TRANSITIONS) == len(ROWS)


@pytest.mark.parametrize("request_", REQUESTS, ids=_name)
@pytest.mark.parametrize("recipe", RECIPES, ids=_name)
def test_a_row_moves_a_job_from_its_states_and_from_no_other_and_only_once(
    desk: Desk, recipe: Recipe, request_: Request
):
    token = _arrange(desk, recipe, request_)
    call = request_.call(desk, recipe.state, token)
    before = desk.audit()

    answer = desk.ask(call)

    after = desk.audit()
    if request_.may_move(recipe):
        assert not isinstance(answer, ThoonkError), answer
        _assert_moved(before, after, request_.row, recipe.state)
    elif _was_answered(before, request_) and not _is_stale(recipe, request_):
        assert not isinstance(answer, ThoonkError), f"the same request was answered before: {answer}"
        assert changed(before, after) == []
    else:
        _assert_refused(answer, recipe, request_)
        assert after["record"].get(JOB.encode()) == before["record"].get(JOB.encode())
        assert after.rows_of(JOB) == before.rows_of(JOB)
        assert changed(before, after) == [] or not isinstance(answer, ThoonkError)

    again = desk.ask(call)

    assert plain(again) == plain(answer), "the same request again is answered as the first"
    assert changed(after, desk.contents()) == []


CLAIMANTS = [request for request in REQUESTS if request.who == "claimant"]


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.state is not State.ABSENT], ids=_name)
def test_a_token_that_does_not_fit_is_refused_in_any_state_and_changes_nothing(desk: Desk, recipe: Recipe):
    token = _arrange(desk, recipe, Request("", _settle))
    before = desk.contents()

    for request in CLAIMANTS:
        for wrong in (token + 0.5, NO_TOKEN, "x", "nan", "-1"):
            answer = desk.ask(request.call(desk, recipe.state, wrong))
            assert type(answer) is StaleClaim, f"{request.row} with token {wrong}"
            assert answer.state is recipe.state

    assert changed(before, desk.contents()) == []


def _arrange(desk: Desk, recipe: Recipe, request_: Request) -> int:
    """Brings the job into the state in which the request meets it; its token, or one that never was."""
    request_.prepare(desk)
    token = recipe.make(desk, request_.spec)
    request_.ready(desk)
    assert desk.state(JOB) is recipe.state
    return token or NO_TOKEN


def _was_answered(before: Any, request_: Request) -> bool:
    """Whether the script knows this request from before: a claimant's by the end of its claim, another's by the row."""
    job = before.jobs.get(JOB.encode())
    if job is None:
        return False
    return (job.ended_by if request_.who == "claimant" else job.via) in {CODES[row] for row in request_.rows}


def _assert_moved(before: Any, after: Any, name: str, was: State) -> None:
    row, job = ROWS[name], after.jobs.get(JOB.encode())
    assert (STATES[job.state] if job else State.ABSENT) is row.target
    assert after.rows_of(JOB) == [*before.rows_of(JOB), name]
    if job is None:
        return
    if row.outcome:
        assert job.outcome == list(Outcome).index(row.outcome) + 1
    if name == "hold":
        stands_for = {State.ABSENT: "publish", State.STALLED: "retry", State.FINISHED: "rerun"}.get(was)
        assert job.via == (CODES[stands_for] if stands_for else before.jobs[JOB.encode()].via)
    else:
        assert job.via == (before.jobs[JOB.encode()].via if row.silent else row.code)


def _assert_refused(answer: Any, recipe: Recipe, request_: Request) -> None:
    """Refused with the error that is right for who asked; who settles, claims or sets a limit is never refused."""
    if request_.who == "anybody" or (request_.who == "replacer" and recipe.state in (State.ABSENT, State.FINISHED)):
        assert not isinstance(answer, ThoonkError), answer
        return
    if request_.row == "hold" and recipe.state is State.SCHEDULED:
        assert not isinstance(answer, ThoonkError), answer
        return
    assert type(answer) is _refusal(recipe, request_)
    assert answer.state is (State.ABSENT if type(answer) is JobNotFound else recipe.state)
    assert answer.job_id == JOB


def _refusal(recipe: Recipe, request_: Request) -> type[TransitionRefused]:
    if request_.who == "publisher":
        return JobExists
    if request_.who == "replacer":
        return NotUnique
    if recipe.state is State.ABSENT or (recipe.hidden and request_.who == "operator"):
        return JobNotFound
    return StaleClaim if _is_stale(recipe, request_) else TransitionRefused


def _is_stale(recipe: Recipe, request_: Request) -> bool:
    return request_.who == "claimant" and recipe.name in STALE


STALE = ("delayed", "dated", "held by the queue", "held by its key", "parked", "new", "stalled by an operator",
         "retracted", "lapsed")  # fmt: skip
"""The recipes after which no token fits: never claimed, or the claim was ended by another hand."""
