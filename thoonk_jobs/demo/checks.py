"""What the demo claims to have shown, each looked at afterwards: a demo that only prints would prove nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from thoonk_jobs import Job, Outcome, State


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, whether it holds, and what was found."""

    name: str
    passed: bool
    found: str


def every_result_once(published: Collection[str], arrived: Counter[str]) -> Check:
    """Each job's on_finish was called, and only once."""
    missing = sum(id not in arrived for id in published)
    repeated = sum(times > 1 for times in arrived.values())
    strange = len(arrived.keys() - set(published))
    found = f"{len(published)} jobs; {missing} results missing, {repeated} repeated, {strange} of other jobs"
    return Check("every result arrived exactly once", not (missing or repeated or strange), found)


def all_finished(counts: dict[State, int], published: int) -> Check:
    """The queue itself says the same."""
    others = {state: n for state, n in counts.items() if n and state is not State.FINISHED}
    found = ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no jobs"
    return Check("all jobs are finished", counts[State.FINISHED] == published and not others, found)


def mended(job: Job, stalls: int) -> Check:
    """The broken file failed, was stalled, and finished after the retry; its failures began anew then."""
    history = (stalls, job.claims, job.total_failures, job.failures, job.outcome)
    found = "stalls {}, claims {}, failures in all {}, since the retry {}, outcome {}".format(*history)
    return Check("a failed job was stalled, mended and retried", history == (1, 2, 1, 0, Outcome.SUCCESS), found)


def given_back(job: Job) -> Check:
    """A worker cancelled it once, and it was done all the same."""
    history = (job.cancels, job.claims, job.outcome)
    found = "cancels {}, claims {}, outcome {}".format(*history)
    return Check("a job that was given back was done", history == (1, 2, Outcome.SUCCESS), found)


def taken_over(job: Job, killed: str) -> Check:
    """The worker that held it was killed, and another one did it once its lease was over."""
    by = (job.result or {}).get("worker")
    history = (job.lost, job.claims, job.outcome)
    found = "claims lost {}, claims {}, outcome {}".format(*history) + f"; {killed} was killed, {by} did it"
    passed = history == (1, 2, Outcome.SUCCESS) and by not in (None, killed)
    return Check("the job of a worker that was killed was taken over", passed, found)


def overtook(urgent: Job, others: Iterable[Job]) -> Check:
    """The urgent job was published after all others and claimed before them, as the first turn of its worker."""
    rest = list(others)
    before = sum(job.published_at <= urgent.published_at for job in rest)
    behind = sum(job.claimed_at >= urgent.claimed_at for job in rest)
    turn = (urgent.result or {}).get("turn")
    found = (
        f"published after {before} of {len(rest)}, claimed no later than {behind} of them, turn {turn} of its worker"
    )
    return Check("an urgent job overtook all others", before == behind == len(rest) and turn == 1, found)


def ran_once(job: Job, again: Job) -> Check:
    """The same id, published twice, was one job and one run."""
    found = f"ids {job.id!r} and {again.id!r}, claims {job.claims}"
    return Check("a job published twice ran once", job.id == again.id and job.claims == 1, found)


def workers_left(codes: list[int]) -> Check:
    """The workers ended when they were told, by themselves."""
    return Check("the workers ended when told", not any(codes), f"exit codes {codes}")
