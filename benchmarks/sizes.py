"""Bytes that a waiting and a finished job take."""

from __future__ import annotations

from typing import Any

import raw
from accounts import Ledger
from servers import Server
from tables import PAYLOAD, Table

from thoonk_jobs import Broker, Queue

BATCH = 500
WARM = 100
TARGETS = {"valkey": 350, "redis": 480}


def measure(server: Server, *, quick: bool) -> Table:
    """The growth of used_memory, and of each key, while jobs are published, then finished."""
    steps = (10_000,) if quick else (100_000, 150_000, 200_000)
    number = steps[-1]
    ledger = Ledger(server.client)
    rows: list[tuple[str, ...]] = []
    target = f"<= {TARGETS[server.name.split()[0]]}"
    with Broker(server.broker_url) as broker:
        for kind, options in (("kept", {}), ("bare record", {"keep": 0})):
            queue = broker.queue(kind.replace(" ", "-"))
            queue.configure(keep_last=float("inf"))
            _publish(queue, WARM, options)
            empty = ledger.memory()
            for before, step in zip((0, *steps), steps, strict=False):
                _publish(queue, step - before, options)
                if kind == "kept":
                    rows.append(("waiting", str(step), f"{(ledger.memory() - empty) / step:.0f}", target))
            if kind == "kept":
                rows += _key_rows(server.client, queue, number)
            while raw.drain(queue, BATCH):
                pass
            rows.append((f"finished, {kind}", str(number), f"{(ledger.memory() - empty) / number:.0f}", ""))
            rows += _key_rows(server.client, queue, number)
            queue.delete()
    return Table(
        "bytes: memory a job", ("state", "jobs", "bytes a job", "target"), rows,
        (
            f"Growth of used_memory, jobs published and claimed in batches of {BATCH}; "
            "then MEMORY USAGE of each key that takes a byte a job.",
            "Finished without a result. Kept: all of them, keep_last=inf; bare record: with keep=0, "
            "what answers a repeated publish or finish for a minute. The log of events is in both.",
        ),
    )  # fmt: skip


def _publish(queue: Queue, number: int, options: dict[str, Any]) -> None:
    for at in range(0, number, BATCH):
        queue.publish_many([PAYLOAD] * min(BATCH, number - at), **options)


def _key_rows(client: Any, queue: Queue, number: int) -> list[tuple[str, ...]]:
    """Bytes a job of each key of a queue, by the end of its name."""
    keys = sorted(key for key in client.scan_iter(count=1000) if f":{queue.name}}}".encode() in key)
    sizes = {key.rpartition(b":")[2].decode(): client.memory_usage(key, samples=0) for key in keys}
    return [
        (f"  key {name}", str(number), f"{size / number:.0f}", "") for name, size in sizes.items() if size >= number
    ]
