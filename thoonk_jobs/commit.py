"""Group commit: what concurrent callers ask of a queue in the same turn of the loop goes out as one script call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any

from thoonk_jobs import flows, request
from thoonk_jobs.errors import CLOSED_MEANWHILE, BrokerClosed, BrokerUnavailable
from thoonk_jobs.request import Call

Waiting = tuple[Call[Any], asyncio.Future[Any]]


class GroupCommit:
    """Callers wait for their own part of the answer; one that is cancelled takes nothing from the others."""

    def __init__(self, run: Callable[[Call[Any]], Awaitable[Any]], start: Callable[[Any], None]) -> None:
        self._run = run
        self._start = start
        self._gathered: dict[tuple[str, str], list[Waiting]] = {}

    async def join(self, call: Call[Any]) -> Any:
        """The answer to a call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        name = (call.script.name, call.keys.base)
        if name not in self._gathered:
            self._gathered[name] = []
            loop.call_soon(self._send, name)
        self._gathered[name].append((call, future))
        return await future

    def _send(self, name: tuple[str, str]) -> None:
        for part in flows.in_parts(self._gathered.pop(name), lambda waiting: request.size(waiting[0]), _width):
            self._start(self._deliver(part))

    async def _deliver(self, part: list[Waiting]) -> None:
        try:
            answers = await self._run(request.merged([call for call, _ in part]))
        except BaseException as error:
            for call, future in part:
                if not future.done():
                    future.set_exception(_own(error, call))
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), answer in zip(part, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _width(waiting: Waiting) -> int:
    return waiting[0].width


def _own(error: BaseException, call: Call[Any]) -> BaseException:
    """The error for one of the calls."""
    if isinstance(error, BrokerUnavailable):
        return BrokerUnavailable(str(error), code=error.code, job_ids=call.job_ids)
    if isinstance(error, asyncio.CancelledError):  # as the broker was closed; nobody cancelled who waits for this
        return BrokerClosed(CLOSED_MEANWHILE)
    return copy(error)
