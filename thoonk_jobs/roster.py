"""Which queues there are, and which are new: for who wants the events of all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from thoonk_jobs import calls
from thoonk_jobs.errors import BrokerUnavailable
from thoonk_jobs.keys import queues_key
from thoonk_jobs.stream import Stream
from thoonk_jobs.timing import PROBE_EVERY

if TYPE_CHECKING:
    from thoonk_jobs.engine import Engine

Changed = Callable[[list[str]], None]


class Roster:
    """Of a namespace, in the loop of the engine. A notice says that the list changed; it is read now and then, too."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self.channel = queues_key(namespace)
        self._engine = engine
        self._namespace = namespace
        self._told: dict[Changed, list[str]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._told)

    async def follow(self, changed: Changed) -> None:
        """Tells all queues that there are, sorted, now and whenever there are others; until `leave`."""
        self._told[changed] = []
        try:
            await self._engine.subscribed(self.channel)
            await self._look()
        except BaseException:
            self.leave(changed)
            raise
        self._look_later()

    def leave(self, changed: Changed) -> None:
        """Tells this one no more."""
        self._told.pop(changed, None)

    def begin(self, stream: Stream) -> None:
        """There is a new connection."""
        if self._told:
            stream.subscribe(self.channel).add_done_callback(self._begun)

    def _begun(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled() and not future.exception():
            self.heard()

    def heard(self) -> None:
        """The list of queues changed, or may have."""
        if self._told:
            self._engine.start(self._look_anew())

    def _look_later(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._told and not self._engine.closed:
            self._timer = self._engine.loop.call_later(PROBE_EVERY, self._look_now_and_then)

    def _look_now_and_then(self) -> None:
        if self._told and not self._engine.closed:
            self.heard()
            self._look_later()

    async def _look_anew(self) -> None:
        with suppress(BrokerUnavailable):  # the next connection begins with a look
            await self._look()

    async def _look(self) -> None:
        names = await self._engine.run(calls.queues(self._namespace))
        for changed, known in list(self._told.items()):
            if known != names:
                self._told[changed] = names
                changed(names)
