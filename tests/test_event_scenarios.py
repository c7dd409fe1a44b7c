"""The scenarios of `requirements/seeds.md`, section 3, on events: T thoonk-jobs, B node-background-task, K TaskCo.

Their listener on a client object is `Queue.on` or `Queue.subscribe` here, in any process.
"""

from __future__ import annotations

import json
import queue as queues
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from helpers import SOON, taken

from thoonk_jobs import Broker, Event, Queue

pytestmark = pytest.mark.asyncio_on("valkey")

HEARS = """
import json, sys
from thoonk_jobs import Broker
with Broker(sys.argv[1], namespace=sys.argv[2]) as broker, broker.queue("letters").subscribe(*sys.argv[3:]) as events:
    print("listens", flush=True)
    for event in events:
        print(json.dumps([event.name, event.job_id, event.seq, event.data]), flush=True)
"""


def listener() -> queues.SimpleQueue[Event]:
    return queues.SimpleQueue()


def test_t7_a_listener_of_the_queue_hears_of_a_finish_within_a_second_and_can_read_the_result(
    queue: Queue, elsewhere: Queue
):
    heard = listener()
    elsewhere.on("TASK_DONE", heard.put)
    job = queue.publish("letter")

    taken(queue).finish("myresult")

    event = heard.get(timeout=1)
    assert (event.queue, event.job_id, elsewhere.job(job.id).result) == ("letters", job.id, "myresult")
    assert queue.ids() == []


def test_t10_a_handler_of_the_broker_hears_of_a_new_queue_and_of_its_end_and_nothing_once_it_is_removed(
    broker: Broker, elsewhere: Queue
):
    heard = listener()
    stop = broker.on(None, heard.put)

    elsewhere.publish("letter")
    assert (heard.get(timeout=SOON).name, broker.queues()) == ("TASK_AVAILABLE", ["letters"])
    elsewhere.delete()

    assert broker.queues() == []
    stop()
    other = listener()
    elsewhere.on(None, other.put)
    another = elsewhere.publish("another")
    assert other.get(timeout=SOON).job_id == another.id
    assert another.id not in [heard.get().job_id for _ in range(heard.qsize())]


def test_t29_events_are_to_be_had_by_name_and_all(queue: Queue, elsewhere: Queue):
    verbs = ("TASK_AVAILABLE", "TASK_CLAIMED", "TASK_CANCELLED", "TASK_STALLED", "TASK_RETRIED", "TASK_RETRACTED")
    by_name = {name: listener() for name in verbs}
    everything = listener()
    for name, heard in by_name.items():
        elsewhere.on(name, heard.put)
    elsewhere.on(None, everything.put)

    job = queue.publish("letter")
    taken(queue).cancel()
    taken(queue).stall()
    queue.retry(job.id)
    queue.retract(job.id)

    rows = [everything.get(timeout=SOON).data["row"] for _ in range(7)]
    assert rows == ["publish", "claim", "cancel", "claim", "stall", "retry", "retract"]
    assert {heard.get(timeout=SOON).name for heard in by_name.values()} == set(verbs)


def test_b1_events_can_be_subscribed_to_and_emitted(queue: Queue, elsewhere: Queue):
    heard = listener()
    elsewhere.on("posted", heard.put)
    queue.publish("letter")

    taken(queue).emit("posted", {"box": 4})

    assert heard.get(timeout=SOON).data == {"box": 4}


@pytest.mark.blocking_only
def test_b2_task_done_is_heard_before_the_callback_is_called(queue: Queue, elsewhere: Queue):
    """With asyncio both are tasks of their own, which begin in that order."""
    order: queues.SimpleQueue[str] = queues.SimpleQueue()
    queue.on("TASK_DONE", lambda event: order.put(event.name))
    queue.publish("letter", on_finish=lambda job: order.put(job.result))

    taken(elsewhere).finish("sent")

    assert [order.get(timeout=SOON), order.get(timeout=SOON)] == ["TASK_DONE", "sent"]


def test_b3_task_done_comes_for_each_job_at_its_own_completion(queue: Queue, elsewhere: Queue):
    with queue.subscribe("TASK_DONE") as subscription:
        queue.publish_many(["one", "two"])
        one, two = elsewhere.get_many(2)

        two.finish()
        assert subscription.get(timeout=SOON).job_id == two.id
        assert subscription.get(timeout=0.1) is None
        one.finish()
        assert subscription.get(timeout=SOON).job_id == one.id


def test_b4_a_new_job_is_heard_as_available_by_a_worker_who_may_take_it(queue: Queue, elsewhere: Queue):
    with elsewhere.subscribe("TASK_AVAILABLE") as subscription:
        job = queue.publish("letter")

        assert subscription.get(timeout=SOON).job_id == job.id
        taken(elsewhere).finish("sent")

    assert job.value(timeout=SOON) == "sent"


@pytest.mark.parametrize("headers", [{"campaign": 7}, {}])
def test_b5_who_hears_of_a_new_job_can_read_its_headers(queue: Queue, elsewhere: Queue, headers: dict[str, Any]):
    with elsewhere.subscribe("TASK_AVAILABLE") as subscription:
        queue.publish("letter", headers=headers or None)

        event = subscription.get(timeout=SOON)

    assert elsewhere.job(event.job_id).headers == headers


def test_b6_one_report_is_heard_once_before_the_completion(queue: Queue, elsewhere: Queue):
    with queue.subscribe("TASK_PROGRESS", "TASK_DONE") as subscription:
        queue.publish("letter")
        claim = taken(elsewhere)
        claim.set_progress(50, 100)
        claim.finish()

        assert [subscription.get(timeout=SOON).name for _ in range(2)] == ["TASK_PROGRESS", "TASK_DONE"]
        assert subscription.get(timeout=0) is None


def test_k25_what_a_worker_emits_is_heard_in_another_process(
    url: str, namespace: str, queue: Queue, start: Callable[..., subprocess.Popen[str]]
):
    process = start(HEARS, url, namespace, "alert", "TASK_DONE")
    assert process.stdout
    assert process.stdout.readline() == "listens\n"
    queue.publish("letter")
    claim = taken(queue)

    claim.emit("alert", ["ink", "is low"])
    claim.finish()

    heard = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [each[:2] for each in heard] == [["alert", claim.id], ["TASK_DONE", claim.id]]
    assert heard[0][3] == ["ink", "is low"]
