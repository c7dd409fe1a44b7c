"""What limits cost: a job of a key that has to wait, a job without a key, a limit that changes, waiting for nothing."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from statistics import median
from typing import NamedTuple

import raw
from accounts import COUNTED, Account, Ledger, Overheard
from idle import PROBE_EVERY, PROCESSES
from processes import Consumers
from server_cost import PHASES
from servers import Server
from tables import PAYLOAD, Table

from thoonk_jobs import EACH_KEY, Broker, Claim, Publish, Queue, State

JOBS_A_KEY = 3
FILL_BATCH = 500
WORKERS = 4
ROUNDS = 15
"""So many that no queue finishes more than keep_last (10 000), beyond which each job pushes one out."""
SLOWLOG_KEPT = 128
NOTED_US = 1000
"""SLOWLOG is to have scripts, not each command in them: to log those takes longer than they do."""
TARGET_SENT, TARGET_RATIO, TARGET_PLAIN, TARGET_CALL_MS = 3.2, 1.5, 1.03, 50
LIMITED = f"{JOBS_A_KEY} jobs a key, one of a key at once, and half of the keys at once in the whole queue"


def drained(server: Server, *, quick: bool) -> Table:
    """Commands sent a job where every key is full: published, then taken and finished by worker processes."""
    counts = (20, 100, 200) if quick else (100, 1000, 10_000)
    ledger, rows = Ledger(server.client), []
    with Broker(server.broker_url) as broker:
        for keys in counts:
            queue, jobs = broker.queue(f"drained-{keys}"), keys * JOBS_A_KEY
            _limit(queue, keys)
            queue.pause()
            with Consumers("finish", server.broker_url, queue.name, processes=WORKERS) as consumers:
                ledger.wait_until_quiet()
                before = ledger.read()
                for job in _jobs(keys, jobs):
                    queue.publish(job.data, **job.options)
                full = ledger.read()
                queue.resume()
                for _ in range(jobs):
                    consumers.hear()
                ledger.wait_until_quiet()
                both = ledger.read()
            published, taken = full.since(before), both.since(full)
            rows.append(
                (f"{keys}", f"{jobs}", f"{published.sent / jobs:.2f}", f"{taken.sent / jobs:.2f}",
                 f"{(published.sent + taken.sent) / jobs:.2f}", f"<= {TARGET_SENT}",
                 f"{taken.script / jobs:.0f}")
            )  # fmt: skip
    return Table(
        "limits: commands sent a job where every key is full",
        ("keys", "jobs", "to publish", "to take and finish", "commands a job", "target", "script us of these"), rows,
        (
            f"{LIMITED}. Published one at a time, then {WORKERS} processes loop over get() and finish(); "
            "the queue is paused until all are published.",
            f"{COUNTED}.",
        ),
    )  # fmt: skip


class Side(NamedTuple):
    """A queue of a comparison; `keys` is how many its jobs have, 0 for none."""

    name: str
    queue: Queue
    keys: Iterator[Publish]


def cost(server: Server, *, quick: bool) -> Table:
    """Server CPU a job on a limited queue beside queues without limits, in turn."""
    keys, rounds = (600, 3) if quick else (10_000, ROUNDS)
    with Broker(server.broker_url) as broker:

        def side(name: str, number: int = 0, *, each: bool = False, whole: bool = False) -> Side:
            queue = broker.queue(f"{name} {time.monotonic_ns()}")
            made = Side(name, queue, _endless(number))
            _limit(queue, number, each=each, whole=whole)
            for at in range(0, number * JOBS_A_KEY, FILL_BATCH):
                queue.publish_many(list(islice(made.keys, min(FILL_BATCH, number * JOBS_A_KEY - at))))
            return made

        keyed, plain = "keys, no limits", "no keys, no limits"
        pairs = (
            (side("keys, all full", keys, each=True, whole=True), side(keyed, keys), TARGET_RATIO),
            (side("keys, each limit full", keys, each=True), side(keyed, keys), TARGET_RATIO),
            (side(keyed, keys), side(plain), math.nan),
            (side("no keys, EACH_KEY limited", each=True), side(plain), TARGET_PLAIN),
        )
        rows = [row for one, other, target in pairs for row in _compared(server, rounds, quick, (one, other), target)]
    return Table(
        "limits: server CPU a job beside a queue without limits",
        ("batches of", "queue", "beside", "step", "CPU us", "beside it", "ratio", "script ratio", "target"), rows,
        (
            f"Full: {keys} keys, {LIMITED}; as many jobs are published as are then claimed and finished, which lets as "
            "many go, so the keys stay full. The queue beside it has as many jobs of as many keys.",
            "All full: both limits bind; each limit full: the queue as a whole has none.",
            f"CPU us: INFO cpu, the whole process; script: commandstats. Medians of {rounds} rounds, the two queues in "
            "turn; ratio: median of the rounds' ratios.",
        ),
    )  # fmt: skip


def _compared(
    server: Server, rounds: int, quick: bool, sides: tuple[Side, Side], target: float
) -> list[tuple[str, ...]]:
    """Rows of each step and of all, for batches of 1 and 100."""
    ledger = Ledger(server.client)
    rows: list[tuple[str, ...]] = []
    for batch, jobs in ((1, 20 if quick else 100), (100, 200 if quick else 500)):
        spent: dict[str, list[tuple[Account, Account]]] = defaultdict(list)
        for turn in range(rounds + 1):
            order = sides if turn % 2 else sides[::-1]
            found = {side.name: _steps(ledger, side, batch, jobs) for side in order}
            if turn:  # the first one warms up
                for phase in PHASES:
                    spent[phase].append((found[sides[0].name][phase], found[sides[1].name][phase]))
        pairs = {
            name: {phase: [(getattr(a, name), getattr(b, name)) for a, b in spent[phase]] for phase in PHASES}
            for name in ("cpu", "script")
        }
        for found_of in pairs.values():
            found_of["all three"] = [
                (sum(a for a, _ in step), sum(b for _, b in step)) for step in zip(*found_of.values(), strict=True)
            ]
        for phase in (*PHASES, "all three"):
            cpu, script = pairs["cpu"][phase], pairs["script"][phase]
            aimed = phase == "all three" or (phase == "claim" and target == TARGET_RATIO)
            rows.append(
                (f"{batch}", sides[0].name, sides[1].name, phase, f"{median(a for a, _ in cpu) / jobs:.1f}",
                 f"{median(b for _, b in cpu) / jobs:.1f}", f"{_ratio(cpu):.2f}", f"{_ratio(script):.2f}",
                 f"<= {target:g}" if aimed and target == target else "")
            )  # fmt: skip
    return rows


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return median(a / b for a, b in pairs if b) if any(b for _, b in pairs) else math.nan


def _steps(ledger: Ledger, side: Side, batch: int, jobs: int) -> dict[str, Account]:
    """What each step took: for all jobs, then the next step."""
    queue, turns = side.queue, range(jobs // batch)
    batches = [list(islice(side.keys, batch)) for _ in turns]
    held: list[list[Claim]] = []

    def publish() -> None:
        for each in batches:
            queue.publish_many(each)

    def claim() -> None:
        held.extend(queue.get_many(batch, 0, lease=600, renew=False) for _ in turns)

    def finish() -> None:
        for claims in held:
            raw.finish_many(queue, claims)

    spent = {}
    steps: tuple[Callable[[], None], ...] = (publish, claim, finish)
    for phase, step in zip(PHASES, steps, strict=True):
        before = ledger.read()
        step()
        spent[phase] = ledger.read().since(before)
    if sum(map(len, held)) != jobs:
        raise RuntimeError(f"{side.name}: {sum(map(len, held))} of {jobs} jobs were there to claim")
    return spent


def changes(server: Server, *, quick: bool) -> Table:
    """How long it takes to set, raise, lower and lift EACH_KEY, and how long the server is kept busy at most."""
    keys = 200 if quick else 10_000
    jobs, rounds = keys * JOBS_A_KEY, 1 if quick else 3
    took: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    moved: dict[str, int] = {}
    steps = (("set: 1", 1), ("raised: 2", 2), ("lowered: 1", 1), ("lifted", math.inf))
    with Broker(server.broker_url) as broker:
        for turn in range(rounds):
            queue = broker.queue(f"changes-{turn}")
            for at in range(0, jobs, FILL_BATCH):
                queue.publish_many(list(_jobs(keys, min(FILL_BATCH, jobs - at), at)))
            waiting = 0
            for name, running in steps:
                took[name].append(_change(server, queue, running))
                waits = queue.counts()[State.WAITING]
                moved[name], waiting = abs(waits - waiting), waits
            queue.delete()
    rows = []
    for name, _ in steps:
        seconds, longest, calls = (median(column) for column in zip(*took[name], strict=True))
        worst = max(of_one for _, of_one, _ in took[name])
        rows.append(
            (name, f"{moved[name]}", f"{seconds:.2f}", f"{longest:.1f}", f"{calls:.0f}", f"{worst:.1f}",
             f"< {TARGET_CALL_MS}")
        )  # fmt: skip
    return Table(
        "limits: changing EACH_KEY",
        (
            "running",
            "jobs moved",
            "seconds in all",
            "longest script ms",
            "scripts",
            "longest of all rounds ms",
            "target",
        ),
        rows,
        (
            f"{keys} keys, {jobs} jobs, all available at first; until limit() returns. "
            "Scripts: SLOWLOG, which has the time that the server was kept busy by one call.",
            f"Median of {rounds} rounds." if rounds > 1 else "One round.",
        ),
    )


def _change(server: Server, queue: Queue, running: float) -> tuple[float, float, int]:
    """Seconds in all, ms of the longest script, how many scripts."""
    client, ledger = server.client, Ledger(server.client)
    client.config_set("slowlog-log-slower-than", NOTED_US)
    client.slowlog_reset()
    before, began = ledger.read(), time.monotonic()
    queue.limit(EACH_KEY, running=running)
    seconds = time.monotonic() - began
    scripts = ledger.read().scripts - before.scripts
    entries = client.slowlog_get(SLOWLOG_KEPT)
    client.config_set("slowlog-log-slower-than", -1)
    calls = [entry["duration"] for entry in entries if entry["command"].lower().startswith(b"evalsha")]
    return seconds, max(calls, default=NOTED_US) / 1000, scripts


def idle(server: Server, *, quick: bool) -> Table:
    """Commands sent by processes that wait in get while every job waits for its key."""
    seconds = 5 if quick else 60
    ledger = Ledger(server.client)
    with Broker(server.broker_url) as broker:
        queue = broker.queue("limited-idle")
        queue.limit(EACH_KEY, running=1)
        queue.publish_many(list(_jobs(PROCESSES, PROCESSES * JOBS_A_KEY)))
        held = queue.get_many(PROCESSES, 0, lease=3600, renew=False)
        with Consumers("drain", server.broker_url, queue.name, processes=PROCESSES):
            ledger.wait_until_quiet()
            overheard, before = Overheard(server.client), ledger.read()
            time.sleep(seconds)
            account, heard = ledger.read().since(before), overheard.end()
            waits = queue.counts()[State.WAITING]
    split = ", ".join(f"{name} {number}" for name, number in heard.most_common()) or "none"
    probes = (PROCESSES + 1) * seconds / PROBE_EVERY
    return Table(
        "limits: commands sent while every key is full and nobody can go on",
        ("waiting processes", "jobs held", "jobs that wait", "seconds", "commands sent", "expected probes", "by name"),
        [(f"{PROCESSES}", f"{len(held)}", f"{waits}", f"{seconds}", f"{account.sent}", f"{probes:g}", split)],
        (
            f"One probe a process every {PROBE_EVERY} s is expected, of the one that holds the jobs too.",
            f"{COUNTED}. By name: as MONITOR heard them.",
        ),
    )


def _limit(queue: Queue, keys: int, *, each: bool = True, whole: bool = True) -> None:
    if each:
        queue.limit(EACH_KEY, running=1)
    if whole:
        queue.limit(running=keys // 2)


def _jobs(keys: int, number: int, first: int = 0) -> Iterator[Publish]:
    """Jobs of these keys in turn."""
    return (Publish(PAYLOAD, key=f"key-{at % keys}") for at in range(first, first + number))


def _endless(keys: int) -> Iterator[Publish]:
    return cycle(list(_jobs(keys, keys))) if keys else cycle([Publish(PAYLOAD)])
