"""How things end in the asyncio client: cancelled tasks, closed brokers, loops that are over, and callbacks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import redis
from helpers import SOON, in_loop, soon, waiting

from thoonk_jobs import (
    AsyncBroker,
    AsyncClaim,
    AsyncJob,
    AsyncQueue,
    Broker,
    BrokerClosed,
    EmbeddedServer,
    Outcome,
    StaleClaim,
    State,
    ThoonkError,
)


@pytest.fixture
def place(url: str, namespace: str) -> dict[str, str]:
    """The arguments of a broker."""
    return {"url": url, "namespace": namespace}


@asynccontextmanager
async def letters(place: dict[str, str], **options: Any) -> AsyncIterator[AsyncQueue]:
    async with AsyncBroker(**place, **options) as broker:
        yield broker.queue("letters")


async def taken(queue: AsyncQueue, **options: Any) -> AsyncClaim:
    claim = await queue.get(timeout=0, **options)
    assert claim is not None
    return claim


@contextmanager
def slow(client: redis.Redis, seconds: float = 30) -> Iterator[None]:
    """A server that does not answer what may write."""
    client.execute_command("CLIENT", "PAUSE", round(seconds * 1000), "WRITE")
    try:
        yield
    finally:
        client.execute_command("CLIENT", "UNPAUSE")


async def begun(*tasks: asyncio.Task[Any]) -> None:
    """Returns when they wait for the server."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


# Cancelled


@pytest.mark.parametrize("timeout", [0, None])
@in_loop
async def test_what_a_cancelled_get_takes_goes_back_at_once_and_at_no_cost(place, client, timeout):
    async with letters(place) as queue, letters(place) as elsewhere:
        job = await queue.publish("letter")
        await elsewhere.counts()
        with slow(client):
            got = asyncio.create_task(elsewhere.get(timeout))
            await begun(got)
            got.cancel()
            with pytest.raises(asyncio.CancelledError):
                await got

        again = await queue.get(timeout=SOON / 4)

        assert (again.id, again.cancels, again.failures, again.lost) == (job.id, 0, 0, 0)


@pytest.mark.parametrize("timeout", [0, None])
@in_loop
async def test_what_a_cancelled_get_takes_goes_back_also_when_its_broker_is_closed_at_once(place, client, timeout):
    async with letters(place) as queue:
        job = await queue.publish("letter")
        async with letters(place) as elsewhere:
            await elsewhere.counts()
            with slow(client):
                got = asyncio.create_task(elsewhere.get(timeout))
                await begun(got)
                got.cancel()
                await asyncio.wait({got})

        assert (await queue.get(timeout=SOON / 4)).id == job.id


@in_loop
async def test_the_name_of_a_cancelled_claim_call_is_not_used_again_before_its_reply(place, client):
    """Sent again after another one under its name, it would claim anew and leave its first claims to their leases."""
    async with letters(place) as queue:
        await queue.publish("letter")
        session = queue.session
        lane = session.borrow_lane()
        session.return_lane(lane)
        with slow(client):
            got = asyncio.create_task(queue.get(timeout=0))
            await begun(got)
            got.cancel()
            await asyncio.wait({got})
            other = session.borrow_lane()
            session.return_lane(other)

        assert other != lane
        await soon(lambda: session.borrow_lane() == lane)


@in_loop
async def test_a_get_whose_broker_is_closed_while_its_claim_is_on_its_way_leaves_no_job_behind(place, client):
    async with letters(place) as queue:
        job = await queue.publish("letter")
        async with letters(place) as elsewhere:
            await elsewhere.counts()
            with slow(client):
                got = asyncio.create_task(elsewhere.get())
                await begun(got)
                closing = asyncio.create_task(elsewhere._broker.close())
                await begun(closing)
            with pytest.raises(BrokerClosed):
                await got
            await closing

        assert (await queue.get(timeout=SOON / 4)).id == job.id


