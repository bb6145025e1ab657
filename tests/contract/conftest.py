"""A group of one that leads, at the time of the captures."""

import pytest
import trio

from tests.contract.captured import CAPTURED_MS
from tests.fakes import nodes
from tests.fakes.brokers import Brokers


@pytest.fixture
async def group(autojump_clock, monkeypatch):
    """A group of one that leads, at the time of the captures."""
    monkeypatch.setattr(nodes, "WALL_MS", CAPTURED_MS)
    async with trio.open_nursery() as nursery:
        group = Brokers(nursery, 1)
        await group.start()
        await group.leader()
        yield group
        nursery.cancel_scope.cancel()
