"""The spans of time that the protocol is built on; those that the scripts need stand in them as numbers."""

from __future__ import annotations

RECORD_KEPT = 60_000
"""ms that the bare record of a finished job stays, at least, to answer a request that is repeated."""
WAITED = 3_600_000
"""ms that a finished job stays readable, at least, while a process that waits for it has not said it read it."""
TOLD_FOR = 2_000
"""ms in which a process that was told of jobs must look, before others are told."""
JUMP = 1_000
"""ms that the server's clock may differ from what a process expects, before it is taken to have jumped."""
SILENCE = 30_000
"""ms without a call by anybody who knows the time, after which a clock may have jumped for all a newcomer can tell."""
LEFT_FOR = 3_000
"""ms for which a newcomer leaves what is due to those who keep the time."""
UNKNOWN_SKEW = 2**52
"""What a newcomer is told instead of the skew, for it to expect nothing."""
GONE_AT_ONCE = 100
"""Waiting processes that are found gone in one call, before the rest is left to the alarm."""

STAND_BY = (0.3, 0.8)
"""Seconds, at random between these, that a process waits for the one that keeps the time before it acts itself."""
PROBE_EVERY = 20.0
"""Seconds between the probes of a subscription."""
PROBE_BACK = 5.0
"""Seconds in which a probe comes back on the subscription, or that is made anew."""
QUICK = 0.5
"""Seconds that a call may take to tell how late it is at the server."""
PACE = 0.02
"""Seconds at least between two times that a process acts on what is due in a queue, unless there is more."""
LOOK_AGAIN = 1.0
"""Seconds after which who waits looks again, where the server answered that it cannot at present."""
EXPECTED_FOR = 60.0
"""Seconds for which what a process knows of the server's clock is good."""


def constants() -> dict[str, str]:
    """What the names in capitals of the Lua files stand for."""
    names = ("RECORD_KEPT", "WAITED", "TOLD_FOR", "JUMP", "SILENCE", "LEFT_FOR", "UNKNOWN_SKEW", "GONE_AT_ONCE")
    return {name: str(globals()[name]) for name in names}
