"""One broker node under virtual time, and a caller of it."""

from __future__ import annotations

from typing import Any

import pytest

from broker.store import compiled
from tests.fakes.brokers import Brokers


@pytest.fixture
def make_brokers(nursery_of_brokers):
    """Return what makes a group, one node unless told otherwise, that is not running yet."""

    def make(count: int = 1, **settings: Any) -> Brokers:
        return Brokers(nursery_of_brokers, count, **settings)

    return make


@pytest.fixture
async def brokers(make_brokers):
    """Return a group of one that leads, with the topic t of two queues."""
    group = make_brokers()
    await group.start()
    await group.leader()
    async with group.caller(group["n1"]) as caller:
        await caller.create_topic("t", queues=2)
    return group


@pytest.fixture
async def three(make_brokers):
    """Return a group of three that has a leader."""
    group = make_brokers(3)
    await group.start()
    await group.leader()
    return group


@pytest.fixture
async def caller(brokers):
    """Return a connection to it."""
    async with brokers.caller(brokers["n1"]) as caller:
        yield caller


@pytest.fixture(params=["compiled", "in Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Go both ways, where there are two."""
    if request.param == "in Python":
        monkeypatch.setattr(compiled, "loops", None)
    return "in Python" if compiled.loops is None else "compiled"
