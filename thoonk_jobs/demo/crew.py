"""What the demo starts and must end again: a private server, worker processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from thoonk_jobs import EmbeddedServer, ThoonkError

SOURCE = Path(__file__).resolve().parents[2]
"""Where this package is; the workers start there, so that they import the same one, whatever folder is the current."""
SECONDS_TO_LEAVE = 5.0
_heard: list[int] = []


class DemoFailed(ThoonkError):
    """The demo cannot go on."""


class Crew:
    """Worker processes. They end when their standard input is closed, so none outlives the demo, even a killed one."""

    def __init__(self, size: int, url: str, namespace: str, queue: str) -> None:
        self._names = [f"worker {number}" for number in range(1, size + 1)]
        self._command = [sys.executable, "-m", "thoonk_jobs.demo.worker", namespace, queue]
        self._url = url
        self._killed: set[int] = set()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            for name in self._names:
                self._processes.append(self._start(name))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        # In a session of its own it does not hear the Ctrl-C that ends the demo: it gives its jobs back in peace.
        return subprocess.Popen(
            [*self._command, name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=SOURCE,
            env={**os.environ, "THOONK_URL": self._url}, start_new_session=True,
        )  # fmt: skip

    def check(self) -> None:
        """Raises DemoFailed if a worker is gone."""
        for name, process in zip(self._names, self._processes, strict=True):
            if process.pid not in self._killed and process.poll() is not None:
                raise DemoFailed(f"{name} ended with code {process.returncode} before its work was done")

    def kill(self, pid: int) -> str:
        """Kills a worker of this crew on the spot; its name."""
        [name] = [name for name, process in zip(self._names, self._processes, strict=True) if process.pid == pid]
        self._killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        return name

    def stop(self) -> list[int]:
        """Ends all workers and returns the exit codes of those that were not killed; may be called twice."""
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(SECONDS_TO_LEAVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return [process.returncode for process in self._processes if process.pid not in self._killed]


@contextmanager
def place(url: str | None) -> Iterator[tuple[str | None, Path]]:
    """A URL and a temporary folder; without a URL given, that of a private server in the folder. Both end with it."""
    folder = Path(tempfile.mkdtemp(prefix="thoonk-demo-"))
    server = None if url else EmbeddedServer(folder / "server")
    try:
        yield (server.start() if server else url), folder
    finally:
        if server:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Restores what signals do; within, they end the demo like any error, so that it tidies up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _heard.clear()
    for number in before:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed_end() -> Iterator[None]:
    """After this, signals are not heard until `signals_kept` ends: a second Ctrl-C must not stop the tidying up."""
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    _heard.append(number)
    heed_signals()


def heed_signals() -> None:
    """Raises for a signal that came: again, as what a handler raises is lost where it meets the end of an object."""
    if _heard:
        raise KeyboardInterrupt if _heard[0] == signal.SIGINT else SystemExit(128 + _heard[0])
