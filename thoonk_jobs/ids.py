"""Ids of 16 characters that sort by the time they were made."""

from __future__ import annotations

import os
import random
import threading
import time
from binascii import b2a_base64

_ALPHABET = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SORTABLE = bytes.maketrans(_BASE64, _ALPHABET)
_RANDOM_BITS = 52
_STEP_BITS = 32


class _Maker:
    """96 bits: 44 of milliseconds, 52 that start at random and count up by random steps."""

    def __init__(self) -> None:
        # A generator of its own: a program that seeds `random` must not repeat the ids of another.
        self._bits = random.Random(os.urandom(32)).getrandbits
        self._last = 0
        # Reentrant: a signal handler or a finalizer may publish while its thread makes an id.
        self._lock = threading.RLock()

    def next(self) -> str:
        with self._lock:
            value = time.time_ns() // 1_000_000 << _RANDOM_BITS
            if value >> _RANDOM_BITS > self._last >> _RANDOM_BITS:
                value |= self._bits(_RANDOM_BITS)
            else:
                # The same millisecond, or the clock went back; a carry into the milliseconds keeps the order too.
                value = self._last + 1 + self._bits(_STEP_BITS)
            self._last = value
        return b2a_base64(value.to_bytes(12, "big"), newline=False).translate(_SORTABLE).decode()


_maker = _Maker()


def new_id() -> str:
    """An id of 16 characters, never made before; as text, later ones are greater.

    The order is exact within a process, and by the millisecond between processes whose clocks agree. Safe in threads,
    after a fork and in signal handlers.
    """
    return _maker.next()


def _after_fork() -> None:
    global _maker
    _maker = _Maker()


if hasattr(os, "register_at_fork"):
    # The child would count on from the parent's last id, and its lock may be held by a thread that is not there.
    os.register_at_fork(after_in_child=_after_fork)
