"""Who has registered, and what routes come of it."""

import json
import random
import struct
import zlib

import pytest

from broker.config import RouteMode
from broker.errors import HeaderError
from broker.nameserver import registrations, routes
from broker.nameserver.registrations import EXPIRY_SECONDS, Registrations
from broker.protocol.bodies import TopicEntry
from broker.protocol.name_headers import RegisterBrokerRequest
from broker.protocol.registration import (
    DataVersion,
    RegisteredTopic,
    RegisteredTopics,
    decode_data_version,
    decode_registration,
    encode_topic,
    join_topics,
)
from dledger.errors import LedgerBusyError

MEMBERS = "n1=a:1,n2=b:2,n3=c:3"


def topics(*names, counter=1, perm=6, queues=4):
    table = {name: RegisteredTopic(queues, queues, perm) for name in names}
    return RegisteredTopics(DataVersion(counter=counter), table)


class Place:
    """Registrations, and a clock."""

    def __init__(self, **settings):
        self.table = Registrations(**settings)
        self.now = 1000.0

    def add(self, name, address, number, of, *, owner="c1", cluster="c", **fields):
        header = RegisterBrokerRequest(
            broker_name=name,
            broker_addr=address,
            cluster_name=cluster,
            broker_id=number,
            **fields,
        )
        return self.table.register(header, of, digest=b"", owner=owner, now=self.now)

    def node(self, node_id, *, leads=False, of=None, term=1, route="per-node", members=MEMBERS):
        address = dict(pair.split("=") for pair in members.split(","))[node_id]
        number = 0 if leads else int(node_id[1:])
        return self.add(
            "orders",
            address,
            number,
            of or topics("t"),
            owner=node_id,
            node_id=node_id,
            members=members,
            route=route,
            term=term,
        )

    def group(self, name="orders"):
        (found,) = [group for group in self.table.groups if group.name == name]
        return found

    def route(self, topic="t", client="10.0.0.1"):
        parts = [
            group.part(found, client_host=client)
            for group in self.table.groups
            if (found := group.find(topic)) is not None
        ]
        return json.loads(routes.encode_route(parts))


@pytest.fixture
def place():
    return Place()


def addresses(route):
    return {broker["brokerName"]: broker["brokerAddrs"] for broker in route["brokerDatas"]}


def names(route, perm):
    return [item["brokerName"] for item in route["queueDatas"] if item["perm"] & perm]


# -- brokers of RocketMQ ----------------------------------------------------------------------


def test_a_slave_is_told_its_master_and_only_the_master_s_topics_count(place):
    assert place.add("a", "h:1", 0, topics("t"), ha_server_addr="h:2") is None
    master = place.add("a", "h:3", 1, topics("other"))

    assert (master.address, master.ha_address) == ("h:1", "h:2")
    assert place.group("a").find("other") is None
    assert addresses(place.route()) == {"a": {"0": "h:1", "1": "h:3"}}


def test_a_slave_that_becomes_the_master_has_one_number(place):
    place.add("a", "h:1", 0, topics("t"))
    place.add("a", "h:3", 1, topics("t"))
    place.table.unregister("a", "h:1")
    place.add("a", "h:3", 0, topics("t", "u", counter=2))

    assert addresses(place.route("u")) == {"a": {"0": "h:3"}}


def test_a_broker_that_tells_of_one_new_topic_keeps_its_others(place):
    """RocketMQ's registerIncrementBrokerData."""
    place.add("a", "h:1", 0, topics("t", "u"))
    place.add("a", "h:1", 0, topics("new", counter=2))

    assert {name for name, _ in place.group("a").topics()} == {"t", "u", "new"}
    place.group("a").remove_topic("t")
    assert place.group("a").find("t") is None


def test_tbw102_is_registered_like_any_and_in_no_list(place):
    place.add("a", "h:1", 0, topics("TBW102", "t", perm=7, queues=8))

    assert place.group("a").find("TBW102") == routes.Topic(8, 8, 7)
    assert [name for name, _ in place.group("a").topics()] == ["t"]
    assert place.group("a").made_on_use("%RETRY%readers") is None


def test_two_groups_share_a_topic_s_queues(place):
    place.add("a", "h:1", 0, topics("t", queues=4))
    place.add("b", "h:2", 0, topics("t", "only-b", queues=8))

    found = place.route()
    assert [(item["brokerName"], item["writeQueueNums"]) for item in found["queueDatas"]] == [
        ("a", 4),
        ("b", 8),
    ]
    assert names(place.route("only-b"), 2) == ["b"]


# -- nodes of ours ------------------------------------------------------------------------------


def test_a_group_is_presented_as_its_nodes_would(place):
    for node, leads in (("n1", False), ("n2", True), ("n3", False)):
        place.node(node, leads=leads)
    found = place.route()

    assert names(found, 4) == ["orders"]
    assert names(found, 2) == ["orders-n1", "orders-n2", "orders-n3"]
    assert addresses(found)["orders"]["0"] in {"a:1", "c:3"}
    assert place.group().made_on_use("%RETRY%readers") == routes.Topic(1, 1, 6)


