"""From the arguments of `publish` to what is sent: everything is checked here, before anything leaves the process."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from thoonk_jobs import arguments, codec, keys, limits
from thoonk_jobs.errors import InvalidArgument
from thoonk_jobs.ids import new_id
from thoonk_jobs.record import COUNT_LIMIT, NO_BACKOFF, Spec

Callback = Callable[..., Any]
DEFAULT_MAX_PAYLOAD = 1_048_576


class Publish:
    """One of many jobs: its data and the options of `Queue.publish` that are its own."""

    def __init__(self, data: Any, **options: Any) -> None:
        self.data = data
        self.options = options


ON_CONFLICT = ("raise", "return", "replace")
UNTIL = ("finished", "claimed")


@dataclass(frozen=True, slots=True)
class Unique:
    """A name that one live job of a queue has at a time; `publish(unique="name")` stands for `Unique("name")`.

    on_conflict  what becomes of a publish while a live job has the name. "raise": NotUnique, which names that job.
                 "return": that job is the answer. "replace": it gets the newer data, and the newer start where one of
                 the two has a delay or a date (debouncing), unless it is claimed or stalled (NotUnique); its other
                 options and its place stay as they were.
    until        "finished": the name is free once the job is finished. "claimed": once it is claimed, so that one may
                 run while the next one gathers the newest data; with a key that is limited to one, one runs at a time.
    """

    name: str
    on_conflict: str = "raise"
    until: str = "finished"

    def __post_init__(self) -> None:
        arguments.text(self.name, "unique")
        for name, words in (("on_conflict", ON_CONFLICT), ("until", UNTIL)):
            if getattr(self, name) not in words:
                raise InvalidArgument(f"{name}={getattr(self, name)!r} is not known; give one of {', '.join(words)}")


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom a publisher wants called."""

    on_finish: Callback | None = None
    on_stall: Callback | None = None
    on_progress: Callback | None = None

    def __bool__(self) -> bool:
        return any((self.on_finish, self.on_stall, self.on_progress))


@dataclass(frozen=True, slots=True)
class Publication:
    """A job that is ready to be sent."""

    id: str
    digest: bytes
    spec: bytes
    body: bytes
    callbacks: Callbacks = field(default_factory=Callbacks)


def prepare(data: Any, home: str, options: Mapping[str, Any], *, coroutines: bool = False) -> Publication:
    """Checks one job. Raises PayloadError or InvalidArgument, which name what cannot be.

    home        the process that is to hear of this job, if it has callbacks.
    coroutines  callbacks may be coroutine functions.
    """
    given = dict(options)
    id, headers = given.pop("id", None), given.pop("headers", None)
    asked = {name: given.pop(name, None) for name in Callbacks.__dataclass_fields__}
    callbacks = Callbacks(*(_callable(value, name, coroutines=coroutines) for name, value in asked.items()))
    if headers is not None and not isinstance(headers, dict):
        raise InvalidArgument(f"headers={headers!r} is a {type(headers).__name__}; give a dict with text keys")
    id = new_id() if id is None else arguments.text(id, "id")
    body, digest = codec.pack(data, headers)
    return Publication(id, digest, _spec(home if callbacks else "", given), body, callbacks)


def _spec(home: str, given: dict[str, Any]) -> bytes:
    if not any(value is not None for value in given.values()):
        return _usual(home)
    return spec(home, **given).pack()


@lru_cache(maxsize=64)
def _usual(home: str) -> bytes:
    return Spec(home=home).pack()


def spec(
    home: str = "",
    *,
    priority: Any = None,
    delay: Any = None,
    run_at: Any = None,
    expires_in: Any = None,
    max_attempts: Any = None,
    backoff: Any = None,
    key: str | None = None,
    unique: Any = None,
    keep: Any = None,
) -> Spec:
    """The options of a publication, checked; None leaves it to the queue."""
    if delay is not None and run_at is not None:
        raise InvalidArgument(f"delay={delay!r} and run_at={run_at!r} exclude each other; give one")
    name = unique if isinstance(unique, Unique) or unique is None else Unique(unique)
    return Spec(
        priority=None if priority is None else arguments.priority_number(priority),
        delay=arguments.seconds(delay, "delay", ends=True),
        run_at=arguments.moment(run_at, "run_at"),
        expires_in=_deadline(expires_in),
        keep=arguments.seconds(keep, "keep"),
        max_attempts=None if max_attempts is None else attempts(max_attempts),
        key="" if key is None else limits.key_text(key),
        unique="" if name is None else keys.escape(name.name),
        passing=name is not None and name.until == "claimed",
        conflict=0 if name is None else ON_CONFLICT.index(name.on_conflict),
        home=home,
        backoff=backoff_text(backoff),
    )


def _deadline(value: Any) -> float | None:
    span = arguments.seconds(value, "expires_in", open_below=True)
    return span if span is None or span <= arguments.LONGEST else math.inf


def attempts(value: Any, name: str = "max_attempts") -> float:
    """A count of at least 1 as the server stores it, where 0 is without bound (`inf`)."""
    if value == float("inf"):
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= COUNT_LIMIT:
        raise InvalidArgument(f"{name}={value!r} is no number of times; give 1 to {COUNT_LIMIT}, or inf")
    return value


def backoff_text(value: Any) -> str:
    """Seconds before each further attempt, as the server stores them; "" leaves it to the queue."""
    if value is None:
        return ""
    steps = value if isinstance(value, list | tuple) else [value]
    if not steps:
        return NO_BACKOFF
    if len(steps) > 100:
        raise InvalidArgument(
            f"backoff has {len(steps)} steps; give 100 at most: the last one serves for all that follow"
        )
    return ",".join(repr(arguments.seconds(step, "backoff", ends=True)) for step in steps)


def backoff_delay(text: str, failures: int) -> float:
    """Seconds to wait after the failures-th failure: the last number serves for all that follow."""
    steps = [float(step) for step in text.split(",") if step and step != NO_BACKOFF]
    return steps[min(failures, len(steps)) - 1] if steps else 0.0


def _callable(value: Any, name: str, *, coroutines: bool) -> Callback | None:
    if value is None:
        return None
    if inspect.iscoroutinefunction(value) and not coroutines:
        raise InvalidArgument(f"{name}={value!r} is a coroutine function; this broker calls plain functions")
    if callable(value):
        callback: Callback = value
        return callback
    raise InvalidArgument(f"{name}={value!r} cannot be called; give a function of the job")
