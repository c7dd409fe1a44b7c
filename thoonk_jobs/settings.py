"""What `Queue.configure` sets: the names, their usual values, how they are stored."""

from __future__ import annotations

import math
from typing import Any

from thoonk_jobs import arguments
from thoonk_jobs.errors import InvalidArgument
from thoonk_jobs.publication import DEFAULT_MAX_PAYLOAD, attempts, backoff_text

# name -> usual value; counts, seconds and bytes, `inf` for no bound
DEFAULTS: dict[str, Any] = {
    "max_lost": 3,
    "max_cancels": math.inf,
    "max_attempts": 1,
    "backoff": None,
    "keep": 3600.0,
    "keep_last": 10_000,
    "keep_stalled": 100_000,
    "keep_events": 10_000,
    "expires_in": math.inf,
    "priority": 0.0,
    "max_payload": DEFAULT_MAX_PAYLOAD,
}
_TIMES = ("keep", "expires_in")
_ATTEMPTS = ("max_attempts", "max_lost", "max_cancels")


def stored(name: str, value: Any) -> str:
    """A setting as the server stores it. Raises InvalidArgument."""
    if name == "backoff":
        return backoff_text(value)
    if name == "priority":
        return repr(arguments.priority_number(value))
    if name in _TIMES:
        return repr(arguments.seconds(value, name, open_below=name == "expires_in"))
    if value == math.inf:
        return "inf"
    if name in _ATTEMPTS:
        return repr(attempts(value, name))
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgument(f"{name}={value!r} is no count; give a whole number from 0, or inf")
    return str(value)


def shown(found: dict[str, str]) -> dict[str, Any]:
    """All settings with their values, those never set with the usual ones."""
    return {name: _value(name, found[name]) if name in found else usual for name, usual in DEFAULTS.items()}


def _value(name: str, text: str) -> Any:
    if name == "backoff":
        steps = [float(step) for step in text.split(",") if step not in ("", "-")]
        return steps or None
    number = float(text)
    return number if name in (*_TIMES, "priority") or math.isinf(number) else int(number)
