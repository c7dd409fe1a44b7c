"""Random histories of publishers, workers, operators and time, against a plain Python model of the queue."""

from __future__ import annotations

import itertools
import os
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
    initialize,
    invariant,
    precondition,
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
ALWAYS_NEWS = ("pause", "watch")
"""Scripts that answer what they changed, or what there is to read."""
STALLING = ("stall", "fail", "cancel")
"""Scripts that stall a job: one that keep_stalled has no room for is retracted at once."""

FIELDS = st.sampled_from(["q", "kx", "ky"])
IDS = st.sampled_from("abcdefgh")
DATA = st.sampled_from(["data", "data", "data", "other"])
DELAYS = st.sampled_from([0, 0, 0, 3, 40])
SPANS = st.sampled_from([0.001, 1, 2, 3, 5, 29, 60, 61, 3600])
PROCESSES = st.sampled_from(["p1", "p2", "p3"])
SPEC = {
    "priority": st.sampled_from([0.0, 0.0, 5.0, -1.5, INF]),
    "delay": DELAYS,
    "keep": st.sampled_from([3600, 0, 5]),
    "max_attempts": st.sampled_from([2, 1, 0]),
    "key": st.sampled_from(["", "x", "x", "y"]),
    "home": st.sampled_from(["", "", "p1", "p2"]),
}
UNIQUE = {"unique": st.sampled_from(["u", "v"]), "conflict": st.sampled_from([0, 1, 2]), "passing": st.booleans()}
EXPIRING = {"expires_in": st.sampled_from([2, 50])}
SPECS = st.one_of(
    st.fixed_dictionaries(SPEC, optional=EXPIRING), st.fixed_dictionaries({**SPEC, **UNIQUE}, optional=EXPIRING)
)
PUBLICATIONS = st.lists(st.tuples(IDS, DATA, SPECS), min_size=1, max_size=6)
RUNNING = st.sampled_from([1, 2, 3, 0, None])
SETTINGS = st.fixed_dictionaries(
    {
        "max_lost": st.sampled_from([3, 1]),
        "max_cancels": st.sampled_from([INF, 2]),
        "keep_last": st.sampled_from([10_000, 10_000, 2, 0]),
        "keep_stalled": st.sampled_from([100_000, 100_000, 1]),
    }
)
AT = st.integers(0, 9)


