"""One function for each operation: it returns a `Call`, a value that says what to send and how to read the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thoonk_jobs import errors, limits, record
from thoonk_jobs.event import ENTRY_WIDTH
from thoonk_jobs.ids import new_id
from thoonk_jobs.job import Stored
from thoonk_jobs.keys import LAYOUT_VERSION, QueueKeys, decode, encode, escape, layout_key, queues_key, unescape
from thoonk_jobs.limits import KeyStatus
from thoonk_jobs.machine import State
from thoonk_jobs.publication import Publication
from thoonk_jobs.request import Arg, Call, Command, Log, Look, Probe, Published, Refusals, Taken
from thoonk_jobs.scripts import SCRIPTS

# The keys of each state's jobs, in the order in which they are listed.
INDEXES = {
    State.SCHEDULED: ("scheduled", "dated"),
    State.WAITING: ("waiting", "parked"),
    State.AVAILABLE: ("available",),
    State.CLAIMED: ("claimed",),
    State.STALLED: ("stalled",),
    State.FINISHED: ("finished", "unheard"),
}
_ORDERED_MEMBERS = ("waiting", "parked", "available")


def publish(keys: QueueKeys, publications: Sequence[Publication]) -> Call[Published]:
    """Publishes up to AT_ONCE jobs."""

    def read(reply: list[Any]) -> Published:
        answers = [_published(keys, asked, answer) for asked, answer in zip(publications, reply[1:], strict=True)]
        return Published(bool(reply[0] & 1), bool(reply[0] & 2), answers)

    args = tuple(arg for job in publications for arg in (job.id, job.digest, job.spec, job.body))
    ids = tuple(job.id for job in publications)
    return Call(SCRIPTS["publish"], keys, args, read, ids, width=len(ids), head=1)


def _published(keys: QueueKeys, asked: Publication, answer: Any) -> tuple[str, Stored] | errors.ThoonkError:
    if isinstance(answer, bytes):
        return asked.id, Stored(answer, asked.body)
    if len(answer) == 2:  # the holder of the unique name: its data may be other
        holder, raw = answer
        return holder.decode(), Stored(raw, asked.body if record.unpack(raw).digest == asked.digest else None)
    return errors.from_reply(answer, asked="publish", job_id=asked.id, queue=keys.queue)


def claim(
    keys: QueueKeys, lane: str, ticket: str, most: int, lease: float, worker: str, *, wanted: int | None = None
) -> Call[Look]:  # fmt: skip
    """Settles what is due, then takes up to `most` jobs. The same ticket gets the same claims while they are valid.

    lane    a name that one outstanding claim of this process uses at a time.
    wanted  the jobs that all of this process wait for: it is told when there are some, if these are fewer. None: it
            does not wait, and if it was told of jobs, that holds.
    """
    args = (lane, ticket, most, round(lease * 1000), worker, "" if wanted is None else "1")
    return Call(SCRIPTS["claim"], keys, args, _look, back=wanted or 0)


def _look(answer: list[Any]) -> Look:
    taken = []
    for at in range(1, len(answer), 4):
        id, raw, data, error = answer[at : at + 4]
        taken.append(Taken(id.decode(), Stored(raw, data, error), int(record.unpack(raw).token)))
    return Look(bool(answer[0]), taken)


def settle(keys: QueueKeys, *, keeper: bool = False) -> Call[bool]:
    """Moves what time alone moves, a bounded part; answers whether there is more. keeper: the alarm rang here."""
    return Call(SCRIPTS["settle"], keys, ("1" if keeper else "",), bool)


def probe(keys: QueueKeys, nonce: str) -> Call[Probe]:
    """Sends a nonce to this process's own channel, and asks what it should know."""
    return Call(SCRIPTS["probe"], keys, (nonce,), lambda answer: Probe(*answer))


def leave_line(keys: QueueKeys) -> Call[None]:
    """This process waits no more, was told nothing, and keeps no time."""
    return Call(SCRIPTS["leave"], keys, (), lambda _: None)


def _verb(keys: QueueKeys, name: str, *items: tuple[Arg, ...], asked: str = "", back: int = 0) -> Call[Refusals]:
    """A call of a script that takes items, each with the job's id first, and answers a number or a refusal for each."""

    def read(reply: list[Any]) -> Refusals:
        return [
            None if isinstance(answer, int)
            else errors.from_reply(answer, asked=asked or name, job_id=str(item[0]), queue=keys.queue)
            for item, answer in zip(items, reply, strict=True)
        ]  # fmt: skip

    args = tuple(arg for item in items for arg in item)
    return Call(SCRIPTS[name], keys, args, read, back=back, width=len(items))


