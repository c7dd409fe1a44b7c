"""The rules of the model of a queue (see `test_model`) that are about limits, blocks, keys and unique names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from oracle_limits import INF, PENDING

from thoonk_jobs import calls, limits, request
from thoonk_jobs.codec import pack
from thoonk_jobs.keys import escape
from thoonk_jobs.limits import EACH_KEY, UNCHANGED
from thoonk_jobs.machine import State
from thoonk_jobs.publication import Publication
from thoonk_jobs.record import Spec

if TYPE_CHECKING:
    from test_model import QueueMachine

FIELDS = st.sampled_from(["q", "q", "e", "kx", "kx", "ky"])
KEYS = st.sampled_from(["x", "x", "y", "z"])
WINDOW = 5
RUNNING = st.sampled_from([1, 2, 3, 0, INF, None])
NUMBERS = {
    "pending": st.sampled_from([3, 5, 1, 0, INF, None]),
    "when_full": st.sampled_from(["reject", "reject", "wait", None]),
    "block_after": st.sampled_from([(1, WINDOW, 3), (2, WINDOW, 20), INF, None]),
}
GIVEN = st.one_of(
    st.fixed_dictionaries({"running": RUNNING}),
    st.fixed_dictionaries({"running": RUNNING}),
    st.fixed_dictionaries({}, optional={"running": RUNNING, **NUMBERS}),
)
SPEC = {
    "priority": st.sampled_from([0.0, 0.0, 5.0, -1.5]),
    "delay": st.sampled_from([0, 0, 0, 3]),
    "key": st.sampled_from(["", "x", "x", "y", "z"]),
    "max_attempts": st.sampled_from([2, 1, 0]),
}
UNIQUE = {"unique": st.sampled_from(["u", "v"]), "conflict": st.sampled_from([0, 1])}
TOGETHER = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.sampled_from(["data", "data", "other"]),
        st.one_of(st.fixed_dictionaries(SPEC), st.fixed_dictionaries({**SPEC, **UNIQUE})),
    ),
    min_size=2,
    max_size=5,
    unique_by=lambda job: job[0],
)
DELAYS = st.sampled_from([0, 0, 0, 3])
LIMITS = st.tuples(FIELDS, GIVEN)
"""A field of the key limits, and what `Queue.limit` is given."""


class LimitRules:
    """What publishers, workers and operators do about limits, and what they see of them."""

    @precondition(lambda self: self.limited)
    @rule(change=LIMITS)
    def govern(self: QueueMachine, change: tuple[str, dict[str, Any]]) -> None:
        self.limit(*change)

    @precondition(lambda self: self.limited)
    @rule(low=LIMITS, high=LIMITS)
    def change_back(self: QueueMachine, low: tuple[str, dict[str, Any]], high: tuple[str, dict[str, Any]]) -> None:
        """The same field twice, with nothing in between."""
        self.limit(*low)
        self.limit(low[0], high[1])

    def limit(self: QueueMachine, field: str, given: dict[str, Any]) -> None:
        if field == "q":
            given = {name: value for name, value in given.items() if name != "block_after"}
        self.oracle.limits.change(field, given)
        key = {"q": None, "e": EACH_KEY}.get(field, field[1:])
        numbers = limits.asked(
            key, dict.fromkeys(("running", "pending", "when_full", "block_after"), UNCHANGED) | given
        )
        self.ask(calls.limit(self.keys, field, numbers), False)

    @rule(key=KEYS, seconds=st.sampled_from([2, 30, 0.001]), reason=st.sampled_from(["abuse", "a\\b c"]))
    def block(self: QueueMachine, key: str, seconds: float, reason: str) -> None:
        self.oracle.limits.block(key, self.oracle.now, seconds, reason)
        self.ask(calls.block(self.keys, key, seconds * 1000, escape(reason)), None)

    @rule(key=KEYS)
    def unblock(self: QueueMachine, key: str) -> None:
        self.oracle.limits.unblock(key)
        self.ask(calls.unblock(self.keys, key), None)

    @precondition(lambda self: self.claims)
    @rule(times=st.integers(1, 3))
    def fail_often(self: QueueMachine, times: int) -> None:
        """What is claimed fails, and is taken again."""
        for _ in range(times):
            self.fail(at=0, final=False, delay=0)
            self.claim("p1", most=1, lease=30, wanted=None)

    # Several at once: what one of them frees, or takes, the next one finds so.

    @precondition(lambda self: self.claims)
    @rule(verb=st.sampled_from(["finish", "fail", "cancel", "cancel"]), most=st.integers(2, 4), delay=DELAYS)
    def end_together(self: QueueMachine, verb: str, most: int, delay: float) -> None:
        """Claims that are held are ended in one call."""
        held = [claim for claim in self.claims if self.oracle.holds(*claim)][:most]
        if len(held) < 2 or self.oracle.keep_stalled == 1 or self.oracle.keep_last <= 2 or self.oracle.is_swept():
            return  # what is forgotten or retracted between two of them, and what after all, is not the same
        more, how = {
            "finish": ((), {"result": b""}),
            "fail": ((b"e",), {"final": False, "delay": delay}),
            "cancel": (("busy",), {"delay": delay, "counted": True}),
        }[verb]
        asked = [getattr(calls, verb)(self.keys, *claim, *more, **how) for claim in held]
        expected = [getattr(self.oracle, verb)(*claim, **how) for claim in held]
        self.ask(request.merged(asked), [[answer] for answer in expected])

    @rule(verb=st.sampled_from(["retry", "rerun", "retract"]), most=st.integers(2, 4))
    def operate_on_all(self: QueueMachine, verb: str, most: int) -> None:
        state = State.FINISHED if verb == "rerun" else State.STALLED
        if verb == "retract":
            state = State.AVAILABLE
        ids = sorted(job.id for job in self.oracle.jobs.values() if job.state == state)[:most]
        if len(ids) < 2 or self.oracle.keep_last <= 2:
            return
        expected = [getattr(self.oracle, verb)(id) for id in ids]
        self.ask(calls.operate(self.keys, verb, ids), expected)

    @rule(jobs=TOGETHER)
    def publish_together(self: QueueMachine, jobs: list[tuple[str, str, dict[str, Any]]]) -> None:
        book = self.oracle.limits
        rejects = any(numbers.get("when_full") == "reject" for numbers in book.numbers.values())
        if rejects or self.oracle.is_swept():
            return  # who has slots in between is the server's choice; a call forgets once, not before each job
        made, expected = [], []
        for id, data, spec in jobs:
            body, digest = pack(data)
            made.append(Publication(id, digest, Spec(**spec).pack(), body))
            expected.append(self.oracle.publish(id, data, **spec))
        self.ask(calls.publish(self.keys, made), expected)

    # Looking.

    @rule(key=KEYS)
    def look_at_key(self: QueueMachine, key: str) -> None:
        book, now = self.oracle.limits, self.oracle.now
        ours = [job for job in self.oracle.jobs.values() if job.key == key]
        status = self.answer(calls.key(self.keys, key))

        def ids(state: State) -> list[str]:
            return [job.id for job in sorted(ours, key=lambda job: job.urgency) if job.state == state]

        blocked = book.blocked(key, now)
        assert sorted(status.holders) == sorted(ids(State.CLAIMED))
        assert status.available == ids(State.AVAILABLE)
        assert sorted(status.waiting) == sorted(ids(State.WAITING))
        assert status.running == len(status.holders)
        assert status.pending == sum(job.state in PENDING for job in ours)
        assert status.failures == len(book.recent(key, now))
        assert status.limit == book.of(key)
        assert status.reason == (blocked[2] if blocked else None)
        assert bool(status.blocked_until) == bool(blocked)
        if status.blocked_until:
            assert round(status.blocked_until.timestamp() * 1000) == self.oracle.wall + book.blocks[key][0] - now

    @rule()
    def look_at_blocks(self: QueueMachine) -> None:
        book, now = self.oracle.limits, self.oracle.now
        over = sorted((until, key) for key, (until, _) in book.blocks.items() if until > now)
        found = self.answer(calls.blocked(self.keys))  # of one, that one
        assert ([found] if isinstance(found, str) else found) == [key for _, key in over]

    @rule(name=st.sampled_from(["u", "v"]))
    def look_for_holder(self: QueueMachine, name: str) -> None:
        assert self.answer(calls.holder(self.keys, name)) == self.oracle.names.get(name)
