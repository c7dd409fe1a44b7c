"""A queue from the worker's side, by hand, as flows."""

from __future__ import annotations

from typing import Any

from thoonk_jobs import arguments, flows, request
from thoonk_jobs.base import QueueBase
from thoonk_jobs.claiming import ClaimCore, JobCore, lease_seconds
from thoonk_jobs.errors import InvalidArgument, PayloadError, TransitionRefused
from thoonk_jobs.flows import Flow


class Working(QueueBase):
    """Taking jobs and ending claims."""

    def _get(self, timeout: Any, lease: Any, renew: bool) -> Flow[Any]:
        claims = yield from self._get_many(1, timeout, lease, renew)
        return claims[0] if claims else None

    def _get_many(self, n: int, timeout: Any, lease: Any, renew: bool) -> Flow[list[Any]]:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidArgument(f"n={n!r} is no number of jobs; give 1 or more")
        span, lease = arguments.seconds(timeout, "timeout"), lease_seconds(lease)
        claims: list[Any] = []
        try:
            while len(claims) < n:
                most = min(n - len(claims), request.AT_ONCE)
                taken = yield from self._take(most, lease, 0 if claims else span)
                new = [self._hold(job, lease, renew=renew) for job in taken]
                claims += new
                if new:
                    self.session.want(self.keys)  # it may have been left meanwhile, as nothing was held yet
                for job, claim in zip(taken, new, strict=True):
                    if trouble := unreadable(job, claim):
                        yield from claim._stall(f"its data cannot be read: {trouble}")
                        claims.remove(claim)
                if len(taken) < most and (claims or not taken):
                    break
        except BaseException:
            for claim in claims:  # nobody will get to see them
                self.session.leases.drop(claim.keys, claim.id, claim.token)
                self.release_claim(claim)
                claim.lose()
                self.session.give_back_taken(self.keys, claim)
            raise
        return claims

    def _take(self, most: int, lease: float, span: float | None) -> Flow[list[request.Taken]]:
        session, lane = self.session, self.session.borrow_lane()
        session.want(self.keys)  # to be told if a claim is lost, and to have renewals on their way in time
        try:
            return (
                yield from flows.take(
                    session, self.keys, lambda: session.look_call(self.keys, most, lease, lane), most, lease, span
                )
            )
        finally:
            session.return_lane(lane)

    def _hold(self, taken: request.Taken, lease: float, *, renew: bool) -> ClaimCore:
        claim = self.claim_class(self, taken, lease, renewed=renew)
        self._claims[taken.id] = claim
        self.session.leases.hold(claim, self.session.engine)
        return claim

    def _claim(self, job: JobCore | str, verb: str) -> Flow[Any]:
        id = self.id_of(job)
        if isinstance(job, ClaimCore):
            return job
        if claim := self.claim_of(id):
            return claim
        state = (yield from self._job(id)).state
        raise TransitionRefused(
            f"cannot {verb} job {id!r} of queue {self.name!r}: this Queue object holds no claim of it; it is {state}",
            job_id=id, transition=verb, state=state)  # fmt: skip


def unreadable(taken: request.Taken, claim: ClaimCore) -> str:
    """Why the stored data of a job cannot be read; "" if it can."""
    if taken.stored.data is None:
        return "the stored data is missing"
    try:
        _ = claim.data
    except PayloadError as error:
        return str(error)
    return ""
