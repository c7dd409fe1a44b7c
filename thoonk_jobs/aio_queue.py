"""A queue of the asyncio client: the methods of `Queue`, awaited. Its callbacks may be coroutine functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from thoonk_jobs import calls, flows, limits
from thoonk_jobs.aio_claim import AsyncClaim, AsyncJob
from thoonk_jobs.aio_session import AsyncSession
from thoonk_jobs.aio_subscription import AsyncHandler, AsyncSubscription
from thoonk_jobs.flows import Flow
from thoonk_jobs.job import Page
from thoonk_jobs.limits import UNCHANGED, KeyStatus, Limited, Unchanged
from thoonk_jobs.machine import State
from thoonk_jobs.operating import Operating
from thoonk_jobs.publication import Callback, Unique
from thoonk_jobs.publishing import Publishing
from thoonk_jobs.request import Call
from thoonk_jobs.working import Working

T = TypeVar("T")


class AsyncQueue(Publishing, Working, Operating):
    """A named queue of jobs; made by `AsyncBroker.queue`. Its methods are those of `Queue`, awaited."""

    job_class = AsyncJob
    claim_class = AsyncClaim
    coroutines = True

    async def do(self, flow: Flow[T]) -> T:
        """As `Queue.do`."""
        return await cast(AsyncSession, self.session).follow(flow)

    async def _run(self, call: Call[T]) -> T:
        return await cast(AsyncSession, self.session).run(call)

    # Publishing.

    async def publish(
        self,
        data: Any,
        *,
        id: str | None = None,
        priority: float | str | bool | None = None,
        delay: Any = None,
        run_at: Any = None,
        expires_in: Any = None,
        max_attempts: float | None = None,
        backoff: Any = None,
        key: str | None = None,
        unique: str | Unique | None = None,
        keep: Any = None,
        on_finish: Callback | None = None,
        on_stall: Callback | None = None,
        on_progress: Callback | None = None,
        headers: dict[str, Any] | None = None,
    ) -> AsyncJob:
        """As `Queue.publish`."""
        options = {name: value for name, value in locals().items() if name not in ("self", "data")}
        return cast(AsyncJob, await self.do(self._publish(data, options)))

    async def publish_many(self, jobs: Iterable[Any], **common: Any) -> list[AsyncJob]:
        """As `Queue.publish_many`."""
        return await self.do(self._publish_many(jobs, common))

    # Working by hand.

    async def get(self, timeout: Any = None, *, lease: Any = 30.0, renew: bool = True) -> AsyncClaim | None:
        """As `Queue.get`."""
        return cast("AsyncClaim | None", await self.do(self._get(timeout, lease, renew)))

    async def get_many(self, n: int, timeout: Any = None, *, lease: Any = 30.0, renew: bool = True) -> list[AsyncClaim]:
        """As `Queue.get_many`."""
        return await self.do(self._get_many(n, timeout, lease, renew))

    async def _held(self, job: AsyncJob | str, verb: str) -> AsyncClaim:
        return cast(AsyncClaim, await self.do(self._claim(job, verb)))

    async def finish(self, job: AsyncJob | str, result: Any = None) -> None:
        """As `Queue.finish`."""
        await (await self._held(job, "finish")).finish(result)

    async def fail(self, job: AsyncJob | str, error: Any, *, final: bool = False) -> None:
        """As `Queue.fail`."""
        await (await self._held(job, "fail")).fail(error, final=final)

    async def cancel(self, job: AsyncJob | str, reason: str | None = None, delay: Any = None) -> None:
        """As `Queue.cancel`."""
        await (await self._held(job, "cancel")).cancel(reason, delay)

    async def stall(self, job: AsyncJob | str, reason: str | None = None) -> None:
        """As `Queue.stall`."""
        id = self.id_of(job)
        if claim := self.claim_of(id):
            await claim.stall(reason)
        else:
            await self.do(self._stall(id, reason))

    async def renew(self, job: AsyncJob | str, lease: Any = None) -> None:
        """As `Queue.renew`."""
        await (await self._held(job, "renew")).renew(lease)

    async def set_progress(
        self, job: AsyncJob | str, value: float, total: float | None = None, message: str | None = None
    ) -> None:  # fmt: skip
        """As `Queue.set_progress`."""
        await (await self._held(job, "set_progress")).set_progress(value, total, message)

    async def log(self, job: AsyncJob | str, text: str) -> None:
        """As `Queue.log`."""
        await (await self._held(job, "log")).log(text)

    async def emit(self, job: AsyncJob | str, name: str, data: Any = None) -> None:
        """As `Queue.emit`."""
        await (await self._held(job, "emit")).emit(name, data)

    # Operating: repeating a verb whose effect already holds returns quietly.

    async def retry(self, id: str) -> None:
        """As `Queue.retry`."""
        await self.do(self._operate("retry", id))

    async def rerun(self, id: str) -> None:
        """As `Queue.rerun`."""
        await self.do(self._operate("rerun", id))

    async def retract(self, id: str) -> None:
        """As `Queue.retract`."""
        await self.do(self._operate("retract", id))

    async def retry_all(self) -> int:
        """As `Queue.retry_all`."""
        return await self.do(flows.operate_on_all(self.keys, "retry", State.STALLED))

    async def retract_all(self, state: State | str) -> int:
        """As `Queue.retract_all`."""
        return await self.do(self._retract_all(state))

    # Looking.

    async def job(self, id: str) -> AsyncJob:
        """As `Queue.job`."""
        return cast(AsyncJob, await self.do(self._job(id)))

    async def jobs(
        self, state: State | str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> Page[AsyncJob]:
        """As `Queue.jobs`."""
        return await self.do(self._jobs(state, limit, cursor))

    async def ids(self) -> list[str]:
        """As `Queue.ids`."""
        return await self.do(flows.live_ids(self.keys))

    async def counts(self) -> dict[State, int]:
        """As `Queue.counts`."""
        return await self._run(calls.counts(self.keys))

    async def key(self, name: str) -> KeyStatus:
        """As `Queue.key`."""
        return await self._run(calls.key(self.keys, name))

    async def blocked_keys(self) -> list[str]:
        """As `Queue.blocked_keys`."""
        return await self._run(calls.blocked(self.keys))

    async def holder(self, unique: str) -> AsyncJob | None:
        """As `Queue.holder`."""
        return cast("AsyncJob | None", await self.do(self._holder(unique)))

    # Events.

    async def subscribe(self, *names: str, since: int | None = None) -> AsyncSubscription:
        """As `Queue.subscribe`."""
        return await AsyncSubscription(self, names, since).open()

    async def on(self, name: str | None, handler: Callback) -> Callable[[], None]:
        """As `Queue.on`; the handler may be a coroutine function. What it answers is called without await."""
        return (await AsyncHandler(self, name, handler).open()).stop

    # Settings.

    async def settings(self) -> dict[str, Any]:
        """As `Queue.settings`."""
        return await self.do(self._settings())

    async def pause(self) -> None:
        """As `Queue.pause`."""
        await self.do(self._pause(on=True))

    async def resume(self) -> None:
        """As `Queue.resume`."""
        await self.do(self._pause(on=False))

    async def configure(
        self,
        *,
        max_lost: float | None = None,
        max_cancels: float | None = None,
        max_attempts: float | None = None,
        backoff: Any = None,
        keep: Any = None,
        keep_last: float | None = None,
        keep_stalled: float | None = None,
        keep_events: float | None = None,
        expires_in: Any = None,
        priority: float | str | None = None,
        max_payload: float | None = None,
    ) -> None:
        """As `Queue.configure`."""
        await self.do(self._configure({name: value for name, value in locals().items() if name != "self"}))

    async def limit(
        self,
        key: Limited = None,
        *,
        running: float | Unchanged | None = UNCHANGED,
        pending: float | Unchanged | None = UNCHANGED,
        when_full: str | Unchanged | None = UNCHANGED,
        block_after: Any = UNCHANGED,
    ) -> None:
        """As `Queue.limit`."""
        given = {name: value for name, value in locals().items() if name not in ("self", "key")}
        await self.do(self._limit(key, given))

    async def block(self, key: str, seconds: Any, reason: str) -> None:
        """As `Queue.block`."""
        await self.do(self._block(key, seconds, reason))

    async def unblock(self, key: str) -> None:
        """As `Queue.unblock`."""
        await self._run(calls.unblock(self.keys, limits.key_text(key)))

    async def delete(self) -> None:
        """As `Queue.delete`."""
        await self.do(self._delete())
