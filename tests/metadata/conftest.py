"""Topics and offsets under one machine, as in a node."""

from __future__ import annotations

import pytest

from broker.metadata.consumer_offsets import ConsumerOffsets
from broker.metadata.queue_trims import QueueTrims
from broker.metadata.state_machine import (
    StateMachine,
    encode_commands,
)
from broker.metadata.subscription_groups import (
    SubscriptionGroups,
)
from broker.metadata.topics import (
    Topics,
)


def new_machine(*, is_reversed=False):
    topics = Topics()
    parts = [topics, SubscriptionGroups(), ConsumerOffsets(topics)]
    return StateMachine(reversed(parts) if is_reversed else parts)


@pytest.fixture
def topics():
    return Topics()


@pytest.fixture
def offsets():
    return ConsumerOffsets()


@pytest.fixture
def machine(topics, offsets):
    return StateMachine([topics, SubscriptionGroups(), offsets, QueueTrims()])


def apply(machine, *some):
    return machine.apply_entry(encode_commands(some))
