"""Commands that idle processes send: each waits in `get`, and nothing is there."""

from __future__ import annotations

import time
from collections import Counter

from accounts import COUNTED, Account, Ledger, Overheard
from processes import Consumers
from servers import Server
from tables import PAYLOAD, Table

from thoonk_jobs import Broker

PROCESSES = 10
PROBE_EVERY = 20
BATCH = 500


def measure(server: Server, *, quick: bool) -> Table:
    """First processes that never had a job, then the same ones right after they finished many."""
    seconds, jobs = (5, 20_000) if quick else (60, 1_000_000)
    ledger = Ledger(server.client)
    probes = PROCESSES * seconds / PROBE_EVERY
    with (
        Broker(server.broker_url) as broker,
        Consumers("drain", server.broker_url, "idle", processes=PROCESSES) as consumers,
    ):
        ledger.wait_until_quiet()
        fresh = _watch(server, ledger, seconds)
        queue = broker.queue("idle")
        for _ in range(0, jobs, BATCH):
            queue.publish_many([PAYLOAD] * BATCH)
        left = jobs
        while left:
            left -= int(consumers.hear())
        after = _watch(server, ledger, seconds)
    rows = [
        (name, str(seconds), str(account.sent), str(account.scripts), f"{probes:g}", _split(heard))
        for name, (account, heard) in (("never had a job", fresh), (f"right after {jobs} jobs", after))
    ]
    return Table(
        f"idle: commands sent by {PROCESSES} processes that wait in get",
        ("processes that", "seconds", "commands sent", "of them scripts", "expected probes", "by name"), rows,
        (
            f"{COUNTED}. By name: as MONITOR heard them.",
            f"One probe a process every {PROBE_EVERY} s is expected.",
            "After the jobs nothing is waited for: what ends the work is counted too. The jobs are published while the "
            "processes take them, up to 100 at once.",
        ),
    )  # fmt: skip


def _watch(server: Server, ledger: Ledger, seconds: float) -> tuple[Account, Counter[str]]:
    overheard, before = Overheard(server.client), ledger.read()
    time.sleep(seconds)
    return ledger.read().since(before), overheard.end()


def _split(heard: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in heard.most_common()) or "none"
