"""The leader's looks at topics with bounds of their own: others run in between."""

from __future__ import annotations

import pytest
import trio

from broker.delivery.topic_retention import TopicRetentionService
from broker.metadata.topics import TopicConfig
from broker.store import retention
from tests.broker_store.helpers import FixedClock
from tests.broker_store.test_retention import NOW, RECORD, World

QUEUES = 40


class Topics(dict):
    """The part of `broker.metadata.topics.Topics` that is asked."""

    def __iter__(self):
        return iter(list(self.values()))

    def keep(self, size):
        self["orders"] = TopicConfig(
            topic="orders",
            read_queue_count=QUEUES,
            write_queue_count=QUEUES,
            retention_bytes=size,
        )


class Append:
    """Takes commands as long as it is open."""

    def __init__(self):
        self.is_open = True
        self.commands = []

    def put_command(self, command, _done):
        self.commands.append(dict(command.args["queues"]))

    def seal(self):
        pass


class Looks:
    """A service whose first look is long, and what others do in each turn they have."""

    def __init__(self):
        world = World()
        for queue_id in range(QUEUES):
            world.put(count=10, queue_id=queue_id)
        self.topics = Topics()
        self.topics.keep(200 * RECORD)
        self.append = Append()
        self.service = TopicRetentionService(
            log=world.log,
            queues=world.derived.queues,
            topics=self.topics,
            append=self.append,
            clock=FixedClock(NOW),
            interval_seconds=10.0,
        )

    async def first(self, others):
        """Make the first look; return how many turns others had until something was trimmed."""
        turns = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.service.run)
            await trio.sleep(10.0)
            while not self.append.commands and turns < 50:
                turns += 1
                others(turns)
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return turns


@pytest.fixture
def looks(monkeypatch):
    monkeypatch.setattr(retention, "READS_AT_ONCE", 4)
    return Looks()


async def test_others_run_while_the_queues_of_a_topic_are_counted(autojump_clock, looks):
    turns = await looks.first(lambda _turn: None)

    assert looks.append.commands == [dict.fromkeys(range(QUEUES // 2), 10)]
    assert 10 < turns < 50


async def test_a_topic_told_to_keep_more_during_a_look_is_not_trimmed_by_it(autojump_clock, looks):
    await looks.first(lambda turn: turn == 3 and looks.topics.keep(1000 * RECORD))

    assert looks.append.commands == []


async def test_a_lead_that_is_lost_during_a_look_ends_it(autojump_clock, looks):
    def lose(turn):
        looks.append.is_open = turn < 3

    await looks.first(lose)

    assert looks.append.commands == []
