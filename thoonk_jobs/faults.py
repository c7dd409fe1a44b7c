"""What a failed call means: to be sent again, or refused for good."""

from __future__ import annotations

from typing import Any

import redis

from thoonk_jobs import calls
from thoonk_jobs.config import Config
from thoonk_jobs.errors import BrokerUnavailable, ConfigError, ThoonkError
from thoonk_jobs.request import Call, Command

# A server that answers so may do what was asked a little later, or another one does.
PASSING = ("LOADING", "BUSY", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "UNBLOCKED", "NOSCRIPT")
FULL = ("OOM", "MISCONF", "NOREPLICAS")
FORBIDDEN = ("NOAUTH", "NOPERM", "WRONGPASS")
BROKEN = (redis.RedisError, OSError)
"""What a connection that failed may raise."""
REFUSED = redis.ResponseError
"""What a server raises that was reached."""
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds before a failed call is sent again; each time twice as long."""
Asked = Call[Any] | Command[Any]


def broken(why: str) -> Exception:
    """The error for a connection that is given up."""
    return redis.ConnectionError(why)


def code_of(error: BaseException) -> str:
    """The server's own word for an error, as `OOM`; "" for one that is not the server's."""
    if not isinstance(error, redis.RedisError):
        return ""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return str(code) if str(code).isupper() else ""


def final(error: Exception, config: Config, asked: Asked) -> Exception | None:
    """What to raise at once; None where the call may be sent again."""
    if isinstance(error, BrokerUnavailable):
        return None  # an embedded server that did not start: it may at the next try
    if isinstance(error, ThoonkError):
        return error
    code = code_of(error)
    if code in FORBIDDEN:
        return ConfigError(f"{config.url} refuses this user or password: {error}")
    if code in FULL:
        return unavailable(error, config, asked)
    if isinstance(error, redis.ResponseError) and code not in PASSING:
        return ThoonkError(f"{config.url} did not understand: {error}; is it a Redis or Valkey server?")
    return None


def hopeless(error: Exception, config: Config) -> Exception | None:
    """Why there never will be a subscription; None where there may be one yet."""
    if code_of(error) in FORBIDDEN:
        return ConfigError(f"the server lets this user not subscribe: {error}; allow its channels")
    failure = final(error, config, calls.ping())
    return None if isinstance(failure, BrokerUnavailable) else failure


def unavailable(error: Exception, config: Config, asked: Asked) -> BrokerUnavailable:
    """The error for a call that got no answer."""
    job_ids = getattr(asked, "job_ids", ())
    code = code_of(error)
    if isinstance(error, BrokerUnavailable):
        told, code = str(error), error.code
    elif code in FULL:
        told = f"{config.url} is full or cannot write: {error}; make room, then try again"
    else:
        told = f"no answer from {config.url} in {config.retry_for:g} s: {error}; start it, or mend the URL"
    return BrokerUnavailable(told, code=code, job_ids=job_ids)


def evaluation(call: Call[Any], head: bytes, process: str) -> tuple[Any, ...]:
    """The command that runs a script."""
    keys = call.keys.keys
    return ("EVALSHA", call.script.sha, len(keys), *keys, head, process, *call.args)
