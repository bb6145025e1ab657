"""Nodes that stop answering, and groups without a majority."""

import signal

import pytest

import broker
from broker.errors import BrokerError
from tests.process.kit import ProcessGroup, eventually
from tests.process.load import TOPIC, Load

pytestmark = [pytest.mark.process, pytest.mark.slow]


async def test_a_frozen_leader_is_replaced_and_follows_when_it_thaws(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        frozen = await group.leader()
        frozen.signal(signal.SIGSTOP)

        await load.more()
        assert await group.leader() is not frozen
        frozen.signal(signal.SIGCONT)

        async def follows():
            status = await frozen.status()
            return status is not None and status.role == "FOLLOWER" and status.is_ready

        await eventually("the old leader follows the new one", follows)
        await load.more()
        await load.prove()


async def test_without_a_majority_nothing_is_acknowledged_and_all_stays_readable(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        survivor = await group.leader()
        for node in group.others(survivor):
            node.kill()

        async def gave_up():
            status = await survivor.status()
            return status is not None and status.role != "LEADER"

        await eventually("a leader without a majority steps down", gave_up)
        acknowledged = len(load.acknowledged)
        async with (
            broker.connect(survivor.address) as client,
            client.producer("lonely", send_timeout=1.0) as producer,
        ):
            with pytest.raises(BrokerError, match="proof"):
                await producer.send(TOPIC, b"key-x/0/", ordering_key="key-x")
        await load.prove_readable(survivor)
        assert len(load.acknowledged) == acknowledged

        group.start_missing()
        await group.leader()
        await load.more()
        await load.prove()


async def test_a_majority_frozen_for_a_moment_changes_nothing_but_time(tmp_path):
    async with ProcessGroup(tmp_path) as group, Load(group) as load:
        await load.more()
        followers = await group.followers()
        for node in followers:
            node.signal(signal.SIGSTOP)
        leader = group.others(*followers)[0]

        async def gave_up():
            status = await leader.status()
            return status is not None and status.role != "LEADER"

        await eventually("a leader that hears nobody steps down", gave_up)
        for node in followers:
            node.signal(signal.SIGCONT)
        await group.leader()
        await load.more()
        await load.prove()
