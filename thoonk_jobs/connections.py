"""New connections of redis-py, as both clients want them, and which servers are refused before any write."""

from __future__ import annotations

from typing import Any

from thoonk_jobs.config import Config
from thoonk_jobs.errors import ConfigError, IncompatibleServer
from thoonk_jobs.keys import LAYOUT_VERSION, layout_key

OLDEST = {"redis": (7, 0), "valkey": (7, 2)}


def make(pools: Any, url: str, config: Config, protocol: int, retry: Any) -> Any:
    """A connection that is not connected yet. pools: redis-py's class of connection pools, which read URLs."""
    options = {"socket_timeout": 5, "socket_connect_timeout": 5, **config.redis_options}
    ours = {"protocol": protocol, "retry": retry, "decode_responses": False, "health_check_interval": 0}
    try:
        pool = pools.from_url(url, **options, **ours)
        pool.connection_kwargs.update(ours)  # not for options in the URL to change
        connection = pool.make_connection()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot connect to {config.url}: {error}") from error
    for name in {"driver_info", "lib_name", "lib_version"} & set(dir(connection)):
        setattr(connection, name, None)  # telling the server who calls would cost a round trip
    return connection


def questions(namespace: str) -> tuple[tuple[str, ...], ...]:
    """The commands whose answers `check` reads."""
    return ("INFO",), ("GET", layout_key(namespace))


def check(namespace: str, info: bytes | None, layout: bytes | None) -> None:
    """Refuses, before any write, a server that would lose or misread jobs. info: None where it is forbidden."""
    known = _parse_info(info or b"")
    kind = "valkey" if "valkey_version" in known else "redis"
    version = known.get(f"{kind}_version", "")
    where = f"the {kind} server {version}"
    if version and tuple(map(int, version.split(".")[:2])) < OLDEST[kind]:
        oldest = ".".join(map(str, OLDEST[kind]))
        raise IncompatibleServer(f"{where} is too old; use {kind} {oldest} or newer, or the embedded server")
    policy = known.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise IncompatibleServer(
            f"{where} may evict jobs when memory is full (maxmemory-policy {policy}); "
            "set it to noeviction with CONFIG SET maxmemory-policy noeviction")  # fmt: skip
    if layout is not None and int(layout) > LAYOUT_VERSION:
        raise IncompatibleServer(
            f"namespace {namespace!r} has key layout {int(layout)}, this thoonk-jobs knows {LAYOUT_VERSION}; "
            "upgrade thoonk-jobs here")  # fmt: skip


def _parse_info(raw: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in raw.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}
