"""What a node tells Prometheus and load balancers, read as they read it."""

import json
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from broker.metrics import gather
from broker.metrics.health import BEHIND_MAX
from broker.metrics.monitor import Monitor
from broker.metrics.page import CONTENT_TYPE
from broker.protocol.request_code import RequestCode
from tests.fakes.nodes import until


def monitor_of(brokers, member):
    node = member.running
    return Monitor(
        brokers.wires.of(member.name),
        host="",
        port=0,
        gatherer=node.gatherer,
        health=node.health,
        clock=brokers.clock,
    )


async def samples(brokers, member):
    """Return every sample of the member's page by name and labels of its own."""
    answer = await monitor_of(brokers, member).metrics()
    assert answer.content_type == CONTENT_TYPE
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            if not sample.name.startswith("process_"):
                assert labels.pop("cluster") == "g"
                assert labels.pop("node_type") == "broker"
                assert labels.pop("node_id") == member.name
            found[sample.name, *sorted(labels.items())] = sample.value
    return found


async def test_a_node_tells_how_long_it_waited_busily_where_it_does(
    autojump_clock, brokers, monkeypatch
):
    leader = await brokers.leader()

    assert ("dledger_busy_wait_seconds_total",) not in await samples(brokers, leader)
    monkeypatch.setattr(gather, "busy_wait_seconds", lambda: 1.5)

    assert (await samples(brokers, leader))["dledger_busy_wait_seconds_total",] == 1.5


async def test_the_leader_tells_what_came_in_and_each_node_what_it_handed_out(
    autojump_clock, brokers
):
    leader = await brokers.leader()
    follower = brokers.others(leader)[0]
    async with brokers.caller(leader) as caller, brokers.caller(follower) as other:
        for number in range(7):
            await caller.sent(b"%d" % number, queue_id=number % 2)
        await brokers.equal()
        await caller.pull(queue_id=0)
        await other.pull(queue_id=1)

    labels = (("is_system", "false"), ("message_type", "normal"), ("topic", "t"))
    group = (
        ("consumer_group", "readers"), ("is_retry", "false"), ("is_system", "false"),
        ("topic", "t"),
    )  # fmt: skip
    first, second = await samples(brokers, leader), await samples(brokers, follower)
    assert first["rocketmq_messages_in_total", *labels] == 7
    assert first["rocketmq_throughput_in_total", *labels] > 7 * 91
    assert first["rocketmq_message_size_count",] == 7
    assert first["rocketmq_messages_out_total", *group] == 4
    assert ("rocketmq_messages_in_total", *labels) not in second
    assert second["rocketmq_messages_out_total", *group] == 3
    assert second["rocketmq_throughput_out_total", *group] > 3 * 91


async def test_raft_and_the_log_are_told(autojump_clock, brokers):
    leader = await brokers.leader()
    follower = brokers.others(leader)[0]
    async with brokers.caller(leader) as caller:
        for number in range(5):
            await caller.sent(b"%d" % number)
    await brokers.equal()

    first, second = await samples(brokers, leader), await samples(brokers, follower)
    end = leader.running.ledger.store.end_index
    for found in (first, second):
        assert found["raft_commit_index",] == found["raft_last_index",] == end
        assert found["raft_applied_index",] == end
        assert found["raft_term",] == leader.running.ledger.term
        assert found["raft_has_leader",] == 1
        assert found["wal_fsync_seconds_count",] > 0
        assert found["wal_fsync_batch_entries_sum",] == end
        assert found["rocketmq_storage_flush_behind_bytes",
                     ("storage_medium", "disk"), ("storage_type", "local")] == 0  # fmt: skip
    assert first["raft_role", ("role", "leader")] == 1
    assert second["raft_role", ("role", "leader")] == 0
    assert first["raft_follower_lag_entries", ("peer", follower.name)] == 0
    assert first["raft_append_latency_seconds_count",] >= 5
    assert first["dledger_serving",] == 1
    assert second["dledger_serving",] == 0


def of_group(group):
    return (
        ("consumer_group", group), ("is_retry", "false"), ("is_system", "false"), ("topic", "t"),
    )  # fmt: skip


