"""A proxy between clients and a server that breaks things by request number, never by time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import shutil
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from resp import frame_end, words

T = TypeVar("T")
SUBSCRIBES = {"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"}


class Do(StrEnum):
    """What a fault does with its request."""

    DROP_REPLY = "drop reply"
    """It is executed; the reply is swallowed, then the connection closed."""
    HOLD_REPLY = "hold reply"
    """It is executed; no reply comes, and nothing else ever on this connection: half-open."""
    CUT_REQUEST = "cut request"
    """Half of its bytes reach the server, then the connection is closed: nothing is executed."""
    HOLD_REQUEST = "hold request"
    """It does not reach the server, and the connection stays open: half-open."""
    RESET = "reset"
    """It does not reach the server; the client meets a reset (over TCP an RST)."""


@dataclass(eq=False)
class Request:
    """What a client sent; number: of this proxy, from 1."""

    number: int
    link: Link
    words: list[bytes]
    raw: bytes = field(repr=False)
    fault: Fault | None = None

    @property
    def name(self) -> str:
        return self.words[0].decode().upper()


Match = Callable[[Any], bool]


@dataclass(eq=False)
class Fault:
    """Meets one request, the nth that matches, or one message of a subscription; `hit` is set once it has."""

    do: Do
    match: Match
    left: int
    hit: threading.Event = field(default_factory=threading.Event)
    request: Request | None = None

    def meets(self, what: Any) -> bool:
        if self.hit.is_set() or self.request or not self.match(what):
            return False
        self.left -= 1
        return self.left == 0


class Side(asyncio.Protocol):
    """One end of a link: the client's or the server's."""

    def __init__(self, link: Link, hear: Callable[[bytes], None]) -> None:
        self.link, self.hear = link, hear
        self.transport: Any = None
        self.other: Side
        self.buffer = bytearray()
        self.hole = False
        self._last = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.link.made(self)

    def data_received(self, data: bytes) -> None:
        """Hands on whole frames; what goes into a hole goes nowhere."""
        if self.hole:
            return
        self.buffer += data
        while self.buffer and not self.hole and (end := frame_end(self.buffer)) is not None:
            frame = bytes(self.buffer[:end])
            del self.buffer[:end]
            self.hear(frame)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.link.lost(self)

    def send(self, data: bytes) -> None:
        for part in [data] if not self.link.proxy.drips else [data[at : at + 1] for at in range(len(data))]:
            self._later(lambda part=part: self.transport and self.transport.write(part))  # type: ignore[misc]

    def end(self) -> None:
        self._later(lambda: self.transport and self.transport.close())

    def abort(self) -> None:
        """Over TCP with an RST."""
        if self.transport:
            peer = self.transport.get_extra_info("socket")
            if peer.family == socket.AF_INET:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def _later(self, act: Callable[[], Any]) -> None:
        """After the delay, and never before what was sent earlier."""
        loop = self.link.proxy.loop
        at = max(self._last, loop.time() + self.link.proxy.latency)
        if at <= loop.time():
            act()
        else:
            self._last = at + 0.000001
            loop.call_at(at, act)


class Link:
    """A connection of a client, and the one to the server behind it."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.client, self.server = Side(self, self._asked), Side(self, self._answered)
        self.client.other, self.server.other = self.server, self.client
        self.subscribed = self.ended = False
        self.unanswered: deque[Request] = deque()

    def made(self, side: Side) -> None:
        if side is self.client:
            if self.proxy.refuses:
                side.transport.abort()
                return
            if self.proxy.digs:
                self.dig()
            side.transport.pause_reading()
            self.proxy.links.append(self)
            self.connecting = self.proxy.loop.create_task(self.proxy.connect(self.server))
        elif self.client.transport:
            self.client.transport.resume_reading()
        else:
            side.transport.close()

    def lost(self, side: Side) -> None:
        """A hole hides also that one side is gone."""
        self.ended = self.ended or side is self.client or not side.hole
        if not side.hole:
            side.other.end()

    def close(self) -> None:
        for side in (self.client, self.server):
            if side.transport:
                side.transport.close()

    def dig(self, *, up: bool = True, down: bool = True) -> None:
        """From here on this link swallows what comes, and closes nothing."""
        self.client.hole, self.server.hole = self.client.hole or up, self.server.hole or down

    def _asked(self, frame: bytes) -> None:
        request = self.proxy.count(self, frame)
        replies = 1
        if request.name in SUBSCRIBES:
            self.subscribed = True
            replies = max(1, len(request.words) - 1)
        do = request.fault.do if request.fault else None
        if do is Do.RESET:
            self.client.abort()
        elif do is Do.CUT_REQUEST:
            self.server.transport.write(frame[: len(frame) // 2])
            self.close()
        elif do is Do.HOLD_REQUEST:
            self.dig()
        else:
            self.unanswered += [request] * replies
            self.server.send(frame)
        if request.fault and do not in (Do.DROP_REPLY, Do.HOLD_REPLY):
            request.fault.hit.set()

    def _answered(self, frame: bytes) -> None:
        if self.subscribed and (said := words(frame)) and said[0].endswith(b"message"):
            if not self.proxy.swallows(said):
                self.client.send(frame)
            return
        request = self.unanswered.popleft() if self.unanswered else None
        if request is None or request.fault is None:
            self.client.send(frame)
            return
        if request.fault.do is Do.DROP_REPLY:
            self.close()
        else:
            self.dig()
        request.fault.hit.set()


class FaultProxy:
    """Listens on a unix socket, or on a TCP port of this machine; its own thread does the work.

    Every method returns once what it asks for holds.
    """

    def __init__(self, upstream: str, *, tcp: bool = False) -> None:
        self.upstream, self.tcp = urlsplit(upstream), tcp
        self.folder = Path(tempfile.mkdtemp(prefix="fp-"))
        self.links: list[Link] = []
        self.requests: list[Request] = []
        self.latency, self.refuses, self.drips, self.digs = 0.0, False, False, False
        self.url = ""
        self._numbers = itertools.count(1)
        self._faults: list[Fault] = []
        self._losses: list[Fault] = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _listen(self) -> None:
        def client() -> Side:
            return Link(self).client

        if self.tcp:
            self._listener = await self.loop.create_server(client, "127.0.0.1", 0)
            self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        else:
            self._listener = await self.loop.create_unix_server(client, str(self.folder / "s"))
            self.url = f"unix://{self.folder}/s"

    async def connect(self, side: Side) -> None:
        """Connects a link to the server; where that is not there, the client's connection ends."""
        try:
            if self.upstream.scheme == "unix":
                await self.loop.create_unix_connection(lambda: side, self.upstream.path)
            else:
                await self.loop.create_connection(lambda: side, self.upstream.hostname, self.upstream.port)
        except OSError:
            side.other.abort()

    def count(self, link: Link, frame: bytes) -> Request:
        request = Request(next(self._numbers), link, words(frame), frame)
        self.requests.append(request)
        request.fault = next((fault for fault in self._faults if fault.meets(request)), None)
        if request.fault:
            request.fault.request = request
        return request

    def swallows(self, said: list[bytes]) -> bool:
        for loss in self._losses:
            if loss.meets(said):
                loss.hit.set()
                return True
        return False

    def _run(self, act: Callable[[], T]) -> T:
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.loop.call_soon_threadsafe(lambda: done.set_result(act()))
        return done.result(10)

    def fault(self, do: Do, match: Match = lambda request: True, nth: int = 1) -> Fault:
        """Breaks the nth request that matches from now on."""
        fault = Fault(do, match, nth)
        self._run(lambda: self._faults.append(fault))
        return fault

    def lose_message(self, match: Match = lambda said: True, nth: int = 1) -> Fault:
        """Swallows the nth message of a subscription that matches, from now on: [kind, channel, data]."""
        loss = Fault(Do.DROP_REPLY, match, nth)
        self._run(lambda: self._losses.append(loss))
        return loss

    def open_links(self, *, subscribed: bool | None = None) -> list[Link]:
        """The connections that are open now; those with a subscription, or those without."""
        return self._run(lambda: [it for it in self.links if not it.ended and subscribed in (None, it.subscribed)])

    def delay(self, seconds: float) -> None:
        """Everything takes so long from now on, in each direction."""
        self._run(lambda: setattr(self, "latency", seconds))

    def drip(self) -> None:
        """Everything is sent byte by byte from now on."""
        self._run(lambda: setattr(self, "drips", True))

    def refuse(self, on: bool = True) -> None:
        """New connections are closed as soon as they are made, or pass again."""
        self._run(lambda: setattr(self, "refuses", on))

    def black_hole(self, links: Iterable[Link], *, up: bool = True, down: bool = True) -> None:
        """These connections swallow what comes and stay open: half-open. up: to the server; down: to the client."""
        self._run(lambda: [link.dig(up=up, down=down) for link in links])

    def black_hole_all(self, on: bool = True) -> None:
        """All connections, and those still to be made, swallow what comes; off: new ones pass again."""
        self._run(lambda: [setattr(self, "digs", on)] + [link.dig() for link in self.links if on])

    def cut(self, links: Iterable[Link]) -> None:
        """Closes these connections on both sides."""
        self._run(lambda: [link.close() for link in links])

    def reset(self, links: Iterable[Link]) -> None:
        """Ends these connections abruptly: over TCP with an RST."""
        self._run(lambda: [side.abort() for link in links for side in (link.client, link.server)])

    def close(self) -> None:
        """Ends everything."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(10)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)
            self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _end(self) -> None:
        self._listener.close()
        sides = [side for link in self.links for side in (link.client, link.server)]
        for side in sides:
            if side.transport:
                side.transport.abort()
        for _ in range(1000):
            if not any(side.transport for side in sides):
                break
            await asyncio.sleep(0.001)
