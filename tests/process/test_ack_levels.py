"""Levels of durability of a real group, one member of which has stopped."""

import signal

import pytest

import broker
from broker.config import BrokerConfig
from dledger.config import FlushDiskType
from tests.process.kit import ProcessGroup

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.mark.parametrize("flush", list(FlushDiskType))
async def test_with_a_member_stopped_the_others_go_on_and_all_says_what_was_reached(
    tmp_path, flush
):
    group = ProcessGroup(tmp_path, flush_disk_type=flush, broker=BrokerConfig(ack_timeout_ms=300))
    async with group, broker.connect(group.addresses) as client, client.producer() as producer:
        await producer.send("t", b"first")
        await group.settled()
        for wanted in ("leader", "majority", "all"):
            for disks in ("async", "sync"):
                found = await producer.send("t", b"whole", acks=wanted, flush=disks)
                copies, _, reached = found.durability.partition("/")
                order = ("leader", "majority", "all")
                assert order.index(copies) >= order.index(wanted)
                assert reached == "sync" or disks == "async"

        stopped = (await group.followers())[0]
        stopped.signal(signal.SIGSTOP)
        for wanted in ("leader", "majority"):
            found = await producer.send("t", b"two of three", acks=wanted, flush="sync")
            assert found.durability == f"{wanted}/sync"
        with pytest.raises(broker.LessDurableError) as caught:
            await producer.send("t", b"all", acks="all", flush="sync")
        assert caught.value.result.durability == "majority/sync"

        stopped.signal(signal.SIGCONT)
        await group.settled()
        found = await producer.send("t", b"whole again", acks="all", flush="sync")
        assert found.durability == "all/sync"
