"""A client written from statemachine.md alone, with nothing but a Redis client: it publishes, claims and finishes."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from thoonk_jobs import Outcome, Queue

KEYS = """meta settings limits behind blocked failing blockings record payload result names tickets tickets_before
    scheduled dated waiting parked
    available claimed stalled finished unheard bare expiring keyed watchers reports waiters
    told room events""".split()  # noqa: SIM905
NAN = float("nan")


class OtherClient:
    """What somebody would write in another language."""

    def __init__(self, client: redis.Redis, base: str, scripts: Path) -> None:
        self.client, self.keys, self.scripts = client, [f"{base}:{key}" for key in KEYS], scripts

    def call(self, name: str, *args: object) -> list:
        source = (self.scripts / f"{name}.lua").read_text()
        arguments = (len(self.keys), *self.keys, "", "other", *args)
        try:
            reply = self.client.evalsha(hashlib.sha1(source.encode()).hexdigest(), *arguments)
        except redis.exceptions.NoScriptError:
            reply = self.client.evalsha(self.client.script_load(source), *arguments)
        return reply[5]

    def publish(self, id: str, data: object) -> bytes:
        text = json.dumps(data, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
        spec = struct.pack(">ddddddBB", NAN, -1, -1, NAN, NAN, NAN, 0, 0) + b"\0\0\0\0"
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return self.call("publish", id, digest, spec, b"j" + text)[1]


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    subprocess.run([sys.executable, "-m", "thoonk_jobs.document", "scripts", str(folder)], check=True)
    return folder


@pytest.fixture
def other(client: redis.Redis, namespace: str, scripts: Path) -> OtherClient:
    return OtherClient(client, f"{{{namespace}:letters}}", scripts)


def test_what_another_client_publishes_is_done_here_and_the_same_id_is_the_same_job(other: OtherClient, queue: Queue):
    other.publish("l1", {"to": "ann", "n": [1, 2.5, "ü"]})

    assert queue.publish({"n": [1, 2.5, "ü"], "to": "ann"}, id="l1").id == "l1"
    assert queue.counts()["available"] == 1
    assert queue.get(timeout=0).data == {"to": "ann", "n": [1, 2.5, "ü"]}


def test_another_client_claims_and_finishes_what_is_published_here(other: OtherClient, queue: Queue):
    job = queue.publish({"to": "bob"})

    id, record, data, error = other.call("claim", "lane", "1", 1, 30_000, "other@there", "")[1:]
    assert (id.decode(), json.loads(data[1:]), error) == (job.id, {"to": "bob"}, None)
    token = int(struct.unpack_from(">d", record[record.rindex(b"other@there") :].split(b"\0", 3)[3], 1)[0])
    assert other.call("finish", id, token, b'j"sent"') == [9]

    assert (job.refresh().outcome, job.value(timeout=5)) == (Outcome.SUCCESS, "sent")
    assert other.call("finish", id, token + 1, b"") == [[b"stale", 6]]
