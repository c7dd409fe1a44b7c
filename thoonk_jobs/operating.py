"""A queue from the operator's side: looking, mending, setting."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from thoonk_jobs import calls, flows, settings
from thoonk_jobs.base import QueueBase
from thoonk_jobs.claim import Job, reason_text
from thoonk_jobs.errors import InvalidArgument
from thoonk_jobs.job import Page
from thoonk_jobs.machine import LIVE, State
from thoonk_jobs.session import verb_result


class Operating(QueueBase):
    """What operators and dashboards do. Repeating a verb whose effect already holds returns quietly."""

    def retry(self, id: str) -> None:
        """Let a stalled job run again: failures, cancels and lost claims start anew."""
        self._operate("retry", id)

    def rerun(self, id: str) -> None:
        """Run a finished job once more, as a new run; its data must still be kept."""
        self._operate("rerun", id)

    def retract(self, id: str) -> None:
        """Withdraw a live job: it finishes as retracted; a claimant is told and its result refused."""
        self._operate("retract", id)

    def stall(self, job: Job | str, reason: str | None = None) -> None:
        """Set a job aside: as its claimant where this Queue object claimed it, else as an operator, if it is live."""
        id = self.id_of(job)
        if claim := self.claim_of(id):
            claim.stall(reason)
        else:
            verb_result(self.session.wire.run(calls.stall(self.keys, id, reason_text(reason))))

    def _operate(self, verb: str, id: str) -> None:
        verb_result(self.session.wire.run(calls.operate(self.keys, verb, [self.id_of(id)])))

    def retry_all(self) -> int:
        """Retry every stalled job, a bounded part at a time; how many it was."""
        return self.session.wire.follow(flows.operate_on_all(self.keys, "retry", State.STALLED))

    def retract_all(self, state: State | str) -> int:
        """Withdraw every job of a live state, a bounded part at a time; how many it was."""
        chosen = _state(state)
        if chosen not in LIVE:
            raise InvalidArgument(f"retract_all({state!r}): these cannot be withdrawn; give one of {', '.join(LIVE)}")
        return self.session.wire.follow(flows.operate_on_all(self.keys, "retract", chosen))

    def jobs(self, state: State | str | None = None, *, limit: int = 100, cursor: str | None = None) -> Page[Job]:
        """Some jobs, of one state or of all: each state in its own order, as the most urgent first.

        cursor  of the page before; what was published or moved meanwhile may be missing or come twice.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument(f"limit={limit!r} is no number of jobs; give 1 or more")
        states = tuple(calls.INDEXES) if state is None else (_state(state),)
        if State.ABSENT in states:
            return Page([], None)
        flow = flows.jobs_page(self.keys, states, limit, _read_cursor(cursor, states))
        found, then = self.session.wire.follow(flow)
        jobs = [Job(self, id, stored) for id, stored in found]
        return Page(jobs, then and urlsafe_b64encode(b"\0".join((then[0].encode(), *then[1:]))).decode())

    def ids(self) -> list[str]:
        """The ids of all live jobs, in the order of `jobs`."""
        return self.session.wire.follow(flows.live_ids(self.keys))

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        return self.session.wire.run(calls.counts(self.keys))

    def pause(self) -> None:
        """Hand out no more jobs, in any process, until `resume`."""
        self.session.enter(self.keys)
        self.session.wire.run(calls.pause(self.keys, on=True))

    def resume(self) -> None:
        """Hand out jobs again."""
        self.session.wire.run(calls.pause(self.keys, on=False))

    def configure(
        self,
        *,
        max_lost: float | None = None,
        max_cancels: float | None = None,
        max_attempts: float | None = None,
        backoff: Any = None,
        keep: Any = None,
        keep_last: float | None = None,
        keep_stalled: float | None = None,
        keep_events: float | None = None,
        expires_in: Any = None,
        priority: float | str | None = None,
        max_payload: float | None = None,
    ) -> None:
        """Set what holds for the whole queue, in every process, from the next call on; what is left out stays.

        max_lost, max_cancels            the lost claim or cancel that stalls a job.
        keep_last, keep_stalled          how many finished jobs stay readable, how many stalled ones stay.
        keep_events                      how many moves the log of the queue holds.
        the rest                         usual values of `publish`; max_payload in bytes.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        stored = {name: settings.stored(name, value) for name, value in given.items()}
        self.session.enter(self.keys)
        self.session.wire.run(calls.configure(self.keys, stored))

    def delete(self) -> None:
        """Withdraw every live job, then remove all keys of the queue."""
        self.session.leave(self.keys)
        self.session.wire.follow(flows.delete_queue(self.keys))


def _state(state: State | str) -> State:
    try:
        return State(state)
    except ValueError:
        raise InvalidArgument(f"state={state!r} is none; give one of {', '.join(State)}") from None


def _read_cursor(cursor: str | None, states: tuple[State, ...]) -> tuple[str, bytes, bytes] | None:
    if cursor is None:
        return None
    try:
        index, score, member = urlsafe_b64decode(cursor.encode()).split(b"\0", 2)
        float(score)
        if index.decode() not in {name for state in states for name in calls.INDEXES[state]}:
            raise ValueError(index)
    except ValueError:
        raise InvalidArgument(f"cursor={cursor!r} is none; give the cursor of a page of the same states") from None
    return index.decode(), score, member
