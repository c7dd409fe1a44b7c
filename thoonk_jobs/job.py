"""What a job looks like from outside: frozen values, read once."""

from __future__ import annotations

import traceback as tracebacks
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

from thoonk_jobs import codec, keys, record
from thoonk_jobs.machine import Outcome, State

J = TypeVar("J")
STATES = tuple(State)
OUTCOMES: tuple[Outcome | None, ...] = (None, *Outcome)


class Stored(NamedTuple):
    """What the server holds of a job: the packed record and the opaque bytes beside it."""

    record: bytes
    data: bytes | None = None
    result: bytes | None = None
    progress: bytes | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    value, total  as they were reported; total may be unknown.
    percent       0 to 100, or None without a total; 100 does not finish a job.
    at            when the report was made, by the clock of the process that made it.
    """

    value: float
    total: float | None
    message: str | None
    at: datetime

    @property
    def percent(self) -> float | None:
        """value of total in percent, at most 100."""
        return None if not self.total else max(0.0, min(100.0, 100.0 * self.value / self.total))

    @classmethod
    def read(cls, raw: bytes) -> Progress:
        """What a claimant reported."""
        value, total, message, at = codec.decode(raw)
        return cls(value, total, message, datetime.fromtimestamp(at, UTC))


@dataclass(frozen=True, slots=True)
class JobError:
    """Why an attempt failed; data is what JSON was given beside or instead of an exception."""

    type: str
    message: str
    traceback: str | None = None
    data: Any = None

    @classmethod
    def of(cls, error: Any) -> JobError:
        """An exception, a text or JSON as an error; an exception's own attributes become its data."""
        if isinstance(error, cls):
            return error
        if isinstance(error, BaseException):
            text = "".join(tracebacks.format_exception(error))
            own = {name: value for name, value in vars(error).items() if not name.startswith("_")}
            try:
                message = str(error)
            except Exception:  # an exception that cannot say what it is fails its job all the same
                message = "the exception has no text"
            return cls(type(error).__name__, message, text, own or None)
        if isinstance(error, str):
            return cls("Error", error)
        return cls("Error", "the work failed", None, error)


@dataclass(frozen=True, slots=True)
class Page(Generic[J]):
    """Some of many jobs; cursor asks for the next page and is None after the last."""

    jobs: list[J]
    cursor: str | None


def _moment(milliseconds: float) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


class Snapshot:
    """A job as it was when it was read; never changes. What is not read costs nothing: fields are unpacked on use."""

    __slots__ = ("_fields", "_stored", "id", "queue")

    def __init__(self, id: str, queue: str, stored: Stored | None) -> None:
        self.id = id
        self.queue = queue
        self._stored = stored
        self._fields: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} of {self.queue!r}: {self.state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and (self.queue, self.id) == (other.queue, other.id)

    def __hash__(self) -> int:
        return hash((self.queue, self.id))

    @property
    def _record(self) -> Any:
        if self._fields is None:
            self._fields = record.unpack(self._stored.record if self._stored else record.BLANK)
        return self._fields

    def _text(self, name: str) -> str | None:
        return keys.unescape(getattr(self._record, name).decode()) or None

    @property
    def state(self) -> State:
        """Where it was; ABSENT when nothing is kept of it any more."""
        return STATES[int(self._record.state)]

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, once finished."""
        return OUTCOMES[int(self._record.outcome)]

    @property
    def data(self) -> Any:
        """What was published; equal to it. Raises PayloadError if the stored bytes cannot be read."""
        return codec.decode_with_headers(self._payload())[0]

    @property
    def headers(self) -> dict[str, Any]:
        """What was published beside the data, for tools; {} without."""
        return codec.decode_with_headers(self._payload())[1]

    def _payload(self) -> bytes:
        return b"jnull" if self._stored is None or self._stored.data is None else self._stored.data

    @property
    def result(self) -> Any:
        """What finish was given; None without a result, or before."""
        raw = self._stored.result if self._stored else None
        return codec.decode(raw) if raw and raw[:1] != b"e" else None

    @property
    def error(self) -> JobError | None:
        """Why the last attempt failed, if it did."""
        raw = self._stored.result if self._stored else None
        return JobError(*codec.decode_error(raw)) if raw and raw[:1] == b"e" else None

    @property
    def progress(self) -> Progress | None:
        """The last report of its claimant."""
        raw = self._stored.progress if self._stored else None
        return Progress.read(raw) if raw else None

    @property
    def reason(self) -> str | None:
        """Why it was stalled, cancelled or retracted, in words."""
        return self._text("reason")

    @property
    def key(self) -> str | None:
        """What limits count it by."""
        return self._text("key")

    @property
    def worker(self) -> str | None:
        """Who claimed it last: process@host:pid."""
        return self._text("worker")

    @property
    def priority(self) -> float:
        """Higher first; `inf` is the front."""
        return float(self._record.priority)

    claims = property(lambda self: int(self._record.claims), doc="How often it was claimed.")
    failures = property(lambda self: int(self._record.failures), doc="Failed attempts since the last retry or rerun.")
    cancels = property(lambda self: int(self._record.cancels), doc="Cancels since the last retry or rerun.")
    lost = property(lambda self: int(self._record.lost), doc="Claims lost since the last retry or rerun.")
    total_failures = property(lambda self: int(self._record.total_failures), doc="Failed attempts in all.")
    total_cancels = property(lambda self: int(self._record.total_cancels), doc="Cancels in all.")
    published_at = property(lambda self: _moment(self._record.published_at), doc="When it was published, UTC.")
    claimed_at = property(lambda self: _moment(self._record.claimed_at), doc="When it was claimed last, UTC.")
    finished_at = property(lambda self: _moment(self._record.finished_at), doc="When it finished, UTC.")

    @property
    def stalled_since(self) -> float:
        """When it was stalled, in ms by the server's clock; 0 in any other state."""
        return float(self._record.until) if self.state is State.STALLED else 0.0

    @property
    def due_at(self) -> datetime | None:
        """When a scheduled job becomes available, UTC; None in any other state."""
        return _moment(self._record.until) if self.state is State.SCHEDULED else None

    @property
    def expires_at(self) -> datetime | None:
        """When it lapses if it is not done by then, UTC; None for never."""
        return _moment(float(self._record.expires or 0))
