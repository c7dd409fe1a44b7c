"""Data comes back equal, or is refused by a message that names the place."""

import collections
import dataclasses
import datetime
import enum
import math
import sys
import uuid
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from thoonk_jobs import codec
from thoonk_jobs.errors import PayloadError

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([-(2**63), 2**63 - 1, 2**63, 2**64 - 1, 2**53 + 1, 0, -1])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=25)
DATA = JSON | st.binary()

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For busy machines: what is slow here says nothing."""


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    YES = "yes"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int = 1


@dataclasses.dataclass
class Agreeable:
    x: int = 1

    def __eq__(self, other: object) -> bool:
        return True


class Evasive(float, enum.Enum):
    ONE = 1.5

    def __new__(cls, value):
        made = float.__new__(cls, value)
        made._value_ = "another"
        return made


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Celsius(float):
    pass


def nested(depth, kind=list, leaf=1):
    value = leaf
    for level in range(depth):
        as_list = kind is list or (kind is None and level % 2)
        value = [value] if as_list else {"a": value}
    return value


def same(one, other):
    """Equal, types and signs of zero too, which `==` does not tell."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and repr(one) == repr(other)


@calm
@given(DATA)
@example(-0.0)
@example([0, 0.0, False, "", [], {}, None])
@example([1, 1.0, True, "1"])
@example({"a": [[]], "b": {}})
@example([1e308, 5e-324, 1e22, 1e16, 123456789012345678.0, 0.1, 2.0**63, 2.0**64])
@example(b"\x00\xff")
@example("\x00")
def test_data_comes_back_equal_with_its_types_and_order(data):
    assert same(codec.decode(codec.encode(data)), data)


@calm
@given(DATA, st.dictionaries(st.text(), JSON))
def test_headers_come_back_beside_the_data(data, headers):
    raw = codec.encode(data, headers)

    found, found_headers = codec.decode_with_headers(raw)

    assert same(found, data)
    assert same(found_headers, headers)
    assert same(codec.decode(raw), data)


@pytest.mark.parametrize("headers", [None, {}])
def test_without_headers_nothing_is_added(headers):
    assert codec.encode([1], headers) == codec.encode([1]) == b"j[1]"
    assert codec.decode_with_headers(b"j[1]") == ([1], {})


def test_every_unicode_scalar_comes_back():
    scalars = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF)

    assert codec.decode(codec.encode(scalars)) == scalars
    assert codec.decode(codec.encode({scalars: scalars})) == {scalars: scalars}


@pytest.mark.parametrize("kind", [list, dict, None], ids=["lists", "dicts", "mixed"])
@pytest.mark.parametrize("leaf", ["x", float("1.5")], ids=str)
def test_nesting_comes_back_down_to_the_limit(kind, leaf):
    deepest = nested(codec.DEPTH, kind, leaf)

    assert codec.decode(codec.encode(deepest)) == deepest
    assert len(codec.digest(deepest)) == 8


@pytest.mark.parametrize("kind", [list, dict, None], ids=["lists", "dicts", "mixed"])
@pytest.mark.parametrize("beyond", [1, 2, 1000, 100_000])
def test_nesting_beyond_the_limit_is_refused(kind, beyond):
    with pytest.raises(PayloadError, match=r"^data\[.*\.\.\..*\] lies deeper than 254 levels"):
        codec.encode(nested(codec.DEPTH + beyond, kind))


def test_the_limit_of_nesting_is_what_orjson_writes():
    orjson.dumps(nested(codec.DEPTH))

    with pytest.raises(TypeError, match="Recursion"):
        orjson.dumps(nested(codec.DEPTH + 1))


def test_an_empty_list_counts_as_a_level():
    codec.encode(nested(codec.DEPTH - 1, leaf=[]))

    with pytest.raises(PayloadError, match="deeper than"):
        codec.encode(nested(codec.DEPTH, leaf=[]))


def test_deep_data_is_sent_from_near_the_end_of_the_callers_stack():
    deepest = nested(codec.DEPTH)

    def at_depth(frames):
        return codec.encode(deepest) if frames == 0 else at_depth(frames - 1)

    with pytest.raises(RecursionError):
        at_depth(sys.getrecursionlimit())
    room = next(frames for frames in range(sys.getrecursionlimit(), 0, -1) if succeeds(at_depth, frames))
    assert at_depth(room) == codec.encode(deepest)
    assert room > sys.getrecursionlimit() - codec.DEPTH - 20, "== alone would have needed the whole depth"


def succeeds(function, *arguments):
    try:
        function(*arguments)
    except RecursionError:
        return False
    return True


def test_shared_parts_are_no_circle():
    shared = [1]

    assert codec.decode(codec.encode({"a": shared, "b": shared})) == {"a": [1], "b": [1]}


CIRCLE: list = [1]
CIRCLE.append({"in": CIRCLE})

