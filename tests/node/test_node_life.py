"""A node as a whole: restarted, stopped well, given another's state, ended by a broken disk."""

import resource

import pytest
import trio

from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.running import keep_descriptors_for_files
from dledger.config import KIB
from dledger.errors import StorageFailedError
from tests.fakes.brokers import bodies_of, ext
from tests.fakes.nodes import until


async def test_a_node_that_steps_back_hands_over_and_answers_what_it_has(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        answers = [caller.send(b"%d" % n) for n in range(5)]
        caller.flush()
        await trio.sleep(0.0003)  # the requests are there

        await leader.running.step_back()
        await until("all are answered", lambda: all(answers))

    assert [ext(answer)["queueOffset"] for answer in answers] == list(range(5))
    assert leader.running.ledger.leader_id not in (leader.name, None)


async def test_a_node_stopped_well_restarts_without_a_scan(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(leader) as caller:
        for number in range(50):
            await caller.sent(b"%d" % number)
    await brokers.equal()
    member = brokers.others(leader)[0]
    node = member.running
    node.ledger.stop()
    node.dispatch.write_down()
    await member.kill()

    await member.start()

    assert member.running.ledger.store.scanned_count <= 1
    assert member.running.dispatch._derived.dispatched_index >= 50
    async with brokers.caller(member) as caller:
        assert len(bodies_of(await caller.pull())) == 50


async def test_derived_files_that_are_gone_are_made_again(autojump_clock, brokers):
    leader = await brokers.leader()
    member = brokers.others(leader)[0]
    async with brokers.caller(leader) as caller:
        for number in range(50):
            await caller.sent(b"%d" % number, queue_id=number % 2)
    await brokers.equal()
    member.running.dispatch.write_down()
    before = {p: data for p, data in member.disk.files().items() if "/consumequeue/" in p}
    assert before
    await member.kill()
    for path in member.disk.files():
        if "/derived/" in path:
            member.disk.unlink(path)

    await member.start()
    await brokers.equal()
    member.running.dispatch.write_down()

    assert {p: data for p, data in member.disk.files().items() if "/consumequeue/" in p} == before


async def test_a_node_behind_retention_takes_over_topics_offsets_and_sequences(
    autojump_clock, make_brokers
):
    group = make_brokers(
        store={"segment_size": 64 * KIB, "log_size_max": 128 * KIB, "checkpoint_interval_ms": 100}
    )
    await group.start()
    leader = await group.leader()
    late = group.others(leader)[0]
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await caller.create_topic("early", queues=3)
        await caller.ok(
            RequestCode.UPDATE_CONSUMER_OFFSET,
            {"consumerGroup": "readers", "topic": "t", "queueId": 0, "commitOffset": 1},
        )
        await group.equal()
        await late.kill()
        for number in range(60):
            await caller.sent(bytes(8 * KIB), producer_id=1, sequence=number)
        await until("retention", lambda: leader.running.ledger.store.base.index > 10)

    await late.start()
    await group.equal()
    assert late.running.ledger.store.base.index > 10
    await group.leader_now.running.ledger.transfer(late.name)
    async with group.caller(await group.leader()) as caller:
        again = await caller.sent(bytes(8 * KIB), producer_id=1, sequence=58)
        following = await caller.sent(b"60", producer_id=1, sequence=60)
        offset = await caller.ok(
            RequestCode.QUERY_CONSUMER_OFFSET,
            {"consumerGroup": "readers", "topic": "t", "queueId": 0},
        )
        early = await caller.sent(b"x", topic="early", queue_id=2)

    assert (await group.leader()) is late
    assert again.ext_fields["queueOffset"] == 58
    assert following.ext_fields["queueOffset"] == 60
    assert offset.ext_fields["offset"] == 1
    assert early.ext_fields["queueOffset"] == 0


@pytest.mark.parametrize("part", ["commitlog", "consumequeue", "checkpoint", "derived"])
async def test_a_broken_disk_ends_the_node_with_the_file_s_name(autojump_clock, make_brokers, part):
    group = make_brokers(store={"checkpoint_interval_ms": 200})
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        leader.disk.failing[part] = "sync"
        for number in range(3):
            caller.send(b"%d" % number)
        caller.flush()
        word = await leader.ended()

    assert isinstance(word, StorageFailedError)
    assert part in str(word)
    assert (await group.leader()) is not leader


async def test_a_consumer_of_a_queue_sees_every_message_over_ten_changes_of_leader(
    autojump_clock, brokers
):
    sent = []
    for number in range(10):
        leader = await brokers.leader()
        async with brokers.caller(leader) as caller:
            body = b"%d" % number
            answer = await caller.sent(body, producer_id=1, sequence=number)
            assert answer.code == ResponseCode.SUCCESS
            sent.append(body)
        await leader.kill()
        await brokers.leader()
        await leader.start()
    await brokers.equal()
    for member in brokers:
        async with brokers.caller(member) as caller:
            assert bodies_of(await caller.pull()) == sent


# -- descriptors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to", "connections"),
    [
        (1024, 1_000_000, 14_096, 10_000),
        (20_000, 20_000, None, 10_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 10_000),
        (1024, resource.RLIM_INFINITY, 14_096, 10_000),
        (1024, 8192, 8192, 4096),
        (256, 256, 256, 128),
    ],
)
async def test_clients_never_take_the_descriptors_of_files(
    autojump_clock, make_brokers, monkeypatch, caplog, soft, hard, raised_to, connections
):
    """A node without one for its next segment stops: whoever connects often must not do that."""
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    config = make_brokers(1).config("n1")

    found = keep_descriptors_for_files(config)

    assert asked == ([] if raised_to is None else [(raised_to, hard)])
    assert found.broker.connections_max == connections
    assert ("ulimit -n" in caplog.text) == (connections < config.broker.connections_max)


@pytest.mark.parametrize("last", [False, True], ids=["leader-first", "leader-last"])
@pytest.mark.parametrize("apart_seconds", [0.0, 0.001, 0.02])
async def test_a_whole_group_that_stops_warns_of_nothing(
    autojump_clock, brokers, caplog, last, apart_seconds
):
    """`dledger down`: nobody is left to take the lead, and nothing is wrong with that."""
    leader = await brokers.leader()
    members = sorted(brokers, key=lambda member: (member is leader) is last)
    caplog.clear()
    begun = trio.current_time()

    async def stop(member):
        await member.running.step_back()
        await member.kill()

    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(stop, member)
            await trio.sleep(apart_seconds)

    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    assert trio.current_time() - begun < 1.5


async def test_a_request_that_finds_the_ledger_broken_is_not_the_one_to_tell(
    autojump_clock, brokers, monkeypatch
):
    """What is committed is published for it, which may fail; `run` raises what stops a node."""
    leader = await brokers.leader()
    member = brokers.others(leader)[0]
    node = member.running
    node.ledger.let_commits_wait(lambda _: True)
    async with brokers.caller(leader) as caller:
        await caller.sent(b"x")
    await until("something is put off", lambda: node.ledger.notices.is_behind)

    def fail():
        raise StorageFailedError("/data/commitlog: sync: Input/output error")

    monkeypatch.setattr(node.ledger.core, "step", fail)
    node._catch_up()

    assert node.ledger.has_failed
    assert isinstance(await member.ended(), StorageFailedError)