@in_loop
async def test_a_get_that_comes_when_its_process_is_just_leaving_the_queue_waits_and_is_told_of_jobs(place, client):
    async with letters(place) as queue, letters(place) as elsewhere:
        assert await elsewhere.get(timeout=0) is None
        await elsewhere.session.engine.attended(elsewhere.keys)
        got = asyncio.create_task(elsewhere.get(timeout=SOON))
        elsewhere.session.engine.attention(elsewhere.keys)._look_after()
        await soon(lambda: waiting(client, queue))
        before = client.info("stats")["total_commands_processed"]
        await asyncio.sleep(0.2)
        assert client.info("stats")["total_commands_processed"] - before < 10

        job = await queue.publish("letter")

        assert (await asyncio.wait_for(got, SOON / 4)).id == job.id


# Claims


@in_loop
async def test_a_block_finishes_its_claim_or_fails_it_with_the_exception(place):
    async with letters(place) as queue:
        jobs = await queue.publish_many(["good", "bad"])
        async with await taken(queue):
            pass
        with pytest.raises(ValueError, match="torn"):
            async with await taken(queue):
                raise ValueError("torn")

        good, bad = [await job.refresh() for job in jobs]
        assert (good.outcome, bad.state, bad.error.message) == (Outcome.SUCCESS, State.STALLED, "torn")


@in_loop
async def test_a_block_that_is_cancelled_gives_its_job_back_at_once(place):
    async with letters(place) as queue:
        job = await queue.publish("letter")
        inside = asyncio.Event()

        async def work() -> None:
            async with await taken(queue):
                inside.set()
                await asyncio.sleep(SOON)

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        back = await job.refresh()
        assert (back.state, back.failures) == (State.AVAILABLE, 0)
        assert not queue.session.leases.holds(queue.keys)


@in_loop
async def test_a_block_that_is_cancelled_while_its_claim_ends_is_cancelled_and_the_claim_has_ended(place, client):
    async with letters(place) as queue:
        job = await queue.publish("letter")

        claim = await taken(queue)

        async def work() -> None:
            async with claim:
                await claim.finish("sent")

        with slow(client):
            task = asyncio.create_task(work())
            await begun(task)
            task.cancel()
            await begun(task)
        with pytest.raises(asyncio.CancelledError):
            await task

        assert (await job.refresh()).result == "sent"
        assert not queue.session.leases.holds(queue.keys)


@in_loop
async def test_of_two_tasks_that_end_a_claim_one_does(place):
    async with letters(place) as queue:
        await queue.publish("letter")
        claim = await taken(queue)

        ends = await asyncio.gather(claim.finish(1), claim.finish(2), return_exceptions=True)

        assert ends[0] is None
        assert isinstance(ends[1], ThoonkError)
        assert (await claim.refresh()).result == 1


@in_loop
async def test_a_lease_is_renewed_until_the_claim_ends_and_a_lost_claim_is_told(place):
    async with letters(place) as queue, letters(place) as elsewhere:
        job = await queue.publish("letter")
        claim = await taken(queue, lease=0.5)
        assert await elsewhere.get(timeout=1) is None

        await elsewhere.retract(job.id)
        await soon(lambda: claim.aborted)

        with pytest.raises(StaleClaim):
            await claim.finish("late")


# Closed


@in_loop
async def test_closing_ends_what_waits_and_gives_back_what_is_held(place):
    async with letters(place) as queue:
        await queue.publish_many(range(3))
        closing = AsyncBroker(**place)
        there = closing.queue("letters")
        claims = await there.get_many(3)
        waits = [asyncio.create_task(wait) for wait in (there.get(), there.get(timeout=SOON), claims[0].wait())]
        await soon(lambda: there.session.placed(there.keys))
        await begun(*waits)

        await closing.close()

        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(end) for end in ended] == [BrokerClosed] * 3
        assert all(claim.aborted for claim in claims)
        jobs = (await queue.jobs(State.AVAILABLE)).jobs
        assert [(job.cancels, job.failures, job.lost) for job in jobs] == [(0, 0, 0)] * 3
        await closing.close()
        for call in (closing.ping(), there.publish("late"), claims[0].finish()):
            with pytest.raises(BrokerClosed):
                await call