REFUSED = [
    (math.nan, "is nan"),
    (math.inf, "is inf"),
    (-math.inf, "is -inf"),
    ("ab\ud800c", "has a lone surrogate at 2"),
    ("\udfff", "has a lone surrogate at 0"),
    (2**64, "is an int beyond 64 bits"),
    (-(2**63) - 1, "is an int beyond 64 bits"),
    (10**5000, "is an int beyond 64 bits"),
    ((1, 2), "is a tuple; send a list"),
    ((), "is a tuple; send a list"),
    (collections.namedtuple("Pair", "a b")(1, 2), "is a Pair; send a list"),
    ({1}, "is a set; send a list"),
    (frozenset(), "is a frozenset; send a list"),
    (b"x", "is bytes, which JSON cannot carry"),
    (bytearray(b"x"), "is bytearray, which JSON cannot carry"),
    (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "is a datetime, which"),
    (datetime.date(2026, 1, 1), "is a date, which"),
    (datetime.time(1), "is a time, which"),
    (datetime.timedelta(1), "is a timedelta, which"),
    (uuid.UUID(int=1), "is a UUID, which"),
    (Colour.RED, "is a Colour, which"),
    (Evasive.ONE, "is a Evasive, which"),
    (Point(), "is a Point, which"),
    (Agreeable(), "is a Agreeable, which"),
    (Celsius(1.5), "is a Celsius, which"),
    (1j, "is a complex, which"),
    (object(), "is a object, which"),
    (Unspeakable(), "is a Unspeakable, which"),
    (orjson.Fragment(b'{"a":1}'), "is a Fragment"),
    (orjson.Fragment(b"not JSON"), "is a Fragment"),
    (range(3), "is a range, which"),
    ({1: 2}, "has the key 1 (int); keys must be str"),
    ({None: 2}, "has the key None (NoneType); keys must be str"),
    ({True: 2}, "has the key True (bool); keys must be str"),
    ({Word.YES: 2}, "has the key <Word.YES: 'yes'> (Word); keys must be str"),
    ({Unspeakable: 2, "a": 1}, "(type); keys must be str"),
    ({"\ud800": 1}, "has the key '\\ud800' with a lone surrogate at 0"),
]


