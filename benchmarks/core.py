"""Measures what a job costs, on a private server: `python benchmarks/core.py [--only NAME] [--quick] [--redis]`.

Figures are to be compared within one run only: other machines, and other moments, have other ones. Runs on Linux.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import time
from typing import Protocol

import herd
import idle
import latency
import limits
import server_cost
import sizes
from processes import cores
from servers import Server, private_server
from tables import PAYLOAD, Table


class Topic(Protocol):
    """Takes the figures of one table."""

    def __call__(self, server: Server, *, quick: bool) -> Table: ...


TOPICS: dict[str, Topic] = {
    "server": server_cost.measure,
    "bytes": sizes.measure,
    "idle": idle.measure,
    "commands": herd.measure,
    "latency": latency.measure,
    "limits": limits.cost,
    "limits-commands": limits.drained,
    "limits-changes": limits.changes,
    "limits-idle": limits.idle,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure what a job costs, on a private server.")
    parser.add_argument("--only", action="append", choices=TOPICS, help="this topic alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what does it cost")
    parser.add_argument("--redis", action="store_true", help="redis-server of this machine, not the embedded valkey")
    return parser.parse_args()


def main() -> None:
    """Prints a table a topic; each has a server of its own, which does not outlive this process."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    asked = arguments()
    for name in asked.only or TOPICS:
        began = time.monotonic()
        with private_server(use_redis=asked.redis) as server:
            table = TOPICS[name](server, quick=asked.quick)
        seconds = time.monotonic() - began
        print(table)
        print(
            f"Taken on {server.name}, unix socket, append-only file, {len(cores())} cores, "
            f"Python {platform.python_version()}, payload {len(PAYLOAD) + 2} bytes, "
            f"in {seconds:.0f} s{', quick' * asked.quick}.\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
