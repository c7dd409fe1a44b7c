"""A server that lives and refuses: who waits goes on by itself once it refuses no more, on the same connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import redis
from helpers import SOON, in_loop, in_thread, taken, until
from stage import Server, until_waiting

from thoonk_jobs import AsyncBroker, Broker, BrokerUnavailable, ConfigError, Queue
from thoonk_jobs.request import Call

AGAIN = 10.0
"""Seconds after which who waits goes on."""


@contextmanager
def read_only(server: Server) -> Iterator[None]:
    """Writes are refused, and nothing else."""
    server.client.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        server.client.config_set("min-replicas-to-write", 0)


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """A script of somebody else takes long: nearly every command is refused."""
    server.client.config_set("busy-reply-threshold", 1)
    with redis.Redis(unix_socket_path=f"{server.folder}/s", socket_timeout=SOON) as other:

        def run() -> None:
            with suppress(redis.ResponseError):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: not answers(server))
        try:
            yield
        finally:
            server.client.script_kill()
            thread.join()


def answers(server: Server) -> bool:
    try:
        return bool(server.client.ping())
    except redis.ResponseError:
        return False


@in_loop
async def test_a_get_that_began_while_writes_were_refused_gets_a_job_later(server, other):
    async with AsyncBroker(server.url, namespace="own", retry_for=0.1) as broker:
        await broker.ping()
        with read_only(server):
            got = asyncio.create_task(broker.queue("letters").get())
            await asyncio.sleep(0.5)
        job = await asyncio.to_thread(other.publish, "letter")

        assert (await asyncio.wait_for(got, AGAIN)).id == job.id


def test_what_came_due_while_writes_were_refused_is_handed_out_later(server, near, other):
    got = in_thread(near.get)
    job = other.publish("letter", delay=1)
    until_waiting(server.client)
    with read_only(server):
        until(lambda: other.job(job.id).due_at.timestamp() + 0.5 < sum(server.client.time()[:1]))

    assert got.get(timeout=AGAIN).id == job.id


def test_a_wait_that_could_not_look_when_its_job_ended_looks_again(near, other, server, monkeypatch):
    job = other.publish("letter")
    ended = in_thread(near.job(job.id).wait)
    until_waiting(server.client)
    wire, refusals = near.session.wire, [BrokerUnavailable("busy")]
    run = wire.run

    def refusing(call):
        if isinstance(call, Call) and call.script.name == "watch" and refusals:
            raise refusals.pop()
        return run(call)

    monkeypatch.setattr(wire, "run", refusing)
    taken(other).finish("sent")

    assert ended.get(timeout=AGAIN).result == "sent"
    assert not refusals


@in_loop
async def test_a_subscription_that_a_busy_server_refused_is_asked_for_again(server, other):
    async with AsyncBroker(server.url, namespace="own") as broker:
        await broker.ping()
        with busy(server):
            got = asyncio.create_task(broker.queue("letters").get())
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)
        job = await asyncio.to_thread(other.publish, "letter")

        assert (await asyncio.wait_for(got, AGAIN)).id == job.id


@in_loop
async def test_leaving_a_queue_of_a_busy_server_shifts_no_reply(server):
    async with AsyncBroker(server.url, namespace="own") as broker:
        letters, parcels = broker.queue("letters"), broker.queue("parcels")
        engine = letters.session.engine
        await engine.attended(letters.keys)
        stream = engine._stream
        with busy(server):
            engine.leave(engine.attention(letters.keys))
            counted = [asyncio.create_task(parcels.counts()), asyncio.create_task(parcels.ids())]
            await asyncio.sleep(0.2)

        assert (await asyncio.wait_for(counted[1], AGAIN)) == []
        assert sum((await asyncio.wait_for(counted[0], AGAIN)).values()) == 0
        assert not stream._task.done()


@pytest.fixture
def guest(server: Server) -> Iterator[Queue]:
    """The queue as a user has it whose channels may be taken away."""
    server.client.execute_command("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all", "allchannels")
    with Broker(server.url, namespace="own", username="guest", password="word") as broker:
        yield broker.queue("letters")


def test_who_may_not_subscribe_is_told_each_time(server, guest, other):
    server.client.execute_command("ACL", "SETUSER", "guest", "resetchannels")
    job = other.publish("letter")

    for _ in range(2):
        with pytest.raises(ConfigError, match="allow its channels"):
            guest.job(job.id).wait(timeout=AGAIN)


def test_a_wait_ends_when_its_user_may_not_subscribe_any_more(server, guest, other):
    job = other.publish("letter")
    ended = in_thread(guest.job(job.id).wait)
    until_waiting(server.client)

    server.client.execute_command("ACL", "SETUSER", "guest", "resetchannels")

    assert isinstance(ended.get(timeout=AGAIN), ConfigError)
