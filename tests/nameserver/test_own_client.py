"""Our own client, and the commands, given the address of a name server and no node's."""

import random
from unittest import mock

import pytest
import trio

import broker
from broker.cli import ask
from broker.cli.ask import ask_group
from broker.cli.connecting import check_reachable
from broker.cli.status_table import found_by, problems, verdict
from broker.client import name_servers
from broker.client.errors import NoBrokerError, SeveralGroupsError
from broker.client.name_servers import NEED_INTERVAL, decode_groups
from broker.client.routes import ROUTE_AGE_MAX
from broker.errors import TopicNotFoundError
from broker.protocol.request_code import RequestCode
from tests.fakes.name_server import ADDRESS, PORT
from tests.fakes.nodes import until

NOBODY = "nobody-host:1234"


def connect(group, addresses=ADDRESS, **options):
    return broker.connect(
        addresses,
        network=group.wires.of("a client"),
        clock=group.clock,
        chance=random.Random(1),
        **options,
    )


async def create(group, topic, queues=2):
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic(topic, queues=queues)


@pytest.fixture
async def pair(make_group, make_name_server):
    """Two groups of one node each, `one` with the topic `ones` and `two` with the topic `twos`."""
    one, two = make_group("one", 1), make_group("two", 1)
    server = make_name_server(one)
    await server.start()
    for group in (one, two):
        await group.start()
        await group.leader()
    await server.until_registered(2)
    await create(one, "ones")
    await create(two, "twos")
    await until("both topics are known", lambda: known(server, "ones") and known(server, "twos"))
    return one, two, server


def known(server, topic):
    return server.running.registrations.with_topic(topic)


async def test_a_group_is_found_by_its_name_server(autojump_clock, place):
    group, _ = place
    async with connect(group) as mq:
        async with mq.producer() as producer:
            sent = await producer.send("orders", b"a chair")
            assert (await producer.send("orders", b"a bed", delay=1)).topic != "orders"
        async with mq.consumer("billing", "orders") as consumer:
            assert (await anext(consumer)).body == b"a chair"
            assert (await anext(consumer)).body == b"a bed"
        found = await mq.messages.by_id(sent.message_id)
        topics = await mq.admin.list_topics()
        status = await mq.admin.group_status()
        letters = await mq.dead_letters("billing").count()
        leader = group.address(await group.leader())

        assert found.body == b"a chair"
        assert "orders" in [topic.topic for topic in topics]
        assert status.group == "orders"
        assert letters == 0
        assert mq.leader_address == leader
        assert set(mq.nodes) == set(group.addresses)


async def test_one_name_server_of_several_is_down(autojump_clock, place):
    group, _ = place
    begun = trio.current_time()
    async with connect(group, [NOBODY, ADDRESS]) as mq, mq.producer() as producer:
        await producer.send("orders", b"x")

    assert trio.current_time() - begun < 1.0


async def test_a_node_beside_a_name_server_makes_no_difference(autojump_clock, place):
    group, _ = place
    for addresses in ([ADDRESS, group.addresses[0]], [group.addresses[0], ADDRESS]):
        async with connect(group, addresses) as mq:
            async with mq.producer() as producer:
                await producer.send("orders", b"x")
            assert ADDRESS not in mq.nodes
            assert await mq.admin.list_topics()


async def test_name_servers_are_asked_no_more_once_a_node_has_answered(
    autojump_clock, make_group, make_name_server
):
    """A name server beside a node, which knows of no group, was asked ten times a second."""
    group = make_group(nameserver={"addresses": NOBODY})  # it registers elsewhere
    server = make_name_server(group)
    await server.start()
    await group.start()
    await group.leader()
    async with connect(group, [ADDRESS, *group.addresses]) as mq:
        await mq.admin.list_topics()
        await trio.sleep(5)
        groups = mq._session._groups
        assert groups._names is None or groups._asking.cancel_called


async def test_a_topic_that_has_moved_is_found_where_it_is(autojump_clock, pair):
    one, two, server = pair
    async with connect(one) as mq:
        assert (await mq.admin.describe_topic("ones")).message_count == 0
        async with one.caller(await one.leader()) as caller:
            await caller.ok(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "ones"})
        await create(two, "ones")
        await until("it has moved", lambda: [g.name for g in known(server, "ones")] == ["two"])
        await trio.sleep(ROUTE_AGE_MAX)
        async with mq.producer() as producer:
            sent = await producer.send("ones", b"x")
        assert sent.node in two.addresses


async def test_a_killed_leader_is_followed(autojump_clock, place):
    group, server = place
    async with connect(group) as mq, mq.producer() as producer:
        await producer.send("orders", b"x")
        leader = await group.leader()
        await leader.kill()
        await producer.send("orders", b"y")
        await server.kill()  # nobody asks it any more
        await producer.send("orders", b"z")


