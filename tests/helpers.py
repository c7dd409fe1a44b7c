"""What many tests do: take a job, wait for a condition, run beside, listen."""

from __future__ import annotations

import asyncio
import functools
import queue as queues
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import redis

from thoonk_jobs import Claim, Job, Outcome, Queue

SOON = 20.0
"""Seconds that something immediate may take on a slow machine."""
INF = float("inf")


def taken(queue: Queue, **options: Any) -> Claim:
    claim = queue.get(timeout=0, **options)
    assert claim is not None
    return claim


def in_time(condition: Callable[[], object], seconds: float = SOON) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    assert in_time(condition, seconds), "waited in vain"


def in_thread(act: Callable[[], Any]) -> queues.SimpleQueue[Any]:
    """Runs it on a thread of its own; what it returned or raised is put into the queue."""
    answer: queues.SimpleQueue[Any] = queues.SimpleQueue()

    def run() -> None:
        try:
            answer.put(act())
        except Exception as error:
            answer.put(error)

    threading.Thread(target=run, daemon=True).start()
    return answer


async def soon(condition: Callable[[], object], seconds: float = SOON) -> None:
    """`until`, in a loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test in an event loop of its own, in which nothing may go wrong unnoticed."""

    async def watched(*args: Any, **options: Any) -> None:
        troubles: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: troubles.append(context))
        await asyncio.wait_for(test(*args, **options), 3 * SOON)
        assert troubles == []

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        asyncio.run(watched(*args, **options))

    return run


def waiting(client: redis.Redis, queue: Queue) -> int:
    """How many processes are registered as waiting for jobs."""
    return int(client.zcard(f"{queue.keys.base}:waiters"))


def count_of_commands(client: redis.Redis) -> int:
    """How many commands the server was ever sent, this one not counted."""
    return int(client.info("stats")["total_commands_processed"])


def quiet(client: redis.Redis) -> bool:
    """Whether nobody sends anything."""
    before = count_of_commands(client)
    time.sleep(0.1)
    return count_of_commands(client) == before + 1


class Heard:
    """What callbacks were called with, and how often for each job."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.news: queues.SimpleQueue[Job] = queues.SimpleQueue()

    def __call__(self, job: Job) -> None:
        self.jobs.append(job)
        self.news.put(job)

    @property
    def times(self) -> Counter[str]:
        return Counter(job.id for job in self.jobs)

    @property
    def outcomes(self) -> set[Outcome | None]:
        return {job.outcome for job in self.jobs}

    def once_each(self, ids: list[str]) -> bool:
        return self.times == Counter(dict.fromkeys(ids, 1))
