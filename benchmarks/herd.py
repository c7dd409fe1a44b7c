"""Commands sent a job when fifty consumers wait for one."""

from __future__ import annotations

from collections import Counter

from accounts import COUNTED, Account, Ledger, Overheard
from processes import Consumers
from servers import Server
from tables import PAYLOAD, Table

from thoonk_jobs import Broker, Queue

TARGET = 3.2


def measure(server: Server, *, quick: bool) -> Table:
    """As threads of one process, of a few, and as a process each."""
    shapes = ((1, 10), (2, 5), (10, 1)) if quick else ((1, 50), (5, 10), (50, 1))
    jobs, sample = (50, 20) if quick else (500, 100)
    ledger = Ledger(server.client)
    rows = []
    with Broker(server.broker_url) as broker:
        for processes, threads in shapes:
            queue = broker.queue(f"herd-{processes}x{threads}")
            account, heard = _run(server, ledger, queue, processes, threads, jobs, sample)
            split = ", ".join(f"{name} {count / sample:.2f}" for name, count in heard.most_common())
            rows.append(
                (f"{processes} x {threads}", str(jobs), f"{account.sent / jobs:.2f}", f"{account.scripts / jobs:.2f}",
                 f"<= {TARGET}", split)
            )  # fmt: skip
    return Table(
        "commands: sent a job while idle consumers wait",
        ("processes x threads", "jobs", "commands a job", "of them scripts", "target", "by name"), rows,
        (
            "Each consumer loops over get() and finish(). A job is published when the one before is finished, of which "
            "its consumer tells by a pipe.",
            f"{COUNTED}. By name: of {sample} further jobs, as MONITOR heard them.",
        ),
    )  # fmt: skip


def _run(
    server: Server, ledger: Ledger, queue: Queue, processes: int, threads: int, jobs: int, sample: int
) -> tuple[Account, Counter[str]]:
    name = queue.name
    with Consumers("finish", server.broker_url, name, processes=processes, threads=threads) as consumers:
        _hand_over(queue, consumers, 10)
        ledger.wait_until_quiet()
        before = ledger.read()
        _hand_over(queue, consumers, jobs)
        ledger.wait_until_quiet()
        account = ledger.read().since(before)
        overheard = Overheard(server.client)
        _hand_over(queue, consumers, sample)
        ledger.wait_until_quiet()
        return account, overheard.end()


def _hand_over(queue: Queue, consumers: Consumers, number: int) -> None:
    for _ in range(number):
        queue.publish(PAYLOAD)
        consumers.hear()
