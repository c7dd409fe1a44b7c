"""The scenarios K5 to K28 of TaskCo on ids, uids and teams (`requirements/seeds.md`, section 3).

Its task type is the name of a queue, its uid a unique name, its team of n a queue that runs n at once.
"""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from helpers import SOON, in_thread, taken, until

from thoonk_jobs import InvalidArgument, JobNotFound, NotUnique, Publish, PublishFailed, Queue, State

pytestmark = pytest.mark.asyncio_on("valkey")

TASKS = [{"data": None}, {"data": {"to": "Ann"}}, {"data": {"to": "Bob"}, "unique": "uid 1"}]


def test_k5_a_task_with_nothing_with_data_or_with_a_uid_has_an_id(queue):
    """Text that sorts by time here, not a number; it may be made beforehand, by `new_id`."""
    ids = [queue.publish(**task).id for task in TASKS]

    assert ids == sorted(set(ids))
    assert all(isinstance(id, str) and 1 <= len(id) <= 16 for id in ids)


def test_k6_tasks_are_saved_with_nothing_with_data_and_with_a_uid_and_the_uid_is_taken_then(queue):
    queue.publish_many(Publish(**task) for task in TASKS)

    with pytest.raises(PublishFailed) as failed:
        queue.publish_many(Publish(**task) for task in TASKS)

    assert [type(error) for error in failed.value.errors.values()] == [NotUnique]
    assert list(failed.value.errors) == [2]
    assert queue.counts()[State.AVAILABLE] == 5


def test_k7_a_quick_entry_works_with_nothing_with_data_and_with_a_uid_and_a_second_one_of_that_uid_does_not(queue):
    *_, holder = [queue.publish(**task) for task in TASKS]

    with pytest.raises(NotUnique) as refused:
        queue.publish({"to": "Cleo"}, unique="uid 1")

    assert refused.value.job_id == holder.id
    assert [claim.data for claim in queue.get_many(9)] == [task["data"] for task in TASKS]


def test_k7_of_four_quick_entries_of_one_uid_at_once_one_is_saved(connect, queue):
    """There all four were, as asking, storing and reserving were three steps."""
    with connect() as one, connect() as other:
        places = [one.queue("letters"), other.queue("letters")] * 2
        answers = [in_thread(lambda place=place: place.publish("letter", unique="uid 1")) for place in places]
        kinds = Counter(type(answer.get(timeout=SOON)).__name__ for answer in answers)

    assert kinds["NotUnique"] == 3
    assert len(queue.ids()) == 1


def test_k8_each_saved_task_is_found_by_its_id_and_an_unknown_one_is_not(queue, elsewhere):
    jobs = [queue.publish(**task) for task in TASKS]

    assert [elsewhere.job(job.id).data for job in jobs] == [task["data"] for task in TASKS]
    with pytest.raises(JobNotFound):
        elsewhere.job("nobody")


def test_k9_the_id_of_a_task_is_found_by_its_type_and_uid(broker, queue, elsewhere):
    """A uid that nobody has is answered with None."""
    job = queue.publish("letter", unique="uid 1")

    assert elsewhere.holder("uid 1").id == job.id
    assert elsewhere.holder("uid 2") is None
    assert broker.queue("parcels").holder("uid 1") is None
    with pytest.raises(InvalidArgument):
        elsewhere.holder("")


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_k10_a_uid_is_held_while_its_task_waits_or_is_active_and_free_before_and_after(queue, elsewhere, end):
    held = [elsewhere.holder("uid 1")]
    job = queue.publish("letter", unique="uid 1")
    held.append(elsewhere.holder("uid 1"))
    claim = taken(queue)
    held.append(elsewhere.holder("uid 1"))
    claim.finish() if end == "finish" else claim.fail("torn", final=True)
    held.append(elsewhere.holder("uid 1"))

    assert held == [None, job, job, None]


class Team:
    """Workers that count how many of them work at once; they leave when they are told to.

    Those with the jobs 0, 1 and 2 wait for each other.
    """

    def __init__(self, *places: Queue) -> None:
        self._lock, self._together = threading.Lock(), threading.Barrier(3)
        self.at_work = self.most = 0
        self._ends = [in_thread(lambda place=place: self._work(place)) for place in places]

    def _work(self, queue: Queue) -> None:
        while (claim := queue.get()).data != "leave":
            with self._lock:
                self.at_work += 1
                self.most = max(self.most, self.at_work)
            if claim.data < 3:
                self._together.wait(SOON)
            claim.log("at work")  # others may come meanwhile
            with self._lock:
                self.at_work -= 1
            claim.finish()
        claim.finish()

    def leave(self, queue: Queue) -> None:
        queue.publish_many(["leave"] * len(self._ends), priority="low")
        assert [end.get(timeout=SOON) for end in self._ends] == [None] * len(self._ends)


def test_k19_of_a_team_of_3_at_most_3_run_at_once(broker, queue, elsewhere, heard):
    """A bound of the whole queue, over all of its processes."""
    queue.limit(running=3)
    team = Team(*[queue, elsewhere] * 3)

    jobs = queue.publish_many(range(60), on_finish=heard)
    broker.join(timeout=SOON)
    team.leave(queue)

    assert team.most == 3
    assert heard.once_each([job.id for job in jobs])


def test_k28_600_tasks_with_uids_in_two_bursts_are_all_finished_by_3_workers(broker, queue, elsewhere, heard):
    """The uids of the second burst are those of the first, each free again as soon as its task is finished."""
    queue.limit(running=3)
    team = Team(*[elsewhere] * 3)
    jobs = queue.publish_many([Publish(n, unique=f"uid {n}") for n in range(300)], on_finish=heard)
    until(lambda: len(heard.jobs) == 300)

    jobs += queue.publish_many([Publish(n, unique=f"uid {n}") for n in range(300)], on_finish=heard)
    broker.join(timeout=SOON)
    team.leave(queue)

    assert heard.once_each([job.id for job in jobs])
    assert len(heard.jobs) == 600
    assert queue.counts()[State.FINISHED] == 603
    assert [queue.holder(f"uid {n}") for n in range(0, 300, 30)] == [None] * 10
