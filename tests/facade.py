"""The asyncio client for tests that block: each of its objects as the blocking client has it, on a loop beside them.

A facade calls coroutine methods in the loop and waits for them, reads properties there, and hands back facades. What a
test gives as a callback runs on a thread, so that it may use facades itself.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from helpers import SOON

from thoonk_jobs import (
    AsyncBroker,
    AsyncClaim,
    AsyncJob,
    AsyncQueue,
    AsyncSubscription,
    Broker,
    Claim,
    Job,
    JobFailed,
    Publish,
    PublishFailed,
    Queue,
    Subscription,
)
from thoonk_jobs.aio_session import AsyncSession
from thoonk_jobs.blocking import BlockingSession
from thoonk_jobs.job import Page, Snapshot

STANDS_FOR: dict[type, type] = {
    AsyncBroker: Broker,
    AsyncQueue: Queue,
    AsyncJob: Job,
    AsyncClaim: Claim,
    AsyncSession: BlockingSession,
    AsyncSubscription: Subscription,
}
CALLBACKS = {"on_finish", "on_stall", "on_progress"}


class Facade:
    """An object of the asyncio client that looks like its twin."""

    def __init__(self, loop: LoopThread, real: Any) -> None:
        self.__dict__.update(_facade=loop, _real=real)

    @property
    def __class__(self) -> type:
        return STANDS_FOR[type(self._real)]

    def __getattr__(self, name: str) -> Any:
        loop, real = self._facade, self._real
        if inspect.isfunction(getattr(type(real), name, None)):
            return partial(loop.call, getattr(real, name))
        if isinstance(real, Snapshot):  # its attributes are values
            return loop.wrapped(getattr(real, name))
        return loop.wrapped(loop.evaluate(partial(getattr, real, name)))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __enter__(self) -> Facade:
        self._facade.run(self._real.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._facade.run(self._real.__aexit__(*error))

    def __iter__(self) -> Facade:
        return self

    def __next__(self) -> Any:
        try:
            return self._facade.run(self._real.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __eq__(self, other: object) -> bool:
        return bool(self._real == unwrapped(other))

    def __hash__(self) -> int:
        return hash(self._real)

    def __repr__(self) -> str:
        return repr(self._real)


def unwrapped(value: object) -> Any:
    return value._real if type(value) is Facade else value


class LoopThread:
    """An event loop on a thread of its own. On leaving, nothing may be left in it, and nothing have gone wrong."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.troubles: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.troubles.append(context))
        self._callbacks = ThreadPoolExecutor(64)
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._callbacks.shutdown()
        left = self.run(self._left())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        if error[0] is None:
            assert (left, self.troubles) == ([], [])

    async def _left(self) -> list[str]:
        """What still runs a while after all brokers were closed."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, others = await asyncio.wait(others, timeout=SOON / 4)
        await self.loop.shutdown_default_executor()
        return [repr(task) for task in others]

    # From the test to the loop.

    def broker(self, *args: Any, **options: Any) -> Any:
        return self.wrapped(AsyncBroker(*args, **options))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result()
        except JobFailed as error:
            error.job = self.wrapped(error.job)
            raise
        except PublishFailed as error:
            error.jobs = self.wrapped(error.jobs)
            raise

    def evaluate(self, read: Callable[[], Any]) -> Any:
        async def evaluated() -> Any:
            return read()

        return self.run(evaluated())

    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if method.__name__ == "publish_many":
            args = ([self._given(job) for job in args[0]], *args[1:])
        if method.__name__ == "on":
            args = (args[0], self._coroutine_function(args[1]))
        args = tuple(map(unwrapped, args))
        options = {name: self._option(name, value) for name, value in options.items()}
        if inspect.iscoroutinefunction(method):
            return self.wrapped(self.run(method(*args, **options)))
        return self.wrapped(self.evaluate(partial(method, *args, **options)))

    def _given(self, job: Any) -> Any:
        if not isinstance(job, Publish):
            return job
        return Publish(job.data, **{name: self._option(name, value) for name, value in job.options.items()})

    def _option(self, name: str, value: Any) -> Any:
        return self._coroutine_function(value) if name in CALLBACKS and callable(value) else unwrapped(value)

    def _coroutine_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def callback(*told: Any) -> None:
            await self.loop.run_in_executor(self._callbacks, function, *map(self.wrapped, told))

        return callback

    # From the loop to the test.

    def wrapped(self, value: Any) -> Any:
        if type(value) in STANDS_FOR:
            return Facade(self, value)
        if type(value) is list:
            return [self.wrapped(one) for one in value]
        if inspect.ismethod(value):  # what ends the calls of a handler
            return lambda: self.evaluate(value)
        if type(value) is Page:
            return Page(self.wrapped(value.jobs), value.cursor)
        return value