class QueueMachine(RuleBasedStateMachine):
    """One example: a new queue, whose server and model are asked the same and compared after every step."""

    wire: Wire
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        seconds, _ = self.client.time()
        self.keys = QueueKeys.of(f"model{next(_numbers)}", "letters")
        self.oracle = Oracle(now=int(seconds) * 1000)
        self.wire.elapsed.passed = lambda: self.oracle.now
        self.claims: list[tuple[str, int]] = []  # the latest first
        self.over: set[str] = set()
        self.tickets = itertools.count(1)

    def teardown(self) -> None:
        self.client.delete(*self.keys.keys)

    # Asking both.

    def ask(self, call: Call[Any], expected: Any) -> None:
        """Sends a call twice: its answer must be the expected one, an error by its kind; the second does nothing."""
        answer = self.answer(call)
        assert _kind(answer) == expected, f"{call.script.name} was answered {answer!r}, the model says {expected!r}"
        if call.script.name in (ALWAYS_NEWS if self.oracle.keep_stalled > 1 else (*ALWAYS_NEWS, *STALLING)):
            return
        before = self.client.hgetall(self.keys.keys[0])
        again = self.answer(call)
        if isinstance(answer, ThoonkError):  # its reason may have been forgotten meanwhile
            assert isinstance(again, ThoonkError), f"{call.script.name} was refused, and the second time was not"
        else:
            assert plain(again) == plain(answer), f"{call.script.name} was answered otherwise the second time"
        assert self.client.hgetall(self.keys.keys[0]) == before, f"{call.script.name} did something the second time"

    def answer(self, call: Call[Any]) -> Any:
        answer = self.wire.run(call)
        if isinstance(answer, calls.Published):
            answer = answer.answers
        return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer

    @initialize(given=SETTINGS, jobs=PUBLICATIONS, limits=st.dictionaries(FIELDS, st.sampled_from([1, 2]), max_size=3))
    def begin(self, given: dict[str, float], jobs: list[Any], limits: dict[str, int]) -> None:
        self.answer(calls.configure(self.keys, {name: f"{value:g}" for name, value in given.items()}))
        for name, value in given.items():
            setattr(self.oracle, name, value)
        for field, running in limits.items():
            self.limit(field, running)
        self.publish(jobs)

    # Publishers.

    @rule(jobs=PUBLICATIONS)
    def publish(self, jobs: list[tuple[str, str, dict[str, Any]]]) -> None:
        for id, data, spec in jobs:
            body, digest = pack(data)
            call = calls.publish(self.keys, [Publication(id, digest, Spec(**spec).pack(), body)])
            self.ask(call, self.oracle.publish(id, data, **spec))
            self.agree()

    @rule(id=IDS, data=DATA, spec=SPECS)
    def publish_one(self, id: str, data: str, spec: dict[str, Any]) -> None:
        self.publish([(id, data, spec)])

    @rule(at=AT, process=PROCESSES, on=st.booleans())
    def watch(self, at: int, process: str, on: bool) -> None:
        id, own = self._job(at), self.wire.process
        self.wire.process = process
        try:
            self.ask(calls.watch(self.keys, [id], on=on), self.oracle.watch(id, process, on=on))
        finally:
            self.wire.process = own

    # Workers.

    @rule(
        most=st.integers(1, 4),
        lane=st.sampled_from(["one", "two"]),
        lease=st.sampled_from([30, 2, 1000]),
        wait=st.booleans(),
    )
    def claim(self, most: int, lane: str, lease: float, wait: bool) -> None:
        if self.oracle.limits or self.oracle.keep_stalled == 1:
            self.settle()  # what is released is the server's choice: first that, then the claim
            self.agree()
        call = calls.claim(
            self.keys, lane, f"ticket {next(self.tickets)}", most, lease, WORKER, wanted=most if wait else None
        )
        ran = self.oracle.running()
        if self.oracle.over():  # a limit was lowered: not all that is available may run
            taken = _kind(self.answer(call))
            assert self.oracle.claim(most, lease, [id for id, _ in taken]) == taken
        else:
            taken = self.oracle.claim(most, lease)
            self.ask(call, taken)
        self.claims = [*taken, *self.claims]
        if wait and len(taken) < most:
            assert self._alarm() > self.oracle.now, "who looked now waits for a moment that is past"
        for field, runs in self.oracle.running().items():
            assert runs <= max(self.oracle.limits[field], ran[field]), f"{runs} jobs run, over the limit {field}"

    def _alarm(self) -> float:
        """When those who wait for jobs look by themselves."""
        return float(self.client.hget(self.keys.keys[0], "alarm") or 0)

    @rule()
    def claim_all(self) -> None:
        self.claim(most=9, lane="three", lease=1000, wait=True)

    def _claim(self, at: int) -> tuple[str, int]:
        """A claim of this history: those held first, then those that were, then one that never was."""
        held = [claim for claim in self.claims if self.oracle.holds(*claim)]
        former = [claim for claim in self.claims if claim not in held]
        return [*held, *held, *former[:4], ("a", 7)][at % (2 * len(held) + len(former[:4]) + 1)]

    @precondition(lambda self: self.claims)
    @rule(at=AT, result=st.sampled_from([b"", b"j1"]))
    def finish(self, at: int, result: bytes) -> None:
        id, token = self._claim(at)
        self.ask(calls.finish(self.keys, id, token, result), self.oracle.finish(id, token, result))

    @precondition(lambda self: self.claims)
    @rule(at=AT, final=st.booleans(), delay=DELAYS)
    def fail(self, at: int, final: bool, delay: float) -> None:
        id, token = self._claim(at)
        call = calls.fail(self.keys, id, token, b"e", final=final, delay=delay)
        self.ask(call, self.oracle.fail(id, token, final=final, delay=delay))

    @precondition(lambda self: self.claims)
    @rule(at=AT, delay=DELAYS, counted=st.booleans())
    def cancel(self, at: int, delay: float, counted: bool) -> None:
        id, token = self._claim(at)
        call = calls.cancel(self.keys, id, token, "busy", delay, counted=counted)
        self.ask(call, self.oracle.cancel(id, token, delay=delay, counted=counted))

    @precondition(lambda self: self.claims)
    @rule(at=AT, verb=st.sampled_from(["stall", "renew", "report"]), lease=st.sampled_from([2, 30]))
    def say(self, at: int, verb: str, lease: float) -> None:
        id, token = self._claim(at)
        if verb == "stall":
            self.ask(calls.stall(self.keys, id, "odd", token), self.oracle.stall(id, token))
        elif verb == "renew":
            self.ask(calls.renew(self.keys, [(id, token, lease)]), self.oracle.renew(id, token, lease))
        else:
            self.ask(calls.report(self.keys, id, token, "progress", lease, b"j1"), self.oracle.report(id, token))

    @rule(most=st.integers(1, 3), ends=st.lists(st.sampled_from(["finish", "finish", "fail", "cancel"]), max_size=3))
    def work(self, most: int, ends: list[str]) -> None:
        """A worker takes jobs and ends the claims it finds first."""
        self.claim(most=most, lane="four", lease=30, wait=False)
        for verb in ends:
            self.agree()
            if verb == "finish":
                self.finish(at=0, result=b"")
            elif verb == "fail":
                self.fail(at=0, final=False, delay=0)
            else:
                self.cancel(at=0, delay=0, counted=True)

    # Operators.

    def _job(self, at: int) -> str:
        known = sorted(self.oracle.jobs)
        return known[at % len(known)] if known and at < 9 else "nobody"

    @rule(at=AT, verb=st.sampled_from(["retract", "retry", "rerun", "stall"]))
    def operate(self, at: int, verb: str) -> None:
        id = self._job(at)
        if verb == "stall":
            self.ask(calls.stall(self.keys, id, "odd"), self.oracle.stall(id, None))
        else:
            self.ask(calls.operate(self.keys, verb, [id]), getattr(self.oracle, verb)(id))

    @rule(field=st.one_of(FIELDS, st.sampled_from(["pause", "resume"])), running=RUNNING)
    def govern(self, field: str, running: int | None) -> None:
        if field in ("pause", "resume"):
            self.ask(calls.pause(self.keys, on=field == "pause"), (field == "pause") != self.oracle.paused)
            self.oracle.paused = field == "pause"
        else:
            self.limit(field, running)

    def limit(self, field: str, running: int | None) -> None:
        self.ask(calls.limit(self.keys, field, running), False)
        if running is None:
            self.oracle.limits.pop(field, None)
        else:
            self.oracle.limits[field] = running
        self.over.add(field)

    # Time and trouble.

    @rule(seconds=SPANS, settled=st.booleans())
    def time_passes(self, seconds: float, settled: bool) -> None:
        self.oracle.now += round(seconds * 1000)
        if settled:
            self.settle()

    def settle(self) -> None:
        for _ in range(2):  # what the first stalls, the second may find to be too much
            self.answer(calls.settle(self.keys))
        self.oracle.settle()

    @rule(at=AT)
    def look(self, at: int) -> None:
        """With scripts flushed before."""
        self.client.script_flush()
        id = self._job(at)
        job, stored = self.oracle.readable(id), self.answer(calls.read(self.keys, [id]))
        assert (stored is None) == (job is None)
        if job:
            assert stored.data == pack(job.data)[0]
            assert stored.result == job.result
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
        watchers = {_framed(member) for member, _ in found["watchers"]}
        assert watchers == {(job.id, process) for job in self.oracle.jobs.values() for process in job.watchers}
        assert found.meta("seq") == self.oracle.seq
        assert found.meta("token") == self.oracle.token
        if found["waiters"] and self._alarm() > self.oracle.now:
            assert self._alarm() <= self.oracle.next_due(), "something is due before those who wait look, untold"
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
    assert record.home.decode() == job.home, f"{job.id}: home"
    assert record.unique.decode() == job.unique, f"{job.id}: unique"
    assert float(record.expires or INF) == job.expires, f"{job.id}: expires"
    assert record.digest == pack(job.data)[1], f"{job.id}: digest"
    if State(job.state) in (State.SCHEDULED, State.CLAIMED, State.STALLED, State.FINISHED):
        assert record.until == job.until, f"{job.id}: until"


def _framed(member: bytes) -> tuple[str, str]:
    end = 2 + int.from_bytes(member[:2], "big")
    return member[2:end].decode(), member[end:].decode()


# By hand every run explores anew; a gate is to fail for what changed, not by chance.
USUAL = settings(
    derandomize=bool(os.environ.get("CI")),
    max_examples=120, stateful_step_count=50, deadline=None, print_blob=True,
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
