"""Proves from outside that all keys of a queue agree: read in one pass and judged in Python, without the Lua."""

from __future__ import annotations

import math
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import redis

from thoonk_jobs import record
from thoonk_jobs.keys import LAYOUT, QueueKeys
from thoonk_jobs.machine import CODES, LIVE, ROWS, SLOTTED, State

STATES = tuple(State)
STATE_INDEXES = (
    "scheduled", "dated", "waiting", "parked", "available", "claimed", "stalled", "finished", "unheard", "bare",
    "expiring", "keyed",
)  # fmt: skip
REPORT_ROWS = ("progress", "log", "emit")
FRONT = 2**52


class Contents:
    """Everything that a queue has: by name of the key, in Python's own types."""

    def __init__(self, found: dict[str, Any], unknown: list[str]) -> None:
        self.found = found
        self.unknown = unknown
        self.jobs = {id: record.unpack(raw) for id, raw in found["record"].items()}

    def __getitem__(self, name: str) -> Any:
        return self.found[name]

    def in_state(self, *states: State) -> list[bytes]:
        return [id for id, job in self.jobs.items() if STATES[job.state] in states]

    def meta(self, name: str) -> int:
        return int(self["meta"].get(name.encode(), 0))

    def events(self) -> list[tuple[int, str, bytes]]:
        """All moves and reports that are still in the log: number, row, id."""
        return [
            (first + place, row, id)
            for first, row, ids, _ in map(_entry, self["events"])
            for place, id in enumerate(ids)
        ]  # fmt: skip

    def rows_of(self, id: str) -> list[str]:
        """The rows that a job took, oldest first."""
        return [row for _, row, each in self.events() if each == id.encode()]


def contents(client: redis.Redis, namespace: str, queue: str) -> Contents:
    keys = QueueKeys.of(namespace, queue)
    with client.pipeline(transaction=True) as pipe:
        pipe.keys(f"{keys.base}*")
        for key, (_, kind, _) in zip(keys.keys, LAYOUT, strict=True):
            if kind == "hash":
                pipe.hgetall(key)
            elif kind == "zset":
                pipe.zrange(key, 0, -1, withscores=True)
            elif kind == "list":
                pipe.lrange(key, 0, -1)
            else:
                pipe.xrange(key)
        present, *found = pipe.execute()
    known = {key.encode() for key in keys.keys}
    named = {name: value for (name, *_), value in zip(LAYOUT, found, strict=True)}
    return Contents(named, sorted(key.decode() for key in present if key not in known))


def changed(before: Contents, after: Contents) -> list[str]:
    """The keys that differ, with what they had and have."""
    names = [name for name, *_ in LAYOUT if before[name] != after[name]]
    return [f"{name}: {before[name]} -> {after[name]}" for name in names] + sorted(
        set(before.unknown) ^ set(after.unknown)
    )


def audit(client: redis.Redis, namespace: str, queue: str, now: float = 0) -> list[str]:
    """What does not agree; [] for a sound queue.

    now  of the elapsed clock, in ms: for what was due before, an alarm for now will do.
    """
    return violations(contents(client, namespace, queue), now)


def check_audit(client: redis.Redis, namespace: str, queue: str, now: float = 0) -> Contents:
    """What the queue has. Raises AssertionError with all that does not agree."""
    found = contents(client, namespace, queue)
    wrong = violations(found, now)
    assert not wrong, f"the keys of the queue disagree, {len(wrong)} times:\n  " + "\n  ".join(wrong[:20])
    return found


def violations(found: Contents, now: float = 0) -> list[str]:
    return [
        *(f"a key that no layout names: {key}" for key in found.unknown),
        *_records(found),
        *_numbers(found),
        *_indexes(found),
        *_names(found),
        *_data(found),
        *_limits(found),
        *_blocks(found),
        *_waiters(found),
        *_alarm(found, now),
        *_remembered(found),
        *_log(found),
    ]


