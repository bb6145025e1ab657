from __future__ import annotations

import random
from functools import partial

import pytest

import broker
from tests.client.fake_group import FakeClock, FakeGroup


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
