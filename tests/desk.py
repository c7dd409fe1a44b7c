"""One queue, driven by raw calls at a time that the test passes: for tests of the scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from audit import Contents, check_audit, contents

from thoonk_jobs import calls, request
from thoonk_jobs.codec import pack
from thoonk_jobs.drive import Wire
from thoonk_jobs.errors import ThoonkError
from thoonk_jobs.keys import QueueKeys
from thoonk_jobs.machine import State
from thoonk_jobs.publication import Publication
from thoonk_jobs.record import Spec
from thoonk_jobs.request import Call
from thoonk_jobs.scripts import SCRIPTS

STATES = tuple(State)
WORKER = "w@host:1"


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

    def limit(self, field: str, running: int | None) -> Call[bool]:
        return calls.limit(self.keys, field, running)

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

    def audit(self, over: Sequence[str] = ()) -> Contents:
        return check_audit(self.client, self.keys.namespace, self.keys.queue, over)

    def state(self, id: str) -> State:
        job = self.contents().jobs.get(id.encode())
        return STATES[job.state] if job else State.ABSENT


def plain(answer: Any) -> Any:
    """An answer that can be compared: errors by kind, words and what they carry."""
    if isinstance(answer, ThoonkError):
        return type(answer), str(answer), vars(answer)
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    if isinstance(answer, request.Look):
        return [(taken.id, taken.token, taken.stored) for taken in answer.taken]
    return answer