async def test_what_is_pulled_and_not_committed_is_in_flight_and_the_rest_is_ready(
    autojump_clock, brokers
):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        for number in range(10):
            await caller.sent(b"%d" % number, queue_id=0)
        await caller.ok(
            RequestCode.UPDATE_CONSUMER_OFFSET,
            {"consumerGroup": "readers", "topic": "t", "queueId": 0, "commitOffset": 2},
        )
        await caller.pull(2, maxMsgNums=5)
        await trio.sleep(20)
        found = await samples(brokers, leader)
        assert found["rocketmq_consumer_inflight_messages", *of_group("readers")] == 5
        assert found["rocketmq_consumer_ready_messages", *of_group("readers")] == 3
        assert 20_000 <= found["rocketmq_consumer_queueing_latency", *of_group("readers")] < 40_000

        await caller.pull(7)
        await caller.ok(
            RequestCode.UPDATE_CONSUMER_OFFSET,
            {"consumerGroup": "readers", "topic": "t", "queueId": 0, "commitOffset": 10},
        )
        await trio.sleep(1)
        found = await samples(brokers, leader)
        assert found["rocketmq_consumer_inflight_messages", *of_group("readers")] == 0
        assert found["rocketmq_consumer_ready_messages", *of_group("readers")] == 0
        assert found["rocketmq_consumer_queueing_latency", *of_group("readers")] == 0
    await trio.sleep(61)

    found = await samples(brokers, leader)
    assert ("rocketmq_consumer_ready_messages", *of_group("readers")) not in found, "it is gone"


async def test_a_group_nobody_knows_leaves_no_row(autojump_clock, make_brokers):
    brokers = make_brokers(1, broker={"auto_create_group": False})
    await brokers.start()
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        await caller.create_topic("t")
        await caller.sent(b"x")
        await caller.pull(0)
    found = await samples(brokers, leader)
    assert not [key for key in found if key[0] == "rocketmq_consumer_inflight_messages"]


def latency(request, answer, *, held=False):
    return (
        ("is_long_polling", "true" if held else "false"), ("protocol_type", "remoting"),
        ("request_code", request), ("response_code", answer), ("result", "success"),
    )  # fmt: skip


