"""A job, and a job that this process holds, of the blocking client."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self, cast

from thoonk_jobs import request
from thoonk_jobs.claiming import ClaimCore, JobCore
from thoonk_jobs.flows import Flow

if TYPE_CHECKING:
    from thoonk_jobs.base import QueueBase
    from thoonk_jobs.blocking import BlockingSession


class Job(JobCore):
    """A snapshot of a job; `refresh` reads a newer one."""

    __slots__ = ()

    def _do(self, flow: Flow[Any]) -> Any:
        return cast("BlockingSession", self._queue.session).follow(flow)

    def refresh(self) -> Job:
        """The job as it is now. Raises JobNotFound when nothing of it is kept."""
        return cast(Job, self._do(self._queue._job(self.id)))

    def wait(self, timeout: float | None = None) -> Job:
        """The snapshot once the job is finished or stalled.

        timeout  seconds; None waits for ever.

        Raises TimeoutError when the time is over, JobNotFound when nothing of the job is kept.
        """
        return cast(Job, self._do(self._wait(timeout)))

    def value(self, timeout: float | None = None) -> Any:
        """The result, once there is one. Raises JobFailed for any other end, and what `wait` raises."""
        return self._do(self._value(timeout))


class Claim(ClaimCore, Job):
    """A job that this process holds until a verb ends the claim, or it is lost.

    token  the fencing token: grows with every claim of the queue.

    As a context manager: a claim not ended inside finishes without a result, or fails with the exception.
    """

    __slots__ = ("_lock",)

    def __init__(self, queue: QueueBase, taken: request.Taken, lease: float, *, renewed: bool) -> None:
        super().__init__(queue, taken, lease, renewed=renewed)
        self._lock = threading.Lock()

    def _do_end(self, flow: Flow[None]) -> None:
        with self._lock:  # of two threads that end a claim one does, and the other hears it
            self._do(flow)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._over:
            self._do_end(self._leave(error))

    def finish(self, result: Any = None) -> None:
        """The work is done. result: as data; None for none.

        Raises PayloadError if the result cannot be sent: the claim stays valid. StaleClaim if the claim was lost.
        """
        self._do_end(self._finish(result))

    def fail(self, error: Any, *, final: bool = False) -> None:
        """The attempt failed. error: an exception, a text or JSON; final: no other attempt, the outcome is `error`.

        With attempts left the job goes back, after its back-off; without any it is stalled.
        """
        self._do_end(self._fail(error, final=final))

    def cancel(self, reason: str | None = None, delay: Any = None) -> None:
        """Gives the job back to its queue (elsewhere: release, nack), to be claimed again, by anybody.

        delay  seconds before that; it keeps its priority and goes to the back of its class.
        """
        self._do_end(self._cancel(reason, delay))

    def stall(self, reason: str | None = None) -> None:
        """Sets the job aside, until somebody retries or retracts it."""
        self._do_end(self._stall(reason))

    def renew(self, lease: Any = None) -> None:
        """Starts the lease anew: seconds from now; None is the lease it was claimed with."""
        self._do(self._renew(lease))

    def set_progress(self, value: float, total: float | None = None, message: str | None = None) -> None:
        """Says how far the work is; the publisher's on_progress hears every report, in order."""
        self._do(self._set_progress(value, total, message))

    def log(self, text: str) -> None:
        """Adds a line to what is kept with the job; the last 1 000 are."""
        self._do(self._log(text))

    def emit(self, name: str, data: Any = None) -> None:
        """Sends an event of the job's own to the subscribers of the queue."""
        self._do(self._emit(name, data))