def _records(found: Contents) -> Iterator[str]:
    waited_for = Counter(_framed(member)[0] for member, _ in found["watchers"])
    for id, job in found.jobs.items():
        state = STATES[job.state] if job.state < len(STATES) else None
        if state is None or state is State.ABSENT:
            yield f"{id!r} has a record in state {job.state}"
            continue
        if (state is State.FINISHED) != (job.outcome != 0):
            yield f"{id!r} is {state} with outcome {job.outcome}"
        if state in (State.CLAIMED, State.FINISHED) and job.ran != 1:
            yield f"{id!r} is {state} without the second part of its record"
        if job.bare and state is not State.FINISHED:
            yield f"{id!r} is {state} and bare"
        if state is State.FINISHED and not job.bare and bool(job.unheard) != bool(job.home or id in waited_for):
            yield f"{id!r} is {'un' if job.unheard else ''}heard, with {job.home!r} and {waited_for.get(id, 0)} others"
        if state is State.WAITING and job.held not in (1, 2):
            yield f"{id!r} waits for nothing (held {job.held})"
        if state is State.WAITING and job.held == 2 and not job.key:
            yield f"{id!r} waits for a slot of its key, which it does not have"
        if job.via not in CODES.values():
            yield f"{id!r} came by row {job.via}, which there is not"
        if job.claims and not job.token:
            yield f"{id!r} was claimed {job.claims} times and has no token"
        if (state is State.CLAIMED) and (not job.claims or not job.worker or not job.claimed_at):
            yield f"{id!r} is claimed, but by nobody, at no time or for the 0th time"


def _numbers(found: Contents) -> Iterator[str]:
    for name, values in (
        ("token", [job.token for job in found.jobs.values() if job.token]),
        ("order", [job.order for job in found.jobs.values()]),
    ):
        for value, times in Counter(values).items():
            if times > 1:
                yield f"{times} jobs have the {name} {value:.0f}"
    for id, job in found.jobs.items():
        if job.token > found.meta("token"):
            yield f"{id!r} has token {job.token:.0f}, above the last one drawn, {found.meta('token')}"
        if not 1 <= abs(job.order - FRONT) <= found.meta("seq"):
            yield f"{id!r} has place {job.order:.0f}, the last one drawn is {found.meta('seq')}"


def _places(id: bytes, job: Any) -> Iterator[tuple[str, float, bytes]]:
    """Where the job must be indexed: key, score, member."""
    state, line = STATES[job.state], struct.pack(">d", job.order) + id
    urgency = -job.priority
    if state is State.SCHEDULED:
        yield "dated" if job.dated else "scheduled", job.until, id
    elif state is State.WAITING:
        yield "parked" if job.held == 2 else "waiting", urgency, line
    elif state is State.AVAILABLE:
        yield "available", urgency, line
    elif state is State.FINISHED:
        yield "bare" if job.bare else "unheard" if job.unheard else "finished", job.until, id
    else:
        yield state.value, job.until, id
    if job.expires and state in LIVE and state is not State.STALLED:
        yield "expiring", float(job.expires), id
    if job.key:
        prefix = _frame(job.key)
        if state in (State.CLAIMED, State.SCHEDULED):
            yield "keyed", 0, prefix + (b"c" if state is State.CLAIMED else b"s") + id
        elif state in (State.AVAILABLE, State.WAITING):
            kind = b"r" if state is State.AVAILABLE else b"v" if job.held == 1 else b"w"
            yield "keyed", 0, prefix + kind + _sortable(urgency) + line


def _indexes(found: Contents) -> Iterator[str]:
    expected: dict[str, dict[bytes, float]] = defaultdict(dict)
    for id, job in found.jobs.items():
        for key, score, member in _places(id, job):
            expected[key][member] = score
    for key in STATE_INDEXES:
        actual, wanted = dict(found[key]), expected[key]
        for member in actual.keys() - wanted.keys():
            yield f"index {key} has {member!r} at {actual[member]}, which no record explains"
        for member in wanted.keys() - actual.keys():
            yield f"index {key} lacks {member!r}"
        for member in wanted.keys() & actual.keys():
            if wanted[member] != actual[member]:
                yield f"index {key} has {member!r} at {actual[member]}, the record says {wanted[member]}"


