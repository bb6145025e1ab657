"""Scenarios of groups that have both our own client and a stock client as members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.interop import clients
from tests.interop.case import ENOUGH, QUEUES

if TYPE_CHECKING:
    import broker
    from tests.interop.case import Case


async def mixed(case: Case) -> None:
    """They share the queues by the same reckoning, and ours takes over when the other is killed."""
    ours: list[broker.Message] = []

    async def read(consumer: broker.Consumer) -> None:
        async for message in consumer:
            async with message:
                ours.append(message)

    async with case.run("consumer", instance="stock") as stock, case.trickle() as sent:
        await stock.until("all queues", lambda client: len(client.bodies) >= ENOUGH)
        async with (
            case.mq.consumer(case.readers, case.topic, auto_commit=False) as consumer,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(read, consumer)
            await _until_shared(stock, ours)
            assert len(consumer.queues) == QUEUES // 2
            await case.middle()
            await case.more(sent)
            stock.kill()
            begun = trio.current_time()
            with trio.fail_after(clients.SECONDS):
                while len(consumer.queues) < QUEUES:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            case.facts["taken over after"] = f"{trio.current_time() - begun:.2f} s"
            await case.more(sent)
            await sent.stop()
            with trio.fail_after(clients.SECONDS):
                while not _bodies(ours) | set(stock.bodies) >= set(sent):  # noqa: ASYNC110
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()


async def _until_shared(stock: clients.Client, ours: list[broker.Message]) -> None:
    """Wait until each reads two queues, and not those of the other."""
    with trio.fail_after(clients.SECONDS):
        while True:
            ours_from, theirs_from = len(ours), len(stock.of("got"))
            await trio.sleep(1)
            queues = {message.queue_id for message in ours[ours_from:]}
            others = {event["queue"] for event in stock.of("got")[theirs_from:]}
            if len(queues) == len(others) == QUEUES // 2 and not queues & others:
                return


def _bodies(messages: list[broker.Message]) -> set[str]:
    return {message.body.decode() for message in messages}


async def mixed_retry(case: Case) -> None:
    """What our client fails comes again to a stock client, with all that belongs to it."""
    async with case.mq.consumer(case.readers, case.topic) as consumer:
        await case.produced(["hard"], tag="red", key="k")
        (await anext(consumer)).retry(level=1)
    await case.middle()
    async with case.run("consumer") as stock:
        (again,) = await stock.until("it comes again", lambda client: client.of("got"))
    assert (again["body"], again["topic"], again["times"]) == ("hard", case.topic, 1)
    assert (again["tag"], again["keys"]) == ("red", "k")


MIXED = {"mixed": mixed, "mixed-retry": mixed_retry}