async def test_nodes_that_moved_are_found_again(autojump_clock, place):
    """All nodes a client knows are gone, and the name server knows others."""
    group, _ = place
    async with connect(group) as mq:
        await mq.admin.list_topics()
        finder = mq._session.finder
        finder._addresses.clear()
        finder.seeds = (NOBODY,)
        finder.suspect(finder.leader, "moved")
        mq._session._groups._names._told.clear()  # it was of the old nodes
        await trio.sleep(2 * NEED_INTERVAL)

        assert await mq.admin.list_topics() is not None
        assert NOBODY not in mq.nodes


async def test_a_name_server_without_groups_is_named_with_the_remedy(
    autojump_clock, make_group, make_name_server
):
    group = make_group()
    await make_name_server(group).start()
    begun = trio.current_time()
    async with connect(group, group_timeout=3.0) as mq:
        with pytest.raises(NoBrokerError, match="no broker group has registered") as caught:
            await mq.admin.list_topics()
        assert ADDRESS in str(caught.value)
        assert f'addresses = "{ADDRESS}"' in str(caught.value)
        assert trio.current_time() - begun == pytest.approx(3.0, abs=0.1)


async def test_a_group_that_registers_meanwhile_is_found(
    autojump_clock, make_group, make_name_server
):
    group = make_group()
    await make_name_server(group).start()
    async with connect(group) as mq, trio.open_nursery() as nursery:
        nursery.start_soon(mq.admin.list_topics)
        await trio.sleep(2)
        await group.start()


async def test_each_topic_is_used_in_the_group_that_has_it(autojump_clock, pair):
    one, two, _ = pair
    async with connect(one) as mq, mq.producer() as producer:
        for topic in ("ones", "twos"):
            await producer.send_many(topic, [b"%d" % n for n in range(3)])
            await producer.send(topic, b"later", delay=1)
            async with mq.consumer("g", topic) as consumer:
                got = sorted([(await anext(consumer)).body for _ in range(4)])
            assert got == [b"0", b"1", b"2", b"later"]
            assert (await mq.admin.describe_topic(topic)).message_count == 4
        assert producer.stats.acked == 8
        await producer.flush()
    for group, has, lacks in ((one, "ones", "twos"), (two, "twos", "ones")):
        topics = [topic.topic for topic in await topics_of(group)]
        assert has in topics
        assert lacks not in topics


async def topics_of(group):
    async with connect(group, group.addresses) as mq:
        return await mq.admin.list_topics()


async def test_what_is_for_one_of_several_groups_says_so_at_once(autojump_clock, pair):
    one, two, server = pair
    await create(two, "ones")
    await until("both have it", lambda: len(known(server, "ones")) == 2)
    begun = trio.current_time()
    async with connect(one) as mq, mq.producer() as producer:
        for ask in (
            lambda: producer.send("ones", b"x"),
            lambda: mq.admin.describe_topic("ones"),
            lambda: mq.admin.list_topics(),
            lambda: mq.admin.group_status(),
            lambda: mq.admin.describe_group("g"),
        ):
            with pytest.raises(SeveralGroupsError) as caught:
                await ask()
            assert f"one at {one.addresses[0]}" in str(caught.value)
            assert f"two at {two.addresses[0]}" in str(caught.value)
        with pytest.raises(SeveralGroupsError, match="ones"):
            async with mq.consumer("g", "ones"):
                pass
        with pytest.raises(TopicNotFoundError, match="none of the 2 broker groups"):
            await producer.send("nowhere", b"x")
        assert (await mq.admin.group_status(one.addresses[0])).group == "one"
        assert (await mq.admin.group_status(two.addresses[0])).group == "two"

    assert trio.current_time() - begun < 1.0


async def test_a_consumer_reads_topics_of_one_group(autojump_clock, pair):
    one, _, _ = pair
    async with connect(one) as mq:
        with pytest.raises(SeveralGroupsError, match="ones in one, twos in two"):
            async with mq.consumer("g", ["ones", "twos"]):
                pass


async def test_members_find_each_other_by_the_name_server(autojump_clock, place):
    group, _ = place
    await create(group, "wide", queues=4)
    async with (
        connect(group, client_id="a") as first,
        connect(group, client_id="b") as second,
    ):
        assert (first.client_id, second.client_id) == ("a", "b")
        async with first.consumer("g", "wide") as one, second.consumer("g", "wide") as other:
            await until("they share", lambda: len(one.queues) == len(other.queues) == 2)
            assert sorted(one.queues + other.queues) == [0, 1, 2, 3]


