"""A worker of the demo, a process of its own: `python -m thoonk_jobs.demo.worker NAMESPACE QUEUE NAME`.

The URL comes in THOONK_URL, as it may hold a password. It works until its standard input ends, which is when the demo
closes it or is gone.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from contextlib import suppress
from itertools import count
from pathlib import Path

from thoonk_jobs import Broker, BrokerClosed, Claim, Queue, TransitionRefused
from thoonk_jobs.demo.analysis import analyse

AT_ONCE = 16
LEASE = 2.0
"""Seconds after which the jobs of a worker that was killed are taken over."""


def work(queue: Queue, name: str) -> None:
    """Takes jobs, some at once, until the broker is closed."""
    turns = count(1)
    while True:
        for claim in queue.get_many(AT_ONCE, lease=LEASE):
            with suppress(TransitionRefused):  # the claim is lost: given back as the broker closes, or taken away
                handle(claim, name, next(turns))


def handle(claim: Claim, name: str, turn: int) -> None:
    """Reads the file of one job and says what it found."""
    asked = claim.data
    if asked.get("give_back") and claim.cancels == 0:
        claim.set_progress(0, message=f"{name} gives it back")
        claim.cancel("the demo shows how a worker gives a job back")
        return
    if asked.get("hold") and claim.lost == 0:
        claim.set_progress(0, message=f"{name} holds it and will not let go")
        threading.Event().wait()
    found = analyse(Path(asked["path"]))
    if asked.get("strict") and found["trouble"]:
        claim.fail(found["trouble"])
        return
    claim.finish({**found, "worker": name, "turn": turn})


def leave_with_parent(broker: Broker) -> None:
    """Closes the broker, which gives back what is held, once standard input ends."""
    while os.read(0, 1024):  # not sys.stdin: its lock would be held at the end of the interpreter
        pass
    broker.close()


def main(namespace: str, queue: str, name: str) -> None:
    """Works until it is told to end."""
    warnings.simplefilter("ignore")  # those of the files that are parsed
    broker = Broker(namespace=namespace)
    threading.Thread(target=leave_with_parent, args=(broker,), daemon=True).start()
    with suppress(BrokerClosed):
        work(broker.queue(queue), name)


if __name__ == "__main__":
    main(*sys.argv[1:])
