"""Data to bytes and back; the only JSON code. What would not come back equal is refused here, before anything is sent.

The first byte says how the rest is to be read: `j` JSON, `b` raw bytes, `J` and `B` the same after headers (4 bytes of
length, big-endian, then JSON), `e` an error as a JSON object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple, Protocol, TypeAlias

import orjson

from thoonk_jobs.errors import PayloadError

JSON: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None

DEPTH = 254
"""How many lists and dicts may lie within each other: as deep as orjson writes; it reads 1024."""

MESSAGE_KEPT, TRACEBACK_KEPT, TYPE_KEPT = 10_000, 20_000, 500
"""Characters of an error that are kept: the first of the message and the type, the last of the traceback."""
DATA_KEPT = 100_000
"""Bytes of an error's data; of more, only the beginning of its repr is kept."""

_PASS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_LENGTH = Struct(">I")


class ErrorLike(Protocol):
    """What `encode_error` reads of an error."""

    @property
    def type(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def traceback(self) -> str | None: ...
    @property
    def data(self) -> Any: ...


class ErrorFields(NamedTuple):
    """What `decode_error` found."""

    type: str
    message: str
    traceback: str | None = None
    data: JSON = None


def encode(data: JSON | bytes, headers: dict[str, JSON] | None = None, *, name: str = "data") -> bytes:
    """The bytes to store for this data, which `decode` turns into equal data.

    name  what the data is called in an error.

    Raises PayloadError, which names the place, for anything but dicts with text keys, lists, text, numbers of 64 bits,
    booleans, None, or one `bytes` as the whole.
    """
    if isinstance(data, bytes):
        return _tagged(b"b", data, headers)
    return _tagged(b"j", _dump(data, name), headers)


def pack(data: JSON | bytes, headers: dict[str, JSON] | None = None, *, name: str = "data") -> tuple[bytes, bytes]:
    """`encode` and `digest` at once."""
    if isinstance(data, bytes):
        return _tagged(b"b", data, headers), _hash(b"b" + data)
    body = _dump(data, name)
    return _tagged(b"j", body, headers), _hash(_canonical(data, body))


def digest(data: JSON | bytes) -> bytes:
    """8 bytes that are the same for equal data, whatever the order of its keys. Raises as `encode` does."""
    return pack(data)[1]


def decode(raw: bytes) -> Any:
    """What `encode` was given, without the headers. Raises PayloadError if the bytes cannot be read."""
    if raw[:1] == b"j":
        return _load(raw[1:])
    return decode_with_headers(raw)[0]


def decode_with_headers(raw: bytes) -> tuple[Any, dict[str, Any]]:
    """What `encode` was given, and the headers; {} where there are none. Raises PayloadError as `decode` does."""
    tag = raw[:1]
    if tag == b"j":
        return _load(raw[1:]), {}
    if tag == b"b":
        return raw[1:], {}
    if tag not in (b"J", b"B"):
        raise PayloadError(f"cannot read stored data: it begins with {tag!r}, which is no known kind")
    start = 1 + _LENGTH.size
    end = start + _LENGTH.unpack(raw[1:start])[0] if len(raw) >= start else math.inf
    if end > len(raw):
        raise PayloadError(f"cannot read stored data: it ends after {len(raw)} bytes, within its headers")
    headers, content = _load(raw[start : int(end)]), raw[int(end) :]
    if not isinstance(headers, dict):
        raise PayloadError(f"cannot read stored data: its headers are a {type(headers).__name__}, not an object")
    return content if tag == b"B" else _load(content), headers


def encode_error(error: ErrorLike) -> bytes:
    """The bytes to store for an error. Refuses none: text is cut and mended, data that is not JSON becomes its repr."""
    try:
        data = _dump(error.data, "data")
        if len(data) > DATA_KEPT:
            data = orjson.dumps(_repr(error.data))
    except PayloadError:
        data = orjson.dumps(_repr(error.data))
    return b"e" + orjson.dumps(
        {
            "type": _mended(error.type, slice(TYPE_KEPT)),
            "message": _mended(error.message, slice(MESSAGE_KEPT)),
            "traceback": None if error.traceback is None else _mended(error.traceback, slice(-TRACEBACK_KEPT, None)),
            "data": orjson.Fragment(data),
        }
    )


def decode_error(raw: bytes) -> ErrorFields:
    """What `encode_error` was given. Raises PayloadError if the bytes cannot be read."""
    if raw[:1] != b"e":
        raise PayloadError(f"cannot read a stored error: it begins with {raw[:1]!r}, not with b'e'")
    fields = _load(raw[1:])
    match fields:
        case {"type": str(kind), "message": str(message), "traceback": str() | None as traceback}:
            return ErrorFields(kind, message, traceback, fields.get("data"))
    raise PayloadError("cannot read a stored error: it has no type, message and traceback")


def _tagged(tag: bytes, body: bytes, headers: dict[str, JSON] | None) -> bytes:
    if headers is None or headers == {}:
        return tag + body
    if not isinstance(headers, dict):
        raise PayloadError(f"headers is a {type(headers).__name__}; send a dict with text keys")
    head = _dump(headers, "headers")
    return b"".join((tag.upper(), _LENGTH.pack(len(head)), head, body))


def _canonical(data: JSON, body: bytes) -> bytes:
    """JSON that does not depend on the order of keys. It never begins with `b`, so no bytes share its digest."""
    return orjson.dumps(data, option=_PASS | orjson.OPT_SORT_KEYS) if b"{" in body else body


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=8).digest()


