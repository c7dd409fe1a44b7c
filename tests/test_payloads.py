"""What is handed over comes back equal, through a real server: data, results, headers, errors, reports."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from thoonk_jobs import Broker, Outcome, PayloadError, State

pytestmark = pytest.mark.asyncio_on("valkey")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
json_data = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)
through_the_server = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def nested(depth: int) -> Any:
    data: Any = []
    for _ in range(depth - 1):
        data = [data]
    return data


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down: 1 is not True, 1.0 is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@through_the_server
@given(data=json_data | st.binary(), result=json_data | st.binary(), headers=st.dictionaries(st.text(), json_data))
@example(data=2**53 + 1, result=[], headers={})
@example(data={"a": [], "b": {}, "\0": "\0", "": -0.0}, result=b"\0\xff", headers={"trace": None})
@example(data=nested(254), result=nested(254), headers={})
def test_data_result_and_headers_come_back_equal(broker: Broker, data: Any, result: Any, headers: dict[str, Any]):
    queue = broker.queue("parcels")
    job = queue.publish(data, headers=headers)
    claim = queue.get(timeout=0)
    assert claim is not None
    claim.finish(result)

    read = queue.job(job.id)
    assert same(claim.data, data)
    assert same(read.data, data)
    assert same(read.result, result)
    assert same(read.headers, headers)
    assert same(job.value(timeout=5), result)


def test_every_unicode_scalar_comes_back_equal(queue):
    data = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000), 0)))
    queue.configure(max_payload=16_000_000)

    queue.publish({data: data})

    assert queue.get(timeout=0).data == {data: data}


@pytest.mark.parametrize("data", [0, False, "", [], {}, None, b"", 0.0])
def test_falsy_data_and_results_are_no_less_than_others(queue, data):
    job = queue.publish(data)
    queue.get(timeout=0).finish(data)

    assert same(job.refresh().data, data)
    assert same(job.value(timeout=5), data)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"a": [1, float("nan")]}, 'data["a"][1]'),
        ([float("inf")], "data[0]"),
        ({"a": {"b": (1, 2)}}, 'data["a"]["b"]'),
        ({"a": {1: 2}}, 'data["a"]'),
        (["\ud800"], "data[0]"),
        ([2**64], "data[0]"),
        ([b"x"], "data[0]"),
        ({"x": object()}, 'data["x"]'),
        (nested(255), "data[0][0]"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_place_and_nothing_is_sent(queue, client, namespace, data, place):
    with pytest.raises(PayloadError) as refused:
        queue.publish(data)

    assert place in str(refused.value)
    assert client.keys(f"*{namespace}*") == []


def test_a_result_that_cannot_be_sent_leaves_the_claim_valid(queue):
    queue.publish("letter")
    claim = queue.get(timeout=0)

    with pytest.raises(PayloadError, match="result"):
        claim.finish({"at": object()})

    assert queue.job(claim.id).state is State.CLAIMED
    claim.finish("mended")
    assert queue.job(claim.id).outcome is Outcome.SUCCESS


def test_half_a_mebibyte_comes_back_unchanged_and_two_are_refused_by_default(queue):
    queue.publish("x" * 524_288)
    assert queue.get(timeout=0).data == "x" * 524_288

    with pytest.raises(PayloadError, match="max_payload"):
        queue.publish("x" * 2_097_152)

    queue.configure(max_payload=3_145_728)
    queue.publish("x" * 2_097_152)
    assert queue.get(timeout=0).data == "x" * 2_097_152


def test_an_error_keeps_its_type_text_traceback_and_what_it_carries(queue):
    class Bounced(Exception):
        def __init__(self, text: str, code: int) -> None:
            super().__init__(text)
            self.code = code

    queue.publish("letter")
    claim = queue.get(timeout=0)
    try:
        raise Bounced("no such street", 550)
    except Bounced as error:
        claim.fail(error)

    error = queue.job(claim.id).error
    assert (error.type, error.message, error.data) == ("Bounced", "no such street", {"code": 550})
    assert "test_an_error_keeps" in error.traceback
