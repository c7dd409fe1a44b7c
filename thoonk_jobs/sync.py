"""Puts what the embedded server wrote onto the disk: once a second at most, by the processes that write.

The server itself never waits for the disk (`appendfsync no`): it hands every write to the kernel before it answers, so
killing it loses nothing. With `everysec` it may answer first and write later while a sync runs, and would lose that.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from thoonk_jobs.logs import log

EVERY = 1.0
_sync = getattr(os, "fdatasync", os.fsync)


class DiskSync:
    """The thread that syncs the append-only file of a server's directory after writes of this process."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "appendonlydir"
        self._written = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wrote(self) -> None:
        """Something may have been written: within about a second it is on the disk."""
        if self._written.is_set():
            return
        self._written.set()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="thoonk-sync", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._written.wait()
            self._closed.wait(EVERY)
            self._written.clear()
            self._put_on_disk()

    def _put_on_disk(self) -> None:
        """The file that is written to is the newest; its name changes when the server rewrites it."""
        try:
            newest = max(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
            file = os.open(newest, os.O_RDONLY)
            try:
                _sync(file)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            log.warning("sync_failed", directory=str(self._folder), error=str(error))

    def close(self) -> None:
        """Syncs what is still to be synced, and ends the thread."""
        self._closed.set()
        self._written.set()
        if self._thread:
            self._thread.join(5)