def finish(keys: QueueKeys, id: str, token: int, result: bytes, *, back: int = 0) -> Call[Refusals]:
    """Ends a claim with success. result: encoded, or b"" for none."""
    return _verb(keys, "finish", (id, token, result), back=back)


def fail(
    keys: QueueKeys, id: str, token: int, error: bytes, *, final: bool, delay: float, back: int = 0
) -> Call[Refusals]:  # fmt: skip
    """Ends a claim with a failed attempt. delay: seconds before another one, if one is left."""
    return _verb(keys, "fail", (id, token, error, "1" if final else "", round(delay * 1000)), back=back)


def cancel(
    keys: QueueKeys, id: str, token: int, reason: str, delay: float, *, counted: bool = True, back: int = 0
) -> Call[Refusals]:  # fmt: skip
    """Gives a claimed job back. counted: False for a claim that is given back at no cost."""
    return _verb(keys, "cancel", (id, token, reason, round(delay * 1000), "1" if counted else ""), back=back)


def give_back(keys: QueueKeys, id: str, token: int) -> Call[Refusals]:
    """A claim that its process does not need, at no cost to the job."""
    return cancel(keys, id, token, "", 0, counted=False)


def stall(keys: QueueKeys, id: str, reason: str, token: int | None = None, *, back: int = 0) -> Call[Refusals]:
    """Sets a job aside: the claimant's with its token, any live one without."""
    return _verb(keys, "stall", (id, "" if token is None else token, reason), back=back)


def renew(keys: QueueKeys, claims: Sequence[tuple[str, int, float]]) -> Call[Refusals]:
    """Starts leases anew: (id, token, seconds) each."""
    return _verb(keys, "renew", *((id, token, round(lease * 1000)) for id, token, lease in claims))


def report(keys: QueueKeys, id: str, token: int, kind: str, number: int, data: bytes) -> Call[Refusals]:
    """Adds a progress report, a log line or an event of a claimant; number: of this report within the claim."""
    asked = {"progress": "set_progress"}.get(kind, kind)
    return _verb(keys, "report", (id, token, kind, number, data), asked=asked)


def operate(keys: QueueKeys, verb: str, ids: Sequence[str]) -> Call[Refusals]:
    """An operator's retry, rerun or retract, under a name by which it is known when it is sent again."""
    request = new_id()[:16]
    return _verb(keys, verb, *((id, request) for id in ids))


def watch(keys: QueueKeys, ids: Sequence[str], *, on: bool) -> Call[list[State]]:
    """This process waits for the end of these jobs, or no more; answers their states."""
    states = list(State)
    args = tuple(arg for id in ids for arg in (id, "1" if on else "0"))
    return Call(SCRIPTS["watch"], keys, args, lambda answer: [states[code] for code in answer], width=len(ids))


def read(keys: QueueKeys, ids: Sequence[str]) -> Call[list[Stored | None]]:
    """What is kept of up to AT_ONCE jobs; None where nothing is."""

    def stored(answer: list[Any]) -> list[Stored | None]:
        return [job and Stored(*job) for job in answer]

    return Call(SCRIPTS["read"], keys, tuple(ids), stored, width=len(ids))


def reports(keys: QueueKeys, id: str, kind: str, after: bytes, most: int) -> Call[list[tuple[bytes, bytes]]]:
    """The reports of a kind, oldest first: (place, data) each; after: the place of the last one read, or b""."""
    args = (id, kind, after, most)
    return Call(SCRIPTS["reports"], keys, args, lambda reply: list(zip(reply[::2], reply[1::2], strict=True)))


def events(keys: QueueKeys, after: int | None, most: int = 65_536) -> Call[Log]:
    """A part of the log after the event of this number; None: where the log begins and ends. most: bytes of ids."""

    def read(reply: list[Any]) -> Log:
        entries = [tuple(reply[at : at + ENTRY_WIDTH]) for at in range(3, len(reply), ENTRY_WIDTH)]
        return Log(reply[0], reply[1], reply[2], entries)

    return Call(SCRIPTS["events"], keys, ("" if after is None else after, most), read)


