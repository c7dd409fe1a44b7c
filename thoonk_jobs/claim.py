"""A job with its queue behind it, and a job that this process holds."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from thoonk_jobs import arguments, calls, codec, flows, keys
from thoonk_jobs.errors import InvalidArgument, JobFailed, JobNotFound, StaleClaim, TransitionRefused
from thoonk_jobs.job import JobError, Snapshot, Stored
from thoonk_jobs.machine import Outcome, State
from thoonk_jobs.publication import backoff_delay
from thoonk_jobs.session import verb_result

if TYPE_CHECKING:
    from thoonk_jobs.base import QueueBase

REASON_KEPT = 1000


class Job(Snapshot):
    """A snapshot of a job; `refresh` reads a newer one."""

    __slots__ = ("_queue",)

    def __init__(self, queue: QueueBase, id: str, stored: Stored | None) -> None:
        super().__init__(id, queue.name, stored)
        self._queue = queue

    def refresh(self) -> Job:
        """The job as it is now. Raises JobNotFound when nothing of it is kept."""
        return self._queue.job(self.id)

    def wait(self, timeout: float | None = None) -> Job:
        """The snapshot once the job is finished or stalled.

        timeout  seconds; None waits for ever.

        Raises TimeoutError when the time is over, JobNotFound when nothing of the job is kept.
        """
        if self.state is State.FINISHED:
            return self
        span = arguments.seconds(timeout, "timeout")
        session = self._queue.session
        stored = session.wire.follow(flows.wait_for_end(session, self._queue.keys, self.id, span))
        if stored is None:
            raise not_found(self._queue.name, self.id, "wait for")
        return Job(self._queue, self.id, stored)

    def value(self, timeout: float | None = None) -> Any:
        """The result, once there is one. Raises JobFailed for any other end, and what `wait` raises."""
        job = self.wait(timeout)
        if job.outcome is Outcome.SUCCESS:
            return job.result
        how = f"it is {job.state}" if job.state is not State.FINISHED else f"its outcome is {job.outcome}"
        why = job.error.message if job.error else job.reason
        raise JobFailed(f"job {self.id!r} of queue {self.queue!r} has no value: {how}{f' ({why})' if why else ''}", job)


class Claim(Job):
    """A job that this process holds until a verb ends the claim, or it is lost.

    token  the fencing token: grows with every claim of the queue.

    As a context manager: a claim not ended inside finishes without a result, or fails with the exception.
    """

    __slots__ = ("_ended", "_lock", "_lost", "_numbers", "aborted", "keys", "lease", "process", "renewed", "token")

    def __init__(self, queue: QueueBase, taken: calls.Taken, lease: float, *, renewed: bool) -> None:
        super().__init__(queue, taken.id, taken.stored)
        self.keys = queue.keys
        self.process = queue.session.process
        self.token = taken.token
        self.lease = lease
        self.renewed = renewed
        self.aborted = False
        self._ended: str | None = None
        self._lost = False
        self._lock = threading.Lock()
        self._numbers = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._ended or self.aborted or self.process != self._queue.session.process:
            return
        if error is None:
            self.finish()
        elif isinstance(error, Exception):
            self.fail(error)
        else:
            self.cancel(f"interrupted by {type(error).__name__}")

    def finish(self, result: Any = None) -> None:
        """The work is done. result: as data; None for none.

        Raises PayloadError if the result cannot be sent: the claim stays valid. StaleClaim if the claim was lost.
        """
        encoded = b"" if result is None else codec.encode(result, name="result")
        self._queue.check_size(encoded, "result")
        self._end("finish", calls.finish(self.keys, self.id, self.token, encoded))

    def fail(self, error: Any, *, final: bool = False) -> None:
        """The attempt failed. error: an exception, a text or JSON; final: no other attempt, the outcome is `error`.

        With attempts left the job goes back, after its back-off; without any it is stalled.
        """
        encoded = codec.encode_error(JobError.of(error))
        delay = backoff_delay(self._record.backoff.decode(), self.failures + 1)
        self._end("fail", calls.fail(self.keys, self.id, self.token, encoded, final=final, delay=delay))

    def cancel(self, reason: str | None = None, delay: Any = None) -> None:
        """Gives the job back to its queue (elsewhere: release, nack), to be claimed again, by anybody.

        delay  seconds before that; it keeps its priority and goes to the back of its class.
        """
        span = arguments.seconds(delay, "delay", ends=True) or 0.0
        self._end("cancel", calls.cancel(self.keys, self.id, self.token, reason_text(reason), span))

    def stall(self, reason: str | None = None) -> None:
        """Sets the job aside, until somebody retries or retracts it."""
        self._end("stall", calls.stall(self.keys, self.id, reason_text(reason), self.token))

    def renew(self, lease: Any = None) -> None:
        """Starts the lease anew: seconds from now; None is the lease it was claimed with."""
        span = self.lease if lease is None else lease_seconds(lease)
        self._write("renew", calls.renew(self.keys, [(self.id, self.token, span)]))
        self.lease = span

    def set_progress(self, value: float, total: float | None = None, message: str | None = None) -> None:
        """Says how far the work is; the publisher's on_progress hears every report, in order."""
        for name, number in (("value", value), ("total", total)):
            if number is not None:
                arguments.number(number, name)
        if message is not None and not isinstance(message, str):
            raise InvalidArgument(f"message={message!r} is a {type(message).__name__}; give a str")
        self._report("progress", [value, total, message, time.time()])

    def log(self, text: str) -> None:
        """Adds a line to what is kept with the job; the last 1 000 are."""
        if not isinstance(text, str):
            raise InvalidArgument(f"log({text!r}) is a {type(text).__name__}; give a str")
        self._report("log", [text, time.time()])

    def emit(self, name: str, data: Any = None) -> None:
        """Sends an event of the job's own to the subscribers of the queue."""
        self._report("emit", [arguments.text(name, "name"), data])

    def _report(self, kind: str, data: list[Any]) -> None:
        encoded = codec.encode(data, name=kind)
        self._queue.check_size(encoded, kind)
        verb = {"progress": "set_progress"}.get(kind, kind)
        self._write(verb, calls.report(self.keys, self.id, self.token, kind, next(self._numbers), encoded))

    def _end(self, verb: str, call: calls.Call[calls.Refusals]) -> None:
        with self._lock:  # of two threads that end a claim one does, and the other hears it
            self._write(verb, call)
            self._ended = verb
        self._let_go()

    def _write(self, verb: str, call: calls.Call[calls.Refusals]) -> None:
        if self.process != self._queue.session.process:
            raise TransitionRefused(
                f"cannot {verb} job {self.id!r} of queue {self.queue!r}: its claim is the parent process's",
                job_id=self.id, transition=verb, state=self._queue.state_of(self.id))  # fmt: skip
        if self._ended:
            state = self._queue.state_of(self.id)
            raise TransitionRefused(
                f"cannot {verb} job {self.id!r} of queue {self.queue!r}: this claim ended with {self._ended}",
                job_id=self.id, transition=verb, state=state)  # fmt: skip
        if self._lost:
            raise lost(self, verb, self._queue.state_of(self.id))
        try:
            verb_result(self._queue.session.wire.run(call))
        except (StaleClaim, JobNotFound) as refused:
            self._queue.session.leases.drop(self.keys, self.id, self.token)
            self.lose()
            raise lost(self, verb, refused.state) from None

    def _let_go(self) -> None:
        self._queue.session.leases.drop(self.keys, self.id, self.token)
        self._queue.release_claim(self)

    def lose(self) -> None:
        """Said by who keeps the claims of this process: this one is not valid any more."""
        self.aborted = self._lost = True


def lost(claim: Claim, verb: str, state: State) -> StaleClaim:
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
