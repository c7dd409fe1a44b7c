"""Who races on a key and who judges it: forked workers that are killed, publishers, the log of moves, and witnesses."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis
from audit import _entry
from helpers import in_time
from stage import Process

from thoonk_jobs import Queue, State
from thoonk_jobs.machine import ROWS

LEASE = 1.0

FORKS = """
while heed():
    pid = os.fork()
    if pid == 0:
        threading.excepthook = lambda failed: say("error", repr(failed.exc_value))
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(1)
    say(pid)
"""
"""The end of a nursery: for each line that it hears it forks a process in which two threads work."""

WORKERS = (
    """
import random, redis, signal, threading
lease, witnesses = float(sys.argv[3]), sys.argv[4]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def work():
    server = redis.Redis.from_url(sys.argv[1])
    witness = server.register_script('''
local time = redis.call('TIME')
redis.call('RPUSH', KEYS[1], string.format('%.0f', time[1] * 1000000 + time[2]) .. ' ' .. ARGV[1])''')
    def tell(*words): witness([witnesses], [" ".join(map(str, words))])
    while True:
        claim = queue.get(lease=lease)
        over = claim.claimed_at.timestamp() + lease
        tell("begins", claim.token, claim.key, claim.id, round(over * 1e6))
        time.sleep(random.uniform(0, 0.006))  # the work
        tell("ends", claim.token)
        try:
            claim.finish(claim.token)
            tell("finished", claim.token)
        except StaleClaim:
            tell("stale", claim.token)
"""
    + FORKS
)
"""Forks a worker of two threads for each line; they tell a list of the server when they begin and end, by its time."""

PUBLISHER = """
say("ready")
name, seconds, key = heed().split()
ends, number = time.monotonic() + float(seconds), 0
while time.monotonic() < ends:
    jobs = [queue.publish(number, key=key, id=f"{name}-{number + more}", keep=20) for more in range(5)]
    number += 5
    for job in jobs: job.wait(timeout=15)
say(number)
"""
"""Publishes five jobs, waits for their ends, goes on; says how many it were."""

WHIMS = (
    """
import random, threading
lease = float(sys.argv[3])

def work():
    while True:
        claim = queue.get(lease=lease, renew=random.random() < 0.5)
        time.sleep(random.uniform(0, 0.004))
        ends = {
            claim.finish: 60, lambda: claim.fail("odd"): 12, lambda: claim.fail("bad", final=True): 3,
            lambda: claim.cancel("busy"): 8, lambda: claim.cancel("later", 0.05): 5, lambda: claim.stall("odd"): 5,
            lambda: claim.renew(0.1) or time.sleep(0.2) or claim.cancel(): 1,
        }
        try: random.choices(list(ends), ends.values())[0]()
        except TransitionRefused: pass
"""
    + FORKS
)
"""Forks workers whose jobs end in every way there is."""

ALL_SORTS = """
import random
say("ready")
seconds = float(heed())
ends = time.monotonic() + seconds
made = 0
while time.monotonic() < ends:
    options = dict(
        key=random.choice([None, "a", "b", "c", "d"]), priority=random.choice([0, 0, 1, 2]), max_attempts=3,
        delay=random.choice([None, None, 0.05]), expires_in=random.choice([None, None, None, 0.3, 2]),
        backoff=random.choice([None, 0.02]), keep=10,
    )
    conflict, until = random.choice(["raise", "return", "replace"]), random.choice(["finished", "claimed"])
    try:
        if random.random() < 0.2: made += len(queue.publish_many(range(random.randint(2, 20)), **options))
        elif random.random() < 0.7: queue.publish(made, **options)
        else: queue.publish(made, **options, unique=Unique(random.choice("xyz"), conflict, until))
    except (NotUnique, LimitReached, KeyBlocked, PublishFailed): pass
    time.sleep(random.uniform(0, 0.01))
