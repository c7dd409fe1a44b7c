"""Consumer processes, the pipe on which they report, and the cores on which all run."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

CONSUMER = Path(__file__).with_name("consumer.py")
AT_ONCE = 4
"""Processes that are started at the same time."""
PATIENCE = 60.0


class Consumers:
    """Processes of `consumer.py`; they are started on entry and ended on exit."""

    def __init__(self, what: str, url: str, name: str, *, processes: int = 1, threads: int = 1) -> None:
        self._command = [sys.executable, str(CONSUMER), what, url, name, str(threads)]
        self._number = processes
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lines: deque[str] = deque()
        self._rest = b""

    def __enter__(self) -> Self:
        self._reading, writing = os.pipe()
        try:
            for number in range(self._number):
                self._processes.append(
                    subprocess.Popen([*self._command, str(writing)], stdin=subprocess.PIPE, pass_fds=(writing,))
                )
                if number >= AT_ONCE:
                    self._hear_ready(1)
            self._hear_ready(min(AT_ONCE, self._number))
        except BaseException:
            self._stop()
            raise
        finally:
            os.close(writing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [process.pid for process in self._processes]

    def hear(self, patience: float = PATIENCE) -> str:
        """The next line that one of them wrote. Raises TimeoutError, or EOFError when all are gone."""
        while not self._lines:
            if not select.select([self._reading], [], [], patience)[0]:
                raise TimeoutError(f"nothing was heard of {self._number} consumers for {patience:g} s")
            read = os.read(self._reading, 65536)
            if not read:
                raise EOFError("all consumers are gone")
            *lines, self._rest = (self._rest + read).split(b"\n")
            self._lines.extend(line.decode() for line in lines)
        return self._lines.popleft()

    def _hear_ready(self, number: int) -> None:
        told: list[str] = []
        while number:
            line = self.hear()
            number -= line == "ready"
            told += [line] if line != "ready" else []
        self._lines.extendleft(reversed(told))

    def _stop(self) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(self._reading)


def cores() -> set[int]:
    """The cores on which this process may run."""
    return os.sched_getaffinity(0)


def place(pids: Iterable[int], cores: set[int]) -> None:
    """Lets all threads of these processes, and those they start, run on these cores only."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)