def test_the_single_form_is_rocketmq_s(place):
    place.node("n1", route="single")
    place.node("n2", leads=True, route="single")

    assert addresses(place.route()) == {"orders": {"0": "b:2", "1": "a:1", "2": "c:3"}}


def test_a_node_that_is_gone_keeps_its_name_at_a_follower(place):
    place.node("n1")
    place.node("n2", leads=True)
    place.node("n3")
    place.table.drop("n3")

    assert addresses(place.route())["orders-n3"] == {"0": "a:1"}
    place.table.drop("n2")
    assert set(addresses(place.route())) == {"orders", "orders-n1", "orders-n2", "orders-n3"}
    assert {found["0"] for found in addresses(place.route()).values()} == {"a:1"}
    place.table.drop("n1")
    assert place.table.groups == []


def test_of_two_that_claim_to_lead_the_newer_term_does(place):
    place.node("n1", leads=True, term=7, of=topics("t", "new", counter=9))
    place.node("n2", leads=True, term=6, of=topics("t", counter=8))

    assert place.group().seen().leader_id == "n1"
    assert place.group().find("new") is not None


def test_while_nobody_leads_the_topics_of_the_newest_count(place):
    place.node("n1", term=3, of=topics("t", counter=1))
    place.node("n2", term=3, of=topics("t", "u", counter=2))

    assert place.group().find("u") is not None
    assert place.group().seen().leader_id is None


def test_what_a_node_no_longer_has_is_gone(place):
    place.node("n1", leads=True, of=topics("t", "u", counter=1))
    place.node("n1", leads=True, of=topics("u", counter=2))

    assert [name for name, _ in place.group().topics()] == ["u"]


def test_clusters_and_brokers(place):
    place.add("a", "h:1", 0, topics("t"), cluster="shop")
    place.node("n1", leads=True)
    info = json.loads(routes.cluster_info(group.broker() for group in place.table.groups))

    assert info["clusterAddrTable"] == {"shop": ["a"], "c": ["orders"]}
    assert info["brokerAddrTable"]["orders"]["brokerAddrs"] == {"0": "a:1"}


# -- coming and going ---------------------------------------------------------------------------


def test_two_minutes_of_silence_are_the_end(place):
    place.add("a", "h:1", 0, topics("t"))
    place.add("b", "h:2", 0, topics("t"), heartbeat_timeout_millis=1000)
    place.now += 2
    assert [found.broker_name for found in place.table.expire(place.now)] == ["b"]
    place.now += EXPIRY_SECONDS - 2
    assert place.table.expire(place.now) == []
    assert place.table.seen("a", "h:1", now=place.now)
    place.now += EXPIRY_SECONDS
    assert place.table.expire(place.now) == []
    assert [found.address for found in place.table.expire(place.now + 0.1)] == ["h:1"]
    assert not place.table.seen("a", "h:1", now=place.now)


def test_a_broker_that_registers_by_another_connection_outlives_the_first(place):
    place.add("a", "h:1", 0, topics("t"), owner="c1")
    place.add("a", "h:1", 0, topics("t"), owner="c2")

    assert place.table.drop("c1") == []
    assert len(place.table.drop("c2")) == 1


def test_there_are_no_more_than_may_be(place):
    place = Place(brokers_max=1)
    place.add("a", "h:1", 0, topics("t"))
    place.add("a", "h:1", 0, topics("t"))
    with pytest.raises(LedgerBusyError):
        place.add("b", "h:2", 0, topics("t"))
    assert [group.name for group in place.table.groups] == ["a"]


def test_topics_are_bounded(place, monkeypatch):
    monkeypatch.setattr(registrations, "TOPICS_MAX", 3)
    monkeypatch.setattr(registrations, "TOPICS_SIZE_MAX", 100)
    place.add("a", "h:1", 0, topics("t", "u"))
    place.add("a", "h:1", 0, topics("v", counter=2))
    with pytest.raises(LedgerBusyError, match="more than 3 topics"):
        place.add("a", "h:1", 0, topics("w", counter=3))
    large = RegisteredTopics(DataVersion(), {}, 60)
    place.add("b", "h:2", 0, large)
    place.add("b", "h:3", 1, large)  # one body, counted once
    with pytest.raises(LedgerBusyError, match="the limit is 100"):
        place.add("c", "h:4", 0, RegisteredTopics(DataVersion(), {}, 60))
    assert [group.name for group in place.table.groups] == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"broker_name": ""}, "brokerName"),
        ({"broker_name": "x" * 256}, "brokerName"),
        ({"cluster_name": "a\nb"}, "clusterName"),
        ({"broker_addr": ""}, "brokerAddr"),
        ({"broker_id": -1}, "brokerId"),
        ({"node_id": "n1", "route": "sideways", "members": MEMBERS}, "route"),
        ({"node_id": "n1", "route": "single", "members": "n1"}, "members"),
        ({"node_id": "n9", "route": "single", "members": MEMBERS}, "members"),
        ({"node_id": "n1", "route": "single", "members": "n1=nowhere"}, "members"),
    ],
)
def test_what_cannot_be_told_to_clients_is_refused(place, fields, named):
    values = {"broker_name": "a", "broker_addr": "h:1", "cluster_name": "c", "broker_id": 0}
    header = RegisterBrokerRequest(**{**values, **fields})
    with pytest.raises(HeaderError) as caught:
        place.table.register(header, topics("t"), digest=b"", owner="c", now=0.0)
    assert caught.value.field == named
    assert place.table.groups == []


