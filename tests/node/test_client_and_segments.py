"""A client that gathers more than a broker's segments hold."""

import trio

import broker
from dledger.config import KIB


async def test_a_batch_larger_than_a_segment_is_sent_in_parts(autojump_clock, make_brokers):
    """It was refused as it was, sent again as it was, and given up when its time was over."""
    group = make_brokers(1, store={"segment_size": 64 * KIB})
    await group.start()
    await group.leader()
    places = []

    async def send(producer, number):
        result = await producer.send("t", b"%04d" % number + bytes(1000), queue=0)
        places.append(result.queue_offset)

    async with (
        broker.connect(
            group.addresses, network=group.wires.of("client"), clock=group.clock
        ) as client,
        client.producer(batch_size_max=256 * KIB, send_timeout=10) as producer,
    ):
        await client.admin.create_topic("t", queue_count=1)
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(send, producer, number)

    assert sorted(places) == list(range(500))
