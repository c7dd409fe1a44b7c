"""A list in one call is answered, and does, what its items do when they are sent one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from audit import Contents
from desk import STATES, Desk

from thoonk_jobs import Broker, calls
from thoonk_jobs.codec import pack
from thoonk_jobs.machine import State
from thoonk_jobs.record import Spec
from thoonk_jobs.scripts import SCRIPTS

ONE = "one"
"""The queue to which the items are sent one after another."""


@pytest.fixture
def desk(url: str, client: redis.Redis, namespace: str) -> Iterator[Desk]:
    with Broker(url) as broker:
        yield Desk(broker.session.wire, client, namespace, "many")


def _item(id: str, data: Any = "data", **spec: Any) -> tuple[Any, ...]:
    body, digest = pack(data)
    return id, digest, Spec(**spec).pack(), body


# The jobs that are there: the same in both queues, token for token.


def _everywhere(desk: Desk) -> dict[str, int]:
    """A job in each state, of which it answers the last tokens."""
    ids = ("claimed", "again", "finished", "failed", "stalled", "back", "later", "bare", "first")
    for id in ids:
        desk.do(desk.publish(id, unique=f"name of {id}", max_attempts=2, keep=0 if id == "bare" else 3600.0))
    look = desk.do(desk.claim(len(ids)))
    tokens = {taken.id: int(taken.token) for taken in look.taken}
    for id in ("finished", "bare"):
        desk.do(calls.finish(desk.keys, id, tokens[id], b"j1"))
    desk.do(calls.fail(desk.keys, "failed", tokens["failed"], b'e"no"', final=True, delay=0))
    desk.do(calls.stall(desk.keys, "stalled", "odd", tokens["stalled"]))
    desk.do(calls.cancel(desk.keys, "again", tokens["again"], "busy", 0))
    tokens["again"] = desk.take("again")
    desk.do(calls.cancel(desk.keys, "back", tokens["back"], "busy", 0))
    desk.do(calls.cancel(desk.keys, "later", tokens["later"], "busy", 60))
    desk.do(desk.publish("new"))
    desk.do(desk.publish("due later", delay=60, expires_in=600))
    return tokens


def _everywhere_limited(desk: Desk) -> dict[str, int]:
    """The same, and more jobs wait: for slots of the queue, for slots of a key."""
    tokens = _everywhere(desk)
    held = desk.contents()
    desk.do(desk.limit(None, len(held["available"]) + len(held["claimed"])))
    desk.do(desk.limit("blue", 1))
    for number in range(6):
        desk.do(desk.publish(f"waits {number}", priority=number % 2, key="blue" if number % 3 == 0 else ""))
    return tokens


ANY = ("claimed", "again", "finished", "failed", "stalled", "back", "later", "bare", "first", "new", "due later", "nil")


def _with_token(*rest: Any) -> Callable[[dict[str, int]], list[tuple[Any, ...]]]:
    """Each job by its token, twice, and by one that is not its own."""

    def items(tokens: dict[str, int]) -> list[tuple[Any, ...]]:
        good = [(id, tokens.get(id, 1), *rest) for id in ANY]
        return [good[0], *[(id, 7, *rest) for id in ANY], *good, *reversed(good)]

    return items


def _by_id(tokens: dict[str, int]) -> list[tuple[Any, ...]]:
    return [(id,) for id in (*ANY, *reversed(ANY))]


def _by_request(tokens: dict[str, int]) -> list[tuple[Any, ...]]:
    return [(id, f"request {at}") for at, id in enumerate((*ANY, *reversed(ANY)))]


def _publications(tokens: dict[str, int]) -> list[tuple[Any, ...]]:
    return [
        _item("a"), _item("a"), _item("a", "other data"), _item("b", priority=5, key="blue"), _item("finished"),
        _item("c", unique="free"), _item("d", unique="free"), _item("e", unique="free", conflict=1),
        _item("f", unique="name of first"), _item("g", unique="name of first", conflict=1),
        _item("h", unique="name of first", conflict=2), _item("i", unique="name of stalled", conflict=2),
        _item("j", unique="name of finished"), _item("k", unique="name of finished"), _item("bare"),
        _item("bare", "other data"), _item("l", "x" * 400), _item("l", "short"), _item("m", delay=60),
        _item("m", delay=60), _item("n", priority=float("inf")), _item("o", priority=float("inf"), expires_in=5),
        _item("claimed"), _item("p", unique="u", passing=True), _item("q", unique="u"), _item("new", home="somebody"),
    ]  # fmt: skip


def _replacing(tokens: dict[str, int]) -> list[tuple[Any, ...]]:
    return [
        _item("a", unique="u"), _item("b", "newer", unique="u", conflict=2, delay=9), _item("c"),
        _item("d", "newest", unique="u", conflict=2), _item("e", "newest", unique="name of back", conflict=2),
        _item("f"),
    ]  # fmt: skip


BATCHES = {
    "publish": ("publish", _publications),
    "publish, replacing": ("publish", _replacing),
    "finish": ("finish", _with_token(b"j2")),
    "fail": ("fail", _with_token(b'e"no"', "", 0)),
    "fail, later": ("fail", _with_token(b'e"no"', "", 9000)),
    "fail for good": ("fail", _with_token(b'e"no"', "1", 0)),
    "cancel": ("cancel", _with_token("busy", 0, "1")),
    "defer": ("cancel", _with_token("busy", 9000, "1")),
    "stall": ("stall", _with_token("odd")),
    "stall by an operator": ("stall", lambda tokens: [(id, "", "odd") for id in (*ANY, *ANY)]),
    "renew": ("renew", _with_token(5000)),
    "report progress": ("report", _with_token("progress", 1, b"half")),
    "emit": ("report", _with_token("emit", 1, b"news")),
    "log": ("report", _with_token("log", 1, b"line")),
    "retry": ("retry", _by_request),
    "rerun": ("rerun", _by_request),
    "retract": ("retract", _by_request),
    "read": ("read", _by_id),
}


@pytest.mark.parametrize("there", [_everywhere, _everywhere_limited], ids=["without limits", "with limits"])
@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_answered_as_its_items_one_after_another(desk: Desk, name: str, there: Callable[[Desk], Any]):
    script, make = BATCHES[name]
    one = desk.twin(ONE)
    for queue in (desk, one):
        queue.set(max_payload="300", max_cancels="3")
    tokens = there(desk)
    assert there(one) == tokens
    items = make(tokens)

    together = _send(desk, script, items)
    alone = [answer for item in items for answer in _send(one, script, [item])]

    if there is _everywhere:
        assert _same(script, items, together, alone) == []
        _assert_alike(desk.audit(), one.audit())
    else:
        assert _same(script, items, _waiting_or_not(together), _waiting_or_not(alone)) == []
        _assert_end_alike(desk.audit(), one.audit())


def test_every_script_that_takes_a_list_is_here():
    listed = {name for name, script in SCRIPTS.items() if ")*" in script.args}

    assert listed - {"configure", "watch", "holder"} == {script for script, _ in BATCHES.values()}


def test_a_job_that_is_refused_twice_in_a_batch_after_its_purge_refuses_no_other(desk: Desk):
    desk.set(max_payload="300")
    desk.do(desk.publish("old", keep=0))
    desk.do(calls.finish(desk.keys, "old", desk.take("old"), b""))
    desk.advance(60)

    answers = _send(desk, "publish", [_item("old", "x" * 400), _item("old", "y" * 400), _item("good")])

    assert [isinstance(answer, list) for answer in answers] == [True, True, False]
    assert list(desk.audit().jobs) == [b"good"]


def _send(desk: Desk, script: str, items: list[tuple[Any, ...]]) -> list[Any]:
    answers = desk.wire.run(desk.raw(script, *(arg for item in items for arg in item)))
    return list(answers[1:] if script == "publish" else answers)


def _same(script: str, items: list[tuple[Any, ...]], together: list[Any], alone: list[Any]) -> list[Any]:
    """The items whose answers differ."""
    assert len(together) == len(alone) == len(items)
    if script == "publish":  # the records of a batch are those at its end
        together, alone = ([_kind(answer) for answer in answers] for answers in (together, alone))
    return [found for found in zip(items, together, alone, strict=True) if found[1] != found[2]]


def _kind(answer: Any) -> Any:
    if isinstance(answer, bytes):
        return "published"
    return answer[0] if len(answer) == 2 else answer


def _waiting_or_not(answers: list[Any]) -> list[Any]:
    """Who waits is let go at the end of a batch: a refusal within it may still say that a job waits, or does not."""
    held = (STATES.index(State.WAITING), STATES.index(State.AVAILABLE))
    return [
        [answer[0], held, *answer[2:]] if isinstance(answer, list) and len(answer) > 2 and answer[1] in held
        else [answer[0], held] if isinstance(answer, list) and answer[1:] and answer[1] in held
        else answer
        for answer in answers
    ]  # fmt: skip


def _assert_end_alike(many: Contents, one: Contents) -> None:
    """As many jobs of each kind are in each state, and all that do not take part in the limits are the same.

    Of equals that came back together the last in line gives way, whoever came back first.
    """

    def kinds(found: Contents) -> Counter[Any]:
        return Counter((job.state, job.held, job.key, job.priority, job.via) for job in found.jobs.values())

    def others(found: Contents) -> dict[bytes, Any]:
        limited = (State.WAITING, State.AVAILABLE)
        return {id: job for id, job in found.jobs.items() if STATES[job.state] not in limited}

    assert kinds(many) == kinds(one)
    assert others(many) == others(one)
    for key in ("names", "payload", "result", "claimed", "stalled", "finished", "scheduled", "expiring"):
        assert many[key] == one[key], key


def _assert_alike(many: Contents, one: Contents) -> None:
    for key in many.found:
        if key not in ("events", "tickets"):
            assert many[key] == one[key], key
    assert Counter(map(_moved, many.events())) == Counter(map(_moved, one.events()))
    for id in many.jobs.keys() | one.jobs.keys():
        assert many.rows_of(id.decode()) == one.rows_of(id.decode())


def _moved(event: tuple[int, str, bytes]) -> tuple[str, bytes]:
    return event[1:]
