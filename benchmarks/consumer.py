"""A consumer in a process of its own: `python consumer.py WHAT URL NAME THREADS FD`.

It writes a line to the pipe FD for each thing it did, and ends when its standard input does.
WHAT is one of the functions of `WORK`; NAME is the queue, list or channel.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import raw
import redis

from thoonk_jobs import Broker, BrokerClosed

Tell = Callable[[object], None]
BATCH = 100


def finish(broker: Broker, name: str, tell: Tell) -> None:
    """Takes and finishes jobs, one at a time; tells when each was started, once it is finished."""
    queue = broker.queue(name)
    with suppress(BrokerClosed):
        while True:
            claim = queue.get()
            started = time.monotonic_ns()
            assert claim is not None
            claim.finish()
            tell(started)


def drain(broker: Broker, name: str, tell: Tell) -> None:
    """Takes and finishes jobs, many at a time; tells how many."""
    queue = broker.queue(name)
    with suppress(BrokerClosed):
        while True:
            tell(raw.drain(queue, BATCH, None))


def pop(client: Any, name: str, tell: Tell) -> None:
    """Takes what is pushed to a list; tells when."""
    while True:
        client.blpop(name)
        tell(time.monotonic_ns())


def echo(client: Any, name: str, tell: Tell) -> None:
    """Publishes what it hears to the channel `NAME:back`."""
    answers = client.pubsub()
    answers.subscribe(name)
    answers.get_message(timeout=None)
    tell("subscribed")
    while True:
        if message := answers.get_message(timeout=None):
            client.publish(f"{name}:back", message["data"])


WORK: dict[str, Callable[[Any, str, Tell], None]] = {"finish": finish, "drain": drain, "pop": pop, "echo": echo}


def main(what: str, url: str, name: str, threads: str, fd: str) -> None:
    """Works until standard input ends."""
    of_ours = what in ("finish", "drain")
    server: Any = Broker(url) if of_ours else redis.Redis.from_url(url)

    def tell(what: object) -> None:
        os.write(int(fd), f"{what}\n".encode())

    for _ in range(int(threads)):
        threading.Thread(target=WORK[what], args=(server, name, tell), daemon=True).start()
    tell("ready")
    while os.read(0, 1024):
        pass
    if of_ours:
        server.close()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
