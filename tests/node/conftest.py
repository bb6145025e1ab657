"""A group of broker nodes under virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.brokers import Brokers


@pytest.fixture
def make_brokers(nursery_of_brokers):
    """Return what makes a group, that is not running yet."""

    def make(count: int = 3, **settings: Any) -> Brokers:
        return Brokers(nursery_of_brokers, count, **settings)

    return make


@pytest.fixture
async def brokers(make_brokers):
    """Return a running group of three with the topic t of two queues."""
    group = make_brokers(3)
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t", queues=2)
    await group.equal()
    return group
