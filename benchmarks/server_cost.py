"""Server CPU and commands a job for publish, claim and finish."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import raw
from accounts import COUNTED, Account, Ledger
from servers import Server
from tables import PAYLOAD, Table

from thoonk_jobs import Broker, Claim, Queue

TARGET_US, TARGET_BATCH = 25, "100"
ROUNDS = 3
PHASES = ("publish", "claim", "finish")
BARE_FOR = 61.0
"""Seconds after which the bare record of a job that is not kept any more may be purged."""
FILL_BATCH = 500
BARE = "local at = 1 while at < #ARGV do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) at = at + 2 end"
Costs = dict[str, list[Account]]


class Case(NamedTuple):
    """Jobs that are handed over so many at once, on a queue that finished some before."""

    name: str
    batch: int
    jobs: int
    before: int = 0


def measure(server: Server, *, quick: bool) -> Table:
    """Batches of 1, 10 and 100, in turn, several rounds; the median of the rounds."""
    cases = (
        Case("1", 1, 300 if quick else 2000),
        Case("10", 10, 1000 if quick else 5000),
        Case("100", 100, 2000 if quick else 9000),
        Case("100, long run", 100, 2000 if quick else 9000, before=12_000 if quick else 20_000),
    )
    ledger = Ledger(server.client)
    costs: dict[str, Costs] = {case.name: defaultdict(list) for case in cases}
    with Broker(server.broker_url) as broker:
        queues = [[broker.queue(f"{case.name} {turn}") for case in cases] for turn in range(ROUNDS)]
        for turn in queues:
            for queue, case in zip(turn, cases, strict=True):
                _fill(queue, case.before or 1)
        time.sleep(0 if quick else BARE_FOR)
        for turn in queues:
            for queue, case in zip(turn, cases, strict=True):
                _run(ledger, queue, case, costs[case.name])
            _run_bare(ledger, server, cases[2], costs[cases[2].name])
    return Table(
        "server: CPU and commands a job",
        ("batches of", "step", "CPU us", "script us", "scripts", "commands sent", "target us"),
        [row for case in cases for row in _rows(case, costs[case.name])],
        (
            "CPU us: INFO cpu, the whole process, system and user; script us: commandstats of evalsha; both a job.",
            f"Median of {ROUNDS} rounds of {', '.join(f'{case.jobs} jobs ({case.name})' for case in cases)}; "
            "the log of events on, as shipped; one client.",
            f"Long run: the queue had finished {cases[-1].before} jobs, so that each further one pushes one out of "
            f"keep_last (10 000)" + ("." if quick else ", and one that was pushed out a minute ago is purged."),
            "Bare HSET: a script that stores each payload of the batch in a hash; the measure of this moment.",
            f"{COUNTED}.",
        ),
    )  # fmt: skip


def _fill(queue: Queue, number: int) -> None:
    for at in range(0, number, FILL_BATCH):
        queue.publish_many([PAYLOAD] * min(FILL_BATCH, number - at))
        raw.drain(queue, FILL_BATCH)


def _run(ledger: Ledger, queue: Queue, case: Case, costs: Costs) -> None:
    """One round: each step for all jobs, then the next step."""
    turns = range(case.jobs // case.batch)
    held: list[list[Claim]] = []

    def publish() -> None:
        for _ in turns:
            queue.publish_many([PAYLOAD] * case.batch)

    def claim() -> None:
        held.extend(queue.get_many(case.batch, 0, lease=600, renew=False) for _ in turns)

    def finish() -> None:
        for claims in held:
            raw.finish_many(queue, claims)

    steps: tuple[Callable[[], None], ...] = (publish, claim, finish)
    for phase, step in zip(PHASES, steps, strict=True):
        before = ledger.read()
        step()
        costs[phase].append(ledger.read().since(before))


def _run_bare(ledger: Ledger, server: Server, case: Case, costs: Costs) -> None:
    """One round of the least that a script can do for a job."""
    before = ledger.read()
    script = server.client.register_script(BARE)
    for number in range(0, case.jobs, case.batch):
        script(["bare"], [arg for at in range(case.batch) for arg in (number + at, PAYLOAD)])
    costs["bare HSET"].append(ledger.read().since(before))
    server.client.delete("bare")


def _rows(case: Case, costs: Costs) -> list[tuple[str, ...]]:
    figures = {
        phase: [
            median(getattr(account, name) for account in costs[phase]) / case.jobs
            for name in ("cpu", "script", "scripts", "sent")
        ]
        for phase in costs
    }
    figures["all three"] = [sum(column) for column in zip(*(figures[phase] for phase in PHASES), strict=True)]
    return [
        (
            case.name, phase, f"{cpu:.1f}", f"{script:.1f}", f"{scripts:.2f}", f"{sent:.2f}",
            f"<= {TARGET_US}" if (case.name, phase) == (TARGET_BATCH, "all three") else "",
        )
        for phase, (cpu, script, scripts, sent) in figures.items()
    ]  # fmt: skip
