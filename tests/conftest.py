"""Real servers for a session, a namespace for a test, and time that a test passes by hand."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from facade import LoopThread
from helpers import Heard

from thoonk_jobs import Broker, EmbeddedServer, Queue

REDIS = shutil.which("redis-server")
_namespaces = itertools.count(1)


class Clock:
    """The time that scripts are given, in ms; starts at the server's."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's redis-server 7.0 on a socket of its own."""
    if REDIS is None:
        if os.environ.get("THOONK_REQUIRE_REDIS"):
            pytest.fail("redis-server is not installed, and THOONK_REQUIRE_REDIS asks for it")
        pytest.skip("redis-server is not installed: not tested on Redis 7.0")
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "s"
    command = [
        REDIS,
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--dir",
        str(folder),
        "--appendonly",
        "yes",
        "--save",
        "",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(socket))
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            assert process.poll() is None
            time.sleep(0.01)
    yield f"unix://{socket}"
    process.terminate()
    process.wait()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that uses a server runs on both; those marked `asyncio_on` with the asyncio client, too, on these."""
    if "against" not in metafunc.fixturenames:
        return
    places = [("valkey", "blocking"), ("redis", "blocking")]
    mark = metafunc.definition.get_closest_marker("asyncio_on")
    if mark and "connect" in metafunc.fixturenames and not metafunc.definition.get_closest_marker("blocking_only"):
        places += [(server, "asyncio") for server in mark.args]
    metafunc.parametrize("against", places, ids=[server if client == "blocking" else f"{server}-{client}"
                                               for server, client in places])  # fmt: skip


@pytest.fixture
def url(against: tuple[str, str], request: pytest.FixtureRequest) -> str:
    """Of the server."""
    return str(request.getfixturevalue(f"{against[0]}_url"))


@pytest.fixture
def namespace() -> str:
    return f"test{next(_namespaces)}"


@pytest.fixture
def connect(against: tuple[str, str], url: str, namespace: str) -> Iterator[Callable[..., Broker]]:
    """Makes brokers of the client that this run is about, for the server and the namespace of the test."""
    usual = {"url": url, "namespace": namespace}
    if against[1] == "blocking":
        yield lambda **options: Broker(**{**usual, **options})
        return
    with LoopThread() as loop:
        yield lambda **options: loop.broker(**{**usual, **options})


@pytest.fixture
def broker(connect: Callable[..., Broker]) -> Iterator[Broker]:
    with connect() as broker:
        yield broker


@pytest.fixture
def queue(broker: Broker) -> Queue:
    return broker.queue("letters")


@pytest.fixture
def elsewhere(connect: Callable[..., Broker]) -> Iterator[Queue]:
    """The same queue, as another process has it."""
    with connect() as broker:
        yield broker.queue("letters")


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    """A plain client of the same server."""
    with redis.Redis.from_url(url) as client:
        yield client


@pytest.fixture
def clock(broker: Broker, client: redis.Redis) -> Clock:
    """Stops the time of the test's broker; `advance` passes it."""
    seconds, micros = client.time()
    clock = Clock(int(seconds) * 1000 + int(micros) // 1000)
    broker._clock = clock
    return clock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def everything(client: redis.Redis, namespace: str) -> Callable[[], dict[bytes, bytes]]:
    """All keys of the namespace, byte for byte, but for what tells who waits and who looks after the time."""

    def dump(key: bytes) -> Any:
        if key.endswith(b":meta"):
            return {name: value for name, value in client.hgetall(key).items() if name not in (b"keeper", b"seen")}
        return client.dump(key)

    return lambda: {key: dump(key) for key in client.scan_iter(match=f"*{namespace}:*")}


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a real process of its own; it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *args: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()