def test_wiped_names_are_not_written_to(place):
    for node, leads in (("n1", False), ("n2", True), ("n3", False)):
        place.node(node, leads=leads)
    part = place.group().part(routes.Topic(4, 4, 6), client_host="h")

    def written(*wiped):
        left = routes.without_writing(part, frozenset(wiped), "orders")
        return [item["brokerName"] for item in left.queues if item["perm"] & 2]

    assert written("orders-n2") == ["orders-n1", "orders-n3"]
    assert written("orders") == []
    assert written("another") == ["orders-n1", "orders-n2", "orders-n3"]
    place.group()._by_address["b:2"].mode = RouteMode.SINGLE
    single = place.group().part(routes.Topic(4, 4, 6), client_host="h")
    assert routes.without_writing(single, frozenset({"orders"}), "orders").queues[0]["perm"] == 4


# -- bodies -------------------------------------------------------------------------------------


def deflated(*rows, count=None):
    def piece(data):
        return struct.pack(">i", len(data)) + data

    count = len(rows) if count is None else count
    return zlib.compress(
        piece(b'{"counter":7,"timestamp":3}')
        + struct.pack(">i", count)
        + b"".join(piece(row) for row in rows)
        + piece(b"[]")
        + struct.pack(">i", 0)
    )


def test_a_deflated_registration_is_read():
    found = decode_registration(
        deflated(b"t 8 4 6 SINGLE_TAG", b"u 1 2 4 SINGLE_TAG {}"), compressed=True
    )

    assert found.version == DataVersion(counter=7, timestamp=3)
    assert found.table == {"t": RegisteredTopic(8, 4, 6), "u": RegisteredTopic(1, 2, 4)}


def test_a_plain_registration_is_read_back():
    rows = [encode_topic(TopicEntry("t", 8, 4, 6, system_flag=3))]
    body = join_topics(rows, version=5)
    found = decode_registration(body, compressed=False)

    assert found.version.counter == 5
    assert found.table == {"t": RegisteredTopic(8, 4, 6, 3)}
    assert b" " not in body


def test_an_empty_registration_has_no_topics():
    assert decode_registration(b"", compressed=False).table == {}


@pytest.mark.parametrize(
    ("body", "compressed"),
    [
        (b"{", False),
        (b"[]", False),
        (b'{"topicConfigSerializeWrapper":3}', False),
        (b"\xff\xfe", False),
        (join_topics([encode_topic(TopicEntry("x" * 256, 1, 1, 6))], version=1), False),
        (b"[" * 100_000, False),
        (b"nothing", True),
        (deflated(b"t"), True),
        (deflated(b"t a b c d"), True),
        (deflated(b"t 1 1 6 X", count=9), True),
        (deflated(b"t 1 1 6 X", count=-1)[:-4], True),
        (zlib.compress(bytes(65 * 1024 * 1024)), True),
    ],
)
def test_a_body_that_is_none_is_refused(body, compressed):
    with pytest.raises(HeaderError) as caught:
        decode_registration(body, compressed=compressed)
    assert caught.value.field == "body"


def test_a_data_version_that_is_none_is_refused():
    with pytest.raises(HeaderError):
        decode_data_version(b"7")


@pytest.mark.parametrize("seed", range(30))
def test_a_topic_is_looked_up_among_the_groups_that_have_it_whatever_came_before(seed):
    """What is kept by topic is what asking every group would find."""
    chance = random.Random(seed)
    place = Place()
    names = [f"t{number}" for number in range(6)]
    for step in range(60):
        group = chance.choice(("g1", "g2", "rocketmq"))
        address = f"{chance.choice('abc')}.{group}:1"
        what = chance.random()
        if what < 0.65:
            of = topics(*chance.sample(names, chance.randrange(6)), counter=step)
            number = chance.choice((0, 1, 2))
            fields = {}
            if group != "rocketmq":
                members = ",".join(f"n{n}={host}.{group}:1" for n, host in enumerate("abc"))
                fields = {"node_id": f"n{'abc'.index(address[0])}", "members": members}
                fields |= {"term": chance.randrange(5), "route": "per-node"}
            place.add(group, address, number, of, owner=address, **fields)
        elif what < 0.85:
            place.table.unregister(group, address)
        elif what < 0.92:
            place.table.drop(address)
        else:
            place.table.remove_topic(chance.choice(names), cluster=chance.choice(("", "c", "d")))

        assert place.table.count == sum(len(g.registrations) for g in place.table.groups)
        for topic in names:
            found = [g.name for g in place.table.with_topic(topic)]
            assert found == [g.name for g in place.table.groups if g.find(topic) is not None]
