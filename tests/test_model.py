"""Random histories of publishers, workers, operators and time, against a plain Python model of the queue."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
from audit import Contents, alarm, check_audit
from desk import STATES, Ear, head, plain, send
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
from model_limits import LIMITS, LimitRules
from oracle import INF, Oracle
from oracle_limits import Step

from thoonk_jobs import calls, request
from thoonk_jobs.codec import pack
from thoonk_jobs.errors import KeyBlocked, LimitReached, NotUnique, ThoonkError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import CODES, Outcome, State
from thoonk_jobs.publication import Publication
from thoonk_jobs.record import Spec
from thoonk_jobs.request import Call
from thoonk_jobs.timing import JUMP, UNKNOWN_SKEW

_numbers = itertools.count(1)
OUTCOMES = (None, *Outcome)
ALWAYS_NEWS = ("pause", "watch", "probe", "block")
"""Scripts that answer what they changed, or what there is to read."""
SWEEPING = ("publish", "finish")
"""Scripts that forget what is over; what lost its data in that may be over at once."""
STALLING = ("stall", "fail", "cancel")
"""Scripts that stall a job: one that keep_stalled has no room for is retracted at once."""

IDS = st.sampled_from("abcdefgh")
DATA = st.sampled_from(["data", "data", "data", "data", "other", "other", "too much"])
DELAYS = st.sampled_from([0, 0, 0, 3, 40])
SPANS = st.sampled_from([0.001, 1, 2, 3, 5, 29, 60, 61, 3600])
PROCESSES = st.sampled_from(["p1", "p2", "p3"])
SPEC = {
    "priority": st.sampled_from([0.0, 0.0, 5.0, -1.5, INF]),
    "delay": DELAYS,
    "keep": st.sampled_from([3600, 0, 5]),
    "max_attempts": st.sampled_from([2, 1, 0]),
    "key": st.sampled_from(["", "x", "x", "y", "z"]),
    "home": st.sampled_from(["", "", "p1", "p2"]),
}
UNIQUE = {"unique": st.sampled_from(["u", "v"]), "conflict": st.sampled_from([0, 1, 2]), "passing": st.booleans()}
EXPIRING = {"expires_in": st.sampled_from([2, 50]), "in_": st.sampled_from([5, 40])}
SPECS = st.one_of(
    st.fixed_dictionaries(SPEC, optional=EXPIRING), st.fixed_dictionaries({**SPEC, **UNIQUE}, optional=EXPIRING)
)
PUBLICATIONS = st.lists(st.tuples(IDS, DATA, SPECS), min_size=1, max_size=6)
SETTINGS = st.fixed_dictionaries(
    {
        "max_lost": st.sampled_from([3, 1]),
        "max_cancels": st.sampled_from([INF, 2]),
        "keep_last": st.sampled_from([10_000, 10_000, 2, 0]),
        "keep_stalled": st.sampled_from([100_000, 100_000, 1]),
        "max_payload": st.sampled_from([INF, 8]),
    }
)
AT = st.integers(0, 9)
ROOM = st.sampled_from([0, 0, 1, 2])
JUMPS = st.sampled_from([3600, -3600, 10, -10])


class QueueMachine(LimitRules, RuleBasedStateMachine):
    """One example: a new queue, whose server and model are asked the same and compared after every step."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        seconds, _ = self.client.time()
        self.keys = QueueKeys.of(f"model{next(_numbers)}", "letters")
        self.oracle = Oracle(now=int(seconds) * 1000, wall=int(seconds) * 1000)
        self.process = "w"  # who asks
        self.claims: list[tuple[str, int]] = []  # the latest first
        self.limited = False  # who is let go, and so who is told, is the server's choice
        self.tickets = itertools.count(1)
        self.ears: dict[str, Ear] = {}
        self.skew, self.seen = 0, 0.0  # of the server's elapsed clock, as it said last
        self.alarm = (INF, "")  # when and whose, as those who listen know
        self.before = Step([])  # who had slots and who waited

    def teardown(self) -> None:
        for ear in self.ears.values():
            ear.close()
        self.client.delete(*self.keys.keys)

    # Asking both.

    def ask(self, call: Call[Any], expected: Any, *, back: int | None = None, short: bool = False) -> None:
        """Sends a call twice: its answer must be the expected one, an error by its kind; the second does nothing.

        back, short  of a look: the jobs that it waits for, and whether it finds less than it might take.
        """
        number = self.end(call.back if back is None else back, short=short)
        answer = self.answer(call, number)
        assert _kind(answer) == expected, f"{call.script.name} was answered {answer!r}, the model says {expected!r}"
        if self._is_idempotent(call):
            before = self._numbers()
            again = self.answer(call, number)
            assert _repeated(again) == _repeated(answer), f"{call.script.name} was answered otherwise the second time"
            after = self._numbers()
            assert before.items() <= after.items(), f"{call.script.name} did something twice: {before} is now {after}"
        self.agree()

    def _numbers(self) -> dict[bytes, bytes]:
        """The numbers of the queue; not a moment that has come, which whoever comes sets anew."""
        found = self.client.hgetall(self.keys.keys[0])
        for name in (b"alarm", b"forget"):
            if alarm(found, name) <= self.oracle.now:
                found.pop(name)
        return found

    def _is_idempotent(self, call: Call[Any]) -> bool:
        if call.script.name == "claim":  # it settles what is due, once it is; who was told in it comes with the next
            late = alarm(self.client.hgetall(self.keys.keys[0])) <= self.oracle.now
            return not late and not self.client.zscore(f"{self.keys.base}:told", self.process)
        if call.script.name in SWEEPING and self.oracle.is_swept():
            return False
        return call.script.name not in (ALWAYS_NEWS if self.oracle.keep_stalled > 1 else (*ALWAYS_NEWS, *STALLING))

    def end(self, back: int = 0, *, short: bool = False, everybody: bool = False) -> int:
        """What the model does at the end of a call; the number of the place in line that this process has then."""
        self.oracle.wake(everybody=everybody)
        return self.oracle.register(self.process, back, short=short)

    def answer(self, call: Call[Any], number: int | None = None) -> Any:
        """The server's answer; number: of the place in line that it must give."""
        oracle = self.oracle
        expected = (oracle.now, self.skew) if oracle.trusted else (0.0, INF)
        reply = send(self.client, call, self.process, head(oracle.wall, *expected, back=call.back))
        assert reply.now == oracle.now, f"the elapsed clock shows {reply.now}, it should {oracle.now}"
        if reply.skew != UNKNOWN_SKEW:
            self.skew = reply.skew
        if number is not None and not self.limited:
            assert reply.number == number, f"the place in line is {reply.number}, not {number}"
        answer = call.read(reply.answer)
        if isinstance(answer, request.Published):
            answer = answer.answers
        return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer

    @contextmanager
    def by(self, process: str) -> Iterator[None]:
        """What is asked, this process asks."""
        own, self.process = self.process, process
        try:
            yield
        finally:
            self.process = own

    @initialize(
        given=SETTINGS,
        jobs=PUBLICATIONS,
        limits=st.one_of(st.just([]), st.lists(LIMITS, min_size=1, max_size=3)),
        ears=st.one_of(st.just({"p1", "p2", "p3"}), st.sets(PROCESSES)),
    )
    def begin(self, given: dict[str, float], jobs: list[Any], limits: list[Any], ears: set[str]) -> None:
        for process in sorted(ears):
            self.subscribe(process)
        self.answer(calls.configure(self.keys, {name: f"{value:g}" for name, value in given.items()}))
        for name, value in given.items():
            setattr(self.oracle, name, value)
        self.limited = bool(limits)
        for field, given in limits:
            self.limit(field, given)
        self.publish(jobs)

    # Publishers.

    @rule(jobs=PUBLICATIONS)
    def publish(self, jobs: list[tuple[str, str, dict[str, Any]]]) -> None:
        for id, data, spec in jobs:
            if "in_" in spec:
                spec = {**spec, "run_at": self.oracle.wall / 1000 + spec["in_"]}
                del spec["in_"]
            body, digest = pack(data)
            call = calls.publish(self.keys, [Publication(id, digest, Spec(**spec).pack(), body)])
            self.ask(call, self.oracle.publish(id, data, **spec))

    @rule(id=IDS, data=DATA, spec=SPECS)
    def publish_one(self, id: str, data: str, spec: dict[str, Any]) -> None:
        self.publish([(id, data, spec)])

    @rule(at=AT, process=PROCESSES, on=st.booleans())
    def watch(self, at: int, process: str, on: bool) -> None:
        id = self._job(at)
        with self.by(process):
            self.ask(calls.watch(self.keys, [id], on=on), self.oracle.watch(id, process, on=on))

    # Workers.

    @rule(
        process=PROCESSES,
        most=st.integers(0, 4),
        lease=st.sampled_from([30, 2, 1000]),
        wanted=st.one_of(st.none(), st.integers(0, 4)),
    )
    def claim(self, process: str, most: int, lease: float, wanted: int | None) -> None:
        with self.by(process):
            self._claim_as(most, lease, wanted)

    def _claim_as(self, most: int, lease: float, wanted: int | None) -> None:
        if self.limited or self.oracle.keep_stalled == 1:
            self.settle()  # what is released is the server's choice: first that, then the claim
        lane, worker = f"lane of {self.process}", f"{self.process}@host:1"
        call = calls.claim(self.keys, lane, f"ticket {next(self.tickets)}", most, lease, worker, wanted=wanted)
        if wanted is not None:
            self.oracle.untell(self.process)
        ran = self.oracle.running()
        taken = self.oracle.claim(most, lease)
        self.ask(call, taken, back=max(0, (wanted or 0) - len(taken)), short=len(taken) < most)
        self.claims = [*taken, *self.claims]
        for key, runs in self.oracle.running().items():
            most = self.oracle.limits.number(key, "running")
            assert runs <= max(most, ran.get(key, 0)), f"{runs} jobs of {key or 'the queue'!r} run, {most} may"

    @rule(process=PROCESSES)
    def claim_all(self, process: str) -> None:
        self.claim(process, most=9, lease=1000, wanted=9)

    @rule(wanted=st.integers(1, 3), then=st.integers(0, 2))
    def gather(self, wanted: int, then: int) -> None:
        """All look at a queue that is empty, and some new jobs come."""
        self.claim("p1", most=9, lease=30, wanted=None)
        for process in ("p2", "p3", "p1"):
            self.claim(process, most=wanted, lease=30, wanted=wanted)
        self.publish([(id, "data", {}) for id in "ijk"[:then]])

    @precondition(lambda self: self.oracle.told)
    @rule(at=AT, wanted=st.sampled_from([0, 1, 1, 3]))
    def come(self, at: int, wanted: int) -> None:
        """Who was told looks; it may want nothing any more."""
        told = sorted(self.oracle.told)
        self.claim(told[at % len(told)], most=wanted, lease=30, wanted=wanted)

    def _claim(self, at: int) -> tuple[str, int]:
        """A claim of this history: those held first, then those that were, then one that never was."""
        held = [claim for claim in self.claims if self.oracle.holds(*claim)]
        former = [claim for claim in self.claims if claim not in held]
        return [*held, *held, *former[:4], ("a", 7)][at % (2 * len(held) + len(former[:4]) + 1)]

    @precondition(lambda self: self.claims)
    @rule(at=AT, result=st.sampled_from([b"", b"j1"]), process=PROCESSES, back=ROOM)
    def finish(self, at: int, result: bytes, process: str = "w", back: int = 0) -> None:
        id, token = self._claim(at)
        call = replace(calls.finish(self.keys, id, token, result), back=back)
        with self.by(process):
            self.ask(call, self.oracle.finish(id, token, result))

    @precondition(lambda self: self.claims)
    @rule(at=AT, final=st.booleans(), delay=DELAYS, process=PROCESSES, back=ROOM)
    def fail(self, at: int, final: bool, delay: float, process: str = "w", back: int = 0) -> None:
        id, token = self._claim(at)
        call = replace(calls.fail(self.keys, id, token, b"e", final=final, delay=delay), back=back)
        with self.by(process):
            self.ask(call, self.oracle.fail(id, token, final=final, delay=delay))

    @precondition(lambda self: self.claims)
    @rule(at=AT, delay=DELAYS, counted=st.booleans(), process=PROCESSES, back=ROOM)
    def cancel(self, at: int, delay: float, counted: bool, process: str = "w", back: int = 0) -> None:
        id, token = self._claim(at)
        call = replace(calls.cancel(self.keys, id, token, "busy", delay, counted=counted), back=back)
        with self.by(process):
            self.ask(call, self.oracle.cancel(id, token, delay=delay, counted=counted))

    @precondition(lambda self: self.claims)
    @rule(at=AT, verb=st.sampled_from(["stall", "renew", "report"]), lease=st.sampled_from([2, 30]), back=ROOM)
    def say(self, at: int, verb: str, lease: float, back: int) -> None:
        id, token = self._claim(at)
        if verb == "stall":
            with self.by("p1"):
                call = replace(calls.stall(self.keys, id, "odd", token), back=back)
                self.ask(call, self.oracle.stall(id, token))
        elif verb == "renew":
            self.ask(calls.renew(self.keys, [(id, token, lease)]), self.oracle.renew(id, token, lease))
        else:
            self.ask(calls.report(self.keys, id, token, "progress", lease, b"j1"), self.oracle.report(id, token))

    @rule(most=st.integers(1, 3), ends=st.lists(st.sampled_from(["finish", "finish", "fail", "cancel"]), max_size=3))
    def work(self, most: int, ends: list[str]) -> None:
        """A worker takes jobs and ends the claims it finds first."""
        self.claim("p1", most=most, lease=30, wanted=None)
        for verb in ends:
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

    @rule(on=st.booleans())
    def pause(self, on: bool) -> None:
        new, self.oracle.paused = on != self.oracle.paused, on
        self.ask(calls.pause(self.keys, on=on), new)

    # Who waits.

    @rule(process=PROCESSES)
    def subscribe(self, process: str) -> None:
        """A process that hears; or, if it did, one that is gone from now on."""
        if process in self.ears:
            self.ears.pop(process).close()
            self.oracle.listening.remove(process)
        else:
            self.ears[process] = Ear(self.client, self.keys, process)
            self.oracle.listening.add(process)

    @precondition(lambda self: self.ears)
    @rule(process=PROCESSES, wanted=st.integers(1, 3))
    def reconnect(self, process: str, wanted: int) -> None:
        for _ in range(1 + (process in self.ears)):
            self.subscribe(process)
        self.claim(process, most=wanted, lease=30, wanted=wanted)

    @rule(process=PROCESSES)
    def leave_line(self, process: str) -> None:
        with self.by(process):
            self.ask(calls.leave_line(self.keys), self.oracle.leave_line(process))

    @rule(process=PROCESSES)
    def probe(self, process: str) -> None:
        with self.by(process):
            late = self.oracle.alarm <= self.oracle.now
            self.ask(calls.probe(self.keys, "nonce"), (self.oracle.probe(process), late))

    @rule(process=PROCESSES, in_time=st.booleans())
    def alarm_rings(self, process: str, in_time: bool) -> None:
        """At any time, or at the very time it is set for."""
        if in_time and self.oracle.now < self.oracle.alarm < INF:
            self._pass(self.oracle.alarm - self.oracle.now)
        with self.by(process):
            self.settle(keeper=True)

    # Time and trouble.

    def _pass(self, ms: float) -> None:
        self.oracle.now += round(ms)
        self.oracle.wall += round(ms)

    @rule(seconds=SPANS, settled=st.booleans())
    def time_passes(self, seconds: float, settled: bool) -> None:
        self._pass(seconds * 1000)
        if settled:
            self.settle()

    def settle(self, *, keeper: bool = False) -> None:
        late = keeper and self.oracle.rang(self.process)
        for _ in range(2):  # what the first stalls, the second may find to be too much
            self.oracle.settle()
        self.end(everybody=late)
        for _ in range(2):
            self.answer(calls.settle(self.keys, keeper=keeper))
        self.agree()

    @rule(seconds=JUMPS)
    def clock_jumps(self, seconds: float) -> None:
        """The server's clock is set, or the server stood still; who calls next can tell, unless it is a stranger."""
        self.oracle.wall += seconds * 1000

    @rule(
        process=PROCESSES,
        act=st.sampled_from(["publish", "claim", "probe", "alarm", "finish"]),
        id=IDS,
        seconds=st.one_of(st.just(0), JUMPS),
    )
    def stranger(self, process: str, act: str, id: str, seconds: float) -> None:
        """Somebody asks who cannot tell whether the clock jumped."""
        if seconds:
            self.clock_jumps(seconds)
        with self._as_shown():
            if act == "publish":
                self.publish([(id, "data", {})])
            elif act == "finish" and self.claims:
                self.finish(at=0, result=b"")
            elif act == "probe":
                self.probe(process)
            elif act == "alarm":
                self.alarm_rings(process, in_time=False)
            elif not self.limited and self.oracle.keep_stalled > 1:
                self.claim(process, most=2, lease=30, wanted=2)

    @contextmanager
    def _as_shown(self) -> Iterator[None]:
        """The elapsed clock as the server shows it to a stranger: never far behind what it showed to others."""
        oracle, now = self.oracle, self.oracle.now
        shown = oracle.wall + self.skew
        back = self.seen is not None and shown < self.seen - JUMP
        oracle.trusted, oracle.now = False, int(self.seen) if back else shown
        yield
        oracle.trusted = True
        if not back:
            oracle.now = now

    @rule()
    def all_is_lost(self) -> None:
        self.client.delete(*self.keys.keys)
        wall = self.oracle.wall + 1000
        self.oracle = Oracle(now=wall, wall=wall, listening=self.oracle.listening)
        self.claims, self.skew, self.seen, self.alarm, self.before = [], 0, None, (INF, ""), Step([])

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
        assert self.answer(calls.counts(self.keys)) == self.oracle.counts()

    # Comparing.

    @invariant()
    def agree(self) -> None:
        """The keys agree with each other, and with the model."""
        found = check_audit(self.client, self.keys.namespace, self.keys.queue, self.oracle.now)
        assert {id.decode() for id in found.jobs} == set(self.oracle.jobs)
        for id, job in self.oracle.jobs.items():
            record = found.jobs[id.encode()]
            if STATES[record.state] != job.state:
                self.oracle.adopt(id, STATES[record.state].value)
            _assert_equal(record, job)
        wrongs = list(self.before.wrongs(self.oracle.jobs.values(), self.oracle.limits))
        assert not wrongs, wrongs
        self.before = Step(self.oracle.jobs.values())
        watchers = {_framed(member) for member, _ in found["watchers"]}
        assert watchers == {(job.id, process) for job in self.oracle.jobs.values() for process in job.watchers}
        assert found.meta("seq") == self.oracle.seq
        self._agree_on_who_waits(found)

    def _agree_on_who_waits(self, found: Contents) -> None:
        """The alarm is the server's choice, so far as the audit lets it choose."""
        oracle, seen = self.oracle, found["meta"].get(b"seen")
        oracle.alarm, self.seen = alarm(found["meta"]), seen and float(seen)
        lines = [
            {name.decode(): int(at) for name, at in dict(found[key]).items()} for key in ("waiters", "told", "room")
        ]
        keeper, token = found["meta"].get(b"keeper", b"").decode(), found.meta("token")
        if self.limited:
            oracle.waiters, oracle.told, oracle.room = lines
            oracle.keeper, oracle.token = keeper, token
        assert lines == [oracle.waiters, oracle.told, oracle.room]
        assert (keeper, token) == (oracle.keeper, oracle.token)
        self._agree_on_what_was_heard()

    def _agree_on_what_was_heard(self) -> None:
        alarm_now = (self.oracle.alarm, self.oracle.keeper)
        for process, ear in self.ears.items():
            news = ear.heard()
            told, alarms = ([what for kind, what in news if kind == wanted] for wanted in ("w", "alarm"))
            # One that is due now may also be a stranger's ring for those who can tell the time.
            alarms = [each for each in alarms if each[0] or alarm_now[0] == self.oracle.now]
            assert self.limited or told == self.oracle.rung.get(process, []), f"{process} heard {told}"
            assert alarms or alarm_now == self.alarm, f"{process} did not hear of the alarm {alarm_now}"
            if alarms:
                assert (self.oracle.now + alarms[-1][0], alarms[-1][1]) == alarm_now
        self.alarm = alarm_now
        self.oracle.rung.clear()


