"""One queue, driven by raw calls at a time that the test passes: for tests of the scripts."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
from audit import Contents, check_audit, contents

from thoonk_jobs import calls, limits, request
from thoonk_jobs.codec import pack
from thoonk_jobs.drive import Wire
from thoonk_jobs.errors import ThoonkError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.limits import UNCHANGED, Limited
from thoonk_jobs.machine import State
from thoonk_jobs.publication import Publication
from thoonk_jobs.record import Spec
from thoonk_jobs.request import Call, Reply
from thoonk_jobs.scripts import SCRIPTS

STATES = tuple(State)
WORKER = "w@host:1"
HEAD = struct.Struct(">dddd")


def head(now: float, expected: float = math.nan, skew: float = math.nan, *, back: int = 0) -> bytes:
    """The first argument of a script: the time to use, in ms; what the elapsed clock should show, and under which skew.

    Without an expectation the time is passed, and true; with one whose skew is not the queue's, nobody vouches for it.
    """
    return HEAD.pack(now, expected, skew, back)


def send(client: redis.Redis, call: Call[Any], process: str, head: bytes) -> Reply:
    """The whole reply to a call, without a wire."""
    keys = call.keys.keys
    args = (len(keys), *keys, head, process, *call.args)
    try:
        return Reply(*client.evalsha(call.script.sha, *args))
    except redis.exceptions.NoScriptError:
        return Reply(*client.eval(call.script.source, *args))


class Ear:
    """The subscription of one process, on a connection of its own: to its own channel and to the alarm's."""

    def __init__(self, client: redis.Redis, keys: QueueKeys, process: str) -> None:
        pool = client.connection_pool
        self._connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 2})
        self._connection.connect()
        self._channels: tuple[str, ...] = (keys.process_channel(process), keys.alarm_channel)
        self._say("SSUBSCRIBE", *self._channels)

    def _say(self, *command: str) -> None:
        self._connection.send_command(*command)
        for _ in self._channels:
            self._connection.read_response()

    def _messages(self) -> Iterator[list[bytes]]:
        """What was sent so far: the server answers in order."""
        self._connection.send_command("PING")
        while (message := self._connection.read_response())[0] != b"pong":
            yield message

    def heard(self) -> list[tuple[str, Any]]:
        """What came since, oldest first: ("alarm", (ms, keeper)), ("w", number of the place), or other news."""
        news: list[tuple[str, Any]] = []
        for _, channel, data in self._messages():
            if channel.endswith(b":alarm"):
                news.append(("alarm", (struct.unpack(">d", data[:8])[0], data[8:].decode())))
            else:
                kind, rest = data[:1].decode(), data[1:]
                news.append((kind, struct.unpack(">d", rest)[0] if kind == "w" else rest))
        return news

    def told(self) -> list[float]:
        """The numbers of the places at which it was told to look, since."""
        return [number for kind, number in self.heard() if kind == "w"]

    def alarms(self) -> list[tuple[float, str]]:
        """In how many ms something is due, and who acts on it, since."""
        return [alarm for kind, alarm in self.heard() if kind == "alarm"]

    def close(self) -> None:
        """Nobody hears from now on, and the server knows."""
        if not self._channels:
            return
        self._say("SUNSUBSCRIBE", *self._channels)
        self._connection.disconnect()
        self._channels = ()