@pytest.mark.parametrize(("value", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_would_not_come_back_is_refused_by_its_place(value, why):
    for data, place in (
        (value, "data"),
        ([0, value], "data[1]"),
        ({"a": [1, 2, 3, value]}, 'data["a"][3]'),
        ({"ok": {"fine": [1]}, "a": {"it's": value}}, 'data["a"]["it\'s"]'),
    ):
        if data is value and isinstance(value, bytes):
            continue  # as the whole data, bytes are welcome
        with pytest.raises(PayloadError) as refused:
            codec.encode(data)
        assert str(refused.value).startswith(f"{place} ")
        assert why in str(refused.value)
        with pytest.raises(PayloadError):
            codec.pack(data)
        with pytest.raises(PayloadError):
            codec.digest(data)


def test_a_circle_is_refused_where_it_closes():
    with pytest.raises(PayloadError, match=r'^data\[1\]\["in"\] contains itself'):
        codec.encode(CIRCLE)


def test_the_first_of_several_flaws_is_named():
    with pytest.raises(PayloadError, match=r"^data\[1\] is nan"):
        codec.encode([1, math.nan, (), math.inf])


def test_a_long_place_is_cut_in_the_middle():
    with pytest.raises(PayloadError) as refused:
        codec.encode({"k" * 500: nested(200, leaf=math.nan)})

    assert len(str(refused.value)) < 250
    assert str(refused.value).endswith("[0][0][0] is nan; JSON has no such number, send None or text")


def test_a_refusal_names_what_it_was_asked_to_send():
    with pytest.raises(PayloadError, match=r'^result\["a"\] is nan'):
        codec.pack({"a": math.nan}, name="result")
    with pytest.raises(PayloadError, match=r'^headers\["a"\] is nan'):
        codec.encode(1, {"a": math.nan})


@pytest.mark.parametrize("headers", [[], [1], "text", b"", 0, False])
def test_headers_that_are_no_dict_are_refused(headers):
    with pytest.raises(PayloadError, match=r"^headers is a \w+; send a dict"):
        codec.encode(1, headers)


@pytest.mark.parametrize("value", [Word.YES, Number.ONE, collections.OrderedDict(a=1), collections.defaultdict(list)])
def test_kinds_that_compare_equal_to_what_comes_back_are_accepted(value):
    assert codec.decode(codec.encode([value])) == [value]


@calm
@given(st.dictionaries(st.text(), JSON, min_size=2), st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_keys(data, random):
    def shuffled(value):
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    assert codec.digest(shuffled(data)) == codec.digest(data)


@calm
@given(DATA, DATA)
@example({"a": {"b": 1, "c": 2}}, {"a": {"b": 2, "c": 1}})
@example([1, 2], [2, 1])
@example(b"1", 1)
@example(b"", "")
@example(b'"x"', "x")
@example("1", 1)
@example(True, 1)
@example(1.0, 1)
@example([], {})
@example(None, "null")
def test_different_data_has_different_digests(one, other):
    def ordered(value):
        if isinstance(value, list):
            return [ordered(item) for item in value]
        return {key: ordered(value[key]) for key in sorted(value)} if isinstance(value, dict) else value

    assert (codec.digest(one) == codec.digest(other)) == same(ordered(one), ordered(other))


@calm
@given(DATA, st.none() | st.dictionaries(st.text(), JSON))
def test_pack_makes_what_encode_and_digest_make(data, headers):
    body, digest = codec.pack(data, headers)

    assert body == codec.encode(data, headers)
    assert digest == codec.digest(data)
    assert len(digest) == 8


def test_the_digest_is_the_same_in_every_version():
    assert codec.digest({"b": [1, {"d": None, "c": 1.5}], "a": "ä"}).hex() == "2979334e3f25ba30"
    assert codec.digest(b"letter").hex() == "c5eaefa50dccb943"


UNREADABLE = [
    b"", b"x", b"\x00", b"e{}", b"j", b"j{", b"jNaN", b"j1 2", b'j"\xff"', b'j"\\ud800"', b"j1e999",
    b"j" + b"[" * 2000, b"j" + b"[" * 2000 + b"]" * 2000,
    b"J", b"J\x00\x00", b"J\x00\x00\x00\x00", b"J\x00\x00\x00\x02{}", b"J\x00\x00\x00\x02[]1", b"J\xff\xff\xff\xff{}1",
    b"J\x00\x00\x00\x02{]1", b"B\x00\x00\x00\x01", b"B\x00\x00\x00\x05{}",
    b"\x80\x04N.", b'{"py/object": "os.system"}',
]  # fmt: skip


@pytest.mark.parametrize("raw", UNREADABLE, ids=lambda raw: repr(raw[:12]))
def test_bytes_that_cannot_be_read_are_refused(raw):
    with pytest.raises(PayloadError):
        codec.decode(raw)
    with pytest.raises(PayloadError):
        codec.decode_with_headers(raw)


@calm
@given(
    st.binary() | st.binary().flatmap(lambda tail: st.sampled_from([b"j", b"J", b"B", b"e"]).map(lambda t: t + tail))
)
def test_any_bytes_are_read_or_refused_never_worse(raw):
    for read in (codec.decode, codec.decode_with_headers, codec.decode_error):
        try:
            read(raw)
        except PayloadError:
            pass


def error_of(message="broken", data=None, traceback="Traceback ...", kind="ValueError"):
    return SimpleNamespace(type=kind, message=message, traceback=traceback, data=data)


@calm
@given(st.text(), st.none() | st.text(), JSON)
def test_an_error_comes_back_equal(message, traceback, data):
    found = codec.decode_error(codec.encode_error(error_of(message, data, traceback)))

    assert found == ("ValueError", message, traceback, data)


def test_an_error_that_was_read_can_be_written_again():
    raw = codec.encode_error(error_of("broken", {"code": 7}))

    assert codec.encode_error(codec.decode_error(raw)) == raw


def test_the_texts_of_an_error_are_cut():
    found = codec.decode_error(codec.encode_error(error_of("m" * 10_001, traceback="first" + "t" * 20_000)))

    assert found.message == "m" * 10_000
    assert found.traceback == "t" * 20_000
    assert len(codec.encode_error(error_of("\ud800" * 50_000, None, "\ud800" * 50_000, "\ud800" * 50_000))) < 70_000


def test_surrogates_in_an_error_are_replaced():
    found = codec.decode_error(codec.encode_error(error_of("a\ud800b", traceback="\udfff")))

    assert found.message == "a\\ud800b"
    assert found.traceback == "\\udfff"


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({1, 2}, "{1, 2}"),
        (b"x", "b'x'"),
        ({"a": math.nan}, "{'a': nan}"),
        ("a\ud800", "'a\\ud800'"),
        (Unspeakable(), "<Unspeakable whose repr raised RuntimeError>"),
        (10**5000, "<int whose repr raised ValueError>"),
    ],
    ids=lambda value: repr(value)[:20] if isinstance(value, str) else "",
)
def test_data_of_an_error_that_is_not_json_becomes_its_repr(data, kept):
    assert codec.decode_error(codec.encode_error(error_of(data=data))).data == kept


def test_data_of_an_error_may_be_as_deep_as_any():
    assert codec.decode_error(codec.encode_error(error_of(data=nested(codec.DEPTH)))).data == nested(codec.DEPTH)
    assert isinstance(codec.decode_error(codec.encode_error(error_of(data=nested(5000)))).data, str)


@pytest.mark.parametrize("raw", [b"", b"j1", b"e", b"e1", b"e{}", b'e{"type":1,"message":"","traceback":null}'])
def test_an_error_that_cannot_be_read_is_refused(raw):
    with pytest.raises(PayloadError):
        codec.decode_error(raw)


@pytest.mark.slow
@settings(calm, max_examples=5_000)
@given(DATA)
def test_much_data_comes_back_equal(data):
    assert same(codec.decode(codec.encode(data)), data)
