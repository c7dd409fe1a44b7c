"""The asyncio client under many tasks at once: batches, cancelled tasks, lost servers, waiting by the hundred."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import redis
from helpers import INF, SOON, in_loop, soon, until, waiting

from thoonk_jobs import (
    AsyncBroker,
    AsyncJob,
    AsyncQueue,
    Broker,
    BrokerClosed,
    EmbeddedServer,
    InvalidArgument,
    JobExists,
    Outcome,
    PayloadError,
    PublishFailed,
    State,
    TransitionRefused,
)


@pytest.fixture
def place(url: str, namespace: str) -> dict[str, str]:
    """The arguments of a broker."""
    return {"url": url, "namespace": namespace}


@asynccontextmanager
async def letters(place: dict[str, str], **options: Any) -> AsyncIterator[AsyncQueue]:
    async with AsyncBroker(**place, **options) as broker:
        yield broker.queue("letters")


def script_calls(client: redis.Redis) -> int:
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def drained(queue: AsyncQueue) -> Counter[Any]:
    """The data of all jobs that are there to be taken."""
    return Counter([claim.data for claim in await queue.get_many(10_000, timeout=0)])


# Group commit


@in_loop
async def test_what_200_tasks_publish_in_one_turn_is_one_call_and_each_hears_of_its_own_job(place, client):
    async with letters(place) as queue:
        await queue.publish("warm")
        before = script_calls(client)

        jobs = await asyncio.gather(*(queue.publish(n, id=f"l{n}") for n in range(200)))

        assert script_calls(client) - before == 1
        assert [(job.id, job.data) for job in jobs] == [(f"l{n}", n) for n in range(200)]


@in_loop
async def test_what_is_more_than_one_call_carries_goes_out_in_parts(place, client):
    async with letters(place) as queue:
        await queue.publish("warm")
        before = script_calls(client)

        jobs = await asyncio.gather(*(queue.publish(n) for n in range(1200)))

        assert script_calls(client) - before == 3
        assert len({job.id for job in jobs}) == 1200
        assert (await queue.counts())[State.AVAILABLE] == 1201


@in_loop
async def test_a_refusal_comes_to_the_task_that_asked_and_to_no_other(place, client):
    async with letters(place) as queue:
        await queue.publish("taken", id="taken")
        before = script_calls(client)
        asked = [
            queue.publish(0), queue.publish("other", id="taken"), queue.publish(2), queue.publish(object()),
            queue.publish("taken", id="taken"), queue.publish(5, delay=-1), queue.publish_many([6, 6]),
            queue.publish_many(["x", "y"], id="taken"), queue.publish(8),
        ]  # fmt: skip

        ends = await asyncio.gather(*asked, return_exceptions=True)

        assert script_calls(client) - before <= 2  # one, but for the call that publishes one id twice
        kinds = [type(end) for end in ends]
        assert kinds == [
            AsyncJob, JobExists, AsyncJob, PayloadError, AsyncJob, InvalidArgument, list, PublishFailed, AsyncJob,
        ]  # fmt: skip
        assert [ends[at].data for at in (0, 2, 4, 8)] == [0, 2, "taken", 8]
        assert ends[7].errors.keys() == {0, 1}


@in_loop
async def test_verbs_of_one_turn_are_one_call_and_each_is_answered(place):
    async with letters(place) as queue, letters(place) as elsewhere:
        await queue.publish_many(range(100))
        claims = await queue.get_many(100, timeout=0)
        await elsewhere.retract(claims[50].id)
        sent = []
        commit = queue.session.engine._commit
        commit._run = lambda call, run=commit._run: sent.append(call.script.name) or run(call)

        ends = await asyncio.gather(*(claim.finish(claim.data) for claim in claims), return_exceptions=True)

        assert sent.count("finish") == 1
        assert [at for at, end in enumerate(ends) if end is not None] == [50]
        assert isinstance(ends[50], TransitionRefused)
        jobs = (await queue.jobs(State.FINISHED, limit=200)).jobs
        assert all(job.result == job.data for job in jobs if job.id != claims[50].id)


@pytest.mark.parametrize(
    "which", [range(0, 200, 2), range(1), range(199)], ids=["every other", "the first", "all but one"]
)
@in_loop
async def test_cancelling_some_of_a_batch_takes_nothing_from_the_others(place, client, which):
    async with letters(place) as queue:
        await queue.publish("warm")
        tasks = [asyncio.create_task(queue.publish(n)) for n in range(200)]
        await asyncio.sleep(0)
        for at in which:
            tasks[at].cancel()

        ends = await asyncio.gather(*tasks, return_exceptions=True)

        for at, end in enumerate(ends):
            assert isinstance(end, asyncio.CancelledError) if at in which else end.data == at
        there = await drained(queue)
        assert all(there[at] == 1 for at in range(200) if at not in which)
        assert max(there.values()) == 1


# Cancelled at any moment


class Storm:
    """Tasks that do everything at once, and what they were told."""

    def __init__(self, queue: AsyncQueue, seed: int) -> None:
        self.queue = queue
        self.chance = random.Random(seed)
        self.published: dict[str, Any] = {}
        self.done: set[str] = set()
        self.crossed: list[Any] = []

    async def publish(self, n: int) -> None:
        job = await self.queue.publish({"n": n}, id=f"l{n}")
        if (job.id, job.data) != (f"l{n}", {"n": n}):
            self.crossed.append((n, job))
        self.published[job.id] = n

    async def work(self) -> None:
        claim = await self.queue.get(timeout=self.chance.choice([0, 0.05, None]))
        await self.end(claim)

    async def work_on_many(self) -> None:
        async with AsyncExitStack() as held:
            claims = await self.queue.get_many(self.chance.choice([2, 20]), timeout=self.chance.choice([0, 0.05]))
            for claim in claims:
                await held.enter_async_context(claim)
            for claim in claims:
                await self.end(claim)

    async def end(self, claim: Any) -> None:
        if claim is None:
            return
        async with claim:
            if claim.data != {"n": int(claim.id[1:])}:
                self.crossed.append(claim)
            how = self.chance.random()
            if how < 0.5:
                await claim.finish(claim.id)
            elif how < 0.7:
                await claim.fail("torn")
            else:
                await claim.cancel()

    async def value(self) -> None:
        id = self.chance.choice([*self.published, "l0"])
        job = await (await self.queue.job(id)).wait(timeout=0.2)
        if job.id != id or job.result not in (None, id):
            self.crossed.append(job)

    def acts(self, n: int) -> list[Any]:
        most = [self.publish(at) for at in range(n)]
        most += [self.work() for _ in range(n)] + [self.work_on_many() for _ in range(n // 5)]
        most += [self.value() for _ in range(n // 2)]
        self.chance.shuffle(most)
        return most

    async def rage(self, n: int) -> list[BaseException]:
        """Runs the acts, cancels half of them at random moments; what went wrong."""
        tasks = []
        for act in self.acts(n):
            task = asyncio.create_task(act)
            tasks.append(task)
            if self.chance.random() < 0.5:
                asyncio.get_running_loop().call_later(self.chance.random() * 0.05, task.cancel)
            if self.chance.random() < 0.2:
                await asyncio.sleep(self.chance.random() * 0.005)
        asyncio.get_running_loop().call_later(1, lambda: [task.cancel() for task in tasks])
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        expected = asyncio.CancelledError | TimeoutError | TransitionRefused
        return [end for end in ends if isinstance(end, BaseException) and not isinstance(end, expected)]


@pytest.mark.parametrize("seed", range(6))
@in_loop
async def test_tasks_that_are_cancelled_at_random_cross_no_reply_and_lose_no_job(place, seed):
    async with letters(place) as queue, letters(place) as elsewhere:
        await queue.configure(max_attempts=INF)
        storm = Storm(queue, seed)

        wrong = await storm.rage(200)

        assert (wrong, storm.crossed) == ([], [])
        assert len(storm.published) > 50

        async def all_free() -> bool:
            return not (await elsewhere.counts())[State.CLAIMED]

        for _ in range(400):
            if await all_free():
                break
            await asyncio.sleep(0.01)
        assert await all_free(), "a job that was taken did not go back at once"
        left = Counter(claim.id for claim in await elsewhere.get_many(10_000, timeout=0))
        finished = {job.id for job in (await elsewhere.jobs(State.FINISHED, limit=10_000)).jobs}
        assert set(left.values()) <= {1}
        assert not finished & left.keys()
        assert storm.published.keys() <= finished | left.keys()
        assert not queue.session.leases.holds(queue.keys)


# Time


@in_loop
async def test_a_deadline_proclaimed_just_behind_a_reply_that_knows_of_none_is_kept(place):
    async with letters(place) as queue:
        with Broker(**place) as elsewhere:
            await queue.session.engine.attended(queue.keys)
            await queue.counts()
            letters_there, jobs = elsewhere.queue("letters"), []
            letters_there.publish("connects")

            def publish() -> None:  # the loop reads nothing between the call that is sent before it and its end
                jobs.append(letters_there.publish("letter", expires_in=0.2))

            asked = asyncio.create_task(queue.counts())
            asyncio.get_running_loop().call_soon(publish)
            await asked

            await soon(lambda: letters_there.job(jobs[0].id).outcome is Outcome.EXPIRED, seconds=2)


@in_loop
async def test_looking_at_a_queue_forgets_no_deadline(place):
    async with letters(place) as queue:
        with Broker(**place) as elsewhere:
            await queue.session.engine.attended(queue.keys)
            job = await queue.publish("letter", expires_in=0.3)

            for look in (queue.counts(), job.refresh(), queue.jobs(), queue.ids()):
                await look

            await soon(lambda: elsewhere.queue("letters").job(job.id).outcome is Outcome.EXPIRED, seconds=2)


@in_loop
async def test_who_comes_after_a_long_silence_does_not_flood_the_server_and_learns_what_time_it_is(place, client):
    async with letters(place) as queue:
        await queue.publish("letter", delay=3600)
        for _ in range(2):
            await queue.get(timeout=0.05)
    seen = int(client.hget(f"{queue.keys.base}:meta", "seen"))
    client.hset(f"{queue.keys.base}:meta", "seen", seen - 60_000)

    async with letters(place) as queue:
        before = client.info("stats")["total_commands_processed"]
        assert await queue.get(timeout=4) is None
        assert client.info("stats")["total_commands_processed"] - before < 2000
        before = client.info("stats")["total_commands_processed"]
        assert await queue.get(timeout=0.5) is None
        assert client.info("stats")["total_commands_processed"] - before < 5


# Waiting by the hundred


def connections(client: redis.Redis, known: set[str]) -> int:
    return len({one["id"] for one in client.client_list()} - known)


@in_loop
async def test_500_waiting_gets_use_one_connection_and_one_job_wakes_one_of_them(place, client):
    known = {one["id"] for one in client.client_list()}
    async with letters(place) as queue:
        gets = [asyncio.create_task(queue.get()) for _ in range(500)]
        await soon(lambda: waiting(client, queue))
        assert connections(client, known) <= 2

        before = script_calls(client)
        job = await queue.publish("letter")
        done, still = await asyncio.wait(gets, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.1)

        assert [task.result().id for task in done] == [job.id]
        assert sum(task.done() for task in gets) == 1
        assert script_calls(client) - before <= 4
        await queue.publish_many(range(499))
        assert {claim.data for claim in await asyncio.gather(*still)} == set(range(499))


def test_500_waiting_threads_use_two_connections_and_one_job_wakes_one_of_them(broker, queue, elsewhere, client):
    elsewhere.counts()
    known = {one["id"] for one in client.client_list()}
    got: list[Any] = []

    def get() -> None:
        with suppress(BrokerClosed):
            got.append(queue.get())

    threads = [threading.Thread(target=get) for _ in range(500)]
    for thread in threads:
        thread.start()
    until(lambda: waiting(client, queue))
    assert connections(client, known) <= 2

    elsewhere.publish("letter")
    until(lambda: got)
    with pytest.raises(AssertionError):
        until(lambda: len(got) > 1, seconds=0.2)
    broker.close()
    for thread in threads:
        thread.join(SOON)

    assert [claim.data for claim in got] == ["letter"]


# The server


@in_loop
async def test_a_server_that_goes_on_answering_is_given_time_for_all_that_was_asked(place):
    """More at once than it can do in the time in which it has to answer one call."""
    async with letters(place, socket_timeout=0.3) as queue:
        await queue.counts()
        stream = queue.session.engine._stream
        pad = b"x" * 100_000  # else the server would answer all of them together
        began = asyncio.get_running_loop().time()

        await asyncio.gather(*(stream.say("EVAL", "for _ = 1, 1000000 do end", 0, pad) for _ in range(300)))

        assert asyncio.get_running_loop().time() - began > 0.3


def test_when_the_server_is_killed_nothing_that_was_acknowledged_is_lost(tmp_path):
    server = EmbeddedServer(tmp_path)

    async def main() -> None:
        async with AsyncBroker(f"embedded:{tmp_path}", retry_for=SOON) as broker:
            queue = broker.queue("letters")
            published: set[str] = set()
            finished: list[str] = []

            async def publish(n: int) -> None:
                for m in range(10):
                    published.add((await queue.publish([n, m], id=f"{n}.{m}")).id)
                    await asyncio.sleep(0.01)

            async def work() -> None:
                while claim := await queue.get(timeout=SOON):
                    with suppress(TransitionRefused):
                        await claim.finish(claim.id)
                        finished.append(claim.id)

            workers = [asyncio.create_task(work()) for _ in range(50)]
            publishers = [asyncio.create_task(publish(n)) for n in range(50)]
            await soon(lambda: len(published) >= 100)
            os.kill(server.status().pid, signal.SIGKILL)
            await asyncio.gather(*publishers)
            while (await queue.counts())[State.FINISHED] < len(published):
                await asyncio.sleep(0.02)
            for worker in workers:
                worker.cancel()
            ends = await asyncio.gather(*workers, return_exceptions=True)

            assert {type(end) for end in ends} == {asyncio.CancelledError}
            assert len(published) == 500
            jobs = (await queue.jobs(State.FINISHED, limit=1000)).jobs
            assert {(job.id, job.result) for job in jobs} == {(id, id) for id in published}

    try:
        asyncio.run(asyncio.wait_for(main(), 2 * SOON))
    finally:
        server.stop()
