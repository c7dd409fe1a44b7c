"""CouchQueue's singularlyEnqueue and singularlyRun (`requirements/seeds.md`, section 1.C), by which its README stood.

Both count tasks of equal data in a queue: as a unique name and as a key, made of the data.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from helpers import SOON, Heard, in_thread, taken

from thoonk_jobs import EACH_KEY, Job, Queue, Unique

pytestmark = pytest.mark.asyncio_on("valkey")

TASK = {"email": "ann@example.com", "template": "welcome"}
TURNED = {"template": "welcome", "email": "ann@example.com"}
OTHER = {"email": "bob@example.com", "template": "welcome"}


@pytest.fixture(autouse=True)
def one_a_key(queue):
    queue.limit(EACH_KEY, running=1)


def create(queue: Queue, data: Any, *, enqueue: bool = False, run: bool = False, **options: Any) -> Job:
    """Its taskCreate, with singularlyEnqueue and singularlyRun."""
    name = sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    unique = Unique(name, on_conflict="return", until="claimed") if enqueue else None
    return queue.publish(data, unique=unique, key=name if run else None, **options)


def test_singularly_enqueue_keeps_one_of_equal_tasks_in_the_queue_and_answers_with_it(queue, elsewhere):
    first = create(queue, TASK, enqueue=True)

    again = create(elsewhere, TURNED, enqueue=True)
    other = create(elsewhere, OTHER, enqueue=True)

    assert (again, other.id != first.id) == (first, True)
    assert [claim.data for claim in queue.get_many(9)] == [TASK, OTHER]


def test_singularly_enqueue_takes_an_equal_task_once_the_first_one_runs(queue):
    first = create(queue, TASK, enqueue=True)
    claim = taken(queue)

    second = create(queue, TASK, enqueue=True)
    third = create(queue, TASK, enqueue=True)

    assert (second.id != first.id, third) == (True, second)
    assert [claim.id, taken(queue).id] == [first.id, second.id], "it does not bound how many run"


def test_singularly_run_runs_one_of_equal_tasks_after_the_other(queue, elsewhere):
    for data in (TASK, TURNED, OTHER, TASK):
        create(queue, data, run=True)

    rounds = []
    while claims := elsewhere.get_many(9, timeout=0):
        rounds.append([claim.data for claim in claims])
        for claim in claims:
            claim.finish()

    assert rounds == [[TASK, OTHER], [TASK], [TASK]]


def test_both_together_run_one_and_let_one_wait(queue):
    ran = []
    create(queue, TASK, enqueue=True, run=True)
    for _ in range(3):
        claim = taken(queue)
        ran.append(claim.id)
        waiting = {create(queue, TASK, enqueue=True, run=True).id for _ in range(5)}
        assert (len(waiting), len(queue.ids()), queue.get(timeout=0)) == (1, 2, None)
        claim.finish()

    assert len(set(ran)) == 3


def test_without_them_equal_tasks_are_all_stored_and_run_side_by_side(queue):
    for _ in range(3):
        create(queue, TASK)

    assert len(queue.get_many(9)) == 3


def test_equal_tasks_in_two_queues_are_not_in_each_others_way(broker, queue):
    parcels = broker.queue("parcels")
    parcels.limit(EACH_KEY, running=1)

    for place in (queue, parcels):
        create(place, TASK, enqueue=True, run=True)

    assert taken(queue).data == taken(parcels).data == TASK


def test_everybody_who_created_the_one_task_hears_of_its_end(connect, queue):
    with connect() as one, connect() as other:
        hears = [Heard(), Heard()]
        for place, heard in zip((one, other), hears, strict=True):
            create(place.queue("letters"), TASK, enqueue=True, on_finish=heard)
        ends = [in_thread(lambda place=place: place.join(timeout=SOON)) for place in (one, other)]

        taken(queue).finish("sent")

        assert [end.get(timeout=SOON) for end in ends] == [None, None]
    assert [[job.result for job in heard.jobs] for heard in hears] == [["sent"], ["sent"]]
