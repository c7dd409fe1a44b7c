"""Every key of a queue: its name, its Redis type, what it holds. All share one hash tag, so a queue is one slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

LAYOUT_VERSION = 1

# Every script gets these keys, in this order; bodies say K.<name>.
LAYOUT = (
    (
        "meta",
        "hash",
        "counters seq, token, event; told_room, the jobs that processes were told of and have not come for; in_line, "
        "how many processes are in waiters; alarm and keeper, when who looks after the time next; forget, before "
        "which nothing in finished, unheard and bare is over; skew and seen of the elapsed clock, in ms, and left, "
        "since when what is due is left to those who know it; paused; configured, 1 once there are settings; limited, "
        "letters: q while the queue is limited, k while keys are, m while behind has more to do; tickets_at, since "
        "when tickets are kept; born, in us",
    ),
    ("settings", "hash", "what `configure` set, as text"),
    (
        "limits",
        "hash",
        "numbers of the limits (see LIMIT) of `q` the queue, `e` each key, `k<key>` one key; `b<key>` until when it is "
        "blocked, by which request, and why; `f<key>` when attempts failed, where so many block it",
    ),
    ("behind", "hash", "fields of limits whose jobs are still to be parked or let go -> where to go on"),
    ("blocked", "zset", "key -> until when it is blocked"),
    ("failing", "zset", "key -> when its last failure counts no more"),
    ("blockings", "list", "the last 1000 blocks, the latest first: when, for how long, key, why"),
    ("record", "hash", "id -> packed record"),
    ("payload", "hash", "id -> data, as opaque bytes"),
    ("result", "hash", "id -> result, or the last error, as opaque bytes"),
    ("names", "hash", "unique name -> id of its live holder"),
    ("tickets", "hash", "lane of a process -> its last ticket and the claims it got"),
    ("tickets_before", "hash", "the lanes of the ten minutes before"),
    ("scheduled", "zset", "scheduled after a delay: due -> id"),
    ("dated", "zset", "scheduled for a date: due, wall clock -> id"),
    ("waiting", "zset", "held by the queue's limit: -priority -> order, id"),
    ("parked", "zset", "held by a key's limit: -priority -> order, id"),
    ("available", "zset", "-priority -> order, id"),
    ("claimed", "zset", "end of lease -> id"),
    ("stalled", "zset", "since when -> id"),
    ("finished", "zset", "end of keep -> id"),
    ("unheard", "zset", "finished, a process still waits for it: until when it is kept for that -> id"),
    ("bare", "zset", "time of purge -> id; finished, data dropped"),
    ("expiring", "zset", "end of expires_in -> id"),
    (
        "keyed",
        "zset",
        "by text: key, class (c claimed, r available, s scheduled, v held by the queue, w parked), id; of r, v and w "
        "before the id -priority and order",
    ),
    ("watchers", "zset", "by text: id, process that waits for its end"),
    ("reports", "zset", "by text: id, kind (p progress, l log, e emitted), token, number, data"),
    ("waiters", "zset", "processes that wait for jobs: number of the place in line -> process"),
    ("told", "zset", "processes that were told to look: until when they are waited for -> process"),
    ("room", "hash", "process that waits or was told -> jobs that it wants"),
    ("events", "stream", "the bounded log of moves: one entry a script and row"),
)


@lru_cache(maxsize=4096)
def encode(name: str) -> str:
    """A queue's name as it stands in keys and channels: no byte of it can move a slot or cross into another's."""
    return quote(name, safe="")


def decode(name: str) -> str:
    """The queue's name behind an encoded one."""
    return unquote(name)


def escape(text: str) -> str:
    """A text for a record, where NUL ends a text."""
    return text.replace("\\", "\\\\").replace("\0", "\\0") if "\\" in text or "\0" in text else text


def unescape(text: str) -> str:
    """What `escape` was given."""
    return re.sub(r"\\(.)", lambda found: "\0" if found[1] == "0" else "\\", text)


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys and channels of one queue."""

    namespace: str
    queue: str
    base: str
    keys: tuple[str, ...]

    @classmethod
    def of(cls, namespace: str, queue: str) -> QueueKeys:
        """The keys of a queue in a namespace."""
        base = f"{{{namespace}:{encode(queue)}}}"
        return cls(namespace, queue, base, tuple(f"{base}:{name}" for name, *_ in LAYOUT))

    def process_channel(self, process: str) -> str:
        """Where one process hears what concerns it."""
        return f"{self.base}:p:{process}"

    @property
    def events_channel(self) -> str:
        """Where subscribers of the queue hear that something happened."""
        return f"{self.base}:events"

    @property
    def alarm_channel(self) -> str:
        """Where all who look after the time hear when something is due next."""
        return f"{self.base}:alarm"


def queues_key(namespace: str) -> str:
    """The set of the namespace's queues, and of its layout version; in a slot of its own."""
    return f"{namespace}:queues"


def layout_key(namespace: str) -> str:
    """The layout version of a namespace."""
    return f"{namespace}:layout"
