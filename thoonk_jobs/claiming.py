"""A job with its queue behind it, and a job that this process holds: what both clients have alike, as flows."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any

from thoonk_jobs import arguments, calls, codec, flows, keys, request
from thoonk_jobs.errors import BrokerUnavailable, InvalidArgument, JobFailed, JobNotFound, StaleClaim, TransitionRefused
from thoonk_jobs.flows import Flow
from thoonk_jobs.job import JobError, Snapshot, Stored
from thoonk_jobs.logs import log
from thoonk_jobs.machine import Outcome, State
from thoonk_jobs.publication import backoff_delay
from thoonk_jobs.session import verb_result

if TYPE_CHECKING:
    from thoonk_jobs.base import QueueBase

REASON_KEPT = 1000
_VERBS = {"progress": "set_progress"}


class JobCore(Snapshot):
    """A snapshot of a job, of either client."""

    __slots__ = ("_queue",)

    def __init__(self, queue: QueueBase, id: str, stored: Stored | None) -> None:
        super().__init__(id, queue.name, stored)
        self._queue = queue

    def _wait(self, timeout: Any) -> Flow[Any]:
        if self.state is State.FINISHED:
            return self
        span = arguments.seconds(timeout, "timeout")
        stored = yield from flows.wait_for_end(self._queue.session, self._queue.keys, self.id, span)
        if stored is None:
            raise not_found(self._queue.name, self.id, "wait for")
        return self._queue.make_job(self.id, stored)

    def _value(self, timeout: Any) -> Flow[Any]:
        job = yield from self._wait(timeout)
        if job.outcome is Outcome.SUCCESS:
            return job.result
        how = f"it is {job.state}" if job.state is not State.FINISHED else f"its outcome is {job.outcome}"
        why = job.error.message if job.error else job.reason
        raise JobFailed(f"job {self.id!r} of queue {self.queue!r} has no value: {how}{f' ({why})' if why else ''}", job)


class ClaimCore(JobCore):
    """A job that this process holds until a verb ends the claim, or it is lost; of either client."""

    __slots__ = ("_ended", "_lost", "_numbers", "aborted", "keys", "lease", "process", "renewed", "token")

    def __init__(self, queue: QueueBase, taken: request.Taken, lease: float, *, renewed: bool) -> None:
        super().__init__(queue, taken.id, taken.stored)
        self.keys = queue.keys
        self.process = queue.session.process
        self.token = taken.token
        self.lease = lease
        self.renewed = renewed
        self.aborted = False
        self._ended: str | None = None
        self._lost = False
        self._numbers = count(1)

    @property
    def _over(self) -> bool:
        """Whether there is nothing to do at the end of a `with` block."""
        return bool(self._ended) or self.aborted or self.process != self._queue.session.process

    def _leave(self, error: BaseException | None) -> Flow[None]:
        if error is None:
            return self._finish(None)
        if isinstance(error, Exception):
            return self._fail(error, final=False)
        return self._interrupted(type(error).__name__)

    def _interrupted(self, what: str) -> Flow[None]:
        try:
            yield from self._cancel(f"interrupted by {what}", None)
        except TransitionRefused:  # a verb was on its way, and was done; what interrupted it goes on
            self._over_with("interrupted")
        except BrokerUnavailable as error:
            log.warning("claim_left_to_its_lease", queue=self.queue, job_id=self.id, error=str(error))

    @property
    def _back(self) -> int:
        return self._queue.session.back(self.keys)

    def _finish(self, result: Any) -> Flow[None]:
        encoded = b"" if result is None else codec.encode(result, name="result")
        yield from self._queue.check_size(encoded, "result")
        yield from self._end("finish", calls.finish(self.keys, self.id, self.token, encoded, back=self._back))

    def _fail(self, error: Any, *, final: bool) -> Flow[None]:
        encoded = codec.encode_error(JobError.of(error))
        delay = backoff_delay(self._record.backoff.decode(), self.failures + 1)
        call = calls.fail(self.keys, self.id, self.token, encoded, final=final, delay=delay, back=self._back)
        yield from self._end("fail", call)

    def _cancel(self, reason: str | None, delay: Any) -> Flow[None]:
        span = arguments.seconds(delay, "delay", ends=True) or 0.0
        call = calls.cancel(self.keys, self.id, self.token, reason_text(reason), span, back=self._back)
        yield from self._end("cancel", call)

    def _stall(self, reason: str | None) -> Flow[None]:
        call = calls.stall(self.keys, self.id, reason_text(reason), self.token, back=self._back)
        yield from self._end("stall", call)

    def _renew(self, lease: Any) -> Flow[None]:
        span = self.lease if lease is None else lease_seconds(lease)
        yield from self._write("renew", calls.renew(self.keys, [(self.id, self.token, span)]))
        self.lease = span
        session = self._queue.session
        session.leases.renewed(self, session.engine)

    def _set_progress(self, value: float, total: float | None, message: str | None) -> Flow[None]:
        for name, number in (("value", value), ("total", total)):
            if number is not None:
                arguments.number(number, name)
        if message is not None and not isinstance(message, str):
            raise InvalidArgument(f"message={message!r} is a {type(message).__name__}; give a str")
        return self._report("progress", [value, total, message, time.time()])

    def _log(self, text: str) -> Flow[None]:
        if not isinstance(text, str):
            raise InvalidArgument(f"log({text!r}) is a {type(text).__name__}; give a str")
        return self._report("log", [text, time.time()])

    def _emit(self, name: str, data: Any) -> Flow[None]:
        return self._report("emit", [arguments.text(name, "name"), data])

    def _report(self, kind: str, data: list[Any]) -> Flow[None]:
        encoded = codec.encode(data, name=kind)
        yield from self._queue.check_size(encoded, kind)
        call = calls.report(self.keys, self.id, self.token, kind, next(self._numbers), encoded)
        yield from self._write(_VERBS.get(kind, kind), call)

    def _end(self, verb: str, call: request.Call[request.Refusals]) -> Flow[None]:
        yield from self._write(verb, call)
        self._over_with(verb)

    def _over_with(self, verb: str) -> None:
        self._ended = verb
        self._queue.session.leases.drop(self.keys, self.id, self.token)
        self._queue.release_claim(self)

    def _write(self, verb: str, call: request.Call[request.Refusals]) -> Flow[None]:
        yield from self._check_held(verb)
        try:
            verb_result((yield call))
        except (StaleClaim, JobNotFound) as refused:
            self._queue.session.leases.drop(self.keys, self.id, self.token)
            self.lose()
            raise lost(self, verb, refused.state) from None

    def _check_held(self, verb: str) -> Flow[None]:
        if self.process != self._queue.session.process:
            why = "its claim is the parent process's"
        elif self._ended:
            why = f"this claim ended with {self._ended}"
        elif self._lost:
            raise lost(self, verb, (yield from self._queue.state_of(self.id)))
        else:
            return
        raise TransitionRefused(
            f"cannot {verb} job {self.id!r} of queue {self.queue!r}: {why}",
            job_id=self.id, transition=verb, state=(yield from self._queue.state_of(self.id)))  # fmt: skip

    def lose(self) -> None:
        """Said by who keeps the claims of this process: this one is not valid any more."""
        self.aborted = self._lost = True


def lost(claim: ClaimCore, verb: str, state: State) -> StaleClaim:
    """The error for a claim that was lost: taken back, withdrawn, or gone with its job."""
    return StaleClaim(
        f"cannot {verb} job {claim.id!r} of queue {claim.queue!r}: this claim was lost and the job is {state} now; "
        "renew during long work, or raise lease=",
        job_id=claim.id, transition=verb, state=state)  # fmt: skip


def not_found(queue: str, id: str, asked: str) -> JobNotFound:
    """The error for a job of which nothing is kept."""
    return JobNotFound(
        f"cannot {asked} job {id!r} of queue {queue!r}: there is none, or it is no longer kept",
        job_id=id, transition=asked, state=State.ABSENT)  # fmt: skip


def reason_text(reason: str | None) -> str:
    """A reason as it is stored: a text of bounded length."""
    if reason is None:
        return ""
    if not isinstance(reason, str):
        raise InvalidArgument(f"reason={reason!r} is a {type(reason).__name__}; give a str")
    return keys.escape(reason[:REASON_KEPT].encode(errors="replace").decode())


def lease_seconds(lease: Any) -> float:
    """A lease: finite, more than 0."""
    span = arguments.seconds(lease, "lease", open_below=True, ends=True)
    if span is None:
        raise InvalidArgument("lease=None has no end; give seconds, and renew during long work")
    return span
