"""Levels of durability of a real group, one member of which has stopped."""

import signal

import pytest

import broker
from broker.config import BrokerConfig
from dledger.config import FlushDiskType
from tests.process.kit import ProcessGroup, eventually

ORDER = ("leader", "majority", "all")
pytestmark = [pytest.mark.process, pytest.mark.slow]


async def sent(producer, *, acks, flush):
    """Send until the copies that were asked for are there in time: copies and disks of the last."""

    async def is_sent():
        try:
            return await producer.send("t", b"x", acks=acks, flush=flush)
        except broker.LessDurableError:
            return None  # a busy machine: it says so

    found = await eventually(f"{acks}/{flush} is reached in time", is_sent)
    copies, _, disks = found.durability.partition("/")
    return ORDER.index(copies), disks


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
                copies, reached = await sent(producer, acks=wanted, flush=disks)
                assert copies >= ORDER.index(wanted)
                assert reached == "sync" or disks == "async"

        stopped = (await group.followers())[0]
        stopped.signal(signal.SIGSTOP)
        for wanted in ("leader", "majority"):
            copies, reached = await sent(producer, acks=wanted, flush="sync")
            assert ORDER.index(wanted) <= copies < ORDER.index("all")
            assert reached == "sync"

        async def is_of_two():
            with pytest.raises(broker.LessDurableError) as caught:
                await producer.send("t", b"all", acks="all", flush="sync")
            return caught.value.result.durability == "majority/sync"

        await eventually("all says that it was a majority", is_of_two)

        stopped.signal(signal.SIGCONT)
        await group.settled()
        assert await sent(producer, acks="all", flush="sync") == (ORDER.index("all"), "sync")