@in_loop
async def test_who_waits_for_an_answer_when_the_broker_is_closed_hears_that_and_is_not_cancelled(place, client):
    closing = AsyncBroker(**place)
    queue = closing.queue("letters")
    await queue.publish("letter")
    with slow(client):
        asked = [asyncio.create_task(queue.publish(n)) for n in range(3)]
        asked += [asyncio.create_task(queue.get(timeout=0)), asyncio.create_task(closing.queue("parcels").pause())]
        await begun(*asked)

        await asyncio.wait_for(closing.close(), SOON)

        ended = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ended] == [BrokerClosed] * 5


@in_loop
async def test_a_connection_that_was_on_its_way_when_its_broker_was_closed_is_closed(place, client, monkeypatch):
    before = len(client.client_list())
    async with letters(place) as queue:
        go, start = threading.Event(), queue.session.server.start
        monkeypatch.setattr(queue.session.server, "start", lambda: go.wait(SOON) and start())
        asked = [asyncio.create_task(work) for work in (queue.get(timeout=0), queue.ids())]
        await begun(*asked)
        await queue._broker.close()
        go.set()

        ended = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(end) for end in ended] == [BrokerClosed] * 2
    await soon(lambda: len(client.client_list()) == before)


@in_loop
async def test_a_close_that_is_cancelled_leaves_no_connection(place, client):
    before = len(client.client_list())
    async with letters(place) as queue:
        await queue.publish("letter")
        await taken(queue)
        with slow(client):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue._broker.close(), 0.1)

            await soon(lambda: len(client.client_list()) == before)


# Loops


def test_a_broker_is_used_again_in_a_second_loop_after_the_first_one(place):
    broker = AsyncBroker(**place)
    queue = broker.queue("letters")

    async def use(data: str) -> AsyncJob:
        job = await queue.publish(data)
        async with await queue.get(timeout=SOON):
            pass
        await queue.get(timeout=0.05)
        return job

    jobs = [asyncio.run(use(data)) for data in ("first", "second")]

    async def look() -> list[Any]:
        async with broker:
            return [(await queue.job(job.id)).outcome for job in jobs]

    assert asyncio.run(look()) == [Outcome.SUCCESS, Outcome.SUCCESS]


@in_loop
async def test_a_broker_is_refused_in_a_second_loop_that_lives_beside_the_first(place):
    async with letters(place) as queue:
        await queue.publish("letter")

        def other() -> None:
            asyncio.run(queue.counts())

        with pytest.raises(ThoonkError, match="another event loop"):
            await asyncio.to_thread(other)
        assert (await queue.counts())[State.AVAILABLE] == 1


def test_outside_a_loop_nothing_is_asked(place):
    with pytest.raises(RuntimeError):
        _ = AsyncBroker(**place).session


def test_the_url_of_an_embedded_server_is_known_after_start_only(tmp_path):
    async def main() -> None:
        async with AsyncBroker(f"embedded:{tmp_path}") as broker:
            with pytest.raises(ThoonkError, match="start"):
                _ = broker.url
            await broker.start()
            with Broker(broker.url) as blocking:
                blocking.queue("letters").publish("letter")
            assert await broker.queues() == ["letters"]

    try:
        asyncio.run(main())
    finally:
        EmbeddedServer(tmp_path).stop()


# Callbacks


@in_loop
async def test_callbacks_may_be_coroutine_functions_and_plain_ones(place):
    async with letters(place) as queue, letters(place) as elsewhere:
        told: list[Any] = []

        async def waits(job: AsyncJob) -> None:
            told.append(await (await elsewhere.job(job.id)).value())

        for callback in (waits, lambda job: told.append(job.result)):
            await queue.publish("letter", on_finish=callback)
        for claim in await elsewhere.get_many(2):
            await claim.finish("sent")
        await queue._broker.join(SOON)

        assert told == ["sent", "sent"]