def _names(found: Contents) -> Iterator[str]:
    holders: dict[bytes, list[bytes]] = defaultdict(list)
    for id in found.in_state(*LIVE):
        if name := found.jobs[id].unique:
            holders[name].append(id)
    for name, ids in holders.items():
        if len(ids) > 1:
            yield f"the unique name {name!r} has the live holders {ids}"
        if found["names"].get(name) not in ids:
            yield f"the unique name {name!r} is noted for {found['names'].get(name)!r}, its holder is {ids}"
    for name in found["names"].keys() - holders.keys():
        yield f"the unique name {name!r} is noted for {found['names'][name]!r}, which does not hold it"


def _data(found: Contents) -> Iterator[str]:
    whole = {id for id, job in found.jobs.items() if not job.bare}
    for id in whole ^ found["payload"].keys():
        yield f"{id!r} has {'no' if id in whole else 'a forgotten'} payload"
    for id in found["result"].keys() - whole:
        yield f"a result is kept of {id!r}, whose data was dropped"
    for key, flag in (("reports", "reported"), ("watchers", "watched")):
        for member, _ in found[key]:
            id = _framed(member)[0]
            if id not in whole:
                yield f"{key} are kept of {id!r}, whose data was dropped"
            elif not getattr(found.jobs[id], flag):
                yield f"{key} are kept of {id!r}, whose record does not say so"


class Limits:
    """The limits on running jobs; "" is the whole queue."""

    def __init__(self, found: Contents) -> None:
        numbers = {field[:1]: value for field, value in found["limits"].items() if field in (b"q", b"e")}
        self._own = {field[1:].decode(): value for field, value in found["limits"].items() if field[:1] == b"k"}
        self._queue, self._each = numbers.get(b"q"), numbers.get(b"e")

    def running(self, key: str) -> float:
        """How many jobs of it may run."""
        for raw in (self._own.get(key), self._each) if key else (self._queue,):
            if raw and not math.isnan(number := struct.unpack(">6d", raw)[0]):
                return float(number)
        return math.inf


def _holding(found: Contents, *states: State) -> Counter[str]:
    """How many jobs in these states each key has, and the queue."""
    held = Counter({"": 0})
    for id in found.in_state(*states):
        held[""] += 1
        if key := found.jobs[id].key:
            held[key.decode()] += 1
    return held


def _limits(found: Contents) -> Iterator[str]:
    """While a change is still carried out, nothing need be so; what is over a limit is what ran when it was lowered."""
    if found["behind"]:
        return
    limits, held, claimed = Limits(found), _holding(found, *SLOTTED), _holding(found, State.CLAIMED)
    for key in held:
        if held[key] > limits.running(key) and held[key] > claimed[key]:
            yield f"{held[key]} jobs hold slots of {key or 'the queue'!r}, {limits.running(key)} may"
    slowest: dict[str, float] = defaultdict(lambda: math.inf)
    for id in found.in_state(State.AVAILABLE):
        for key in {"", found.jobs[id].key.decode()}:
            slowest[key] = min(slowest[key], found.jobs[id].priority)
    for id in found.in_state(State.WAITING):
        job = found.jobs[id]
        key = job.key.decode()
        room = {each: limits.running(each) - held[each] for each in {"", key}}
        if min(room.values()) > 0:
            yield f"{id!r} waits (held {job.held}) while the queue and its key {key!r} have room"
        full = key if room[key] <= 0 else ""
        if job.priority > slowest[full] and room[full] == 0:
            yield f"{id!r} waits at {job.priority}, a less urgent job has the slot of {full or 'the queue'!r}"
    yield from _lines(found, limits, held)