async def test_requests_are_timed_from_arrival_to_answer(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        for number in range(3):
            await caller.sent(b"%d" % number)
        await caller.pull(0)
        await caller.pull(3, wait_ms=2500)
        await caller.pull(0, topic="nowhere")

    found = await samples(brokers, leader)
    name = "rocketmq_rpc_latency"
    assert found[f"{name}_count", *latency("send_batch_message", "success")] == 3
    assert found[f"{name}_count", *latency("pull_message", "success")] == 1
    assert found[f"{name}_count", *latency("pull_message", "topic_not_exist")] == 1
    held = latency("pull_message", "pull_not_found", held=True)
    assert found[f"{name}_count", *held] == 1
    assert 2500 <= found[f"{name}_sum", *held] < 2600
    with_bound = sorted([*held, ("le", "3000.0")])
    assert found[f"{name}_bucket", *with_bound] == 1


@pytest.mark.parametrize("count", [10, 200])
async def test_sends_that_arrive_together_are_timed_too(autojump_clock, brokers, count):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        for number in range(count):
            caller.send(b"%03d" % number, is_grouped=True)
        caller.flush()
        await until("all are answered", lambda: len(caller.acks) == count)
    found = await samples(brokers, leader)
    labels = latency("send_batch_message", "success")
    assert found["rocketmq_rpc_latency_count", *labels] == count
    assert found["rocketmq_rpc_latency_sum", *labels] > 0


async def test_clients_with_heartbeats_are_counted_by_language(autojump_clock, brokers):
    leader = await brokers.leader()
    body = json.dumps(
        {
            "clientID": "c",
            "producerDataSet": [{"groupName": "writers"}, {"groupName": "others"}],
            "consumerDataSet": [
                {"groupName": "readers", "consumeType": "CONSUME_PASSIVELY", "messageModel": 1,
                 "subscriptionDataSet": [{"topic": "t", "subString": "*"}]},
            ],
        }
    ).encode()  # fmt: skip
    async with brokers.caller(leader) as caller:
        await caller.ask(RequestCode.HEART_BEAT, {}, body)
        found = await samples(brokers, leader)
    spoken = (("language", "python"), ("protocol_type", "remoting"), ("version", "401"))
    assert found["rocketmq_producer_connections", *spoken] == 2
    labels = sorted([*spoken, ("consumer_group", "readers"), ("consume_mode", "push"),
                     ("is_system", "false")])  # fmt: skip
    assert found["rocketmq_consumer_connections", *labels] == 1
    await trio.sleep(2)
    found = await samples(brokers, leader)
    assert not [key for key in found if key[0] == "rocketmq_consumer_connections"]


async def test_dead_letters_are_counted_by_their_group(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        await caller.create_topic("%DLQ%readers", queues=1)
        await caller.sent(b"x", topic="%DLQ%readers")
    found = await samples(brokers, leader)
    labels = (("consumer_group", "readers"), ("is_system", "false"), ("topic", "%DLQ%readers"))
    assert found["rocketmq_send_to_dlq_messages_total", *labels] == 1


async def test_what_waits_and_what_is_kept_is_told(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        await caller.sent(b"x")
        await trio.sleep(30)
        found = await samples(brokers, leader)
    for processor in ("send", "pull", "query_message", "forward"):
        assert found["rocketmq_processor_watermark", ("processor", processor)] == 0
    disk = (("storage_medium", "disk"), ("storage_type", "local"))
    assert 30_000 <= found["rocketmq_storage_message_reserve_time", *disk] < 40_000
    assert found["raft_snapshot_seconds_count",] >= 1


async def test_every_metric_is_in_the_operations_guide(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        await caller.sent(b"x")
        await caller.pull(0)
    page = (await monitor_of(brokers, leader).metrics()).body.decode()
    names = {family.name for family in text_string_to_metric_families(page)}
    told = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    missing = {name for name in names if not name.startswith("process_") and f"`{name}" not in told}
    assert not missing


async def test_the_leader_tells_how_far_groups_are_behind(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        for number in range(10):
            await caller.sent(b"%d" % number, queue_id=number % 2)
        await caller.ok(
            RequestCode.UPDATE_CONSUMER_OFFSET,
            {"consumerGroup": "billing", "topic": "t", "queueId": 0, "commitOffset": 3},
        )
    await trio.sleep(30)

    found = await samples(brokers, leader)
    labels = (
        ("consumer_group", "billing"), ("is_retry", "false"), ("is_system", "false"),
        ("topic", "t"),
    )  # fmt: skip
    # Two of queue 0, and all five of queue 1, of which the group has committed nothing.
    assert found["rocketmq_consumer_lag_messages", *labels] == 7
    assert 30_000 <= found["rocketmq_consumer_lag_latency", *labels] < 60_000
    assert found["rocketmq_topic_number",] == 1
    assert found["rocketmq_consumer_group_number",] == 1
    follower = await samples(brokers, brokers.others(leader)[0])
    assert ("rocketmq_consumer_lag_messages", *labels) not in follower


async def test_what_waits_to_come_again_is_lag_before_anything_of_it_is_committed(
    autojump_clock, brokers
):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        await caller.sent(b"x")
        billing = {"consumerGroup": "billing", "topic": "t", "queueId": 0, "commitOffset": 1}
        await caller.ok(RequestCode.UPDATE_CONSUMER_OFFSET, billing)
        await caller.create_topic("%RETRY%billing", queues=1)
        await caller.sent(b"again", topic="%RETRY%billing")
    await trio.sleep(1)

    found = await samples(brokers, leader)
    labels = (
        ("consumer_group", "billing"), ("is_retry", "true"), ("is_system", "false"),
        ("topic", "%RETRY%billing"),
    )  # fmt: skip
    assert found["rocketmq_consumer_lag_messages", *labels] == 1


async def test_a_page_is_made_once_a_second_whoever_asks(autojump_clock, brokers):
    monitor = monitor_of(brokers, await brokers.leader())

    first = await monitor.metrics()
    assert await monitor.metrics() is first
    await trio.sleep(1.1)

    assert await monitor.metrics() is not first


async def test_a_taken_port_stops_nobody_and_is_tried_again(autojump_clock, brokers, caplog):
    leader = await brokers.leader()
    network = brokers.wires.of(leader.name)
    taken = await network.listen("", 5557)
    monitor = Monitor(
        network,
        host="",
        port=5557,
        gatherer=leader.running.gatherer,
        health=leader.running.health,
        clock=brokers.clock,
    )
    async with trio.open_nursery() as nursery:
        assert await nursery.start(monitor.run) == 0
        assert "no metrics and no health" in caplog.text

        taken.close()
        await trio.sleep(6)

        with pytest.raises(Exception, match="in use"):
            await network.listen("", 5557)
        nursery.cancel_scope.cancel()


async def test_members_of_a_led_group_are_ready(autojump_clock, brokers):
    leader = await brokers.leader()
    await brokers.equal()

    for member in brokers.alive:
        answer = await monitor_of(brokers, member).readyz()
        told = json.loads(answer.body)
        assert answer.status == 200
        assert told["ready"] is True
        assert told["leader_id"] == leader.name
        assert (await monitor_of(brokers, member).healthz()).status == 200


async def test_a_node_without_a_leader_is_alive_and_not_ready(autojump_clock, brokers):
    leader = await brokers.leader()
    left, *others = brokers.others(leader)
    for member in (leader, *others):
        await member.kill()
    await until("it notices", lambda: left.running.ledger.leader_id is None)

    answer = await monitor_of(brokers, left).readyz()

    assert answer.status == 503
    assert json.loads(answer.body)["reason"] == "nobody leads"
    assert (await monitor_of(brokers, left).healthz()).status == 200


async def test_a_node_that_stops_or_lags_is_not_ready(autojump_clock, brokers):
    leader = await brokers.leader()
    node = brokers.others(leader)[0].running
    engine = node.ledger.core.engine
    assert node.health.readiness().is_ready

    node.health._derived = type("Behind", (), {"dispatched_index": -BEHIND_MAX - 1})
    assert engine.commit_index - node.health._derived.dispatched_index > BEHIND_MAX
    assert "not dispatched here" in node.health.readiness().reason

    node.health.is_stopping = True
    assert "stopping" in node.health.readiness().reason
