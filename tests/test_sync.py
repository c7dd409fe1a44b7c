"""What is written to the embedded server reaches the disk within about a second, and nothing is synced in idle time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from thoonk_jobs import Broker, EmbeddedServer, sync


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were synced, as they are."""
    files: list[str] = []
    really = sync._sync

    def remember(file: int) -> None:
        really(file)
        files.append(os.readlink(f"/proc/self/fd/{file}"))

    monkeypatch.setattr(sync, "_sync", remember)
    return files


def broker_of(folder: Path) -> Broker:
    return Broker(f"embedded:{folder}")


def test_a_burst_of_writes_is_synced_once_and_idle_time_not_at_all(folder: Path, synced: list[str], monkeypatch):
    turn = threading.Event()
    put = sync.DiskSync._put_on_disk
    monkeypatch.setattr(sync.DiskSync, "_put_on_disk", lambda self: (put(self), turn.set()))
    try:
        with broker_of(folder) as broker:
            queue = broker.queue("letters")
            for n in range(50):
                queue.publish(n)
            assert turn.wait(10)
            before = len(synced)
            assert before == 1
            assert synced[0].startswith(str(folder / "appendonlydir"))
            assert synced[0].endswith(".aof")

            turn.clear()
            assert not turn.wait(2 * sync.EVERY)
    finally:
        EmbeddedServer(folder).stop()


def test_closing_syncs_the_last_writes(folder: Path, synced: list[str]):
    try:
        with broker_of(folder) as broker:
            broker.queue("letters").publish("last")
        assert len(synced) == 1
    finally:
        EmbeddedServer(folder).stop()
