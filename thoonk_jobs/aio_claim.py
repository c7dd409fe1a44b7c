"""A job, and a job that this process holds, of the asyncio client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, cast

from thoonk_jobs.claiming import ClaimCore, JobCore
from thoonk_jobs.flows import Flow
from thoonk_jobs.request import Taken

if TYPE_CHECKING:
    from thoonk_jobs.aio_session import AsyncSession
    from thoonk_jobs.base import QueueBase


class AsyncJob(JobCore):
    """A snapshot of a job; `refresh` reads a newer one."""

    __slots__ = ()

    async def _do(self, flow: Flow[Any]) -> Any:
        return await cast("AsyncSession", self._queue.session).follow(flow)

    async def refresh(self) -> AsyncJob:
        """As `Job.refresh`."""
        return cast(AsyncJob, await self._do(self._queue._job(self.id)))

    async def wait(self, timeout: float | None = None) -> AsyncJob:
        """As `Job.wait`."""
        return cast(AsyncJob, await self._do(self._wait(timeout)))

    async def value(self, timeout: float | None = None) -> Any:
        """As `Job.value`."""
        return await self._do(self._value(timeout))


class AsyncClaim(ClaimCore, AsyncJob):
    """A job that this process holds until a verb ends the claim, or it is lost; see `Claim`.

    As an asynchronous context manager: a claim not ended inside finishes without a result, or fails with the exception.
    """

    __slots__ = ("_lock",)

    def __init__(self, queue: QueueBase, taken: Taken, lease: float, *, renewed: bool) -> None:
        super().__init__(queue, taken, lease, renewed=renewed)
        self._lock = asyncio.Lock()

    async def _do_end(self, flow: Flow[None]) -> None:
        async with self._lock:  # of two tasks that end a claim one does, and the other hears it
            await self._do(flow)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._over:
            await self._do_end(self._leave(error))

    async def finish(self, result: Any = None) -> None:
        """As `Claim.finish`."""
        await self._do_end(self._finish(result))

    async def fail(self, error: Any, *, final: bool = False) -> None:
        """As `Claim.fail`."""
        await self._do_end(self._fail(error, final=final))

    async def cancel(self, reason: str | None = None, delay: Any = None) -> None:
        """As `Claim.cancel`."""
        await self._do_end(self._cancel(reason, delay))

    async def stall(self, reason: str | None = None) -> None:
        """As `Claim.stall`."""
        await self._do_end(self._stall(reason))

    async def renew(self, lease: Any = None) -> None:
        """As `Claim.renew`."""
        await self._do(self._renew(lease))

    async def set_progress(self, value: float, total: float | None = None, message: str | None = None) -> None:
        """As `Claim.set_progress`."""
        await self._do(self._set_progress(value, total, message))

    async def log(self, text: str) -> None:
        """As `Claim.log`."""
        await self._do(self._log(text))

    async def emit(self, name: str, data: Any = None) -> None:
        """As `Claim.emit`."""
        await self._do(self._emit(name, data))
