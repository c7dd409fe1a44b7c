"""The embedded server is killed again and again: nothing that was acknowledged is lost, nothing is undone."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import redis
from audit import Contents, check_audit

from thoonk_jobs import Broker, EmbeddedServer, StaleClaim
from thoonk_jobs.machine import Outcome, State
from thoonk_jobs.record import unpack

ROUNDS = 20
SUCCESS = list(Outcome).index(Outcome.SUCCESS) + 1


class Publisher(threading.Thread):
    """Publishes without end, one job at a time and some at once; notes what was acknowledged."""

    def __init__(self, broker: Broker, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"publisher {number}", daemon=True)
        self.queue, self.number, self.stop = broker.queue("letters"), number, stop
        self.acknowledged: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for at in itertools.count():
                if self.stop.wait(0.003):
                    return
                ids = [f"{self.number}.{at}.{part}" for part in range(1 if at % 3 else 5)]
                for id in ids:
                    self.queue.publish({"id": id}, id=id, keep=3600)
                self.acknowledged += ids
        except BaseException as error:
            self.error = error


class Worker(threading.Thread):
    """Claims and finishes without end; notes which finishes were acknowledged."""

    def __init__(self, broker: Broker, stop: threading.Event) -> None:
        super().__init__(name="worker", daemon=True)
        self.queue, self.stop = broker.queue("letters"), stop
        self.finished: dict[str, int] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                for claim in self.queue.get_many(3, timeout=0.05, lease=60, renew=False):
                    assert claim.id not in self.finished, f"{claim.id} runs again after its end"
                    claim.finish({"done": claim.id})
                    self.finished[claim.id] = claim.token
        except BaseException as error:
            self.error = error


def test_no_kill_of_the_server_loses_or_undoes_what_was_acknowledged(tmp_path: Path):
    stop, chance = threading.Event(), random.Random(20)
    with (
        EmbeddedServer(tmp_path / "data") as server,
        Broker(f"embedded:{tmp_path}/data", namespace="crash", retry_for=60) as broker,
    ):
        publishers = [Publisher(broker, number, stop) for number in (1, 2)]
        worker = Worker(broker, stop)
        threads: list[Any] = [*publishers, worker]
        for thread in threads:
            thread.start()
        killed = set()
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.01, 0.2))
            killed.add(_kill(server))
            _wait_for_progress(publishers)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert [thread.error for thread in threads] == [None, None, None]
        assert len(killed) == ROUNDS
        with redis.Redis.from_url(server.url) as client:
            found = check_audit(client, "crash", "letters")
            _assert_nothing_lost(found, publishers, worker)
            _drain(broker)
            found = check_audit(client, "crash", "letters")
        assert len(found.in_state(State.FINISHED)) == len(found.jobs)


def test_a_server_that_is_killed_while_it_starts_is_started_again(tmp_path: Path):
    stop = threading.Event()
    with (
        EmbeddedServer(tmp_path / "data") as server,
        Broker(f"embedded:{tmp_path}/data", namespace="crash", retry_for=60) as broker,
    ):
        publisher = Publisher(broker, 1, stop)
        publisher.start()
        killed = set()
        while len(killed) < 8:
            assert publisher.error is None
            killed.add(_kill(server))  # as soon as there is a process, which then has no answer yet
        _wait_for_progress([publisher])
        stop.set()
        publisher.join(30)
        assert publisher.error is None


def _kill(server: EmbeddedServer) -> int:
    """Kills the server process, which lives; its pid."""
    deadline = time.monotonic() + 20
    while (pid := server.status().pid) is None:
        assert time.monotonic() < deadline, "nobody starts the server again"
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return pid


def _wait_for_progress(publishers: list[Publisher]) -> None:
    """Until each publisher was acknowledged something again: the broker brought the server back."""
    counts = [len(publisher.acknowledged) for publisher in publishers]
    deadline = time.monotonic() + 20
    while any(len(each.acknowledged) <= count for each, count in zip(publishers, counts, strict=True)):
        assert time.monotonic() < deadline, [publisher.error for publisher in publishers]
        time.sleep(0.002)


def _assert_nothing_lost(found: Contents, publishers: list[Publisher], worker: Worker) -> None:
    acknowledged = [id.encode() for publisher in publishers for id in publisher.acknowledged]
    assert len(acknowledged) > ROUNDS
    assert [id for id in acknowledged if id not in found.jobs] == [], "publishes lost"
    assert len(found.jobs) <= len(acknowledged) + 2 * 5, "jobs nobody published"
    rows = defaultdict(list)
    for _, row, id in found.events():
        rows[id.decode()].append(row)
    for id, token in worker.finished.items():
        job = unpack(found["record"][id.encode()])
        assert (job.outcome, job.token) == (SUCCESS, token), f"{id} was finished"
        # What came for a get whose time was over went back. The log keeps only the latest.
        last = rows[id][-2:]
        assert last == ["claim", "finish"][2 - len(last) :], id
        assert set(rows[id][:-2]) <= {"publish", "claim", "cancel"}, id
        assert found["result"][id.encode()].endswith(f'{{"done":"{id}"}}'.encode())


def _drain(broker: Broker) -> None:
    """What is left is done; a claim whose reply was lost for good is left to its lease, so it is taken back first."""
    queue = broker.queue("letters")
    for job in queue.jobs(State.CLAIMED, limit=1000).jobs:
        queue.stall(job.id)
        queue.retry(job.id)
    while claims := queue.get_many(500, timeout=0, renew=False):
        for claim in claims:
            try:
                claim.finish()
            except StaleClaim as error:  # pragma: no cover
                raise AssertionError(f"nobody else works: {error}") from error
