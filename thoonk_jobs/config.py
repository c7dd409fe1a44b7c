"""Where the server is and how to speak to it: read once from arguments and environment, then frozen."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from thoonk_jobs.arguments import seconds, text
from thoonk_jobs.errors import ConfigError, InvalidArgument

FORMS = (
    "embedded:",
    "embedded:/some/dir",
    "redis://host:port/db",
    "rediss://host:port/db",
    "valkey://host:port/db",
    "valkeys://host:port/db",
    "unix:///path/to/socket",
)
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
_LATER = ("redis+sentinel", "redis+cluster")
_NAMESPACE = re.compile(r"[A-Za-z0-9._:-]+")
_USERINFO = re.compile(r"^([^:/?#@]*://)?(?:([^:/?#@]*):)?.*@", re.DOTALL)
_SECRET_OPTION = re.compile(r"([?&;][^=&;]*(?:password|secret|token)[^=&;]*=)[^&;#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of a broker.

    url            as it was given, passwords masked; safe to show.
    server_url     what redis-py is to connect to; None for an embedded server.
    directory      of the embedded server; None for the usual one.
    redis_options  further options for redis-py.
    """

    url: str
    server_url: str | None = field(repr=False)
    directory: str | None
    namespace: str
    publisher: str | None
    retry_for: float
    redis_options: Mapping[str, Any] = field(repr=False, hash=False)

    @property
    def embedded(self) -> bool:
        """Whether the server is the private one that this library starts."""
        return self.server_url is None

    @property
    def patience(self) -> float:
        """Seconds that a subscription may take to be confirmed."""
        return max(5.0, self.retry_for)

    @classmethod
    def make(
        cls,
        url: str | None = None,
        namespace: str = "thoonk",
        publisher: str | None = None,
        retry_for: Any = 10.0,
        redis_options: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Config:
        """The settings that follow from arguments, then the environment, then what is usual.

        Raises ConfigError for a URL that cannot work, InvalidArgument for the rest.
        """
        source = "url" if url is not None else "THOONK_URL"
        given = url if url is not None else environ.get("THOONK_URL") or "embedded:"
        server_url, directory = _parse(given, source)
        return cls(
            url=masked(given),
            server_url=server_url,
            directory=directory,
            namespace=_namespace(namespace),
            publisher=None if publisher is None else text(publisher, "publisher"),
            retry_for=_retry_for(retry_for),
            redis_options=dict(redis_options or {}),
        )


def masked(url: str) -> str:
    """A URL that may be shown: passwords are ***, also in one that is not well formed."""

    def hide(found: re.Match[str]) -> str:
        scheme, user = found[1] or "", found[2]
        return f"{scheme}***@" if user is None else f"{scheme}{user}:***@"

    if not url.startswith(("embedded:", "unix:///")):  # there, an @ belongs to a path
        url = _USERINFO.sub(hide, url, count=1)
    return _SECRET_OPTION.sub(r"\1***", url)


def _parse(url: object, source: str) -> tuple[str | None, str | None]:
    """The URL for redis-py, or None and the directory of an embedded server."""
    if not isinstance(url, str):
        raise ConfigError(f"{source} is a {type(url).__name__}; give a str like {FORMS[2]}")
    shown = f"{source}={masked(url)!r}"
    if not url.isprintable():
        raise ConfigError(f"{shown} has a character that cannot be printed; remove it, or percent-encode it")
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme in _LATER:
        raise ConfigError(f"{shown}: this version does not know {scheme}:// yet; give one server, {_allowed()}")
    if scheme == "embedded":
        return None, _directory(rest, shown) if rest else None
    if scheme not in _SCHEMES or not rest.startswith("//"):
        raise ConfigError(f"{shown} is not a known form; give {_allowed()}")
    _check_server(url, scheme, shown)
    return f"{_SCHEMES[scheme]}:{rest}", None


def _directory(path: str, shown: str) -> str:
    if path.startswith("~/"):
        return path
    if not path.startswith("/") or (path.startswith("//") and not path.startswith("///")):
        raise ConfigError(f"{shown}: the directory must be absolute, as embedded:/some/dir")
    return "/" + path.lstrip("/")


def _check_server(url: str, scheme: str, shown: str) -> None:
    """redis-py reads what it does not understand as its defaults, and would connect to another server."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading them checks them
    except ValueError:
        raise ConfigError(f"{shown} has no valid host and port; percent-encode / ? # @ in a password") from None
    if "#" in url:
        raise ConfigError(f"{shown} has a '#'; percent-encode it as %23")
    if scheme == "unix":
        if host or len(parts.path) < 2:
            raise ConfigError(f"{shown} names no socket; give an absolute path, as unix:///run/redis.sock")
    elif "@" in parts.path + parts.query:
        raise ConfigError(f"{shown} has an '@' after the host; percent-encode / ? # @ in a password or option")
    elif not re.fullmatch(r"/?[0-9]*/?", parts.path):
        raise ConfigError(f"{shown} names no database by number after the host; give one like redis://host:6379/0")


def _allowed() -> str:
    return f"{', '.join(FORMS[:-1])} or {FORMS[-1]}"


def _namespace(value: Any) -> str:
    if not _NAMESPACE.fullmatch(text(value, "namespace", 100)):
        raise InvalidArgument(f"namespace={value!r} may have only the letters a-z and A-Z, digits, '.', '_', '-', ':'")
    return str(value)


def _retry_for(value: Any) -> float:
    number = seconds(value, "retry_for")
    if number is None or math.isinf(number):
        raise InvalidArgument(f"retry_for={value!r} has no end; give a number of seconds, 0 for no second try")
    return number
