"""Just enough of the protocol of Redis to see where a request or a reply ends, and what it says."""

from __future__ import annotations

LINES, TEXTS, LISTS = b"+-:_#,(", b"$=!", b"*~>"


def frame_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """Where the frame that begins at `start` ends; None while the rest of it is missing."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    kind, after = data[start : start + 1], line + 2
    if kind in LINES:
        return after
    size = int(data[start + 1 : line])
    if kind in TEXTS:
        end = after + size + 2 if size >= 0 else after
        return end if end <= len(data) else None
    assert kind in LISTS or kind == b"%", f"no frame begins with {kind!r}"
    for _ in range(2 * size if kind == b"%" else size):
        inner = frame_end(data, after)
        if inner is None:
            return None
        after = inner
    return after


def words(frame: bytes) -> list[bytes]:
    """The texts and numbers of a list without lists inside; of any other frame what stands on its first line."""
    line = frame.find(b"\r\n")
    if frame[:1] not in LISTS:
        return [frame[:line]]
    found, at = [], line + 2
    while at < len(frame):
        end = frame_end(frame, at)
        assert end is not None
        head = frame.find(b"\r\n", at)
        found.append(frame[head + 2 : end - 2] if frame[at : at + 1] in TEXTS else frame[at + 1 : head])
        at = end
    return found
