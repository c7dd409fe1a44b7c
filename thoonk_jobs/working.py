"""A queue from the worker's side, by hand."""

from __future__ import annotations

from typing import Any

from thoonk_jobs import arguments, calls, flows
from thoonk_jobs.base import QueueBase
from thoonk_jobs.claim import Claim, Job, lease_seconds
from thoonk_jobs.errors import InvalidArgument, PayloadError, TransitionRefused
from thoonk_jobs.flows import new_ticket


class Working(QueueBase):
    """Taking jobs and ending claims."""

    def get(self, timeout: Any = None, *, lease: Any = 30.0, renew: bool = True) -> Claim | None:
        """Take the most urgent available job, or None if there is none in time.

        timeout  seconds to wait; 0 looks once, None waits for ever.
        lease    seconds until the job is offered to others; renew=True renews it in the background until the claim
                 ends, is lost, or the broker closes.

        Raises BrokerUnavailable if the server cannot be reached: a job that was taken all the same returns to the
        queue when its lease ends. Delivery is at least once, so a handler may see the same job twice.
        """
        return next(iter(self.get_many(1, timeout, lease=lease, renew=renew)), None)

    def get_many(self, n: int, timeout: Any = None, *, lease: Any = 30.0, renew: bool = True) -> list[Claim]:
        """Wait for the first job as `get` does, then take what is there, up to n."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidArgument(f"n={n!r} is no number of jobs; give 1 or more")
        span, lease = arguments.seconds(timeout, "timeout"), lease_seconds(lease)
        session = self.session
        claims: list[Claim] = []
        try:
            while len(claims) < n:
                most = min(n - len(claims), calls.AT_ONCE)

                def look(wait: bool, most: int = most) -> calls.Call[calls.Look]:
                    return calls.claim(self.keys, session.lane(), new_ticket(), most, lease, session.worker, wanted=most if wait else None)

                taken = session.wire.follow(flows.take(session, self.keys, look, 0 if claims else span))
                for job in taken:
                    claims += self._hold(job, lease, renew=renew)
                if len(taken) < most and (claims or not taken):
                    break
        except BaseException:
            session.leases.give_back(claims)  # nobody will get to see them
            raise
        return claims

    def _hold(self, taken: calls.Taken, lease: float, *, renew: bool) -> list[Claim]:
        """The claim of a job; none, and the job stalled, where its stored data cannot be read."""
        claim = Claim(self, taken, lease, renewed=renew)
        self._claims[taken.id] = claim
        self.session.leases.hold(claim)
        self.session.notices.want(self.keys)  # to be told if the claim is lost
        try:
            if taken.stored.data is None:
                raise PayloadError("the stored data is missing")
            _ = claim.data
        except PayloadError as error:
            claim.stall(f"its data cannot be read: {error}")
            return []
        return [claim]

    def _claim_of(self, job: Job | str, verb: str) -> Claim:
        id = self.id_of(job)
        if isinstance(job, Claim):
            return job
        if claim := self.claim_of(id):
            return claim
        state = self.job(id).state
        raise TransitionRefused(
            f"cannot {verb} job {id!r} of queue {self.name!r}: this Queue object holds no claim of it; it is {state}",
            job_id=id, transition=verb, state=state)  # fmt: skip

    def finish(self, job: Job | str, result: Any = None) -> None:
        """`Claim.finish` for a job or id that this Queue object claimed."""
        self._claim_of(job, "finish").finish(result)

    def fail(self, job: Job | str, error: Any, *, final: bool = False) -> None:
        """`Claim.fail` for a job or id that this Queue object claimed."""
        self._claim_of(job, "fail").fail(error, final=final)

    def cancel(self, job: Job | str, reason: str | None = None, delay: Any = None) -> None:
        """`Claim.cancel` for a job or id that this Queue object claimed."""
        self._claim_of(job, "cancel").cancel(reason, delay)
