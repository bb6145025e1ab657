"""Routes of one broker group, of several, and what is none."""

from __future__ import annotations

import json

import pytest

from broker.client.routes import decode_route


def route(*names: str) -> bytes:
    return json.dumps(
        {
            "brokerDatas": [
                {
                    "brokerName": name,
                    "cluster": "shop",
                    "brokerAddrs": {"0": f"{name}-1:9876", "2": f"{name}-2:9876"},
                }
                for name in names
            ],
            "queueDatas": [
                {"brokerName": name, "readQueueNums": n, "writeQueueNums": n, "perm": 6}
                for n, name in reversed(list(enumerate(names, start=4)))
            ],
        }
    ).encode()


def test_a_route_of_several_groups_gives_the_queues_of_the_first() -> None:
    found = decode_route("t", route("orders-a", "orders-b"))

    assert [broker.name for broker in found.brokers] == ["orders-a", "orders-b"]
    assert {broker.cluster for broker in found.brokers} == {"shop"}
    assert found.brokers[1].addresses == {0: "orders-b-1:9876", 2: "orders-b-2:9876"}
    assert (found.read_queue_count, found.write_queue_count) == (4, 4)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"brokerDatas": [1], "queueDatas": []}', b"[" * 100_000]
)
def test_what_is_no_route_is_an_error_that_is_named(body) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError, RecursionError)):
        decode_route("t", body)
