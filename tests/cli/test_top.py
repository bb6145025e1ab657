"""What ``dledger top`` shows, from nodes that answer, from some of them, and from none."""

import dataclasses
import functools
import json

import pytest
import trio

from broker.cli import top_view
from broker.cli.output import Table
from broker.cli.top_view import moment_json, moment_parts, take_moment
from broker.protocol.bodies import TopicEntry, encode_topic_table
from broker.protocol.descriptions import (
    GroupDescription,
    GroupQueueDescription,
    GroupTopicDescription,
    QueueDescription,
    Rate,
    TopicDescription,
    encode_body,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.subscription_group import SubscriptionGroupConfig, encode_group_table
from dledger.remoting.command import response
from dledger.remoting.server import RemotingServer
from tests.cli.statuses import status_in
from tests.fakes.network import MemoryNetwork

PORTS = {"n1": 9876, "n2": 9877, "n3": 9878}
SERVERS = ["memory:9876"]
status_of = functools.partial(status_in, {name: f"memory:{port}" for name, port in PORTS.items()})


class FakeNode:
    """Answers what `top` asks; `ends` are the queue ends of each topic."""

    def __init__(self, node_id, ends, *, lags=None, leader="n2", out_rate=0.0):
        self.node_id = node_id
        self.ends = ends
        self.lags = lags or {}  # by group: topic, lag
        self.leader = leader
        self.out_rate = out_rate
        self.asked = []

    def on_opened(self, session):
        pass

    def on_closed(self, session):
        pass

    def on_commands(self, session, commands, *, ends_pass=True):
        for command in commands:
            self.asked.append(command.code)
            session.reply(response(command, 0, body=self.answer(command)))

    def answer(self, command):
        fields = command.ext_fields
        match RequestCode(command.code):
            case RequestCode.GET_GROUP_STATUS:
                return status_of(self.node_id, leader=self.leader).encode()
            case RequestCode.GET_ALL_TOPIC_CONFIG:
                entries = [TopicEntry(name, 2, 2, 6) for name in self.ends]
                return encode_topic_table(entries, version=1)
            case RequestCode.DESCRIBE_TOPIC:
                return encode_body(self.topic(str(fields["topic"])))
            case RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG:
                groups = [SubscriptionGroupConfig(group=name) for name in self.lags]
                return encode_group_table(groups, version=1)
            case RequestCode.DESCRIBE_CONSUMER_GROUP:
                return encode_body(self.group(str(fields["consumerGroup"])))

    def topic(self, name):
        queues = tuple(
            QueueDescription(
                queue_id=number, min_offset=0, max_offset=end, size=100 * end,
                is_size_estimated=False, oldest_ms=1_764_081_000_000, newest_ms=1_764_081_000_000,
            )
            for number, end in enumerate(self.ends[name])
        )  # fmt: skip
        return TopicDescription(
            topic=name, node_id=self.node_id, read_queue_count=2, write_queue_count=2, perm=6,
            order=False, attributes={}, queues=queues, in_rate=Rate(messages_per_second=5.0),
            out_rate=Rate(messages_per_second=self.out_rate),
        )  # fmt: skip

    def group(self, name):
        topic, lag = self.lags[name]
        queue = GroupQueueDescription(
            queue_id=0, committed=100 - lag, min_offset=0, max_offset=100, consumed_ms=-1
        )
        told = GroupTopicDescription(
            topic=topic, epoch=0, committed_ms=0, queues=(queue,), out_rate=Rate()
        )
        config = SubscriptionGroupConfig(group=name)
        return GroupDescription(group=name, node_id=self.node_id, config=config, topics=(told,))


@pytest.fixture
async def network(autojump_clock, nursery):
    """A memory network with a method that puts fake nodes on it."""
    found = MemoryNetwork()

    async def serve(*nodes):
        for node in nodes:
            port = PORTS[node.node_id]
            server = RemotingServer(found, host="memory", port=port, handler=node)
            await nursery.start(server.serve)

    found.serve = serve
    return found


def group_of_three(**options):
    return [
        FakeNode("n1", {"a": [10, 0], "b": [5, 5]}, out_rate=1.0),
        FakeNode("n2", {"a": [10, 0], "b": [5, 5]}, out_rate=2.0, **options),
        FakeNode("n3", {"a": [10, 0], "b": [5, 5]}, out_rate=4.0),
    ]


async def test_rates_count_since_the_last_frame_and_the_busiest_stands_first(
    autojump_clock, network
):
    nodes = group_of_three()
    await network.serve(*nodes)

    before = await take_moment(SERVERS, network=network)
    await trio.sleep(2)
    nodes[1].ends["b"][1] += 60
    after = await take_moment(SERVERS, before=before, network=network)

    assert [row.in_now for row in before.topics] == [None, None]
    assert [row.topic for row in after.topics] == ["b", "a"]
    assert after.topics[0].in_now == pytest.approx(30, rel=0.05)
    assert (after.topics[0].messages, after.topics[0].in_minute) == (70, 5.0)


async def test_what_goes_out_is_the_sum_over_all_nodes(autojump_clock, network):
    await network.serve(*group_of_three())

    moment = await take_moment(SERVERS, network=network)

    assert [row.out_minute for row in moment.topics] == [7.0, 7.0]


async def test_groups_stand_by_their_lag(autojump_clock, network):
    await network.serve(*group_of_three(lags={"near": ("a", 3), "far": ("a", 70)}))

    moment = await take_moment(SERVERS, network=network)

    assert [(row.group, row.lag) for row in moment.groups] == [("far", 70), ("near", 3)]


async def test_without_a_leader_topics_are_told_by_those_that_answer(autojump_clock, network):
    """And nothing is asked that only a leader answers."""
    node = FakeNode("n1", {"a": [10, 0]}, leader=None)
    await network.serve(node)

    moment = await take_moment(SERVERS, network=network)

    assert [row.topic for row in moment.topics] == ["a"]
    assert moment.groups == ()
    assert RequestCode.DESCRIBE_CONSUMER_GROUP not in node.asked
    assert "nobody leads" in moment_parts(moment)[0]


async def test_a_group_that_does_not_answer_is_a_frame_too(autojump_clock, network):
    moment = await take_moment(SERVERS, network=network)

    assert "no node answers" in moment_parts(moment)[0]
    assert moment_json(moment)["healthy"] is False


async def test_only_so_many_topics_are_asked_about_and_the_rest_is_told(
    autojump_clock, network, monkeypatch
):
    monkeypatch.setattr(top_view, "TOPICS_MAX", 1)
    nodes = group_of_three()
    await network.serve(*nodes)

    moment = await take_moment(SERVERS, network=network)

    assert [row.topic for row in moment.topics] == ["a"]
    assert moment.remarks == ("1 of 2 topics are asked about",)


async def test_a_small_screen_gets_the_first_rows_of_each(autojump_clock, network):
    lags = {f"g{number}": ("a", number) for number in range(10)}
    nodes = group_of_three(lags=lags)
    for node in nodes:
        node.ends = {f"t{number:02}": [number, 0] for number in range(20)}
    nodes[1].lags = {name: ("t00", lag) for name, (_, lag) in lags.items()}
    await network.serve(*nodes)
    moment = await take_moment(SERVERS, network=network)

    whole = [part for part in moment_parts(moment) if isinstance(part, Table)]
    parts = moment_parts(moment, row_count=9)
    small = [part for part in parts if isinstance(part, Table)]

    assert [len(table.rows) for table in whole] == [3, 20, 10]
    assert [len(table.rows) for table in small] == [3, 6, 3]
    assert parts[-1] == "21 more rows; --once shows all"


async def test_json_has_what_the_tables_show(autojump_clock, network):
    await network.serve(*group_of_three(lags={"g": ("a", 3)}))
    moment = await take_moment(SERVERS, network=network)

    found = json.loads(json.dumps(moment_json(moment)))

    assert found["leader"] == "n2"
    assert len(found["nodes"]) == 3
    assert found["topics"][0]["in_per_second"] is None
    assert found["groups"] == [
        {
            "group": "g",
            "topic": "a",
            "lag": 3,
            "out_per_second_minute": 0.0,
            "committed_ms": 0,
        }
    ]
    assert dataclasses.is_dataclass(moment)