# -- the commands -------------------------------------------------------------------------------


async def test_status_asks_the_nodes_that_the_name_server_names(autojump_clock, place):
    group, _ = place
    view = await ask_group([NOBODY, ADDRESS], network=group.wires.of("a tool"))

    assert view.is_healthy
    assert [answer.node_id for answer in view.answering] == ["n1", "n2", "n3"]
    assert view.name_servers == (ADDRESS,)
    assert found_by(view) == [f"found by way of the name server {ADDRESS}"]
    await check_reachable([NOBODY, ADDRESS], network=group.wires.of("a tool"))


async def test_a_name_server_named_as_a_node_is_not_asked_for_ever(autojump_clock, place):
    """Whoever registers there says at which address: it said the name server's own."""
    group, _ = place

    async def named(addresses, **_):
        return {address: {"g": (ADDRESS,)} for address in addresses}

    with mock.patch.object(ask, "ask_groups", named), trio.fail_after(10.0):
        view = await ask_group([ADDRESS], network=group.wires.of("a tool"))
    assert not view.is_healthy
    assert "is a name server" in problems(view)[0]


async def test_a_command_is_told_of_several_groups(autojump_clock, pair):
    one, _, _ = pair
    view = await ask_group([ADDRESS], network=one.wires.of("a tool"))

    assert not view.is_healthy
    assert f"one at {one.addresses[0]}" in problems(view)[0]
    assert "what was asked refused" in verdict(view)
    await check_reachable([ADDRESS], network=one.wires.of("a tool"))


async def test_a_command_hears_at_once_of_a_name_server_without_groups(
    autojump_clock, make_group, make_name_server
):
    group = make_group()
    await make_name_server(group).start()
    network = group.wires.of("a tool")
    begun = trio.current_time()
    view = await ask_group([ADDRESS], network=network)
    with pytest.raises(NoBrokerError, match="no broker group has registered with it"):
        await check_reachable([ADDRESS], network=network)

    assert "no broker group has registered with it" in problems(view)[0]
    assert trio.current_time() - begun < 1.0


def test_a_list_of_brokers_is_read():
    body = b'{"brokerAddrTable":{"b":{"brokerAddrs":{"1":"y:2","0":"x:1"}},"a":{"brokerAddrs":{}}}}'

    assert decode_groups(body) == {"b": ("x:1", "y:2")}
    with pytest.raises(KeyError):
        decode_groups(b"{}")


def test_the_port_is_the_usual_one():
    assert ADDRESS.endswith(f":{PORT}")


async def test_a_topic_of_a_group_that_has_just_registered_is_found(
    autojump_clock, make_group, make_name_server
):
    """The list of groups is asked for each half minute: a topic's route may name a newer one."""
    one, two = make_group("one", 1), make_group("two", 1)
    server = make_name_server(one)
    await server.start()
    await one.start()
    await one.leader()
    await server.until_registered(1)
    async with connect(one) as mq:
        await mq.admin.list_topics()  # one group is known
        await two.start()
        await two.leader()
        await server.until_registered(2)
        await create(two, "twos")
        await until("the topic is known", lambda: known(server, "twos"))
        assert list(mq._session._groups._names.groups) == ["one"]
        async with mq.producer() as producer:
            sent = await producer.send("twos", b"x")
        assert sent.node in two.addresses
        assert "twos" not in [topic.topic for topic in await one_topics(one)]


async def one_topics(group):
    async with broker.connect(
        group.addresses, network=group.wires.of("another"), clock=group.clock
    ) as mq:
        return await mq.admin.list_topics()


async def test_a_name_server_that_lists_too_few_groups_after_its_start_is_not_believed(
    autojump_clock, pair
):
    """It hears of the nodes one after another, and a client must not take one group for all."""
    one, *_ = pair
    async with connect(one) as mq:
        assert (await mq.admin.describe_topic("ones")).message_count == 0
        names = mq._session._groups._names
        decode = name_servers.decode_groups

        def too_few(body):
            return {name: nodes for name, nodes in decode(body).items() if name == "one"}

        name_servers.decode_groups = too_few
        try:
            await names.refresh()
            assert list(names.groups) == ["one", "two"]
            await trio.sleep(name_servers.GONE_AFTER)
            await names.refresh()
            assert list(names.groups) == ["one"]
        finally:
            name_servers.decode_groups = decode


async def test_a_topic_is_known_although_no_name_server_answers_any_more(autojump_clock, pair):
    one, _, server = pair
    async with connect(one) as mq, mq.producer() as producer:
        await producer.send("ones", b"1")
        await server.kill()
        await trio.sleep(2 * ROUTE_AGE_MAX)
        await producer.send("ones", b"2")
