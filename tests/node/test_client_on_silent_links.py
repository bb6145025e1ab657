"""A client whose route to every node is lost without a word, and comes back."""

import pytest
import trio

import broker


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("asks_meanwhile", [False, True])
async def test_a_client_leaves_connections_on_which_nobody_answers(
    autojump_clock, make_brokers, count, asks_meanwhile
):
    """Also when it has asked everybody who leads: it waited for those answers for ever."""
    group = make_brokers(count)
    await group.start()
    await group.leader()
    async with (
        broker.connect(
            group.addresses, network=group.wires.of("client"), clock=group.clock, group_timeout=60
        ) as client,
        client.producer(send_timeout=60) as producer,
    ):
        await client.admin.create_topic("t", queue_count=1)
        await producer.send("t", b"before")
        for member in group:
            group.wires.silence("client", member.name)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "t", b"meanwhile")
            if asks_meanwhile:
                nursery.start_soon(client.admin.list_topics)

        assert trio.current_time() - began < 5
        assert (await producer.send("t", b"after")).queue_offset == 2
