"""The forms of a route, and that no queue can be read under two names."""

import json

import pytest

from broker.config import RouteMode
from broker.nameserver import routes

ADDRESSES = {"n1": "a:1", "n2": "b:2", "n3": "c:3"}
ALL = frozenset(ADDRESSES)
TOPIC = routes.Topic(4, 3, 6)


def group(*, leader="n2", reachable=ALL, node="n1"):
    return routes.Group("orders", ADDRESSES, leader, reachable, node)


def test_a_group_names_the_cluster_it_belongs_to():
    found = own(group()._replace(cluster="shop"))
    assert [(broker["brokerName"], broker["cluster"]) for broker in found["brokerDatas"]] == [
        ("orders", "shop")
    ]
    assert own(group())["brokerDatas"][0]["cluster"] == "orders"
    table = cluster(group()._replace(cluster="shop"), RouteMode.SINGLE)
    assert table["clusterAddrTable"] == {"shop": ["orders"]}


def own(found):
    return json.loads(routes.encode_route([routes.own_part(found, TOPIC)]))


def stock(found, mode=RouteMode.PER_NODE, topic=TOPIC, client="10.0.0.1"):
    part = routes.stock_part(found, topic, mode, client_host=client)
    return json.loads(routes.encode_route([part]))


def cluster(found, mode):
    return json.loads(routes.cluster_info([routes.cluster_brokers(found, mode)]))


def addresses(route):
    return {broker["brokerName"]: broker["brokerAddrs"] for broker in route["brokerDatas"]}


def names(route, perm):
    return [item["brokerName"] for item in route["queueDatas"] if item["perm"] & perm]


def test_queues_are_read_under_one_name_and_written_under_one_for_each_node():
    route = stock(group())

    assert names(route, 4) == ["orders"]
    assert names(route, 2) == ["orders-n1", "orders-n2", "orders-n3"]
    assert addresses(route)["orders-n1"] == {"0": "a:1"}
    assert addresses(route)["orders-n3"] == {"0": "c:3"}
    assert all(
        (item["readQueueNums"], item["writeQueueNums"]) == (4, 3) for item in route["queueDatas"]
    )


def test_nobody_sends_to_the_leader_while_a_follower_can_hand_it_on():
    """No connection of a sender breaks with it: they wait 3 s for an answer that never comes."""
    found = {
        addresses(stock(group(), client=f"10.0.0.{number}"))["orders-n2"]["0"]
        for number in range(50)
    }
    alone = stock(group(reachable=frozenset({"n2"}), node="n2"))

    assert found == {"a:1", "c:3"}
    assert {where["0"] for where in addresses(alone).values()} == {"b:2"}


def test_a_client_reads_from_a_follower_and_the_same_one_whoever_is_asked():
    found = {addresses(stock(group(node=node)))["orders"]["0"] for node in ADDRESSES}

    assert len(found) == 1
    assert found <= {"a:1", "c:3"}


def test_clients_spread_over_the_followers():
    found = {
        addresses(stock(group(), client=f"10.0.0.{number}"))["orders"]["0"] for number in range(50)
    }

    assert found == {"a:1", "c:3"}


def test_a_follower_that_goes_moves_only_those_who_read_from_it():
    clients = [f"10.0.0.{number}" for number in range(50)]
    before = {c: addresses(stock(group(), client=c))["orders"]["0"] for c in clients}
    left = group(reachable=ALL - {"n3"})
    after = {c: addresses(stock(left, client=c))["orders"]["0"] for c in clients}

    assert set(after.values()) == {"a:1"}
    assert all(after[c] == before[c] for c in clients if before[c] == "a:1")


def test_a_member_out_of_reach_keeps_its_name_at_a_follower():
    """Who orders by key counts the queues of all names: their number must stay."""
    route = stock(group(reachable=ALL - {"n3"}))

    assert names(route, 2) == ["orders-n1", "orders-n2", "orders-n3"]
    assert addresses(route)["orders-n3"] == {"0": "a:1"}


def test_a_node_that_knows_of_nobody_names_itself():
    route = stock(group(leader=None, reachable=frozenset({"n1"})))

    assert {found["0"] for found in addresses(route).values()} == {"a:1"}


@pytest.mark.parametrize(("perm", "read", "write"), [(4, 1, 0), (2, 0, 3), (0, 0, 0), (7, 1, 3)])
def test_a_topic_s_permissions_hold(perm, read, write):
    route = stock(group(), topic=TOPIC._replace(perm=perm))

    assert (len(names(route, 4)), len(names(route, 2))) == (read, write)


def test_the_single_name_has_the_leader_first():
    route = stock(group(), RouteMode.SINGLE)

    assert addresses(route) == {"orders": {"0": "b:2", "1": "a:1", "2": "c:3"}}
    assert names(route, 4) == names(route, 2) == ["orders"]


def test_a_route_has_no_blanks():
    """RocketMQ's Go client cuts the addresses out of the raw text."""
    for mode in RouteMode:
        part = routes.stock_part(group(), TOPIC, mode, client_host="h")
        assert b" " not in routes.encode_route([part])


@pytest.mark.parametrize("mode", RouteMode)
def test_a_cluster_has_one_broker(mode):
    """Whoever administers by the list would otherwise do everything once for each name."""
    info = cluster(group(), mode)

    assert info["clusterAddrTable"] == {"orders": ["orders"]}
    assert info["brokerAddrTable"]["orders"]["brokerAddrs"]["0"] == "b:2"
