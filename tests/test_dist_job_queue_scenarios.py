"""The scenarios D2 and D20 of redis-dist-job-queue (`requirements/seeds.md`, section 3): one job a resource at a time.

Its resourceId is a key, and `limit(EACH_KEY, running=1)` the lock.
"""

from __future__ import annotations

import queue as queues
from typing import Any

import pytest
from helpers import SOON, count_of_commands, in_thread, quiet, taken, until, waiting

from thoonk_jobs import EACH_KEY, Publish, Queue

pytestmark = pytest.mark.asyncio_on("valkey")


@pytest.fixture(autouse=True)
def one_a_resource(queue):
    queue.limit(EACH_KEY, running=1)


CHILDREN = """
import os, sys, time
from pathlib import Path
from thoonk_jobs import Broker

def work(url, namespace, file):
    with Broker(url, namespace=namespace) as broker:
        queue = broker.queue("letters")
        while True:
            with queue.get() as claim:
                if claim.data == "leave":
                    return
                number = int(file.read_text())
                time.sleep(0.002)  # long enough for another one to read the same number
                file.write_text(str(number + 1))
                claim.finish(os.getpid())

pids = []
for _ in range(8):
    pids.append(os.fork())
    if not pids[-1]:
        work(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
        os._exit(0)
print("ready", flush=True)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in pids))
"""


@pytest.mark.blocking_only
def test_d2_of_8_processes_that_count_in_one_file_none_overwrites_another(
    broker, queue, client, url, namespace, start, folder, heard
):
    file = folder / "counter"
    file.write_text("0")
    children = start(CHILDREN, url, namespace, str(file))
    until(lambda: waiting(client, queue) == 8)

    jobs = [queue.publish(n, key="counter", on_finish=heard) for n in range(20)]
    broker.join(timeout=SOON)
    queue.publish_many(["leave"] * 8)

    assert children.wait(SOON) == 0
    assert file.read_text() == "20"
    assert heard.once_each([job.id for job in jobs])
    assert {job.claims for job in heard.jobs} == {1}


def in_turn(queue: Queue, ran: list[Any]) -> None:
    """A worker that leaves when it is told to."""
    while (claim := queue.get()).data != "leave":
        ran.append(claim.data)
        claim.finish()
    claim.finish()


@pytest.mark.parametrize("workers", [1, 4])
def test_d20_waiting_jobs_of_one_resource_run_in_the_order_of_their_submission(broker, queue, elsewhere, workers):
    ran: list[list[int]] = []
    ends = [in_thread(lambda place=place: in_turn(place, ran)) for place in ([queue, elsewhere] * 2)[:workers]]

    queue.publish_many(Publish([n % 3, n], key=f"resource {n % 3}") for n in range(60))
    queue.publish_many(["leave"] * workers, priority="low")
    assert [end.get(timeout=SOON) for end in ends] == [None] * workers
    while claim := queue.get(timeout=0):  # who was told to leave did so while the last ones waited
        ran.append(claim.data)
        claim.finish()

    assert len(ran) == 60
    for resource in range(3):
        numbers = [n for of, n in ran if of == resource]
        assert numbers == sorted(numbers)


@pytest.mark.blocking_only
def test_a_job_whose_resource_is_busy_costs_no_command_while_it_waits(queue, elsewhere, client):
    """There it was pushed back and popped again, some 11 500 commands a second."""
    queue.publish_many(range(2), key="file")
    claim = taken(elsewhere, lease=3600)
    got = in_thread(queue.get)
    until(lambda: waiting(client, queue) == 1 and quiet(client))

    before = count_of_commands(client)
    with pytest.raises(queues.Empty):
        got.get(timeout=0.3)
    asked_for_info = 1
    assert count_of_commands(client) - before == asked_for_info

    claim.finish()
    assert got.get(timeout=SOON).data == 1
