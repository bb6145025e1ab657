"""What the tests of name servers read in a route, and wait for."""

from tests.fakes.nodes import until_async


async def create(group, topic, queues=4):
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic(topic, queues=queues)


def names(route, perm):
    return [item["brokerName"] for item in route["queueDatas"] if item["perm"] & perm]


def addresses(route):
    return {broker["brokerName"]: broker["brokerAddrs"]["0"] for broker in route["brokerDatas"]}


async def routed(asker, topic, holds=bool):
    """Wait until the route of *topic* is as wanted."""

    async def found():
        route = await asker.route(topic)
        return route if route is not None and holds(route) else None

    return await until_async(f"a route of {topic}", found)
