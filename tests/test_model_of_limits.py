"""Random histories of a queue whose limits are always full, against the same model as `test_model`, by its rules."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from model_limits import FIELDS, GIVEN
from test_model import AT, DEEP, UNIQUE, USUAL, QueueMachine

from thoonk_jobs.machine import SLOTTED, State

PRIORITY = st.sampled_from([0.0, 0.0, 0.0, 5.0, 5.0, -1.5, 9.0])
JOB = st.fixed_dictionaries(
    {"priority": PRIORITY, "key": st.sampled_from(["", "x", "x", "y"]), "max_attempts": st.sampled_from([0, 0, 2, 1])},
    optional={"delay": st.sampled_from([2, 3]), "expires_in": st.sampled_from([2, 5])},
)
JOBS = st.lists(st.one_of(JOB, JOB, JOB, st.builds(lambda job, name: job | name, JOB, st.fixed_dictionaries(UNIQUE))),
                min_size=1, max_size=5)  # fmt: skip
LOW = st.fixed_dictionaries({"running": st.sampled_from([1, 1, 2, 2, 3, 0])})
OTHERS = (
    "publish_one", "watch", "claim", "claim_all", "gather", "come", "finish", "fail", "cancel", "say", "work", "pause",
    "subscribe", "reconnect", "leave_line", "probe", "alarm_rings", "clock_jumps", "stranger", "all_is_lost", "look",
    "publish", "operate", "time_passes", "look_at_blocks", "block", "unblock", "govern", "publish_together",
)  # fmt: skip
"""Rules of the model that are no rules here."""


def _plainly(name: str) -> Callable[..., Any]:
    return lambda self, *args, **how: getattr(QueueMachine, name)(self, *args, **how)


class LimitedMachine(QueueMachine):
    """One example: jobs are always new, and most of what is done has to do with slots."""

    locals().update({name: _plainly(name) for name in OTHERS})

    @initialize(limits=st.lists(st.tuples(FIELDS, LOW), min_size=1, max_size=3), jobs=JOBS)
    def begin(self, limits: list[Any], jobs: list[dict[str, Any]]) -> None:
        self.limited, self.ids = True, itertools.count(1)
        for field, given in limits:
            self.limit(field, given)
        self.add(jobs)

    @rule(jobs=JOBS)
    def add(self, jobs: list[dict[str, Any]]) -> None:
        self.publish([(f"j{next(self.ids)}", "data", spec) for spec in jobs])

    @rule(jobs=st.lists(JOB, min_size=2, max_size=6))
    def add_together(self, jobs: list[dict[str, Any]]) -> None:
        self.publish_together([(f"j{next(self.ids)}", "data", spec) for spec in jobs])

    @rule(most=st.sampled_from([1, 2, 9]), lease=st.sampled_from([2, 30]))
    def take(self, most: int, lease: float) -> None:
        self.claim("w", most=most, lease=lease, wanted=None)

    @precondition(lambda self: self.claims)
    @rule(at=AT, verb=st.sampled_from(["finish", "fail", "cancel"]), delay=st.sampled_from([0, 0, 3]))
    def end_one(self, at: int, verb: str, delay: float) -> None:
        if verb == "finish":
            self.finish(at=at, result=b"")
        elif verb == "fail":
            self.fail(at=at, final=False, delay=delay)
        else:
            self.cancel(at=at, delay=delay, counted=False)

    @rule(at=AT, verb=st.sampled_from(["retract", "retry", "rerun", "stall"]))
    def operate_on_one(self, at: int, verb: str) -> None:
        """On one that the verb is for, if there is one."""
        states = {"retry": (State.STALLED,), "rerun": (State.FINISHED,)}.get(verb, (*SLOTTED, State.WAITING))
        ids = [id for id, job in sorted(self.oracle.jobs.items()) if job.state in states] or sorted(self.oracle.jobs)
        self.operate(sorted(self.oracle.jobs).index(ids[at % len(ids)]) if ids else 9, verb)

    def _job(self, at: int) -> str:
        known = sorted(self.oracle.jobs)
        return known[at] if at < len(known) else "nobody"

    @rule(lease=st.sampled_from([2, 30]), verbs=st.lists(st.sampled_from(["finish", "fail", "cancel"]), max_size=3))
    def take_all(self, lease: float, verbs: list[str]) -> None:
        """All that may run is claimed; some of it ends."""
        self.take(9, lease)
        for verb in verbs:
            if self.claims:
                self.end_one(0, verb, 0)

    @rule(field=FIELDS, low=LOW)
    def lower(self, field: str, low: dict[str, Any]) -> None:
        self.limit(field, low)

    @rule(field=FIELDS, given=GIVEN)
    def change(self, field: str, given: dict[str, Any]) -> None:
        self.limit(field, given)

    @rule(seconds=st.sampled_from([0.001, 2, 3, 5, 30]))
    def wait(self, seconds: float) -> None:
        self.time_passes(seconds, settled=True)


@pytest.fixture
def example(client: redis.Redis) -> Any:
    return type("Example", (LimitedMachine,), {"client": client})


def test_any_history_of_full_limits_is_answered_as_the_model_says(example: Callable[[], LimitedMachine]):
    run_state_machine_as_test(example, settings=settings(USUAL, max_examples=35))


@pytest.mark.slow
def test_long_histories_of_full_limits_are_answered_as_the_model_says(example: Callable[[], LimitedMachine]):
    run_state_machine_as_test(example, settings=DEEP)
