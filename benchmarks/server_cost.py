"""Server CPU and commands a job for publish, claim and finish."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median

import raw
from accounts import COUNTED, Account, Ledger
from servers import Server
from tables import PAYLOAD, Table

from thoonk_jobs import Broker, Claim, Queue

TARGET_US, TARGET_BATCH = 25, 100
ROUNDS = 3
PHASES = ("publish", "claim", "finish")
Costs = dict[str, list[Account]]


def measure(server: Server, *, quick: bool) -> Table:
    """Batches of 1, 10 and 100, in turn, several rounds; the median of the rounds."""
    jobs = {1: 300, 10: 1000, 100: 3000} if quick else {1: 3000, 10: 10_000, 100: 30_000}
    ledger = Ledger(server.client)
    costs: dict[int, Costs] = {batch: defaultdict(list) for batch in jobs}
    with Broker(server.broker_url) as broker:
        _run(ledger, broker.queue("warm-up"), 10, 10, defaultdict(list))
        for turn in range(ROUNDS):
            for batch, number in jobs.items():
                queue = broker.queue(f"batch-{batch}-{turn}")
                _run(ledger, queue, batch, number, costs[batch])
                queue.delete()
    rows = [row for batch, number in jobs.items() for row in _rows(batch, number, costs[batch])]
    return Table(
        "server: CPU and commands a job",
        ("batches of", "step", "CPU us", "script us", "scripts", "commands sent", "target us"), rows,
        (
            "CPU us: INFO cpu, the whole process, system and user; script us: commandstats of evalsha; both a job.",
            f"Median of {ROUNDS} rounds of {', '.join(f'{n} jobs ({b} at once)' for b, n in jobs.items())}; "
            "the log of events on, as shipped; one client.",
            f"{COUNTED}.",
        ),
    )  # fmt: skip


def _run(ledger: Ledger, queue: Queue, batch: int, number: int, costs: Costs) -> None:
    """One round: each step for all jobs, then the next step."""
    turns = range(number // batch)
    queue.publish_many([PAYLOAD])
    raw.drain(queue, 1)
    held: list[list[Claim]] = []

    def publish() -> None:
        for _ in turns:
            queue.publish_many([PAYLOAD] * batch)

    def claim() -> None:
        held.extend(queue.get_many(batch, 0, lease=600, renew=False) for _ in turns)

    def finish() -> None:
        for claims in held:
            raw.finish_many(queue, claims)

    steps: tuple[Callable[[], None], ...] = (publish, claim, finish)
    for phase, step in zip(PHASES, steps, strict=True):
        before = ledger.read()
        step()
        costs[phase].append(ledger.read().since(before))


def _rows(batch: int, number: int, costs: Costs) -> list[tuple[str, ...]]:
    figures = {
        phase: [
            median(getattr(account, name) for account in costs[phase]) / number
            for name in ("cpu", "script", "scripts", "sent")
        ]
        for phase in PHASES
    }
    figures["all three"] = [sum(column) for column in zip(*figures.values(), strict=True)]
    return [
        (
            str(batch), phase, f"{cpu:.1f}", f"{script:.1f}", f"{scripts:.2f}", f"{sent:.2f}",
            f"<= {TARGET_US}" if (batch, phase) == (TARGET_BATCH, "all three") else "",
        )
        for phase, (cpu, script, scripts, sent) in figures.items()
    ]  # fmt: skip