def counts(keys: QueueKeys) -> Call[dict[State, int]]:
    """How many jobs are in each state."""
    states = list(State)
    return Call(SCRIPTS["counts"], keys, (), lambda reply: dict(zip(states, [0, *reply[:-1]], strict=True)))


def listing(
    keys: QueueKeys, index: str, after: tuple[bytes, bytes] | None, most: int
) -> Call[list[tuple[bytes, bytes]]]:
    """A part of an index: (score, member) each, in order; after: the last one seen."""

    def read(reply: list[Any]) -> list[tuple[bytes, bytes]]:
        return list(zip(reply[1::2], reply[::2], strict=True))

    score, member = after or (b"", b"")
    return Call(SCRIPTS["list"], keys, (index, score, member, most), read)


def id_of(index: str, member: bytes) -> str:
    """The id of the job behind a member of an index."""
    return (member[8:] if index in _ORDERED_MEMBERS else member).decode()


def configure(keys: QueueKeys, settings: dict[str, str]) -> Call[dict[str, str]]:
    """Sets these settings; answers all that were ever set."""

    def read(reply: list[bytes]) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in zip(reply[::2], reply[1::2], strict=True)}

    return Call(SCRIPTS["configure"], keys, tuple(arg for pair in settings.items() for arg in pair), read)


def pause(keys: QueueKeys, *, on: bool) -> Call[bool]:
    """Hands out no more jobs, or does again; answers whether that was new."""
    return Call(SCRIPTS["pause"], keys, ("1" if on else "0",), bool)


def limit(keys: QueueKeys, field: str, numbers: bytes) -> Call[bool]:
    """Sets or lifts limits, see `limits.asked`; answers whether `settle` has more to park or to let go."""
    return Call(SCRIPTS["limit"], keys, (field, numbers), bool)


def block(keys: QueueKeys, key: str, span: float, reason: str) -> Call[None]:
    """Nobody may publish with this key for so many ms."""
    return Call(SCRIPTS["block"], keys, (key, span, reason, new_id()[:16]), lambda _: None)


def unblock(keys: QueueKeys, key: str) -> Call[None]:
    """The key is blocked no more, and its failures are forgotten."""
    return Call(SCRIPTS["block"], keys, (key, "", "", ""), lambda _: None)


def blocked(keys: QueueKeys) -> Call[list[str]]:
    """The keys that are blocked, the one that is free again first ahead."""
    return Call(SCRIPTS["blocked"], keys, (), lambda found: [unescape(key.decode()) for key in found])


def key(keys: QueueKeys, name: str, most: int = 100) -> Call[KeyStatus]:
    """What there is of a key, and the first ids of its jobs."""
    return Call(SCRIPTS["key"], keys, (limits.key_text(name), most), lambda reply: limits.status(name, reply))


def holder(keys: QueueKeys, name: str) -> Call[str | None]:
    """The id of the live job that has a unique name."""
    return Call(SCRIPTS["holder"], keys, (escape(name),), lambda found: found[0] and found[0].decode())


def delete(keys: QueueKeys) -> Call[int]:
    """Removes a queue without live jobs; answers how many it has, and does nothing if there are any."""
    return Call(SCRIPTS["delete"], keys, (), int)


def lay_out(keys: QueueKeys) -> Command[None]:
    """Notes the layout version of the namespace where there is none yet."""
    return Command(("SET", layout_key(keys.namespace), LAYOUT_VERSION, "NX"), lambda _: None)


def enter(keys: QueueKeys) -> Command[bool]:
    """Enters the queue in the list of queues; answers whether that changed it."""
    return Command(("SADD", queues_key(keys.namespace), encode(keys.queue)), bool)


def leave(keys: QueueKeys) -> Command[bool]:
    """Takes the queue out of the list of queues; answers whether that changed it."""
    return Command(("SREM", queues_key(keys.namespace), encode(keys.queue)), bool)


def announce(keys: QueueKeys) -> Command[None]:
    """Tells those who follow the list of queues that it changed."""
    return Command(("SPUBLISH", queues_key(keys.namespace), ""), lambda _: None)


def queues(namespace: str) -> Command[list[str]]:
    """The names of all queues, sorted."""
    return Command(("SMEMBERS", queues_key(namespace)), lambda reply: sorted(decode(name.decode()) for name in reply))


def ping() -> Command[None]:
    """A command that does nothing."""
    return Command(("PING",), lambda _: None)
