"""Checks of arguments that many calls share: each returns what to send, or raises InvalidArgument."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from thoonk_jobs.errors import InvalidArgument

PRIORITIES = {"low": -10.0, "normal": 0.0, "medium": 0.0, "high": 10.0, "critical": 20.0, "front": math.inf}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


LONGEST = 250_000_000_000.0
"""Seconds that a date can lie ahead: the calendar ends with the year 9999."""


def seconds(value: Any, name: str, *, least: float = 0.0, open_below: bool = False, ends: bool = False) -> float | None:
    """A length of time in seconds; None, which is no bound, stays None, and `inf` stays `inf`.

    open_below  `least` itself is refused too.
    ends        what has no end, or ends after the calendar does, is refused.
    """
    if value is None:
        return None
    number = value.total_seconds() if isinstance(value, timedelta) else _number(value)
    if number is None:
        raise InvalidArgument(f"{name}={_shown(value)} is not a number of seconds; give an int, a float or a timedelta")
    if number < least or (open_below and number == least):
        bound = f"more than {least:g}" if open_below else f"at least {least:g}"
        raise InvalidArgument(f"{name}={_shown(value)} is too short; it must be {bound} seconds")
    if ends and number > LONGEST:
        raise InvalidArgument(f"{name}={_shown(value)} is too long; it must end before the calendar does")
    return number


def moment(value: Any, name: str) -> float | None:
    """A date as seconds since 1970, UTC; None stays None. Takes an aware datetime, or such a number."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidArgument(f"{name}={_shown(value)} has no time zone; give an aware one, as datetime.now(UTC)")
        return (value - _EPOCH).total_seconds()
    number = _number(value)
    if number is None or abs(number) > LONGEST:
        raise InvalidArgument(f"{name}={_shown(value)} is not a date; give an aware datetime, or seconds since 1970")
    return number


def priority_number(value: Any) -> float:
    """A priority as a number, higher first; `inf` is the front.

    value  a finite number, one of the words in `PRIORITIES`, or a bool: True is the front, False is normal.
    """
    if isinstance(value, bool):
        return math.inf if value else 0.0
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    number = _number(value)
    if number is None or math.isinf(number):
        words = ", ".join(PRIORITIES)
        raise InvalidArgument(f"priority={_shown(value)} is not known; give a finite number or one of {words}")
    return number


def number(value: Any, name: str) -> float:
    """A finite number."""
    found = _number(value)
    if found is None or math.isinf(found):
        raise InvalidArgument(f"{name}={_shown(value)} is not a finite number")
    return found


def text(value: Any, name: str, most: int = 200) -> str:
    """A name or an id: `most` characters at most, and at least one."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{name}={_shown(value)} is a {type(value).__name__}; give a str")
    if not 1 <= len(value) <= most:
        raise InvalidArgument(f"{name}={_shown(value)} has {len(value)} characters; give 1 to {most}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name}={_shown(value)} has a lone surrogate at {error.start}; mend the text") from None
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if math.isnan(number) else number


def _shown(value: Any) -> str:
    # In hexadecimal, as Python refuses to write out an int of more than 4300 digits.
    shown = hex(value) if type(value) is int and value.bit_length() > 1000 else repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
