"""The blocking and the asyncio client have the same names, arguments and defaults; what waits is awaited."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from thoonk_jobs import AsyncBroker, AsyncClaim, AsyncJob, AsyncQueue, Broker, Claim, Job, Queue

TWINS = [(Broker, AsyncBroker), (Queue, AsyncQueue), (Job, AsyncJob), (Claim, AsyncClaim)]
ONLY_ASYNCIO = {"start"}
LOCAL = {
    "queue", "forked", "lose",
    "make_job", "state_of", "check_size", "id_of", "claim_of", "release_claim",  # what clients share, below them
}  # fmt: skip
"""Methods that say nothing to a server, or are flows, which do so when they are followed."""


def public(client: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(client) if not name.startswith("_")}


def methods(client: type) -> dict[str, Callable[..., Any]]:
    return {name: value for name, value in public(client).items() if inspect.isfunction(value)}


def told(method: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]


SHARED = [
    pytest.param(blocking, twin, name, id=f"{blocking.__name__}.{name}")
    for blocking, twin in TWINS for name in methods(blocking)
]  # fmt: skip
ASYNCHRONOUS = [pytest.param(twin, name, id=f"{twin.__name__}.{name}") for _, twin in TWINS for name in methods(twin)]


@pytest.mark.parametrize(("blocking", "twin"), TWINS, ids=lambda client: client.__name__)
def test_twins_have_the_same_names(blocking, twin):
    assert public(twin).keys() - ONLY_ASYNCIO == public(blocking).keys()


@pytest.mark.parametrize(("blocking", "twin"), [TWINS[0]], ids=["Broker"])
def test_brokers_are_made_with_the_same_arguments(blocking, twin):
    assert told(twin.__init__) == told(blocking.__init__)


@pytest.mark.parametrize(("blocking", "twin", "name"), SHARED)
def test_a_method_has_the_same_arguments_and_defaults(blocking, twin, name):
    assert told(getattr(twin, name)) == told(getattr(blocking, name))


@pytest.mark.parametrize(("twin", "name"), ASYNCHRONOUS)
def test_what_talks_to_the_server_is_awaited_and_what_does_not_is_not(twin, name):
    assert inspect.iscoroutinefunction(getattr(twin, name)) == (name not in LOCAL)


@pytest.mark.parametrize(("twin", "name"), ASYNCHRONOUS)
def test_every_public_method_says_what_it_does(twin, name):
    assert inspect.getdoc(getattr(twin, name))


@pytest.mark.parametrize(("blocking", "twin"), TWINS, ids=lambda client: client.__name__)
def test_no_method_of_the_blocking_client_is_a_coroutine_function(blocking, twin):
    assert [name for name, method in methods(blocking).items() if inspect.iscoroutinefunction(method)] == []


@pytest.mark.parametrize(("blocking", "twin"), TWINS, ids=lambda client: client.__name__)
def test_what_a_text_refers_to_is_there(blocking, twin):
    """`As Broker.counts`."""
    for name, method in methods(twin).items():
        text = inspect.getdoc(method) or ""
        if text.startswith("As `"):
            owner, _, other = text.partition("`")[2].partition("`")[0].partition(".")
            assert inspect.getdoc(getattr({"Broker": Broker, "Queue": Queue, "Job": Job, "Claim": Claim}[owner], other))
            assert other == name


@pytest.mark.parametrize(("blocking", "twin"), [TWINS[0], TWINS[3]], ids=["Broker", "Claim"])
def test_context_managers_are_of_the_kind_of_their_client(blocking, twin):
    for name in ("enter", "exit"):
        assert hasattr(blocking, f"__{name}__")
        assert inspect.iscoroutinefunction(getattr(twin, f"__a{name}__"))
        assert not hasattr(twin, f"__{name}__")
        assert not hasattr(blocking, f"__a{name}__")
