"""What the tests of faults play with: processes told line by line, servers of their own, who waits."""

from __future__ import annotations

import os
import queue as queues
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from helpers import SOON, until
from proxy import FaultProxy

PRELUDE = """
import os, sys, time
from thoonk_jobs import *
def say(*words): print(*words, flush=True)
def heed(): return sys.stdin.readline().strip()
broker = Broker(sys.argv[1], namespace=sys.argv[2])
queue = broker.queue("letters")
"""

GETS = """
say("ready")
claim = queue.get(lease=float(sys.argv[3]))
say(claim.id, claim.lost, claim.claims)
while heed() == "finish":
    try:
        claim.finish("of the first")
        say("done")
    except ThoonkError as error:
        say(type(error).__name__)
"""
"""Waits for a job, holds it, and finishes it when it is told to."""

CROWD = """
for _ in range(int(sys.argv[3])):
    if os.fork() == 0:
        claim = queue.get()
        say("got", claim.id)
        time.sleep(1000)
say("ready")
time.sleep(1000)
"""
"""So many processes that wait for a job."""


class Process:
    """A real process, in a group of its own with what it forks; told line by line what to do."""

    def __init__(self, code: str, *args: object) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, *map(str, args)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._heard: queues.SimpleQueue[str] = queues.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self._heard.put(line.strip())

    def hear(self, within: float = SOON) -> str:
        """The next line that it says."""
        try:
            return self._heard.get(timeout=within)
        except queues.Empty:
            raise AssertionError(f"nothing was heard in {within:g} s") from None

    def silent(self) -> bool:
        """Whether it said nothing that was not heard."""
        return self._heard.empty()

    def tell(self, line: str) -> None:
        assert self.popen.stdin
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def freeze(self) -> None:
        """SIGSTOP to it and what it forked; returns once all stand still."""
        os.killpg(self.popen.pid, signal.SIGSTOP)
        until(lambda: all(state in "TZ" for state in _states(self.popen.pid)))

    def thaw(self) -> None:
        os.killpg(self.popen.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, also to what it forked."""
        if self.popen.returncode is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._reader.join(SOON)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                pipe.close()


def _states(group: int) -> list[str]:
    """Of each process of a group, the letter of its state."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[2]) == group:
            found.append(after[0])
    return found


class Server:
    """A server of one test's own, on a unix socket, that keeps its data as the embedded one does."""

    def __init__(self, binary: str, folder: Path | None = None) -> None:
        self.binary = binary
        self.folder = folder or Path(tempfile.mkdtemp(prefix="fs-"))
        self.url = f"unix://{self.folder}/s"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(unix_socket_path=f"{self.folder}/s", retry=None, socket_timeout=30)

    def start(self) -> None:
        """Returns once it answers."""
        self.launch()
        until(self.answers)

    def launch(self) -> None:
        settings = {
            "port": 0, "unixsocket": f"{self.folder}/s", "dir": self.folder, "save": "", "appendonly": "yes",
            "appendfsync": "no", "maxmemory-policy": "noeviction", "daemonize": "no",
        }  # fmt: skip
        arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([self.binary, *arguments], stdout=subprocess.DEVNULL)

    def answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, "the server ended"
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        self.client.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def until_waiting(client: redis.Redis, processes: int = 1) -> None:
    """Until so many processes listen to the server and none of them sends anything any more: they wait."""
    until(lambda: subscribers(client) >= processes)
    until(lambda: _is_quiet(client))


def until_quiet(proxy: FaultProxy) -> None:
    """Until nothing is on its way through a proxy, as what a process does beside its calls when it begins."""
    until(lambda: _passes_nothing(proxy))


def _passes_nothing(proxy: FaultProxy) -> bool:
    before = len(proxy.requests)
    time.sleep(0.02)  # silence is no event
    return len(proxy.requests) == before and not any(link.unanswered for link in proxy.open_links())


def subscribers(client: redis.Redis) -> int:
    """How many connections of the server are subscribed to something."""
    return sum(int(it.get("ssub", 0)) + int(it["sub"]) > 0 for it in client.client_list(_type="pubsub"))


def _is_quiet(client: redis.Redis) -> bool:
    before = client.info("stats")["total_commands_processed"]
    time.sleep(0.1)  # silence is no event
    return bool(client.info("stats")["total_commands_processed"] - before == 1)


class Clocked:
    """How long a block took, in seconds."""

    def __enter__(self) -> Clocked:
        self._began = time.monotonic()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.monotonic() - self._began


def in_child(act: Callable[[], Any]) -> int:
    """Starts it in a forked child, which ends with 0 if it returned True; the pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if act() is True else 2
        finally:
            os._exit(status)
    return pid


def ended(pid: int, within: float = SOON) -> int:
    """How a child ended; it is killed when the time is over."""
    deadline = time.monotonic() + within
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -signal.SIGKILL
        time.sleep(0.01)