def _load(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise PayloadError(f"cannot read stored data as JSON: {error}") from None


def _dump(value: Any, name: str) -> bytes:
    text, trouble = b"", ""
    try:
        text = orjson.dumps(value, option=_PASS)
        # orjson writes NaN as null, tuples as lists, UUIDs as text: only reading it again tells, and in C it is cheap.
        if orjson.loads(text) == value:
            return text
        trouble = "would not come back equal"
    except RecursionError:
        pass  # from ==, near the end of the caller's stack; the walk below needs none and decides alone
    except (TypeError, ValueError) as error:
        trouble = f"cannot be written as JSON: {error}"
    flaw = _flaw(value, name)
    if flaw or trouble:
        raise PayloadError(flaw or f"{name} {trouble}")
    return text


def _flaw(root: Any, name: str) -> str | None:
    """The first place, in words, that JSON cannot carry."""
    levels: list[Iterator[tuple[str, Any]]] = [iter([(name, root)])]
    place: list[str] = []
    above: list[int] = []
    while levels:
        step = next(levels[-1], None)
        if step is None:
            levels.pop()
            del place[-1:], above[-1:]
            continue
        label, value = step
        nests = isinstance(value, dict | list)
        why = _nesting_flaw(value, above) if nests else _leaf_flaw(value)
        if why:
            return f"{_short([*place, label])} {why}"
        if nests:
            place.append(label)
            above.append(id(value))
            levels.append(_children(value))
    return None


def _children(value: dict[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((f'["{repr(key)[1:-1]}"]', child) for key, child in value.items())
    return ((f"[{at}]", child) for at, child in enumerate(value))


def _short(place: list[str]) -> str:
    if len(place) > 12:
        place = [*place[:8], "...", *place[-3:]]
    return "".join(label if len(label) <= 60 else label[:57] + "..." for label in place)


def _nesting_flaw(value: dict[Any, Any] | list[Any], above: list[int]) -> str | None:
    if id(value) in above:
        return "contains itself; send a copy without the circle"
    if len(above) >= DEPTH:
        return f"lies deeper than {DEPTH} levels; send it flatter"
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                return f"has the key {_repr(key)[:60]} ({type(key).__name__}); keys must be str"
            if (at := _surrogate(key)) is not None:
                return f"has the key {key[:60]!r} with a lone surrogate at {at}; mend the text"
    return None


def _leaf_flaw(value: Any) -> str | None:
    try:
        if orjson.loads(orjson.dumps(value, option=_PASS)) == value:
            return None
    except (TypeError, ValueError):
        pass
    kind = type(value).__name__
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}; JSON has no such number, send None or text"
    if isinstance(value, str) and (at := _surrogate(value)) is not None:
        return f"has a lone surrogate at {at}; send bytes, or mend the text"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "is an int beyond 64 bits; send it as text"
    if isinstance(value, tuple | set | frozenset):
        return f"is a {kind}; send a list"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"is {kind}, which JSON cannot carry; send bytes as the whole data, or base64 text"
    return f"is a {kind}, which JSON cannot carry; send text, a number, a list or a dict"


def _surrogate(text: str) -> int | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _mended(text: str, kept: slice) -> str:
    return str(text)[kept].encode("utf-8", "backslashreplace").decode()[kept]


def _repr(value: Any) -> str:
    try:
        return _mended(repr(value), slice(MESSAGE_KEPT))
    except Exception as error:
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
