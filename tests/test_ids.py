"""Ids are distinct and sort by the time they were made."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from thoonk_jobs import ids
from thoonk_jobs.ids import new_id

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def in_child(write):
    """What a forked child writes to a pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, "\n".join(write()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read().split()
    os.waitpid(child, 0)
    return told


def test_ten_thousand_ids_are_distinct():  # scenario B47
    assert len({new_id() for _ in range(10_000)}) == 10_000


def test_an_id_has_16_plain_characters():
    for _ in range(1000):
        assert re.fullmatch(r"[-0-9A-Z_a-z]{16}", new_id())


def test_ids_sort_in_the_order_they_were_made():
    made = [new_id() for _ in range(100_000)]

    assert made == sorted(made)


def test_an_id_made_later_by_another_process_is_greater():
    first = new_id()
    time.sleep(0.002)
    code = "from thoonk_jobs.ids import new_id; print(new_id())"
    path = os.pathsep.join(filter(None, [os.path.dirname(os.path.dirname(ids.__file__)), os.environ.get("PYTHONPATH")]))
    second = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    ).stdout.strip()
    time.sleep(0.002)

    assert first < second < new_id()


def test_ids_keep_their_order_when_the_clock_goes_back(monkeypatch):
    before = new_id()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)

    made = [new_id() for _ in range(1000)]

    assert [before, *made] == sorted({before, *made})


def test_ids_keep_their_order_when_a_millisecond_is_full(monkeypatch):
    maker = ids._Maker()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_000_000_000)
    maker.next()
    maker._last |= 2**52 - 1

    made = [maker.next() for _ in range(1000)]

    assert made == sorted(set(made))


def test_the_time_is_in_the_first_characters(monkeypatch):
    maker = ids._Maker()
    alphabet = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_700_000_000_123_000_000)

    number = 0
    for character in maker.next():
        number = number * 64 + alphabet.index(character)

    assert number >> 52 == 1_700_000_000_123


def test_threads_make_distinct_ids_each_in_order():
    start = threading.Barrier(8)

    def make():
        start.wait()
        return [new_id() for _ in range(5000)]

    with ThreadPoolExecutor(8) as pool:
        lists = [made.result() for made in [pool.submit(make) for _ in range(8)]]

    assert all(made == sorted(made) for made in lists)
    assert len(set().union(*lists)) == 40_000


def test_seeding_random_does_not_repeat_ids(monkeypatch):
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_000_000_000)

    def first():
        random.seed(7)
        return ids._Maker().next()

    assert first() != first()


@forks
def test_a_forked_child_makes_other_ids(monkeypatch):
    new_id()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_000_000_000)
    monkeypatch.setattr(ids, "_maker", ids._Maker())
    new_id()

    childs = in_child(lambda: [new_id() for _ in range(2000)])
    own = [new_id() for _ in range(2000)]

    assert len({*childs, *own}) == 4000
    assert childs == sorted(childs)
    assert childs[0][9:] != own[0][9:], "the child must not count on from the parent's number"
    assert abs(number(childs[0]) - number(own[0])) > 2**33


def number(made):
    return int.from_bytes(b"".join(bytes([ids._ALPHABET.index(ord(c))]) for c in made))


@forks
def test_a_child_forked_while_a_thread_makes_an_id_is_not_stuck():
    held, leave = threading.Event(), threading.Event()

    def hold():
        with ids._maker._lock:
            held.set()
            leave.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert len(in_child(lambda: (signal.alarm(10), [new_id()])[1])) == 1
    finally:
        leave.set()
        holder.join()


def test_a_signal_handler_may_make_an_id_while_one_is_made():
    with ids._maker._lock:
        assert ids._maker._lock.acquire(blocking=False), "a handler on the same thread would wait for ever"
        ids._maker._lock.release()
        assert new_id() < new_id()
