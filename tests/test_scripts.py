"""The scripts as texts and as the server takes them: rows, writers, keys, loading, memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from audit import STATE_INDEXES, changed, check_audit
from desk import Desk

from thoonk_jobs import Broker, BrokerUnavailable, EmbeddedServer, calls, scripts
from thoonk_jobs.keys import LAYOUT, QueueKeys
from thoonk_jobs.limits import EACH_KEY
from thoonk_jobs.machine import ROWS, State
from thoonk_jobs.scripts import SCRIPTS, SHARED

LUA = {path.stem: path.read_text() for path in sorted(Path(scripts.__file__).with_name("lua").glob("*.lua"))}
KEYS = [name for name, *_ in LAYOUT]
CHANNELS = ("T.base .. ':events'", "T.base .. ':alarm'", "T.channel(process", "T.channel(T.caller")
COMMENT = re.compile(r"--.*")
CODE = {name: COMMENT.sub("", text) for name, text in LUA.items()}


@pytest.fixture
def desk(broker: Broker, client: redis.Redis, namespace: str) -> Desk:
    return Desk(broker.session.wire, client, namespace)


# Rows.


@pytest.mark.parametrize(
    ("name", "line", "doctored"),
    [
        ("finish", "-- finish: claimed -> finished", "-- finish: claimed -> stalled"),
        ("stall", "-- stall: claimed, available, scheduled, waiting -> stalled", "-- stall: claimed -> stalled"),
        ("retry", "-- retry: stalled -> available", "-- retry: stalled, finished -> available"),
        ("claim", "-- claim: available -> claimed", "-- grab: available -> claimed"),
    ],
)
def test_a_script_that_disagrees_with_the_table_stops_the_program(
    monkeypatch: pytest.MonkeyPatch, name: str, line: str, doctored: str
):
    assert line in LUA[name]
    texts = {**LUA, name: LUA[name].replace(line, doctored)}
    monkeypatch.setattr(scripts, "_read", texts.__getitem__)

    with pytest.raises(RuntimeError, match="not a row of the table"):
        scripts._load()


def test_every_row_is_made_by_a_script():
    assert {row.name for script in SCRIPTS.values() for row in script.rows} == set(ROWS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_declares_the_rows_it_names_and_those_its_parts_need(name: str):
    declared = {row.name for row in SCRIPTS[name].rows}

    assert set(_rows_named(_reachable(name))) <= declared


@pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if script.rows])
def test_a_script_that_moves_jobs_counts_the_slots_that_they_take_and_give_back(name: str):
    assert "move_slot = function(" in SCRIPTS[name].source


def _rows_named(code: str) -> list[str]:
    named = re.findall(r"(?:T\.move|T\.admit|T\.ask)\(\w+, \{?'(\w+)'", code) + re.findall(r"EDGES\.(\w+)", code)
    return named + re.findall(r"each_due\([\w.]+, [\w.]+, '(\w+)'", code)


def _reachable(name: str) -> str:
    """The script's body, and of the shared parts the functions it calls, and those they call."""
    functions = {}
    for part in SHARED:
        for found in re.finditer(r"^(?:local )?function (?:T\.)?(\w+)\(.*?\n(?:.*?\n)?end$", CODE[part], re.M | re.S):
            functions[found[1]] = found[0]
    code, seen, todo = CODE[name], set(), {name}
    while todo:
        called = {word for word in re.findall(r"(\w+)\(", code) if word in functions} | {
            word for word in re.findall(r", (\w+)\)", code) if word in functions
        }
        todo = called - seen
        seen |= todo
        code += "\n".join(functions[word] for word in todo)
    return code


# Writers.


def test_only_move_writes_a_state():
    writers = [(name, line) for name, code in CODE.items() for line in code.splitlines() if _assigns(line, "STATE")]

    assert len(writers) == 1
    assert writers[0][0] == "move"
    assert writers[0][1] in _function(CODE["move"], "T.move")


def _assigns(line: str, field: str) -> bool:
    left = re.split(r"[^=~<>]=(?!=)", line)[0] if re.search(r"[^=~<>]=(?!=)", line) else ""
    return bool(re.search(rf"\[{field}\]", left)) and not re.match(r"\s*(if|elseif|local|return|for|while)\b", line)


def _function(code: str, name: str) -> str:
    found = re.search(rf"^function {re.escape(name)}\(.*?^end$", code, re.M | re.S)
    assert found
    return found[0]


