"""Our own client and a stock client, members of one group."""

import trio

import broker
from tests.interop import clients as clients_module
from tests.interop.helpers import QUEUES, produced, servers, topic


async def test_they_share_the_queues_and_take_over_from_each_other(
    kind, run, shared_group, names_of
):
    name, group = names_of("T"), names_of("mixed")
    await topic(shared_group, name, queues=QUEUES)
    told = {"servers": servers(shared_group), "group": group, "topic": name, "instance": "stock"}
    ours: list[broker.Message] = []

    async def read(consumer):
        async for message in consumer:
            async with message:
                ours.append(message)

    def ours_since(count):
        return sorted({message.queue_id for message in ours[count:]})

    async def send(words):
        await produced(shared_group, name, words)

    async def until_all(words, stock):
        with trio.fail_after(clients_module.SECONDS):
            while not {m.body.decode() for m in ours} | set(stock.bodies) >= set(words):  # noqa: ASYNC110
                await trio.sleep(0.02)

    async with (
        broker.connect(shared_group.addresses) as mq,
        run("consumer", **told) as stock,
    ):
        await stock.started()
        first = [f"a{number}" for number in range(20)]
        await send(first)
        await until_all(first, stock)
        assert not ours
        async with (
            mq.consumer(group, name, auto_commit=False) as consumer,
            trio.open_nursery() as n,
        ):
            n.start_soon(read, consumer)
            # Both reckon alike: two queues are ours, and the stock client has the two others.
            with trio.fail_after(clients_module.SECONDS):
                number = 0
                while True:
                    words = [f"b{number}-{each}" for each in range(20)]
                    before, number = len(ours), number + 1
                    await send(words)
                    await until_all(words, stock)
                    here = {m.body.decode() for m in ours[before:]}
                    there = set(stock.bodies) & set(words)
                    if len(here & set(words)) == 10 and len(there) == 10:
                        break
                    await trio.sleep(0.2)
            assert len(consumer.queues) == 2
            assert tuple(ours_since(before)) == consumer.queues
            stock.kill()
            words = [f"c{each}" for each in range(20)]
            await send(words)
            await until_all(words, stock)
            assert consumer.queues == (0, 1, 2, 3)
            n.cancel_scope.cancel()


async def test_what_one_of_them_fails_comes_again_to_either(kind, run, shared_group, names_of):
    name, group = names_of("T"), names_of("mixed")
    await topic(shared_group, name, queues=QUEUES)
    told = {"servers": servers(shared_group), "group": group, "topic": name, "instance": "stock"}
    async with broker.connect(shared_group.addresses) as mq:
        async with mq.consumer(group, name) as consumer:
            await produced(shared_group, name, ["hard"], tag="red", key="k")
            (await anext(consumer)).retry(level=1)
        async with run("consumer", **told) as stock:
            (again,) = await stock.until("it comes again", lambda client: client.of("got"))
    assert (again["body"], again["topic"], again["times"]) == ("hard", name, 1)
    assert (again["tag"], again["keys"]) == ("red", "k")