class Desk:
    """now: the time that scripts are given, in ms; starts at the server's and stands still until it is passed."""

    def __init__(self, wire: Wire, client: redis.Redis, namespace: str, queue: str = "letters") -> None:
        seconds, micros = client.time()
        self.now = int(seconds) * 1000 + int(micros) // 1000
        self.wire = wire
        self.wire.elapsed.passed = lambda: self.now
        self.client = client
        self.keys = QueueKeys.of(namespace, queue)
        self._tickets = 0

    @contextmanager
    def ear(self, process: str | None = None) -> Iterator[Ear]:
        """A process that hears; this one, unless another is named."""
        ear = Ear(self.client, self.keys, process or self.wire.process)
        try:
            yield ear
        finally:
            ear.close()

    def twin(self, queue: str) -> Desk:
        """Another queue, at the same time."""
        twin = Desk(self.wire, self.client, self.keys.namespace, queue)
        twin.now = self.now
        self.wire.elapsed.passed = lambda: self.now
        return twin

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)

    # What to send.

    def publish(self, id: str, data: Any = "data", **spec: Any) -> Call[Any]:
        body, digest = pack(data)
        return calls.publish(self.keys, [Publication(id, digest, Spec(**spec).pack(), body)])

    def claim(
        self, most: int = 1, lease: float = 1000.0, lane: str = "lane", *, wanted: int | None = None
    ) -> Call[Any]:
        self._tickets += 1
        return calls.claim(self.keys, lane, f"ticket{self._tickets}", most, lease, WORKER, wanted=wanted)

    def limit(self, key: Limited, running: float | None = None, **numbers: Any) -> Call[bool]:
        given = dict.fromkeys(("running", "pending", "when_full", "block_after"), UNCHANGED) | numbers
        packed = limits.asked(key, given | {"running": running})
        return calls.limit(self.keys, limits.field(key), packed)

    def raw(self, script: str, *args: Any) -> Call[Any]:
        """A call whose reply is not read."""
        return Call(SCRIPTS[script], self.keys, args, lambda reply: reply)

    # Sending it.

    def ask(self, call: Call[Any]) -> Any:
        """The answer; of a call with one item, the item's, an error as a value."""
        answer = self.wire.run(call)
        if isinstance(answer, request.Published):
            answer = answer.answers
        return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer

    def reply(self, call: Call[Any], process: str | None = None, *, back: int = 0, at: bytes = b"") -> Reply:
        """The whole reply; its answer as `call` reads it. at: what is said of the time, unless that it is now."""
        reply = send(self.client, call, process or self.wire.process, at or head(self.now, back=back or call.back))
        return reply._replace(answer=call.read(reply.answer))

    def look(self, process: str, wanted: int = 1, most: int | None = None, **how: Any) -> Reply:
        """A look of a process at the queue; most: of as many as it wants, unless fewer."""
        return self.reply(
            self.claim(wanted if most is None else most, lane=process, wanted=wanted), process, back=wanted, **how
        )

    def do(self, call: Call[Any]) -> Any:
        """The answer, which is no refusal."""
        answer = self.ask(call)
        answers = answer if isinstance(answer, list) else [answer]
        refusals = [each for each in answers if isinstance(each, ThoonkError)]
        assert not refusals, refusals
        return answer

    def take(self, id: str, **how: Any) -> int:
        """The token of a claim of the one job that is available."""
        look = self.do(self.claim(**how))
        assert [taken.id for taken in look.taken] == [id]
        return int(look.taken[0].token)

    def settle(self) -> None:
        while self.do(calls.settle(self.keys)):
            pass

    def set(self, **settings: str) -> None:
        self.do(calls.configure(self.keys, settings))

    # Looking.

    def contents(self) -> Contents:
        return contents(self.client, self.keys.namespace, self.keys.queue)

    def audit(self) -> Contents:
        return check_audit(self.client, self.keys.namespace, self.keys.queue)

    def state(self, id: str) -> State:
        job = self.contents().jobs.get(id.encode())
        return STATES[job.state] if job else State.ABSENT


class Line:
    """Processes that listen, by name."""

    def __init__(self, desk: Desk, stack: ExitStack) -> None:
        self._desk, self._stack = desk, stack
        self.ears: dict[str, Ear] = {}

    def listen(self, process: str) -> None:
        self.ears[process] = self._stack.enter_context(self._desk.ear(process))

    def wait(self, *processes: str, wanted: int = 1) -> None:
        """Each subscribes, looks in vain, and waits."""
        for process in processes:
            self.listen(process)
            assert self._desk.look(process, wanted).number > 0
        self.told()

    def told(self) -> list[str]:
        """Those who were told to look since."""
        return [process for process, ear in self.ears.items() if ear.told()]


def plain(answer: Any) -> Any:
    """An answer that can be compared: errors by kind, words and what they carry."""
    if isinstance(answer, ThoonkError):
        return type(answer), str(answer), vars(answer)
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    if isinstance(answer, request.Look):
        return [(taken.id, taken.token, taken.stored) for taken in answer.taken]
    return answer