def test_only_commit_writes_records_indexes_data_and_names():
    guarded = {*STATE_INDEXES, "record", "payload", "result", "names", "events"}
    writes = re.compile(r"(?:redis\.call|T\.spread)\('(?:Z(?:ADD|REM\w*|INCRBY)|H(?:SET|DEL|INCRBY|SETNX)|XADD|DEL)'"
                        r", ([^,)]+)")  # fmt: skip
    found = {name: writes.findall(code) for name, code in CODE.items()}

    assert {target for target in found.pop("commit") if "K." in target} >= {"K.record", "K.payload", "K.names"}
    for name, targets in found.items():
        assert {target.removeprefix("K.") for target in targets} & (guarded | {"key", "index"}) == set(), name


def test_scripts_name_keys_and_channels_only_by_their_declared_names():
    for name, code in CODE.items():
        assert set(re.findall(r"\bK\.(\w+)", code)) <= set(KEYS), name
        assert "KEYS[" not in code, name
        for command, target in re.findall(r"redis\.call\('(\w+)', ([^,)]+)", code):
            ours = target.startswith(("K.", "K[")) or target in ("key", "index", "times", "unpack(KEYS")
            channel = (command == "SPUBLISH" and target in CHANNELS) or (command, target) == ("PUBSUB", "'SHARDNUMSUB'")
            assert ours or channel, f"{name}: {command} {target}"


# Keys. The server itself refuses whatever is not declared: a user who may touch nothing else.


@contextmanager
def _confined(client: redis.Redis, url: str, keys: QueueKeys) -> Iterator[Broker]:
    """A broker whose user may touch the declared keys and channels of one queue, and nothing else."""
    client.acl_setuser(
        "confined", enabled=True, reset=True, passwords=["+secret"], keys=[*keys.keys, f"{keys.namespace}:layout"],
        channels=[f"{keys.base}:events", f"{keys.base}:p:*", keys.alarm_channel],
        commands=["+@all", "-@dangerous", "-@admin", "+info"],
    )  # fmt: skip
    try:
        with Broker(url, username="confined", password="secret", namespace=keys.namespace) as broker:
            yield broker
    finally:
        client.acl_deluser("confined")


def test_scripts_touch_only_the_keys_they_declare(client: redis.Redis, url: str, namespace: str):
    keys = QueueKeys.of(namespace, "letters")
    with _confined(client, url, keys) as broker:
        desk = Desk(broker.session.wire, client, namespace)
        called = _everything(desk)
        desk.audit()

        outside = replace(SCRIPTS["pause"], source="#!lua\nreturn redis.call('HSET', KEYS[1] .. 'x', 'a', '1')")
        with pytest.raises(redis.ResponseError, match="(?i)script|permission"):
            client_of(broker).execute_command("EVAL", outside.source, len(keys.keys), *keys.keys)

    assert called == set(SCRIPTS)
    assert client.keys(f"{keys.base}*x") == []


def client_of(broker: Broker) -> Any:
    return redis.Redis.from_url(broker.url, username="confined", password="secret")


def _everything(desk: Desk) -> set[str]:
    """Calls every script, most of them to some effect; the names of those that were called."""
    keys, called = desk.keys, set()

    def do(call: Any) -> Any:
        called.add(call.script.name)
        return desk.do(call)

    do(calls.configure(keys, {"keep": "5"}))
    do(desk.limit(None, 3))
    for id in "abcdef":
        do(desk.publish(id, unique=id, key="blue", home="somebody", expires_in=500, max_attempts=2))
    do(desk.publish("g", delay=5))
    do(desk.limit("blue", 2))
    do(calls.watch(keys, ["a", "g"], on=True))
    tokens = {taken.id: taken.token for taken in do(desk.claim(9, wanted=9)).taken}
    do(calls.renew(keys, [("a", tokens["a"], 9)]))
    for kind in ("progress", "log", "emit"):
        do(calls.report(keys, "a", tokens["a"], kind, 1, b"j1"))
    do(calls.reports(keys, "a", "log", b"", 5))
    do(calls.finish(keys, "a", tokens["a"], b"j1"))
    do(calls.fail(keys, "b", tokens["b"], b"e", final=False, delay=0))
    token = do(desk.claim(1)).taken[0]
    do(calls.cancel(keys, token.id, token.token, "busy", 0))
    do(calls.stall(keys, "c", "odd"))
    do(calls.operate(keys, "retry", ["c"]))
    do(calls.operate(keys, "rerun", ["a"]))
    do(calls.operate(keys, "retract", ["d"]))
    do(desk.limit(EACH_KEY, 4, block_after=(1, 60, 60)))
    do(calls.block(keys, "red", 9000, "odd"))
    do(calls.unblock(keys, "red"))
    do(calls.blocked(keys))
    do(calls.key(keys, "blue"))
    do(calls.holder(keys, "c"))
    do(calls.events(keys, 0))
    do(calls.pause(keys, on=True))
    do(calls.pause(keys, on=False))
    do(calls.watch(keys, ["a", "g"], on=False))
    do(calls.probe(keys, "nonce"))
    desk.advance(3700)
    do(calls.settle(keys, keeper=True))
    do(calls.leave_line(keys))
    do(calls.read(keys, ["a", "g", "nil"]))
    do(calls.counts(keys))
    do(calls.listing(keys, "available", None, 5))
    do(calls.delete(keys))
    return called


