"""A request is cut or its reply lost, each one that an operation makes, one after the other.

The effect is there once and the caller hears the right answer (faults 2, 14 and 17).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import count
from typing import Any

import pytest
from helpers import SOON, Heard, in_thread, taken
from proxy import Do, FaultProxy
from stage import until_quiet

from thoonk_jobs import Broker, BrokerUnavailable, Outcome, Queue, State

Operation = Callable[[Queue, Queue], Generator[Callable[[], Any], Any, None]]
"""Yields what is done under the fault, by way of `far`, and checks the answer; `near` has no proxy."""

operations: list[Operation] = []
MOST = 25
"""Requests that an operation makes at most."""


def operation(make: Operation) -> Operation:
    operations.append(make)
    return make


def in_states(queue: Queue) -> dict[str, int]:
    return {str(state): number for state, number in queue.counts().items() if number}


@operation
def publish(far, near):
    job = yield lambda: far.publish("letter")

    assert in_states(near) == {"available": 1}
    assert (near.job(job.id).data, far._broker.queues().count(near.name)) == ("letter", 1)


@operation
def publish_many(far, near):
    jobs = yield lambda: far.publish_many(["a", "b", "c"])

    assert [job.data for job in jobs] == ["a", "b", "c"] == [claim.data for claim in near.get_many(9, timeout=0)]


@operation
def get(far, near):
    jobs = near.publish_many(["a", "b"])

    claim = yield lambda: far.get(timeout=0)

    assert (claim.id, claim.claims, claim.lost) == (jobs[0].id, 1, 0)
    assert in_states(near) == {"available": 1, "claimed": 1}
    claim.finish("done")
    assert (near.job(claim.id).result, near.job(claim.id).claims) == ("done", 1)


@operation
def get_many(far, near):
    jobs = near.publish_many(["a", "b", "c"])

    claims = yield lambda: far.get_many(2, timeout=0)

    assert [(claim.id, claim.claims) for claim in claims] == [(job.id, 1) for job in jobs[:2]]
    assert in_states(near) == {"available": 1, "claimed": 2}


@operation
def get_that_waits(far, near):
    def act() -> Any:
        answer = in_thread(far.get)
        near.publish("letter")
        return answer.get(timeout=SOON)

    claim = yield act

    assert (claim.data, claim.claims) == ("letter", 1)
    assert in_states(near) == {"claimed": 1}


def held(far: Queue, near: Queue, **options: Any) -> Any:
    near.publish("letter", max_attempts=5, **options)
    return taken(far)


@operation
def finish(far, near):
    claim = held(far, near)

    assert (yield lambda: claim.finish({"sent": 1})) is None

    job = near.job(claim.id)
    assert (job.state, job.outcome, job.result, job.claims) == (State.FINISHED, Outcome.SUCCESS, {"sent": 1}, 1)
    assert in_states(near) == {"finished": 1}


@operation
def fail(far, near):
    claim = held(far, near)

    assert (yield lambda: claim.fail("torn")) is None

    job = near.job(claim.id)
    assert (job.state, job.failures, job.total_failures, job.error.message) == (State.AVAILABLE, 1, 1, "torn")


@operation
def fail_for_good(far, near):
    claim = held(far, near)

    assert (yield lambda: claim.fail("torn", final=True)) is None

    job = near.job(claim.id)
    assert (job.outcome, job.failures, job.error.message) == (Outcome.ERROR, 1, "torn")


@operation
def cancel(far, near):
    claim = held(far, near)

    assert (yield lambda: claim.cancel("busy")) is None

    job = near.job(claim.id)
    assert (job.state, job.cancels, job.reason) == (State.AVAILABLE, 1, "busy")


@operation
def cancel_with_a_delay(far, near):
    claim = held(far, near)

    assert (yield lambda: claim.cancel("busy", delay=60)) is None

    assert (near.job(claim.id).state, near.job(claim.id).cancels) == (State.SCHEDULED, 1)


@operation
def stall(far, near):
    stalls = Heard()
    claim = held(far, near, on_stall=stalls)

    assert (yield lambda: claim.stall("odd")) is None

    assert (near.job(claim.id).state, near.job(claim.id).reason) == (State.STALLED, "odd")
    near._broker.join(timeout=SOON)
    assert stalls.times in ({}, {claim.id: 1})


@operation
def renew(far, near):
    claim = held(far, near)

    assert (yield lambda: claim.renew(60)) is None

    assert (near.job(claim.id).state, claim.aborted, near.get(timeout=0)) == (State.CLAIMED, False, None)
    claim.finish()


@operation
def set_progress(far, near):
    reports: list[float] = []
    claim = held(far, near, on_progress=lambda job, progress: reports.append(progress.value), on_finish=Heard())

    assert (yield lambda: claim.set_progress(1)) is None

    claim.set_progress(2)
    claim.finish()
    near._broker.join(timeout=SOON)
    assert reports == [1, 2]


def stalled(near: Queue) -> str:
    near.publish("letter")
    claim = taken(near)
    claim.stall()
    return claim.id


@operation
def retry(far, near):
    id = stalled(near)

    assert (yield lambda: far.retry(id)) is None

    assert in_states(near) == {"available": 1}
    assert taken(near).claims == 2


@operation
def retry_all(far, near):
    for _ in range(3):
        stalled(near)

    assert (yield far.retry_all) == 3

    assert in_states(near) == {"available": 3}


@operation
def rerun(far, near):
    near.publish("letter")
    claim = taken(near)
    claim.finish("first")

    assert (yield lambda: far.rerun(claim.id)) is None

    assert (in_states(near), near.job(claim.id).result) == ({"available": 1}, None)


@operation
def retract(far, near):
    finishes = Heard()
    job = near.publish("letter", on_finish=finishes)

    assert (yield lambda: far.retract(job.id)) is None

    near._broker.join(timeout=SOON)
    assert [heard.outcome for heard in finishes.jobs] == [Outcome.RETRACTED]


@operation
def stall_by_an_operator(far, near):
    job = near.publish("letter")

    assert (yield lambda: far.stall(job.id, "odd")) is None

    assert (near.job(job.id).state, near.job(job.id).reason) == (State.STALLED, "odd")


@operation
def wait_for_what_is_finished(far, near):
    job = far.publish("letter")
    taken(near).finish("sent")

    done = yield lambda: job.wait(timeout=SOON)

    assert (done.outcome, done.result) == (Outcome.SUCCESS, "sent")


@operation
def wait(far, near):
    job = far.publish("letter")

    def act() -> Any:
        answer = in_thread(lambda: job.wait(timeout=SOON))
        taken(near).finish("sent")
        return answer.get(timeout=SOON)

    done = yield act

    assert (done.outcome, done.result) == (Outcome.SUCCESS, "sent")


@operation
def on_finish(far, near):
    finishes = Heard()

    def act() -> Any:
        job = far.publish("letter", on_finish=finishes)
        taken(near).finish("sent")
        far._broker.join(timeout=SOON)
        return job

    job = yield act

    assert [(heard.id, heard.result) for heard in finishes.jobs] == [(job.id, "sent")]


@operation
def read(far, near):
    job = near.publish("letter")

    found = yield lambda: (far.job(job.id).data, far.ids(), far.jobs().jobs[0].data, far.counts())

    assert found == ("letter", [job.id], "letter", near.counts())


@operation
def pause(far, near):
    near.publish("letter")

    assert (yield far.pause) is None

    assert near.get(timeout=0) is None


@operation
def resume(far, near):
    near.pause()
    near.publish("letter")

    assert (yield far.resume) is None

    assert taken(near).data == "letter"


@operation
def configure(far, near):
    assert (yield lambda: far.configure(max_lost=7, keep=60)) is None

    assert (near.settings()["max_lost"], near.settings()["keep"]) == (7, 60)
    assert near.settings() == far.settings()


@operation
def delete(far, near):
    near.publish_many(["a", "b"])

    assert (yield far.delete) is None

    assert (in_states(near), near.name in near._broker.queues()) == ({}, False)


def perform(make: Operation, proxy: FaultProxy, near: Broker, name: str, do: Do, nth: int) -> bool:
    """Does it with a fault at the nth request; False if it makes fewer."""
    with Broker(proxy.url, namespace=near.config.namespace, retry_for=SOON) as far:
        far.ping()
        before = len(proxy.requests)
        steps = make(far.queue(name), near.queue(name))
        act = next(steps)
        if len(proxy.requests) > before:
            until_quiet(proxy)  # it subscribes, beside, to hear of the claims that it lost
        fault = proxy.fault(do, nth=nth)
        answer = act()
        met = fault.request is not None
        assert not met or fault.hit.wait(SOON)
        with pytest.raises(StopIteration):
            steps.send(answer)
        return met


@pytest.mark.parametrize("do", [Do.DROP_REPLY, Do.CUT_REQUEST])
@pytest.mark.parametrize("make", operations, ids=lambda make: make.__name__)
def test_whichever_request_or_reply_is_lost_the_effect_is_there_once_and_the_answer_right(proxy, broker, make, do):
    """Faults 2, 14, 17."""
    perform(make, proxy, broker, f"{make.__name__} 0", do, MOST)  # so that the server knows the scripts from the start
    for nth in count(1):
        if not perform(make, proxy, broker, f"{make.__name__} {nth}", do, nth):
            break

    assert 1 < nth <= MOST


def by_way_of(proxy: FaultProxy, broker: Broker, **options: Any) -> Broker:
    return Broker(proxy.url, namespace=broker.config.namespace, **options)


VERBS: dict[str, Callable[[Any], None]] = {
    "finish": lambda claim: claim.finish("sent"),
    "fail": lambda claim: claim.fail("torn"),
    "cancel": lambda claim: claim.cancel(),
    "stall": lambda claim: claim.stall(),
    "renew": lambda claim: claim.renew(),
    "set_progress": lambda claim: claim.set_progress(1),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_request_that_was_cut_and_cannot_be_sent_again_has_done_nothing(proxy, broker, queue, everything, verb):
    """Fault 17."""
    with by_way_of(proxy, broker, retry_for=0.05) as far:
        queue.publish("letter", max_attempts=5)
        claim = taken(far.queue("letters"), renew=False)
        until_quiet(proxy)
        before = everything()
        proxy.refuse()
        fault = proxy.fault(Do.CUT_REQUEST)

        with pytest.raises(BrokerUnavailable):
            VERBS[verb](claim)

        assert (fault.hit.is_set(), everything()) == (True, before)
        proxy.refuse(False)
        VERBS[verb](claim)  # the claim is still valid
        assert everything() != before


def test_a_publish_whose_reply_is_lost_for_good_names_its_id_and_that_id_makes_no_second_job(proxy, broker, queue):
    """Fault 14."""
    with by_way_of(proxy, broker, retry_for=0.05) as far:
        there = far.queue("letters")
        there.publish("first")
        fault = proxy.fault(Do.DROP_REPLY)
        proxy.refuse()
        with pytest.raises(BrokerUnavailable) as lost:
            there.publish("letter")
        proxy.refuse(False)
        [id] = lost.value.job_ids

        assert (fault.hit.is_set(), queue.job(id).data) == (True, "letter")
        assert there.publish("letter", id=id).id == id
        assert [claim.data for claim in queue.get_many(9, timeout=0)] == ["first", "letter"]


def between(proxy: FaultProxy, act: Callable[[], Any], meanwhile: Callable[[], Any]) -> Any:
    """What a call answers whose reply was lost, and before it is sent again something else happens."""
    until_quiet(proxy)
    fault = proxy.fault(Do.HOLD_REPLY)
    answer = in_thread(act)
    assert fault.hit.wait(SOON)
    meanwhile()
    proxy.cut([fault.request.link])
    return answer.get(timeout=SOON)


@pytest.mark.parametrize("verb", ["retry", "rerun"])
def test_an_operator_whose_reply_is_lost_is_not_refused_since_a_worker_has_the_job_already(proxy, far, queue, verb):
    """Fault 14: what was asked for has happened, and more."""
    far._broker.ping()
    queue.publish("letter")
    claim = taken(queue)
    if verb == "retry":
        claim.stall()
    else:
        claim.finish()

    answer = between(proxy, lambda: getattr(far, verb)(claim.id), lambda: taken(queue))

    assert (answer, queue.job(claim.id).state) == (None, State.CLAIMED)


def test_a_publish_whose_reply_is_lost_makes_no_second_job_of_one_that_is_done_already(proxy, far, queue):
    """Fault 14."""
    far.publish("first", priority=-1)

    job = between(proxy, lambda: far.publish("letter", keep=0), lambda: taken(queue).finish("sent"))

    assert (job.data, job.outcome) == ("letter", Outcome.SUCCESS)
    assert taken(queue).data == "first"


@pytest.mark.parametrize("verb", ["fail", "cancel", "finish"])
def test_a_claimant_whose_reply_is_lost_is_not_refused_since_another_has_the_job_already(proxy, far, queue, verb):
    """Fault 14: the same request is answered as the first time, and the next claim is none of its business."""
    queue.publish("letter", max_attempts=5)
    claim = taken(far)
    next_one = []

    def meanwhile() -> None:
        if verb == "finish":
            queue.rerun(claim.id)
        next_one.append(taken(queue))

    assert between(proxy, lambda: VERBS[verb](claim), meanwhile) is None

    job = queue.job(claim.id)
    assert (job.state, job.claims) == (State.CLAIMED, 2)
    assert (job.total_failures, job.total_cancels) == (int(verb == "fail"), int(verb == "cancel"))
    next_one[0].finish("of the second")
    assert queue.job(claim.id).result == "of the second"


def test_a_get_whose_reply_is_lost_is_not_given_a_job_that_was_taken_from_it(proxy, far, queue):
    """Fault 2: the ticket answers the same claim only while that is valid."""
    queue.publish("letter", id="l1")
    queue.publish("second", id="l2")

    claim = between(proxy, lambda: far.get(timeout=0), lambda: queue.retract("l1"))

    assert (claim.id, queue.job("l1").outcome) == ("l2", Outcome.RETRACTED)
    claim.finish()
