"""Everything that can go wrong, as one tree: each message says what was asked, what stood in the way, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thoonk_jobs.keys import unescape
from thoonk_jobs.machine import State


class ThoonkError(Exception):
    """The base of all errors of this library."""


class ConfigError(ThoonkError, ValueError):
    """A URL, an environment variable, a permission or another setting that cannot work."""


class InvalidArgument(ThoonkError, ValueError):
    """An argument outside its range; nothing was sent."""


class PayloadError(ThoonkError, ValueError):
    """Data that would not come back equal, or is too large; nothing was sent."""


class BrokerUnavailable(ThoonkError, ConnectionError):
    """The server cannot be reached, or refuses to write. What was asked may or may not have happened.

    job_ids  the ids a publish used: publishing with them again can never make a second job.
    code     the server's own word, as `OOM`; "" when there was no answer.
    """

    def __init__(self, message: str, *, code: str = "", job_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.job_ids = list(job_ids)


CLOSED, CLOSED_MEANWHILE = "this broker was closed; make another one", "the broker was closed while this call waited"


class BrokerClosed(ThoonkError):
    """The broker was closed, here or while this call waited."""


class IncompatibleServer(ThoonkError):
    """A server that is too old, evicts keys, or holds a newer key layout than this client knows."""


class TransitionRefused(ThoonkError):
    """The state machine has no such move from the job's present state; nothing changed."""

    def __init__(self, message: str, *, job_id: str, transition: str, state: State) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.transition = transition
        self.state = state


class JobNotFound(TransitionRefused):
    """No job has this id, or what it left behind is no longer kept."""


class JobExists(TransitionRefused):
    """The id is taken by a job with other data."""


class NotUnique(TransitionRefused):
    """A live job holds the unique name; `job_id` is the holder."""


class StaleClaim(TransitionRefused):
    """The claim was lost: its lease ran out, or somebody withdrew the job."""


class LimitReached(ThoonkError):
    """A limit that rejects is full: `limit` jobs of `key`, or of the whole queue where that is None."""

    def __init__(self, message: str, *, key: str | None, limit: int) -> None:
        super().__init__(message)
        self.key = key
        self.limit = limit


class KeyBlocked(ThoonkError):
    """Nobody may publish with this key for now."""

    def __init__(self, message: str, *, key: str, reason: str, seconds_left: float) -> None:
        super().__init__(message)
        self.key = key
        self.reason = reason
        self.seconds_left = seconds_left


class JobFailed(ThoonkError):
    """The job whose value was asked for ended without one; `job` is its snapshot."""

    def __init__(self, message: str, job: Any) -> None:
        super().__init__(message)
        self.job = job


class EventsLost(ThoonkError):
    """Events were asked for that are not kept any more, or never were: the subscriber was slow, or the data was lost.

    seq  number of the event before the first that can be had: `since=seq` begins there.
    """

    def __init__(self, message: str, *, seq: int) -> None:
        super().__init__(message)
        self.seq = seq


class PublishFailed(ThoonkError):
    """Some of many jobs were refused; the rest is published.

    jobs    by position, the job, or None where it was refused.
    errors  position -> error.
    """

    def __init__(self, message: str, *, jobs: Sequence[Any], errors: dict[int, ThoonkError]) -> None:
        super().__init__(message)
        self.jobs = list(jobs)
        self.errors = errors


def from_reply(answer: list[Any], *, asked: str, job_id: str, queue: str) -> ThoonkError:
    """The error behind a script's refusal {why, number of the state, detail}; the only reader of those words.

    asked  the transition that was asked for, as in `finish`.
    """
    why, state = answer[0].decode(), list(State)[answer[1]]
    detail = answer[2].decode() if len(answer) > 2 else ""
    told = {"job_id": job_id, "transition": asked, "state": state}
    job = f"job {job_id!r} of queue {queue!r}"
    if why == "absent":
        return JobNotFound(f"cannot {asked} {job}: there is none, or it is no longer kept", **told)
    if why == "stale":
        return StaleClaim(
            f"cannot {asked} {job}: this claim was lost and the job is {state} now; "
            "renew during long work, or raise lease=", **told)  # fmt: skip
    if why == "exists":
        return JobExists(f"cannot {asked} {job}: the id is taken by a job with other data; choose another id", **told)
    if why == "not-unique":
        told["job_id"] = detail
        return NotUnique(
            f"cannot {asked} {job}: the live job {detail!r} has its unique name; wait for its end, "
            "or say with Unique what else is to become of it", **told)  # fmt: skip
    if why in ("full", "blocked"):
        return _barred(why, detail, f"cannot {asked} {job}")
    if why == "too-large":
        return PayloadError(f"cannot {asked} {job}: the data is over the queue's max_payload of {detail} bytes")
    return TransitionRefused(f"cannot {asked} {job}: it is {state}", **told)


def _barred(why: str, detail: str, refused: str) -> ThoonkError:
    stored, number, words = detail.split("\0", 2)
    key = unescape(stored)
    if why == "blocked":
        left, reason = float(number) / 1000, unescape(words)
        return KeyBlocked(
            f"{refused}: its key {key!r} is blocked for {left:g} s more: {reason}; publish later, or unblock it",
            key=key, reason=reason, seconds_left=left)  # fmt: skip
    whose = f"its key {key!r}" if key else "the queue"
    return LimitReached(
        f"{refused}: {whose} is at its limit of {number} {words}; publish later, or raise the limit",
        key=key or None, limit=int(number))  # fmt: skip