def _lines(found: Contents, limits: Limits, held: Counter[str]) -> Iterator[str]:
    """Who waits in the line of a key waits for that key: as many as it has room for stand in the queue's line."""
    lines: dict[int, Counter[str]] = {1: Counter(), 2: Counter()}
    for id in found.in_state(State.WAITING):
        lines[found.jobs[id].held][found.jobs[id].key.decode()] += 1
    for key, parked in lines[2].items():
        if limits.running(key) - held[key] > lines[1][key]:
            yield f"{parked} jobs wait for their key {key!r}, which has room, {lines[1][key]} of it for the queue"


def _blocks(found: Contents) -> Iterator[str]:
    fields = found["limits"]
    for index, letter in (("blocked", b"b"), ("failing", b"f")):
        indexed = {member for member, _ in found[index]}
        for key in indexed ^ {field[1:] for field in fields if field[:1] == letter}:
            yield f"{key!r} is {index}, or it is not"
    for key, until in found["blocked"]:
        if struct.unpack_from(">d", fields[b"b" + key])[0] != until:
            yield f"{key!r} is not blocked until {until}"
    for field, raw in fields.items():
        if field[:1] in b"qek" and all(math.isnan(number) for number in struct.unpack(">6d", raw)):
            yield f"the limit {field!r} says nothing"
        if field[:1] == b"f" and (not raw or len(raw) % 8):
            yield f"the failures of {field[1:]!r} are {raw!r}"
    for field in found["behind"]:
        if field not in (b"q", b"e") and field[:1] != b"k":
            yield f"more is to be done for {field!r}, which is no limit"
    if len(found["blockings"]) > 1000:
        yield f"the log of blocks has {len(found['blockings'])} entries"


def _runnable(found: Contents) -> int:
    """The available jobs that limits let run."""
    limits, running, runnable = Limits(found), _holding(found, State.CLAIMED), 0
    for member, _ in sorted(found["available"], key=lambda entry: (entry[1], entry[0])):
        keys = {"", found.jobs[member[8:]].key.decode()}
        if all(running[key] < limits.running(key) for key in keys):
            running.update(keys)
            runnable += 1
    return runnable


def _waiters(found: Contents) -> Iterator[str]:
    """Who waits stands in line once, and nobody is left there for a job that nobody was told of."""
    waiters, told, room = dict(found["waiters"]), dict(found["told"]), found["room"]
    for process in waiters.keys() & told.keys():
        yield f"{process!r} waits and was told"
    for process in room.keys() ^ (waiters.keys() | told.keys()):
        yield f"{process!r} has {'room, and does not wait' if process in room else 'no room'}"
    told_room = sum(int(room.get(process, 0)) for process in told)
    if found.meta("told_room") != told_room:
        yield f"told_room is {found.meta('told_room')}, those who were told have room for {told_room}"
    if len(set(waiters.values())) < len(waiters) or any(at > found.meta("token") for at in waiters.values()):
        yield f"the places in line {waiters} are not unique, or above the last token drawn, {found.meta('token')}"
    runnable = _runnable(found)
    if waiters and found["meta"].get(b"paused") != b"1" and told_room < runnable:
        yield f"{runnable} jobs may be claimed, who was told has room for {told_room}, and {list(waiters)} wait untold"


def next_due(found: Contents) -> float:
    """When time alone moves something next, on the elapsed clock, in ms; inf for never."""
    ahead = {"scheduled": 0, "claimed": 0, "expiring": 0, "told": 0, "dated": found.meta("skew")}
    return min((math.ceil(at + more) for key, more in ahead.items() for _, at in found[key]), default=math.inf)


def alarm(meta: dict[bytes, bytes], name: bytes = b"alarm") -> float:
    """When the alarm, or another moment, is set for; inf for never."""
    at = meta.get(name, b"never")
    return math.inf if at == b"never" else float(at)


