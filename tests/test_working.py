"""Taking jobs and ending claims: who may do what with a job, and what a lost claim cannot do any more."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import INF, until

from thoonk_jobs import (
    Claim,
    InvalidArgument,
    JobError,
    JobNotFound,
    Outcome,
    PayloadError,
    Queue,
    StaleClaim,
    State,
    TransitionRefused,
)

pytestmark = pytest.mark.asyncio_on("valkey")


def taken(queue: Queue, *, lease: float = 30, renew: bool = False) -> Claim:
    """Not renewed, so that nothing is written behind the back of a test that compares all keys."""
    claim = queue.get(timeout=0, lease=lease, renew=renew)
    assert claim is not None
    return claim


VERBS: dict[str, tuple[tuple[Any, ...], State]] = {
    "finish": (("sent",), State.FINISHED),
    "fail": (("torn",), State.STALLED),
    "cancel": (("no stamp",), State.AVAILABLE),
    "stall": (("no address",), State.STALLED),
}
KEEPING: dict[str, tuple[Any, ...]] = {"renew": (), "set_progress": (1, 2), "log": ("text",), "emit": ("alert", 1)}

# Verbs


@pytest.mark.parametrize("by", ["claim", "queue and claim", "queue and id", "queue and job"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_a_claim_whoever_is_asked(queue, verb, by):
    job = queue.publish("letter")
    claim = taken(queue)
    args, state = VERBS[verb]

    if by == "claim":
        getattr(claim, verb)(*args)
    else:
        getattr(queue, verb)({"claim": claim, "id": job.id, "job": job}[by.split()[-1]], *args)

    assert queue.job(job.id).state is state


@pytest.mark.parametrize("second", [*VERBS, *KEEPING])
@pytest.mark.parametrize("first", VERBS)
def test_after_a_verb_that_ends_the_claim_any_other_is_refused(queue, everything, first, second):
    job = queue.publish("letter")
    claim = taken(queue)
    getattr(claim, first)(*VERBS[first][0])
    before = everything()

    with pytest.raises(TransitionRefused) as refused:
        getattr(claim, second)(*(VERBS | {name: (args, None) for name, args in KEEPING.items()})[second][0])

    assert not isinstance(refused.value, StaleClaim)
    assert (refused.value.job_id, refused.value.transition, refused.value.state) == (job.id, second, VERBS[first][1])
    assert everything() == before


@pytest.mark.parametrize("verb", ["finish", "fail", "cancel"])
def test_a_queue_object_that_holds_no_claim_of_a_job_refuses_with_its_present_state(queue, elsewhere, verb):
    job = queue.publish("letter")
    taken(elsewhere)

    with pytest.raises(TransitionRefused) as refused:
        getattr(queue, verb)(job.id, *VERBS[verb][0])

    assert (refused.value.state, refused.value.transition) == (State.CLAIMED, verb)
    with pytest.raises(JobNotFound):
        getattr(queue, verb)("nobody", *VERBS[verb][0])


def test_finish_keeps_the_result_and_says_when(queue, clock):
    queue.publish("letter")
    claim = taken(queue)
    clock.advance(2)

    claim.finish({"sent": b"".hex()})

    job = claim.refresh()
    assert (job.outcome, job.result, job.error) == (Outcome.SUCCESS, {"sent": ""}, None)
    assert job.finished_at.timestamp() == clock.now / 1000
    assert (job.finished_at - job.claimed_at).total_seconds() == 2
    assert job.worker == queue.session.worker


@pytest.mark.parametrize("result", [object(), {1: 2}, float("nan"), "x" * 1_100_000])
def test_a_result_that_cannot_be_sent_leaves_the_claim_valid(queue, everything, result):
    queue.publish("letter")
    claim = taken(queue)
    before = everything()

    with pytest.raises(PayloadError, match="result"):
        claim.finish(result)

    assert everything() == before
    claim.finish("sent")
    assert claim.refresh().result == "sent"


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("cancel", ("r", -1)), ("cancel", (5,)), ("cancel", ("r", INF)), ("stall", (5,)), ("renew", (0,)),
        ("renew", (-1,)), ("renew", (INF,)), ("log", (5,)), ("emit", ("",)), ("set_progress", (float("nan"),)),
        ("set_progress", ("half",)),
    ],
)  # fmt: skip
def test_an_argument_of_a_verb_out_of_range_changes_nothing_and_leaves_the_claim_valid(queue, everything, verb, args):
    queue.publish("letter")
    claim = taken(queue)
    before = everything()

    with pytest.raises((InvalidArgument, PayloadError)):
        getattr(claim, verb)(*args)

    assert everything() == before
    claim.finish()


@pytest.mark.parametrize(
    "options",
    [{"lease": 0}, {"lease": -1}, {"lease": INF}, {"lease": None}, {"lease": "30"}, {"timeout": -1}, {"timeout": "1"}],
    ids=str,
)
def test_a_get_with_an_argument_out_of_range_takes_nothing(queue, options):
    queue.publish("letter")

    with pytest.raises(InvalidArgument):
        queue.get(**options)

    assert queue.counts()[State.AVAILABLE] == 1


def test_a_context_manager_finishes(queue):
    queue.publish("letter")

    with taken(queue) as claim:
        pass

    assert claim.refresh().outcome is Outcome.SUCCESS


def test_a_context_manager_fails_with_the_exception_and_lets_it_out(queue):
    queue.publish("letter")

    with pytest.raises(ValueError, match="torn"), taken(queue) as claim:
        raise ValueError("torn")

    job = claim.refresh()
    assert (job.state, job.failures) == (State.STALLED, 1)
    assert (job.error.type, job.error.message) == ("ValueError", "torn")
    assert "in test_a_context_manager_fails" in job.error.traceback


@pytest.mark.parametrize("verb", VERBS)
def test_a_context_manager_leaves_a_claim_alone_that_ended_inside(queue, verb):
    queue.publish("letter")

    with taken(queue) as claim:
        getattr(claim, verb)(*VERBS[verb][0])

    assert claim.refresh().state is VERBS[verb][1]


def test_a_context_manager_gives_the_job_back_when_it_is_interrupted(queue):
    queue.publish("letter")

    with pytest.raises(KeyboardInterrupt), taken(queue) as claim:
        raise KeyboardInterrupt

    assert (claim.refresh().state, claim.refresh().failures) == (State.AVAILABLE, 0)


# Failures and what bounds them


def test_attempts_come_back_at_once_behind_the_others_until_the_last_stalls_the_job(queue):
    job = queue.publish("letter", max_attempts=2)
    queue.publish("other")
    taken(queue).fail({"code": 5})
    assert (queue.job(job.id).state, queue.job(job.id).error) == (
        State.AVAILABLE, JobError("Error", "the work failed", None, {"code": 5}))  # fmt: skip

    assert taken(queue).data == "other"
    again = taken(queue)
    again.fail("torn")

    stalled = queue.job(job.id)
    assert (again.failures, stalled.state, stalled.failures) == (1, State.STALLED, 2)
    assert (stalled.error.message, "2 of 2" in stalled.reason) == ("torn", True)


def test_a_final_failure_finishes_the_job_whatever_attempts_are_left(queue):
    queue.publish("letter", max_attempts=INF)
    claim = taken(queue)

    claim.fail("torn", final=True)

    assert (claim.refresh().outcome, claim.refresh().error.message) == (Outcome.ERROR, "torn")


@pytest.mark.parametrize("of_queue", [False, True])
def test_a_back_off_delays_each_further_attempt_and_its_last_number_serves_on(queue, clock, of_queue):
    queue.configure(**({"backoff": [5, 20], "max_attempts": 4} if of_queue else {}))
    job = queue.publish("letter", **({} if of_queue else {"backoff": [5, 20], "max_attempts": 4}))
    waited = []

    for _ in range(3):
        taken(queue).fail("torn")
        waited.append(queue.job(job.id).due_at.timestamp() - clock.now / 1000)
        clock.advance(waited[-1] - 0.001)
        assert queue.get(timeout=0) is None
        clock.advance(0.001)
    taken(queue).fail("torn")

    assert [round(span, 3) for span in waited] == [5, 20, 20]
    assert queue.job(job.id).state is State.STALLED


def test_a_cancel_with_a_delay_waits_for_it(queue, clock):
    queue.publish("letter")
    claim = taken(queue)

    claim.cancel("later", delay=5)

    assert (claim.refresh().state, claim.refresh().reason, claim.refresh().cancels) == (State.SCHEDULED, "later", 1)
    clock.advance(5)
    assert taken(queue).id == claim.id


def test_the_cancel_that_reaches_max_cancels_stalls(queue):
    queue.configure(max_cancels=3)
    queue.publish("letter")
    states = []

    for _ in range(3):
        claim = taken(queue)
        claim.cancel("no stamp")
        states.append(claim.refresh().state)

    assert states == [State.AVAILABLE, State.AVAILABLE, State.STALLED]
    assert "no stamp" in claim.refresh().reason


@pytest.mark.parametrize("most", [None, 1, 5])
def test_the_lost_claim_that_reaches_max_lost_stalls(queue, clock, most):
    if most:
        queue.configure(max_lost=most)
    job = queue.publish("letter")

    for _ in range(most or 3):
        taken(queue, lease=1)
        clock.advance(1.001)
    assert queue.get(timeout=0) is None

    stalled = queue.job(job.id)
    assert (stalled.state, stalled.lost, stalled.failures) == (State.STALLED, most or 3, 0)


def test_a_lost_claim_keeps_its_place_in_line(queue, clock):
    queue.publish_many(["first", "second"])
    taken(queue, lease=1)

    clock.advance(2)

    assert [claim.data for claim in queue.get_many(2, renew=False)] == ["first", "second"]


def test_retry_starts_all_counts_anew_and_keeps_the_totals(queue, clock):
    queue.configure(max_cancels=2)
    job = queue.publish("letter", max_attempts=2)
    taken(queue).fail("torn")
    taken(queue).cancel()
    taken(queue, lease=1)
    clock.advance(2)
    taken(queue).cancel()
    before = queue.job(job.id)

    queue.retry(job.id)

    after = queue.job(job.id)
    assert (before.state, before.failures, before.cancels, before.lost) == (State.STALLED, 1, 2, 1)
    assert (after.state, after.failures, after.cancels, after.lost) == (State.AVAILABLE, 0, 0, 0)
    assert (after.total_failures, after.total_cancels, after.claims) == (1, 2, 4)
    taken(queue).fail("torn")
    assert queue.job(job.id).state is State.AVAILABLE


def test_a_retried_job_that_succeeds_shows_no_error(queue):
    queue.publish("letter")
    claim = taken(queue)
    claim.fail("torn")
    queue.retry(claim.id)

    taken(queue).finish()

    assert (claim.refresh().error, claim.refresh().result, claim.refresh().reason) == (None, None, None)


@pytest.mark.parametrize("end", ["finish", "retract"])
def test_rerun_runs_a_finished_job_once_more_as_a_new_run(queue, end):
    job = queue.publish("letter", expires_in=100)
    taken(queue).finish("first") if end == "finish" else queue.retract(job.id)

    queue.rerun(job.id)

    waiting = queue.job(job.id)
    assert (waiting.state, waiting.outcome, waiting.result, waiting.finished_at) == (State.AVAILABLE, None, None, None)
    again = taken(queue)
    again.finish("second")
    assert (again.data, queue.job(job.id).result) == ("letter", "second")


@pytest.mark.parametrize(
    ("verb", "before", "wrong"),
    [
        ("retract", (), ["retry", "stall"]),
        ("stall", (), ["rerun"]),
        ("retry", ("stall",), ["rerun"]),
        ("rerun", ("retract",), ["retry"]),
    ],
)
def test_an_operator_who_repeats_a_verb_hears_nothing_and_changes_nothing(queue, everything, verb, before, wrong):
    job = queue.publish("letter")
    for step in before:
        getattr(queue, step)(job.id)
    getattr(queue, verb)(job.id)
    there = everything()

    getattr(queue, verb)(job)

    assert everything() == there
    for other in wrong:
        with pytest.raises(TransitionRefused) as refused:
            getattr(queue, other)(job.id)
        assert (refused.value.transition, refused.value.state) == (other, queue.job(job.id).state)
    assert everything() == there


@pytest.mark.parametrize("verb", ["retry", "rerun", "retract", "stall"])
def test_an_operator_is_told_that_there_is_no_such_job(queue, verb):
    with pytest.raises(JobNotFound):
        getattr(queue, verb)("nobody")


# Claims that were lost


def lose(claim: Claim, how: str, elsewhere: Queue, clock: Any) -> None:
    if how == "lease":
        clock.advance(31)
        assert elsewhere.get(timeout=0, renew=False)
    elif how == "expired":
        clock.advance(101)
        assert elsewhere.get(timeout=0) is None
    elif how == "retract, rerun and claim":
        elsewhere.retract(claim.id)
        elsewhere.rerun(claim.id)
        assert elsewhere.get(timeout=0, renew=False)
    elif how == "stall and retry":
        elsewhere.stall(claim.id)
        elsewhere.retry(claim.id)
    else:
        getattr(elsewhere, how)(claim.id)


@pytest.mark.parametrize("how", ["lease", "expired", "retract", "stall", "stall and retry", "retract, rerun and claim"])
def test_a_lost_claim_is_refused_every_verb_and_changes_nothing(queue, elsewhere, clock, everything, how):
    elsewhere._broker._clock = clock
    queue.publish("letter", expires_in=100)
    claim = taken(queue)
    lose(claim, how, elsewhere, clock)
    before = everything()

    for verb, args in {**{name: args for name, (args, _) in VERBS.items()}, **KEEPING}.items():
        with pytest.raises(StaleClaim) as refused:
            getattr(claim, verb)(*args)
        assert (refused.value.job_id, refused.value.transition) == (claim.id, verb)

    assert everything() == before
    assert claim.aborted


def test_a_token_grows_with_every_claim_of_the_queue_also_when_time_goes_back(queue, clock):
    tokens = []

    for _ in range(3):
        queue.publish("letter")
        tokens.append(taken(queue).token)
        clock.advance(-3600)
    queue.publish_many(range(3))
    tokens += [claim.token for claim in queue.get_many(3, renew=False)]

    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("how", ["retract", "stall"])
def test_a_claimant_is_told_at_once_that_an_operator_took_its_job(queue, elsewhere, how):
    queue.publish("letter")
    claim = taken(queue, renew=True)

    getattr(elsewhere, how)(claim.id)

    until(lambda: claim.aborted, seconds=2)


def test_a_context_manager_whose_claim_was_lost_and_told_ends_quietly(queue, elsewhere):
    queue.publish("letter")
    with queue.get(timeout=1, lease=0.9) as claim:
        elsewhere.retract(claim.id)
        until(lambda: claim.aborted)

    assert claim.refresh().outcome is Outcome.RETRACTED
