"""How long a job takes to start and to be heard of, beside the barest that the server can do."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import redis
from processes import Consumers, cores, place
from servers import Server
from tables import PAYLOAD, Table, percentile

from thoonk_jobs import Broker, Job

REST = 0.004
"""Seconds between two hand-overs, in which all become idle."""
BLOCKS = 4
START, POP = "idle to start", "LPUSH to BLPOP"
CALLBACK, ECHO = "publish to callback", "PUBLISH and back"
BESIDE = {START: POP, POP: POP, CALLBACK: ECHO, ECHO: ECHO}
Samples = dict[str, list[float]]


class Course:
    """The consumers, and this process's side of each hand-over. Times are microseconds."""

    def __init__(self, server: Server, running: ExitStack) -> None:
        def start(what: str, url: str, name: str) -> Consumers:
            return running.enter_context(Consumers(what, url, name))

        self._worker = start("finish", server.broker_url, "latency")
        self._popper = start("pop", server.url, "list")
        self._echo = start("echo", server.url, "there")
        self._queue = running.enter_context(Broker(server.broker_url)).queue("latency")
        client: Any = redis.Redis.from_url(server.url)
        self._client, self._back = client, client.pubsub()
        self._back.subscribe("there:back")
        self._back.get_message(timeout=None)
        self._echo.hear()
        self._heard: SimpleQueue[int] = SimpleQueue()
        self.pids = [os.getpid(), server.pid, *self._worker.pids, *self._popper.pids, *self._echo.pids]

    def job(self, samples: Samples) -> None:
        """One job to a consumer that waits in `get`, and its `on_finish`."""
        began = time.monotonic_ns()
        self._queue.publish(PAYLOAD, on_finish=self._finished)
        samples[CALLBACK].append((self._heard.get(timeout=30) - began) / 1000)
        samples[START].append((int(self._worker.hear()) - began) / 1000)

    def _finished(self, job: Job) -> None:
        self._heard.put(time.monotonic_ns())

    def pop(self, samples: Samples) -> None:
        """One value to a client that waits in BLPOP."""
        began = time.monotonic_ns()
        self._client.lpush("list", PAYLOAD)
        samples[POP].append((int(self._popper.hear()) - began) / 1000)

    def echo(self, samples: Samples) -> None:
        """One message to a subscriber, which publishes it back."""
        began = time.monotonic_ns()
        self._client.publish("there", PAYLOAD)
        while not self._back.get_message(timeout=30):
            pass
        samples[ECHO].append((time.monotonic_ns() - began) / 1000)


def measure(server: Server, *, quick: bool) -> Table:
    """All kinds in turn; blocks of them on one core and unpinned in turn."""
    number = 10 if quick else 150
    everywhere = cores()
    placements = {"one core": {min(everywhere)}, "unpinned": everywhere}
    found: dict[str, Samples] = {name: defaultdict(list) for name in placements}
    with ExitStack() as running:
        course = Course(server, running)
        _take(course, 10, defaultdict(list))
        for _ in range(BLOCKS):
            for name, chosen in placements.items():
                place(course.pids, chosen)
                _take(course, 3, defaultdict(list))
                _take(course, number, found[name])
        place(course.pids, everywhere)
    return Table(
        "latency: one job at a time, everybody idle before",
        ("what", "on", "p50 us", "p99 us", "p50 beside", "p99 beside", "the bare one"),
        [row for name, samples in found.items() for row in _rows(name, samples)],
        (
            f"{number * BLOCKS} hand-overs of each kind, all kinds in turn, with {REST * 1000:g} ms of rest between; "
            f"{BLOCKS} blocks on each placement in turn.",
            "One core: server, publisher and consumers share it; unpinned: where the system puts them.",
            "Beside: the ratio to the bare one in the same place.",
        ),
    )  # fmt: skip


def _take(course: Course, number: int, samples: Samples) -> None:
    for _ in range(number):
        for step in (course.job, course.pop, course.echo):
            step(samples)
            time.sleep(REST)


def _rows(placement: str, samples: Samples) -> list[tuple[str, ...]]:
    figures = {what: [percentile(times, part) for part in (0.5, 0.99)] for what, times in samples.items()}
    return [
        (
            what, placement, *(f"{figure:.0f}" for figure in figures[what]),
            *(f"{ours / bare:.2f}x" for ours, bare in zip(figures[what], figures[beside], strict=True)), beside,
        )
        for what, beside in BESIDE.items()
    ]  # fmt: skip
