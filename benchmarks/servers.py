"""The private servers that are measured: the embedded valkey-server, or a redis-server of the machine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from thoonk_jobs import ConfigError, EmbeddedServer


@dataclass(frozen=True)
class Server:
    """A server of this run.

    broker_url  what a Broker is given: for the embedded server with all that it does by default.
    url         for plain clients.
    client      a plain client on one connection, for the server's own accounting.
    """

    broker_url: str
    url: str
    client: Any
    name: str
    pid: int

    @classmethod
    def reached(cls, broker_url: str, url: str) -> Server:
        """The server behind a URL, once it answers."""
        client: Any = redis.Redis.from_url(url, single_connection_client=True)
        about = client.info("server")
        version = about.get("valkey_version")
        name = f"valkey {version}" if version else f"redis {about['redis_version']}"
        return cls(broker_url, url, client, name, about["process_id"])


@contextmanager
def private_server(*, use_redis: bool) -> Iterator[Server]:
    """A server in a temporary folder; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="thoonk-bench-"))
    try:
        with (_redis if use_redis else _embedded)(folder) as server:
            yield server
            server.client.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _embedded(folder: Path) -> Iterator[Server]:
    with EmbeddedServer(folder) as server:
        yield Server.reached(f"embedded:{folder}", server.url)


@contextmanager
def _redis(folder: Path) -> Iterator[Server]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise ConfigError("no redis-server on this machine; install it, or leave out --redis")
    socket = folder / "s"
    settings = {
        "port": "0", "unixsocket": str(socket), "dir": str(folder), "save": "", "appendonly": "yes",
        "appendfsync": "no",
    }  # fmt: skip
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise ConfigError(f"redis-server ended with code {process.returncode} before it was ready")
            time.sleep(0.01)
        yield Server.reached(f"unix://{socket}", f"unix://{socket}")
    finally:
        process.terminate()
        process.wait()