def _kind(answer: Any) -> Any:
    if isinstance(answer, LimitReached):
        return LimitReached, answer.key, answer.limit
    if isinstance(answer, KeyBlocked):
        return KeyBlocked, answer.key, answer.reason, answer.seconds_left
    if isinstance(answer, NotUnique):
        return NotUnique, answer.job_id
    if isinstance(answer, ThoonkError):
        return type(answer)
    if isinstance(answer, list):
        return [_kind(each) for each in answer]
    if isinstance(answer, request.Look):
        return [(taken.id, taken.token) for taken in answer.taken]
    if isinstance(answer, request.Probe):
        return answer[:2]
    return answer[0] if isinstance(answer, tuple) else answer


def _repeated(answer: Any) -> Any:
    """What must be the same the second time: the reason of a refusal may have been forgotten meanwhile, or moved on."""
    if isinstance(answer, list):
        return [_repeated(each) for each in answer]
    return ThoonkError if isinstance(answer, ThoonkError) else plain(answer)


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
    max_examples=80, stateful_step_count=50, deadline=None, print_blob=True,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)  # fmt: skip
DEEP = settings(USUAL, max_examples=500, stateful_step_count=80)


@pytest.fixture
def example(client: redis.Redis) -> Any:
    return type("Example", (QueueMachine,), {"client": client})


def test_any_history_is_answered_as_the_model_says(example: Callable[[], QueueMachine]):
    run_state_machine_as_test(example, settings=USUAL)


@pytest.mark.slow
def test_long_histories_are_answered_as_the_model_says(example: Callable[[], QueueMachine]):
    run_state_machine_as_test(example, settings=DEEP)
