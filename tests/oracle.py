"""A queue in plain Python: what every answer and every job must be. Its moves go through the `transitions` model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from oracle_limits import LimitBook
from transitions import MachineError

from thoonk_jobs import machine
from thoonk_jobs.codec import pack
from thoonk_jobs.errors import JobExists, JobNotFound, NotUnique, PayloadError, StaleClaim, TransitionRefused
from thoonk_jobs.machine import ROWS, Outcome, State
from thoonk_jobs.timing import LEFT_FOR, RECORD_KEPT, TOLD_FOR, WAITED

INF = float("inf")
OK = None
"""The answer to what was done, or was done before."""


@dataclass
class Job:
    """What the server must know of a job. state is kept by the `transitions` model."""

    id: str
    data: str
    order: float
    priority: float = 0.0
    keep: float = 3600.0
    max_attempts: int = 1
    key: str = ""
    unique: str = ""
    passing: bool = False
    expires: float = INF
    until: float = 0
    dated: bool = False
    state: str = "absent"
    via: str = ""
    outcome: Outcome | None = None
    bare: bool = False
    token: int = 0
    result: bytes | None = None
    home: str = ""
    watchers: set[str] = field(default_factory=set)
    finished_at: int = 0
    replaced_by: str = ""
    ended: int = 0
    ended_by: str = ""
    claims: int = 0
    failures: int = 0
    cancels: int = 0
    lost: int = 0
    total_failures: int = 0
    total_cancels: int = 0

    @property
    def waited_for(self) -> bool:
        return bool(self.home or self.watchers)

    @property
    def urgency(self) -> tuple[float, float]:
        return -self.priority, self.order


@dataclass
class Oracle:
    """What the server must know of a queue. Waiting and available jobs under a limit are told by `adopt`.

    now, wall  the elapsed clock and the server's, ms.
    trusted    the caller can tell time that passed from a clock that jumped; if not, `now` is what it is shown.
    alarm      when something is due, as far as the server says.
    listening  processes that hear what they are told.
    rung       what they were told since: numbers of places in line.
    left       since when, by the wall, what is due is left to those who can tell the time.
    """

    now: int
    wall: int
    trusted: bool = True
    alarm: float = INF
    keeper: str = ""
    listening: set[str] = field(default_factory=set)
    left: int | None = None
    waiters: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    room: dict[str, int] = field(default_factory=dict)
    rung: dict[str, list[int]] = field(default_factory=dict)
    max_lost: int = 3
    max_cancels: float = INF
    keep_last: float = 10_000
    keep_stalled: float = 100_000
    seq: int = 0
    token: int = 0
    paused: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    max_payload: float = INF
    limits: LimitBook = field(default_factory=LimitBook)
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._machine = machine.model()

    # Moves.

    def move(self, job: Job, row: str) -> None:
        """Raises MachineError where the table has no such move."""
        was = State(job.state)
        job.trigger(row)  # type: ignore[attr-defined]
        edge, now = ROWS[row], State(job.state)
        if was is State.CLAIMED:
            job.ended, job.ended_by = job.token, row
        if not edge.silent:
            job.via = row
        if now in machine.LIVE and was not in machine.LIVE and job.unique:
            self.names[job.unique] = job.id
        if now not in machine.LIVE and was in machine.LIVE:
            self._give_up_name(job)
        if now is State.FINISHED:
            job.outcome, job.finished_at = edge.outcome, self.now
            job.until = self.now + max(job.keep * 1000, WAITED if job.waited_for else 0)
            if job.until <= self.now:
                self._strip(job)
        elif now is State.STALLED:
            job.until = self.now
        elif now is State.ABSENT:
            del self.jobs[job.id]

    def _give_up_name(self, job: Job) -> None:
        if job.unique:
            del self.names[job.unique]

    def _strip(self, job: Job) -> None:
        job.bare, job.until, job.result = True, min(self.now, job.until) + RECORD_KEPT, None
        job.watchers = set()

    def place(self, front: bool = False) -> float:
        self.seq += 1
        return 2**52 + (-self.seq if front else self.seq)

    def draw(self) -> int:
        self.token = max(self.token + 1, self.wall * 1000)
        return self.token

    def adopt(self, id: str, state: str) -> None:
        """Under limits the server chooses which of those that could run wait: between these two states only."""
        job = self.jobs[id]
        assert {job.state, state} == {State.WAITING.value, State.AVAILABLE.value}, f"{id} is {state}, not {job.state}"
        assert self.limits.may_hold() or state == State.AVAILABLE, f"{id} waits, and no limit is set"
        self.move(job, "release" if state == State.AVAILABLE else "park")

    # What is asked.

    def publish(self, id: str, data: str, **spec: Any) -> Any:
        self._sweep()
        job = self.jobs.get(id)
        if job and job.bare and job.until <= self.now and self.trusted:
            self.move(job, "purge")
        elif job:
            if job.data != data:
                return JobExists
            self._watch(job, spec.get("home", ""))
            return id
        key, holder = spec.get("key", ""), self.names.get(spec.get("unique", ""))
        if len(pack(data)[0]) > self.max_payload:
            return PayloadError
        if refusal := self.limits.blocked(key, self.now):
            return refusal
        if holder:
            return self._meet(self.jobs[holder], id, data, spec)
        if refusal := self.limits.full(self.jobs.values(), key, at_once=not self._starts_later(spec)):
            return refusal
        self._new(id, data, **spec)
        return id

    def _meet(self, holder: Job, id: str, data: str, spec: dict[str, Any]) -> Any:
        if (spec["conflict"], holder.replaced_by, holder.data) == (2, id, data):
            pass  # this very request, again
        elif spec["conflict"] == 2 and State(holder.state) in ROWS["postpone"].sources:
            holder.data, holder.replaced_by = data, id
            if holder.state == State.SCHEDULED or self._starts_later(spec):
                self._plan(holder, spec)
                self.move(holder, "postpone")
        elif spec["conflict"] != 1:
            return NotUnique, holder.id
        self._watch(holder, spec.get("home", ""))
        return holder.id

    def _starts_later(self, spec: dict[str, Any]) -> bool:
        return bool(spec.get("delay", 0) > 0 or spec.get("run_at", 0) * 1000 > self.wall)

    def _new(self, id: str, data: str, **spec: Any) -> None:
        priority, ends = spec.get("priority", 0.0), spec.get("expires_in")
        chosen = {
            name: spec[name] for name in ("keep", "max_attempts", "key", "unique", "passing", "home") if name in spec
        }
        job = Job(id, data, self.place(priority == INF), priority, **chosen)
        if ends is not None:
            job.expires = self.now + ends * 1000
        self._machine.add_model(job, initial=State.ABSENT.value)
        self.jobs[id] = job
        later = self._plan(job, spec)
        self.move(job, "schedule" if later else "publish")

    def _plan(self, job: Job, spec: dict[str, Any]) -> bool:
        """When it is due; whether that is later."""
        job.until, job.dated = self.now + spec.get("delay", 0) * 1000, False
        if spec.get("run_at", 0) * 1000 > self.wall:
            job.until, job.dated = spec["run_at"] * 1000, True
        return job.dated or job.until > self.now

    def claim(self, most: int, lease: float) -> list[tuple[str, int]]:
        """What is taken: ids with their tokens."""
        if self.alarm <= self.now:
            self.settle()
        free = [] if self.paused else sorted(self._in(State.AVAILABLE), key=lambda job: job.urgency)
        for job in free[:most]:
            self.move(job, "claim")
            job.token, job.until, job.claims = self.draw(), self.now + lease * 1000, job.claims + 1
            if job.passing and job.unique:
                self._give_up_name(job)
                job.unique = ""
        return [(job.id, job.token) for job in free[:most]]

    def finish(self, id: str, token: int, result: bytes) -> Any:
        def done(job: Job) -> None:
            self.move(job, "finish")
            if not job.bare and (result or job.total_failures):
                job.result = result

        self._sweep()
        answer = self._claimant(id, token, ("finish",), done)
        self._trim(finished=True)
        return answer

    def fail(self, id: str, token: int, *, final: bool, delay: float) -> Any:
        def failed(job: Job) -> None:
            self.limits.failed(job.key, self.now)
            job.failures += 1
            job.total_failures += 1
            if final:
                self.move(job, "fail")
            elif job.max_attempts and job.failures >= job.max_attempts:
                self.move(job, "exhaust")
            else:
                self._back(job, delay, "reattempt", "reattempt_later")
            job.result = None if job.bare else b"e"

        answer = self._claimant(id, token, ("fail", "reattempt", "reattempt_later", "exhaust"), failed)
        self._trim(finished=True, stalled=True)
        return answer

    def cancel(self, id: str, token: int, *, delay: float, counted: bool) -> Any:
        def cancelled(job: Job) -> None:
            job.cancels += counted
            job.total_cancels += counted
            if counted and job.cancels >= self.max_cancels:
                self.move(job, "exhaust")
            else:
                self._back(job, delay, "cancel", "defer")

        answer = self._claimant(id, token, ("cancel", "defer", "exhaust"), cancelled)
        self._trim(stalled=True)
        return answer

    def _back(self, job: Job, delay: float, now: str, later: str) -> None:
        if delay:
            job.until, job.dated = self.now + delay * 1000, False
            self.move(job, later)
        else:
            job.order = self.place()
            self.move(job, now)

    def stall(self, id: str, token: int | None) -> Any:
        def aside(job: Job) -> None:
            if token is None:
                self._dispossess(job)
            self.move(job, "stall")

        operated = token is None
        answer = self._operator(id, "stall", aside) if operated else self._claimant(id, token, ("stall",), aside)
        self._trim(stalled=True)
        return answer

    def renew(self, id: str, token: int, lease: float) -> Any:
        def renewed(job: Job) -> None:
            job.until = self.now + lease * 1000

        return self._claimant(id, token, (), renewed)

    def report(self, id: str, token: int) -> Any:
        return self._claimant(id, token, (), lambda job: None)

    def retract(self, id: str) -> Any:
        def withdrawn(job: Job) -> None:
            self._dispossess(job)
            job.replaced_by = ""
            self.move(job, "retract")

        answer = self._operator(id, "retract", withdrawn)
        self._trim(finished=True)
        return answer

    def retry(self, id: str) -> Any:
        def again(job: Job) -> None:
            self._anew(job)
            if job.expires <= self.now:
                job.expires = INF
            self.move(job, "retry")

        return self._operator(id, "retry", again)

    def rerun(self, id: str) -> Any:
        job = self.jobs.get(id)
        holder = self.names.get(job.unique) if job else None

        def again(job: Job) -> None:
            self._anew(job)
            job.outcome, job.expires, job.result = None, INF, b""
            self.move(job, "rerun")

        return self._operator(id, "rerun", again, refusal=(NotUnique, holder) if holder else None)

    def _anew(self, job: Job) -> None:
        job.failures, job.cancels, job.lost, job.replaced_by = 0, 0, 0, ""
        job.order = self.place()

    def watch(self, id: str, process: str, *, on: bool) -> State:
        job = self.readable(id)
        if job is None:
            return State.ABSENT
        was = State(job.state)
        if on:
            self._watch(job, process)
            return was
        if job.home == process:
            job.home = ""
        elif process in job.watchers:
            job.watchers.remove(process)
        else:
            return was
        if was is State.FINISHED and not job.waited_for:
            job.until = job.finished_at + job.keep * 1000
            if job.until <= self.now:
                self._strip(job)
        return was

    def _watch(self, job: Job, process: str) -> None:
        if not process or job.state == State.FINISHED or process in (job.home, *job.watchers):
            return
        if job.home:
            job.watchers.add(process)
        else:
            job.home = process

    def _claimant(self, id: str, token: int, rows: tuple[str, ...], act: Callable[[Job], None]) -> Any:
        """The holder may act; who was, hears what he was told; anybody else is refused."""
        job = self.jobs.get(id)
        if job is None:
            return JobNotFound
        if self.holds(id, token) and not (rows and self._lapsed(job)):
            return act(job)
        if (job.ended, job.ended_by in rows) == (token, True):
            return OK
        return TransitionRefused if job.token == token else StaleClaim

    def _lapsed(self, job: Job) -> bool:
        """A claim is over with the time for its job, also where the alarm was not there yet."""
        if not self.trusted or job.expires > self.now:
            return False
        self._dispossess(job)
        self.move(job, "lapse")
        return True

    def _operator(self, id: str, row: str, act: Callable[[Job], None], refusal: Any = None) -> Any:
        job = self.jobs.get(id)
        if job is None:
            return JobNotFound
        if row in machine.allowed(State(job.state)) and not self.hidden(job):
            return refusal or act(job)
        if job.via == row:
            return OK
        return JobNotFound if self.hidden(job) else TransitionRefused

    # Who waits for jobs.

    def untell(self, process: str) -> None:
        if self.told.pop(process, None) is not None:
            del self.room[process]

    def rang(self, process: str) -> bool:
        """The alarm rang at this process; whether some were told and did not come."""
        self.keeper = process
        late = [process for process, until in self.told.items() if until <= self.now]
        for each in late:
            self.untell(each)
        return bool(late)

    def wake(self, *, everybody: bool = False) -> None:
        """The oldest are told, as many as the jobs need; everybody: all of them, if there is a job."""
        while self.waiters and (self._free() > self._told_room() or (everybody and self._free())):
            process = min(self.waiters, key=lambda each: self.waiters[each])
            number = self.waiters.pop(process)
            if process in self.listening:
                self.told[process] = self.now + TOLD_FOR
                self.rung.setdefault(process, []).append(number)
            else:
                del self.room[process]

    def register(self, process: str, room: int, *, short: bool) -> int:
        """It waits for so many, unless there are as many; short: it has just looked, and there are none.

        The number of its place in line, if that was taken or kept; else 0.
        """
        if not room or process in self.told or not (short or self.paused or self._free() <= self._told_room()):
            return 0
        if process not in self.waiters:
            self.waiters[process] = self.draw()
        self.room[process] = room
        self._keep_time(process)
        return self.waiters[process]

    def probe(self, process: str) -> int:
        if self.trusted:
            self._forget()
        self._keep_time(process)
        return self.waiters.get(process, 0)

    def _keep_time(self, process: str) -> None:
        if self.keeper not in self.listening:
            self.keeper = process

    def leave_line(self, process: str) -> None:
        if self.waiters.pop(process, None):
            del self.room[process]
        self.untell(process)
        if self.keeper == process:
            self.keeper = min(self.waiters, key=lambda each: self.waiters[each], default="")

    def _free(self) -> int:
        return 0 if self.paused else len(self._in(State.AVAILABLE))

    def _told_room(self) -> int:
        return sum(self.room[process] for process in self.told)

    # Time.

    def settle(self) -> None:
        if not self.trusted and self.listening:
            self.left = self.wall if self.left is None else self.left
            if abs(self.wall - self.left) < LEFT_FOR:
                return  # it is for those who can tell the time
        self.left = None
        for job in self._due(*ROWS["lapse"].sources, when=lambda job: job.expires):
            self._dispossess(job)
            self.move(job, "lapse")
        for job in self._due(State.CLAIMED):
            self._dispossess(job)
            job.lost += 1
            self.move(job, "exhaust" if job.lost >= self.max_lost else "expire")
        due = [job for job in self._in(State.SCHEDULED) if job.until <= (self.wall if job.dated else self.now)]
        for job in sorted(due, key=lambda job: (job.dated, job.until, job.id.encode())):
            job.order, job.until = self.place(job.priority == INF), 0
            self.move(job, "promote")
        self._forget()
        self._trim(stalled=True)

    def _sweep(self) -> None:
        """Along with a publish or a finish, once something is over by more than a second."""
        if self.trusted and self.is_swept():
            self._forget()

    def is_swept(self) -> bool:
        """Whether the next publish or finish forgets something."""
        return any(job.until <= self.now - 1000 for job in self._in(State.FINISHED))

    def _forget(self) -> None:
        for job in self._due(State.FINISHED):
            if job.bare:
                self.move(job, "purge")
            else:
                self._strip(job)

    def _trim(self, *, finished: bool = False, stalled: bool = False) -> None:
        """What is beyond keep_last and keep_stalled goes, the earliest first."""
        ended = [job for job in self._in(State.FINISHED) if not job.bare and not job.waited_for]
        aside = self._in(State.STALLED)
        if finished and len(ended) > self.keep_last:
            for job in sorted(ended, key=_by_until)[: len(ended) - int(self.keep_last)]:
                self._strip(job)
        if stalled and len(aside) > self.keep_stalled:
            for job in sorted(aside, key=_by_until)[: len(aside) - int(self.keep_stalled)]:
                self.move(job, "retract")

    def _due(self, *states: State, when: Callable[[Job], float] = lambda job: job.until) -> list[Job]:
        return sorted(
            (job for job in self._in(*states) if when(job) <= self.now), key=lambda job: (when(job), job.id.encode())
        )

    def _dispossess(self, job: Job) -> None:
        if job.state == State.CLAIMED:
            job.token = self.draw()

    # Questions.

    def _in(self, *states: State) -> list[Job]:
        return [job for job in self.jobs.values() if job.state in states]

    def hidden(self, job: Job) -> bool:
        return job.state == State.FINISHED and (job.bare or job.until <= self.now)

    def holds(self, id: str, token: int) -> bool:
        """Whether this claim is valid."""
        job = self.jobs.get(id)
        return job is not None and job.state == State.CLAIMED and job.token == token

    def readable(self, id: str) -> Job | None:
        job = self.jobs.get(id)
        return None if job is None or self.hidden(job) else job

    def counts(self) -> dict[State, int]:
        shown = [State(job.state) for job in self.jobs.values() if not self.hidden(job)]
        return {state: shown.count(state) for state in State}

    def running(self) -> dict[str, int]:
        """How many jobs of each key are claimed, and of the queue."""
        return dict(Counter(each for job in self._in(State.CLAIMED) for each in {"", job.key}))


def _by_until(job: Job) -> tuple[float, bytes]:
    return job.until, job.id.encode()


__all__ = ["INF", "OK", "Job", "MachineError", "Oracle"]