# Loading.


def test_a_flush_of_the_scripts_is_survived(desk: Desk):
    for id in ("a", "b"):
        desk.client.script_flush()
        desk.do(desk.publish(id))
    desk.client.script_flush()
    look = desk.do(desk.claim(2))
    for taken in look.taken:
        desk.client.script_flush()
        desk.do(calls.finish(desk.keys, taken.id, taken.token, b""))

    assert len(desk.audit().in_state(State.FINISHED)) == 2


def test_a_restart_of_the_server_is_survived(tmp_path: Path):
    with (
        EmbeddedServer(tmp_path / "server") as server,
        Broker(f"embedded:{tmp_path}/server", retry_for=20) as broker,
        redis.Redis.from_url(server.url) as client,
    ):
        desk = Desk(broker.session.wire, client, "test")
        desk.do(desk.publish("a"))
        token = desk.take("a")

        server.stop()
        desk.do(calls.finish(desk.keys, "a", token, b""))  # starts it anew, without any script

        assert check_audit(client, "test", "letters").rows_of("a") == ["publish", "claim", "finish"]


# Memory.

NEEDS_MEMORY = {"publish", "report", "configure", "limit", "block"}
"""What a server refuses whose memory is full; everything else must run, or the queue could not drain."""


@contextmanager
def _full(client: redis.Redis, *, restarted: bool = False) -> Iterator[None]:
    """No memory is left; restarted: and the server knows no script."""
    client.script_flush()
    for script in SCRIPTS.values():
        if not restarted:
            client.script_load(script.source)
    client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        client.config_set("maxmemory", "0")


def test_only_what_adds_data_needs_memory():
    refused = {name for name, script in SCRIPTS.items() if not re.search("allow-oom|no-writes", script.source)}

    assert refused == NEEDS_MEMORY


def test_a_full_server_refuses_to_publish_and_changes_nothing(desk: Desk):
    desk.do(desk.publish("a"))
    before = desk.contents()

    with _full(desk.client), pytest.raises(BrokerUnavailable) as refused:
        desk.ask(desk.publish("b"))

    assert refused.value.code == "OOM"
    assert refused.value.job_ids == ["b"]
    assert changed(before, desk.contents()) == []


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_full_server_still_lets_its_queues_drain(desk: Desk, restarted: bool):
    for id in "abcdefgh":
        desk.do(desk.publish(id, max_attempts=2))
    desk.do(desk.publish("later", delay=5))
    keys = desk.keys

    with _full(desk.client, restarted=restarted):
        tokens = {taken.id: taken.token for taken in desk.do(desk.claim(8, lease=9)).taken}
        desk.do(calls.finish(keys, "a", tokens["a"], b"j1"))
        desk.do(calls.fail(keys, "b", tokens["b"], b"e", final=False, delay=0))
        desk.do(calls.cancel(keys, "c", tokens["c"], "busy", 0))
        desk.do(calls.stall(keys, "d", "odd", tokens["d"]))
        desk.do(calls.stall(keys, "e", "odd"))
        desk.do(calls.renew(keys, [("f", tokens["f"], 99)]))
        desk.do(calls.operate(keys, "retract", ["g"]))
        desk.do(calls.watch(keys, ["f"], on=True))
        desk.advance(9)
        desk.settle()

    found = desk.audit()
    assert found.rows_of("h")[-1] == "expire"
    assert found.rows_of("later")[-1] == "promote"
    assert len(found.in_state(State.FINISHED)) == 2


def test_an_operator_can_retry_and_rerun_on_a_full_server(desk: Desk):
    for id in "ab":
        desk.do(desk.publish(id))
    desk.do(calls.finish(desk.keys, "a", desk.do(desk.claim(1)).taken[0].token, b"j1"))
    desk.do(calls.stall(desk.keys, "b", "odd"))

    with _full(desk.client):
        desk.do(calls.operate(desk.keys, "rerun", ["a"]))
        desk.do(calls.operate(desk.keys, "retry", ["b"]))

    assert len(desk.audit().in_state(State.AVAILABLE)) == 2
