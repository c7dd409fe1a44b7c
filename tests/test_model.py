"""Random histories of publishers, workers, operators and time, against a plain Python model of the queue."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import redis
from audit import check_audit
from desk import STATES, WORKER, plain
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from oracle import INF, Oracle

from thoonk_jobs import Broker, calls
from thoonk_jobs.calls import Call
from thoonk_jobs.codec import pack
from thoonk_jobs.drive import Wire
from thoonk_jobs.errors import ThoonkError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import CODES, Outcome, State
from thoonk_jobs.publication import Publication
from thoonk_jobs.record import Spec

_numbers = itertools.count(1)
OUTCOMES = (None, *Outcome)
ANSWERED_BY_WHAT_IT_CHANGES = ("pause",)

IDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
DELAYS = st.sampled_from([0, 0, 0, 3, 40])
SPANS = st.sampled_from([0.001, 1, 2, 5, 29, 60, 61, 3600])
UNIQUE = st.fixed_dictionaries(
    {"unique": st.sampled_from(["u", "v"]), "conflict": st.sampled_from([0, 1, 2]), "passing": st.booleans()}
)
SPECS = st.fixed_dictionaries(
    {
        "priority": st.sampled_from([0.0, 0.0, 5.0, -1.5, INF]),
        "delay": DELAYS,
        "keep": st.sampled_from([0, 5, 3600]),
        "max_attempts": st.sampled_from([1, 2, 0]),
        "key": st.sampled_from(["", "", "x", "y"]),
    },
    optional={"expires_in": st.sampled_from([2, 50])},
)
LIMITS = st.sampled_from([None, 0, 1, 2, 3])
CLAIM_AT = st.integers(0, 11)


class QueueMachine(RuleBasedStateMachine):
    """One example: a new queue, whose server and model are asked the same and compared after every step."""

    wire: Wire
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        seconds, _ = self.client.time()
        self.keys = QueueKeys.of(f"model{next(_numbers)}", "letters")
        self.oracle = Oracle(now=int(seconds) * 1000)
        self.wire.clock = lambda: self.oracle.now
        self.claims: list[tuple[str, int]] = []
        self.over: set[str] = set()
        self.tickets = itertools.count(1)

    def teardown(self) -> None:
        self.client.delete(*self.keys.keys)

    # Asking both.

    def ask(self, call: Call[Any], expected: Any) -> None:
        """Sends a call twice: its answer must be the expected one, an error by its kind; the second does nothing."""
        answer = self.answer(call)
        assert _kind(answer) == expected, f"{call.script.name} was answered {answer!r}, the model says {expected!r}"
        if call.script.name in ANSWERED_BY_WHAT_IT_CHANGES:
            return
        before = self.client.hgetall(self.keys.keys[0])
        assert plain(self.answer(call)) == plain(answer), f"{call.script.name} was answered otherwise the second time"
        assert self.client.hgetall(self.keys.keys[0]) == before, f"{call.script.name} did something the second time"

    def answer(self, call: Call[Any]) -> Any:
        answer = self.wire.run(call)
        if isinstance(answer, calls.Published):
            answer = answer.answers
        return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer

    # Publishers.

    def _publish(self, id: str, data: str, spec: dict[str, Any]) -> None:
        body, digest = pack(data)
        packed = Spec(**spec).pack()
        call = calls.publish(self.keys, [Publication(id, digest, packed, body)])
        self.ask(call, self.oracle.publish(id, data, **spec))

    @rule(id=IDS, data=st.sampled_from(["data", "data", "other"]), spec=SPECS)
    def publish(self, id: str, data: str, spec: dict[str, Any]) -> None:
        self._publish(id, data, spec)

    @rule(id=IDS, data=st.sampled_from(["data", "other"]), spec=SPECS, unique=UNIQUE)
    def publish_unique(self, id: str, data: str, spec: dict[str, Any], unique: dict[str, Any]) -> None:
        self._publish(id, data, {**spec, **unique})

    @rule(id=IDS)
    def retract(self, id: str) -> None:
        self.ask(calls.operate(self.keys, "retract", [id]), self.oracle.retract(id))

    # Workers.

    @rule(most=st.integers(0, 4), lane=st.sampled_from(["one", "two", "three"]), lease=st.sampled_from([2, 30, 1000]))
    def claim(self, most: int, lane: str, lease: float) -> None:
        if self.oracle.limits:
            self.settle()  # what is released is the server's choice: first that, then the claim
            self.agree()
        call = calls.claim(self.keys, lane, f"ticket {next(self.tickets)}", most, lease, WORKER, wait=False)
        taken = self.oracle.claim(most, lease)
        self.ask(call, taken)
        self.claims += taken

    def _claim(self, at: int) -> tuple[str, int]:
        """A claim of this history: the latest first, held or lost, or one that never was."""
        return self.claims[-1 - at] if at < len(self.claims) else ("abcdef"[at % 6], 7)

    @rule(at=CLAIM_AT, result=st.sampled_from([b"", b"j1"]))
    def finish(self, at: int, result: bytes) -> None:
        id, token = self._claim(at)
        self.ask(calls.finish(self.keys, id, token, result), self.oracle.finish(id, token, result))

    @rule(at=CLAIM_AT, final=st.booleans(), delay=DELAYS)
    def fail(self, at: int, final: bool, delay: float) -> None:
        id, token = self._claim(at)
        call = calls.fail(self.keys, id, token, b"e", final=final, delay=delay)
        self.ask(call, self.oracle.fail(id, token, final=final, delay=delay))

    @rule(at=CLAIM_AT, delay=DELAYS, counted=st.booleans())
    def cancel(self, at: int, delay: float, counted: bool) -> None:
        id, token = self._claim(at)
        call = calls.cancel(self.keys, id, token, "busy", delay, counted=counted)
        self.ask(call, self.oracle.cancel(id, token, delay=delay, counted=counted))

    @rule(at=CLAIM_AT)
    def stall(self, at: int) -> None:
        id, token = self._claim(at)
        self.ask(calls.stall(self.keys, id, "odd", token), self.oracle.stall(id, token))

    @rule(at=CLAIM_AT, lease=st.sampled_from([2, 30]))
    def renew(self, at: int, lease: float) -> None:
        id, token = self._claim(at)
        self.ask(calls.renew(self.keys, [(id, token, lease)]), self.oracle.renew(id, token, lease))

    # Operators.

    @rule(id=IDS)
    def stall_as_operator(self, id: str) -> None:
        self.ask(calls.stall(self.keys, id, "odd"), self.oracle.stall(id, None))

    @rule(id=IDS, verb=st.sampled_from(["retry", "rerun"]))
    def run_again(self, id: str, verb: str) -> None:
        self.ask(calls.operate(self.keys, verb, [id]), getattr(self.oracle, verb)(id))

    @rule(on=st.booleans())
    def pause(self, on: bool) -> None:
        self.ask(calls.pause(self.keys, on=on), on != self.oracle.paused)
        self.oracle.paused = on

    @rule(field=st.sampled_from(["q", "kx", "ky"]), running=LIMITS)
    def limit(self, field: str, running: int | None) -> None:
        self.ask(calls.limit(self.keys, field, running), False)
        if running is None:
            self.oracle.limits.pop(field, None)
        else:
            self.oracle.limits[field] = running
        self.over.add(field)

    # Time and trouble.

    @rule(seconds=SPANS)
    def time_passes(self, seconds: float) -> None:
        self.oracle.now += round(seconds * 1000)

    @rule()
    def settle(self) -> None:
        self.answer(calls.settle(self.keys))
        self.oracle.settle()

    @rule()
    def scripts_are_flushed(self) -> None:
        self.client.script_flush()

    @rule(id=IDS)
    def read(self, id: str) -> None:
        job, stored = self.oracle.readable(id), self.answer(calls.read(self.keys, [id]))
        assert (stored is None) == (job is None)
        if job:
            assert stored.data == pack(job.data)[0]
            assert stored.result == job.result

    @rule()
    def count(self) -> None:
        assert self.wire.run(calls.counts(self.keys)) == self.oracle.counts()

    # Comparing.

    @invariant()
    def agree(self) -> None:
        """The keys agree with each other, and with the model."""
        found = check_audit(self.client, self.keys.namespace, self.keys.queue, self.over)
        assert {id.decode() for id in found.jobs} == set(self.oracle.jobs)
        for id, job in self.oracle.jobs.items():
            record = found.jobs[id.encode()]
            if STATES[record.state] != job.state:
                self.oracle.adopt(id, STATES[record.state].value)
            _assert_equal(record, job)
        assert found.meta("seq") == self.oracle.seq
        assert found.meta("token") == self.oracle.token
        self.over &= set(self.oracle.over())


def _kind(answer: Any) -> Any:
    if isinstance(answer, ThoonkError):
        return type(answer)
    if isinstance(answer, calls.Look):
        return [(taken.id, taken.token) for taken in answer.taken]
    return answer[0] if isinstance(answer, tuple) else answer


def _assert_equal(record: Any, job: Any) -> None:
    for name in ("token", "order", "priority", "claims", "failures", "cancels", "lost", "total_failures",
                 "total_cancels", "bare", "max_attempts"):  # fmt: skip
        assert getattr(record, name) == getattr(job, name), f"{job.id}: {name}"
    assert record.via == CODES[job.via], f"{job.id}: via"
    assert OUTCOMES[record.outcome] is job.outcome, f"{job.id}: outcome"
    assert record.unique.decode() == job.unique, f"{job.id}: unique"
    assert float(record.expires or INF) == job.expires, f"{job.id}: expires"
    assert record.digest == pack(job.data)[1], f"{job.id}: digest"
    if State(job.state) in (State.SCHEDULED, State.CLAIMED, State.STALLED, State.FINISHED):
        assert record.until == job.until, f"{job.id}: until"


USUAL = settings(
    max_examples=150, stateful_step_count=50, deadline=None, print_blob=True,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)  # fmt: skip
DEEP = settings(USUAL, max_examples=500, stateful_step_count=80)


@pytest.fixture
def example(url: str, client: redis.Redis) -> Any:
    with Broker(url) as broker:
        yield type("Example", (QueueMachine,), {"wire": broker.session.wire, "client": client})


def test_any_history_is_answered_as_the_model_says(example: Callable[[], QueueMachine]):
    run_state_machine_as_test(example, settings=USUAL)


@pytest.mark.slow
def test_long_histories_are_answered_as_the_model_says(example: Callable[[], QueueMachine]):
    run_state_machine_as_test(example, settings=DEEP)
