"""Ten asyncio workers share a queue; publishing and waiting for results are awaited, callbacks may be coroutines."""

from __future__ import annotations

import asyncio

from thoonk_jobs import AsyncBroker, AsyncJob, AsyncQueue

PAGES = {"/": ["/about", "/news"], "/about": [], "/news": ["/news/1", "/news/2"], "/news/1": ["/"], "/news/2": []}


async def worker(pages: AsyncQueue) -> None:
    while claim := await pages.get(timeout=1):
        async with claim:  # finishes at the end, fails with an exception
            await asyncio.sleep(0.01)  # stands for fetching it
            await claim.finish(PAGES[claim.data])


async def main() -> None:
    async with AsyncBroker() as broker:
        pages = broker.queue("pages")
        seen: set[str] = set()
        links: dict[str, int] = {}

        async def fetched(job: AsyncJob) -> None:
            links[job.data] = len(job.result)
            await visit(*job.result)

        async def visit(*paths: str) -> None:
            new = set(paths) - seen
            seen.update(new)
            await pages.publish_many(sorted(new), on_finish=fetched)

        workers = [asyncio.create_task(worker(pages)) for _ in range(10)]
        await visit("/")
        await broker.join()
        for path, number in sorted(links.items()):
            print(f"{path} has {number} links")
        await asyncio.gather(*workers)


asyncio.run(main())