say("made", made)
"""
"""Publishes whatever can be published."""

INSISTS = """
say("ready")
name, seconds, key = heed().split()
ends, number, refused, made, job = time.monotonic() + float(seconds), 0, 0, [], None
while time.monotonic() < ends:
    number += 1
    try:
        job = queue.publish(number, key=key, id=f"{name}-{number}", keep=20)
        made.append(number)
    except LimitReached:
        refused += 1
        time.sleep(0.01)
    if job and number % 5 == 0:
        try: job.wait(timeout=max(0, ends - time.monotonic()))
        except TimeoutError: pass
for number in made: queue.job(f"{name}-{number}").wait(timeout=15)
say(refused, *made)
"""
"""Publishes under a limit that may reject or be 0; says how many were refused, and the numbers of the others."""

CHORUS = """
import json, threading
voices = int(sys.argv[3])
queue.counts()
say("ready")
while line := heed():
    options, heard, gate = eval(line), [], threading.Barrier(voices)
    many = options.pop("many", 1)
    def sing(voice):
        data = [f"{os.getpid()} {voice} {number}" for number in range(many)]
        gate.wait()
        began = time.monotonic()
        try: answers = queue.publish_many(data, **options) if many > 1 else [queue.publish(*data, **options)]
        except PublishFailed as failed: answers = [job or failed.errors[at] for at, job in enumerate(failed.jobs)]
        except ThoonkError as error: answers = [error]
        ended = time.monotonic()
        for each, answer in zip(data, answers):
            how = "published" if isinstance(answer, Job) else type(answer).__name__
            heard.append((how, getattr(answer, "job_id", None) or getattr(answer, "id", None), each, began, ended))
    threads = [threading.Thread(target=sing, args=[voice]) for voice in range(voices)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say(json.dumps(heard))
"""
"""Publishes with so many threads at once, each time it is told with which options; many: so many jobs in one call."""


class Sung(NamedTuple):
    """What became of one publish of many: `published` with the id, or the error with the holder's; when, monotonic."""

    how: str
    id: str | None
    data: str
    began: float
    ended: float


def sing(choir: list[Process], options: str) -> list[Sung]:
    """All processes publish at once; options: Python."""
    for process in choir:
        process.tell(f"dict({options})")
    return [Sung(*each) for process in choir for each in json.loads(process.hear())]


class Crew:
    """Worker processes, of which at random one is killed and replaced, or stands still for longer than its lease."""

    def __init__(self, nursery: Process, size: int) -> None:
        self._nursery = nursery
        self.pids = [self._born() for _ in range(size)]
        self.killed = self.frozen = 0
        self._still: dict[int, float] = {}

    def _born(self) -> int:
        self._nursery.tell("fork")
        said = self._nursery.hear()
        assert said.isdecimal(), said
        return int(said)

    def strike(self, now: float, busy: Callable[[], list[int]]) -> None:
        """One is hit, more often than not one that holds a claim; busy: which ones do."""
        self.thaw(now)
        able = [pid for pid in self.pids if pid not in self._still]
        caught = self._caught(able, busy) if random.random() < 0.75 else None
        hit = caught or random.choice(able)
        if not self._still and random.random() < 0.25:
            os.kill(hit, signal.SIGSTOP)
            self._still[hit] = now + 1.5 * LEASE
            self.frozen += 1
        else:
            os.kill(hit, signal.SIGKILL)
            self.pids[self.pids.index(hit)] = self._born()
            self.killed += 1

    def _caught(self, able: list[int], busy: Callable[[], list[int]]) -> int | None:
        """One that stands still, and still holds a claim."""
        for _ in range(50):
            pid = random.choice(able)
            os.kill(pid, signal.SIGSTOP)
            if pid in busy():
                return pid
            os.kill(pid, signal.SIGCONT)
        return None

    def thaw(self, now: float = math.inf) -> None:
        """Those whose time is over go on."""
        for pid in [pid for pid, until in self._still.items() if until <= now]:
            os.kill(pid, signal.SIGCONT)
            del self._still[pid]


@dataclass
class Ledger:
    """Follows the log of moves of a queue: how many claims were valid at once, and what became of each job.

    bounds  (number of the first event, limit), in their order: how many claims may be valid at most from there on.
    """

    client: redis.Redis
    queue: Queue
    bounds: list[tuple[int, float]] = field(default_factory=list)
    last: int = 0
    most: int = 0
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    finished: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _claimed: set[str] = field(default_factory=set)

    @property
    def log(self) -> str:
        return f"{self.queue.keys.base}:events"

    def now(self) -> int:
        """The number of the last event so far."""
        return int(self.client.hget(f"{self.queue.keys.base}:meta", "event") or 0)  # type: ignore[arg-type]

    def change(self, key: str, limit: float, when_full: str) -> None:
        """Another limit: while it is set either may be in force."""
        self.bounds.append((self.now() + 1, max(limit, self.bounds[-1][1])))
        self.queue.limit(key, running=limit, when_full=when_full)
        self.bounds.append((self.now() + 1, limit))

    def read_until(self, number: int, within: float) -> None:
        """Follows until that event, or for so many seconds."""
        in_time(lambda: self.read() or self.last >= number, within)

    def read(self) -> None:
        """What happened since."""
        while entries := self.client.xrange(self.log, min=f"({self.last}-0", count=2000):
            for entry in entries:  # type: ignore[union-attr]
                self._note(entry)

    def counts(self) -> Counter[str]:
        """How often each row was taken."""
        counted: Counter[str] = Counter()
        for (row, _), times in self.moves.items():
            counted[row] += times
        return counted

    def _note(self, entry: Any) -> None:
        first, row, ids, _ = _entry(entry)
        assert first == self.last + 1, "the log went ahead of its reader"
        self.last += len(ids)
        self.moves.update((row, id.decode()) for id in ids)
        if row == "finish":
            self.finished += [id.decode() for id in ids]
        for place, id in enumerate(ids):
            if ROWS[row].target is State.CLAIMED:
                self._claimed.add(id.decode())
                self._judge(first + place)
            elif State.CLAIMED in ROWS[row].sources:
                self._claimed.discard(id.decode())

    def _judge(self, number: int) -> None:
        self.most = max(self.most, len(self._claimed))
        if self.bounds and len(self._claimed) > (allowed := self._allowed(number)):
            self.wrong.append(f"event {number}: {len(self._claimed)} claimed, {allowed} may")

    def _allowed(self, number: int) -> float:
        return next(limit for first, limit in reversed(self.bounds) if first <= number)


class Held(NamedTuple):
    """A time for which a claim was valid for certain, in us of the server."""

    began: int
    ended: float
    id: str


def witnessed(client: redis.Redis, witnesses: str) -> tuple[list[Held], Counter[str]]:
    """When workers had claims that were valid for certain, and how many ended how.

    Where the finish was accepted until it was sent, whatever became of the lease; else at most until that was over.
    """
    begun: dict[str, tuple[int, str, int]] = {}
    ends: dict[str, int] = {}
    accepted: set[str] = set()
    how: Counter[str] = Counter()
    for raw in client.lrange(witnesses, 0, -1):
        at, kind, token, *more = raw.decode().split()
        how[kind] += 1
        if kind == "begins":
            assert token not in begun, f"two claims have the token {token}"
            begun[token] = int(at), more[1], int(more[2])
        elif kind == "ends":
            ends[token] = int(at)
        elif kind == "finished":
            accepted.add(token)
    held = []
    for token, (began, id, over) in begun.items():
        ended = ends.get(token, math.inf)
        held.append(Held(began, ended if token in accepted else min(ended, over), id))
    return [each for each in held if each.ended > each.began], how


def most_at_once(held: Iterable[Held]) -> int:
    """How many of these times overlap at most."""
    most = now = 0
    steps = [step for each in held for step in ((each.began, 1), (each.ended, -1))]
    for _, change in sorted(steps):
        now += change
        most = max(most, now)
    return most