@in_loop
async def test_the_callbacks_of_a_job_come_in_order_however_long_they_take(place):
    async with letters(place) as queue, letters(place) as elsewhere:
        told: dict[str, list[Any]] = {}

        async def note(job: AsyncJob, what: Any) -> None:
            await asyncio.sleep(0.003 * (hash((job.id, what)) % 3))
            told.setdefault(job.id, []).append(what)

        for n in range(20):
            await queue.publish(
                n,
                on_progress=lambda job, progress: note(job, progress.value),
                on_stall=lambda job: note(job, "stall"),
                on_finish=lambda job: note(job, "end"),
            )
        claims = await elsewhere.get_many(20)
        for value in range(5):
            await asyncio.gather(*(claim.set_progress(value) for claim in claims))
        await asyncio.gather(*(claim.finish() for claim in claims))
        await queue._broker.join(SOON)

        assert told == {claim.id: [0, 1, 2, 3, 4, "end"] for claim in claims}


@in_loop
async def test_a_slow_callback_keeps_no_other_job_waiting(place):
    async with letters(place) as queue, letters(place) as elsewhere:
        go, heard = asyncio.Event(), asyncio.Event()

        async def slowly(job: AsyncJob) -> None:
            await go.wait()

        await queue.publish("first", on_finish=slowly)
        await queue.publish("second", on_finish=lambda job: heard.set())
        for claim in await elsewhere.get_many(2):
            await claim.finish()

        await asyncio.wait_for(heard.wait(), SOON)
        with pytest.raises(TimeoutError):
            await queue._broker.join(0.1)
        go.set()
        await queue._broker.join(SOON)


@in_loop
async def test_a_callback_may_wait_for_another_job_and_publish_one(place):
    async with letters(place) as queue, letters(place) as elsewhere:
        values: list[Any] = []

        async def more(job: AsyncJob) -> None:
            other = await queue.publish("more")
            values.append(await other.value(SOON))

        await queue.publish("letter", on_finish=more)
        await (await elsewhere.get(SOON)).finish()
        await (await elsewhere.get(SOON)).finish("sent")
        await queue._broker.join(SOON)

        assert values == ["sent"]


@pytest.mark.parametrize("within", [lambda join: join, lambda join: asyncio.wait_for(join, SOON)], ids=["", "wait_for"])
@in_loop
async def test_join_in_a_callback_would_wait_for_itself_and_is_refused(place, within):
    async with letters(place) as queue:
        ends: list[BaseException] = []

        async def joins(job: AsyncJob) -> None:
            try:
                await within(queue._broker.join(SOON / 4))
            except Exception as error:
                ends.append(error)

        await queue.publish("letter", on_finish=joins)
        await (await taken(queue)).finish()
        await queue._broker.join(SOON)

        assert [type(error) for error in ends] == [ThoonkError]


@in_loop
async def test_a_callback_whose_own_work_was_cancelled_failed_and_join_goes_on(place, caplog):
    async with letters(place) as queue:

        async def awaits_what_was_cancelled(job: AsyncJob) -> None:
            task = asyncio.create_task(asyncio.sleep(SOON))
            task.cancel()
            await task

        await queue.publish("letter", on_finish=awaits_what_was_cancelled)
        await (await taken(queue)).finish()

        await queue._broker.join(SOON / 4)

    assert "callback_failed" in caplog.text


@pytest.mark.parametrize("within", [lambda end: end, lambda end: asyncio.wait_for(end, SOON)], ids=["", "wait_for"])
@in_loop
async def test_a_callback_may_close_its_broker(place, client, within):
    before = len(client.client_list())
    broker = AsyncBroker(**place)
    queue, closed = broker.queue("letters"), asyncio.Event()

    async def closes(job: AsyncJob) -> None:
        await within(broker.close())
        closed.set()

    await queue.publish("letter", on_finish=closes)
    await (await taken(queue)).finish()

    await asyncio.wait_for(closed.wait(), SOON / 4)
    await soon(lambda: len(client.client_list()) == before)


@in_loop
async def test_closing_waits_for_callbacks_as_long_as_it_is_told(place):
    async with letters(place) as queue:
        broker, told = AsyncBroker(**place), []
        await broker.queue("letters").publish("letter", on_finish=told.append)
        closing = asyncio.create_task(broker.close(wait=SOON))
        await asyncio.sleep(0.05)
        assert not closing.done()

        await (await taken(queue)).finish("sent")
        await closing

        assert [job.result for job in told] == ["sent"]
