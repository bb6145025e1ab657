from __future__ import annotations

import random
import zlib
from functools import partial

import pytest
import trio

import broker
from broker.testing import BrokerServer
from tests.client.fake_group import FakeGroup
from tests.client.fake_node import FakeClock


@pytest.fixture(autouse=True)
def same_order_every_time(request, monkeypatch):
    """Have trio run tasks in an order that depends on the test's name alone."""
    seed = zlib.crc32(request.node.name.encode())
    monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)


@pytest.fixture
async def group(nursery):
    found = FakeGroup(nursery)
    found.topics["orders"] = 4
    await found.start()
    yield found
    for node in found.nodes:
        node.kill()


@pytest.fixture
def connect(group):
    return partial(
        broker.connect,
        group.addresses,
        network=group.network,
        clock=FakeClock(),
        chance=random.Random(1),
    )


@pytest.fixture(scope="module")
def server():
    """A real broker, for clients that are under no virtual time."""
    with BrokerServer() as found:
        yield found


@pytest.fixture
def address(server):
    return server.address