def _alarm(found: Contents, now: float) -> Iterator[str]:
    if found["behind"] and alarm(found["meta"]) > now > 0:
        yield f"more is to be parked or let go, the alarm is set for {alarm(found['meta'])}"
    if alarm(found["meta"]) > max(now, next_due(found)):
        yield f"something is due at {next_due(found)}, the alarm is set for {alarm(found['meta'])}"


def _remembered(found: Contents) -> Iterator[str]:
    """What meta has so that a script need not look elsewhere: of the scores a moment that is not too late."""
    if found.meta("in_line") != len(found["waiters"]):
        yield f"{found.meta('in_line')} are said to be in line, {len(found['waiters'])} are"
    if bool(found.meta("configured")) != bool(found["settings"]):
        yield f"configured is {found.meta('configured')}, the settings are {found['settings']}"
    limited, queue = found["meta"].get(b"limited", b""), b"q" in found["limits"]
    for letter, needed in (
        (b"q", queue or found["waiting"]),
        (b"k", len(found["limits"]) > queue or found["parked"]),
        (b"m", found["behind"]),
    ):
        if needed and letter not in limited:
            yield f"limited is {limited}: the limits are {found['limits']}, behind is {found['behind']}"
    over = min((at for key in ("finished", "unheard", "bare") for _, at in found[key]), default=math.inf)
    if alarm(found["meta"], b"forget") > over:
        yield f"jobs are to be forgotten at {over}, looked for only at {alarm(found['meta'], b'forget')}"


def _log(found: Contents) -> Iterator[str]:
    """The numbers have no gap, and every move in the log starts from the state in which the one before ended."""
    following: int | None = None
    states: dict[bytes, State] = {}
    complete = False
    for first, row, ids, reasons in map(_entry, found["events"]):
        complete = complete or first == 1
        if following not in (None, first):
            yield f"the log goes on with {first} where {following} is due"
        following = first + len(ids)
        if not ids or reasons not in (0, len(ids)):
            yield f"entry {first} of the log has {len(ids)} ids and {reasons} reasons"
        if row in REPORT_ROWS:
            continue
        for id in ids:
            was = states.get(id, State.ABSENT if complete else None)
            if row not in ROWS or (was is not None and was not in ROWS[row].sources):
                yield f"entry {first} of the log moves {id!r} from {was} by {row}"
            states[id] = ROWS[row].target
    if following is None:
        following = 1
    if following - 1 != found.meta("event"):
        yield f"the log ends with {following - 1}, the last event is {found.meta('event')}"
    for id, state in states.items():
        now = STATES[found.jobs[id].state] if id in found.jobs else State.ABSENT
        if state is not now:
            yield f"the log leaves {id!r} {state}, it is {now}"
    if complete:
        for id in found.jobs.keys() - states.keys():
            yield f"the log does not know {id!r}"


def _entry(entry: tuple[bytes, dict[bytes, bytes]]) -> tuple[int, str, list[bytes], int]:
    """First number, row, ids and number of reasons of an entry of the log."""
    number, fields = entry
    ids = list(_frames(fields[b"ids"]))
    return int(number.split(b"-")[0]), fields[b"row"].decode(), ids, len(list(_frames(fields.get(b"reasons", b""), 4)))


def _frame(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _framed(raw: bytes, width: int = 2) -> tuple[bytes, bytes]:
    end = width + int.from_bytes(raw[:width], "big")
    return raw[width:end], raw[end:]


def _frames(raw: bytes, width: int = 2) -> Iterator[bytes]:
    while raw:
        text, raw = _framed(raw, width)
        yield text


def _sortable(number: float) -> bytes:
    """Bytes that sort as the numbers do: the sign turned, a negative number's other bits too."""
    bits = int.from_bytes(struct.pack(">d", number + 0.0), "big")
    return (bits ^ (2**64 - 1 if bits >> 63 else 2**63)).to_bytes(8, "big")
