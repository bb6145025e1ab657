"""Retention as clients meet it: disks that are too full, nodes that keep less than others."""

from __future__ import annotations

import contextlib

import trio

from broker.protocol.bodies import GroupStatus
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import KIB
from dledger.store.disk_usage import DiskUsage
from tests.fakes.brokers import bodies_of
from tests.fakes.nodes import WALL_MS, until

SMALL = {"segment_size": 64 * KIB, "checkpoint_interval_ms": 100}
HOUR_MS = 3_600_000


def percent(used):
    return DiskUsage(used=used * KIB * KIB, available=(100 - used) * KIB * KIB)


async def status_of(caller):
    answer = await caller.ok(RequestCode.GET_GROUP_STATUS)
    return GroupStatus.decode(answer.body)


async def fill(caller, count, *, queue_id=0):
    for _ in range(count):
        assert (await caller.sent(bytes(8 * KIB), queue_id=queue_id)).code == 0


async def test_a_leader_whose_disk_is_too_full_takes_no_messages_until_there_is_room(
    autojump_clock, make_brokers
):
    group = make_brokers(store=SMALL)
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.create_topic("t")
        await caller.sent(b"before")
        member.disk.usage = percent(93)
        await until("it is noticed", lambda: member.running.ledger.write_refusal)

        answer = await caller.sent(b"refused")
        assert answer.code == ResponseCode.SERVICE_NOT_AVAILABLE
        assert "93.0 % of the disk are used, above disk_refuse_percent = 90" in answer.remark
        assert "3.0 MiB have to go" in answer.remark
        assert bodies_of(await caller.pull()) == [b"before"], "reading goes on"
        await caller.ok(
            RequestCode.UPDATE_CONSUMER_OFFSET,
            {"consumerGroup": "readers", "topic": "t", "queueId": 0, "commitOffset": 1},
        )
        status = await status_of(caller)
        assert status.disk_percent == 93.0
        assert "93.0 %" in status.write_refusal

        member.disk.usage = percent(85)
        await trio.sleep(1.2)
        assert (await caller.sent(b"again")).code == ResponseCode.SUCCESS
        assert (await status_of(caller)).write_refusal == ""


async def test_a_follower_above_the_watermark_is_refused_nothing(autojump_clock, make_brokers):
    group = make_brokers(3, store=SMALL)
    await group.start()
    leader = await group.leader()
    for member in group.others(leader):
        member.disk.usage = percent(95)
    await trio.sleep(1)
    async with group.caller(leader) as caller:
        await caller.create_topic("t")

        assert (await caller.sent(b"a")).code == ResponseCode.SUCCESS
    await group.equal()


async def test_a_lead_handed_to_a_node_with_room_takes_messages_again(autojump_clock, make_brokers):
    group = make_brokers(3, store=SMALL)
    await group.start()
    full = await group.leader()
    async with group.caller(full) as caller:
        await caller.create_topic("t")
    full.disk.usage = percent(95)
    await until("it is noticed", lambda: full.running.ledger.write_refusal)

    await full.running.ledger.transfer()
    async with group.caller(full) as caller:  # it hands sends on now
        assert (await caller.sent(b"a")).code == ResponseCode.SUCCESS


async def test_old_messages_go_at_their_hour_and_younger_ones_stay(autojump_clock, make_brokers):
    hour = (WALL_MS // HOUR_MS + 30) % 24
    group = make_brokers(store={**SMALL, "file_reserved_hours": 20, "delete_when": f"{hour:02d}"})
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.create_topic("t")
        await fill(caller, 30)
        first = await status_of(caller)
        group.clock.wall_offset_ms = 15 * HOUR_MS
        await fill(caller, 30)
        group.clock.wall_offset_ms = 29 * HOUR_MS
        await trio.sleep(1)
        assert member.running.ledger.store.base.index == 0, "it is not the hour"
        group.clock.wall_offset_ms = 30 * HOUR_MS
        await trio.sleep(1)

        store = member.running.ledger.store
        assert 0 < store.base.position <= 30 * 9 * KIB
        minimum = await caller.ok(RequestCode.GET_MIN_OFFSET, {"topic": "t", "queueId": 0})
        offset = minimum.ext_fields["offset"]
        assert 20 < offset <= 30
        kept = await caller.pull(offset)
        assert kept.code == ResponseCode.SUCCESS
        status = await status_of(caller)

    assert first.begin_time_ms <= WALL_MS + 60_000
    assert status.begin_index == store.begin_index
    assert status.begin_time_ms >= first.begin_time_ms


async def test_a_node_with_a_small_disk_begins_later_and_the_group_stays_one(
    autojump_clock, make_brokers
):
    group = make_brokers(3, store=SMALL)
    await group.start()
    leader = await group.leader()
    small, large = group.others(leader)
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await fill(caller, 40)
        small.disk.usage = DiskUsage(used=86 * KIB, available=14 * KIB)
        await until("it drops", lambda: small.running.ledger.store.base.index > 0)
        small.disk.usage = percent(50)
        await fill(caller, 5)
    await group.equal()
    assert leader.running.ledger.store.base.index == 0
    assert large.running.ledger.store.base.index == 0

    async with group.caller(small) as caller:
        answer = await caller.pull(0, count=1)  # it has dropped that: the leader has not
        assert answer.code == ResponseCode.SUCCESS
        assert bodies_of(answer) == [bytes(8 * KIB)]
        assert answer.ext_fields["nextBeginOffset"] == 1

    await leader.running.ledger.transfer(small.name)
    await group.leader()
    async with group.caller(large) as caller:
        answer = await caller.pull(0, count=1)  # a follower that keeps more goes on serving it
        assert answer.code == ResponseCode.SUCCESS
    async with group.caller(small) as caller:
        answer = await caller.pull(0)
        assert answer.code == ResponseCode.PULL_OFFSET_MOVED
        assert answer.ext_fields["nextBeginOffset"] > 0
        assert (await caller.sent(b"after")).code == ResponseCode.SUCCESS
    await group.equal()


async def test_a_follower_that_fell_behind_a_leader_with_a_small_disk_is_given_the_state(
    autojump_clock, make_brokers
):
    group = make_brokers(3, store=SMALL)
    await group.start()
    leader = await group.leader()
    late, _ = group.others(leader)
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await fill(caller, 10)
        await group.equal()
        await late.kill()
        await fill(caller, 60)
        leader.disk.usage = DiskUsage(used=880 * KIB, available=120 * KIB)
        await until("it drops", lambda: leader.running.ledger.store.base.index > 30)
        leader.disk.usage = percent(50)

        await late.start()
        await group.equal()

        assert late.running.ledger.store.base.index > 10
        begin = late.running._files.derived.queues.get("t", 0).min_offset
        assert begin == leader.running._files.derived.queues.get("t", 0).min_offset


async def test_a_pull_of_what_is_gone_waits_for_a_leader_and_is_not_sent_past_it(
    autojump_clock, make_brokers
):
    """While nobody leads, nobody knows whether another node still has the message."""
    group = make_brokers(3, store=SMALL)
    await group.start()
    leader = await group.leader()
    small, other = group.others(leader)
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await fill(caller, 40)
    small.disk.usage = DiskUsage(used=86 * KIB, available=14 * KIB)
    await until("it drops", lambda: small.running.ledger.store.base.index > 0)
    await group.equal()
    await leader.kill()
    await other.kill()
    async with group.caller(small) as caller:
        answer = await caller.pull(0)

    assert answer.code == ResponseCode.NOT_LEADER


async def test_views_handed_out_before_a_drop_stay_as_they_were(autojump_clock, make_brokers):
    group = make_brokers(store=SMALL)
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.create_topic("t")
        for number in range(60):
            await caller.sent(b"%d" % number * 2000)
        reader = member.running.pulls._reader
        found = reader.get_messages("t", 0, 0, count_max=5, size_max=1 << 20)
        before = [bytes(view) for view in found.views]
        member.disk.usage = DiskUsage(used=990 * KIB, available=10 * KIB)
        await until("it drops", lambda: member.running.ledger.store.base.index > 30)
        member.disk.usage = percent(50)
        await trio.sleep(0.5)
        for number in range(60):
            await caller.sent(b"%d" % number * 2000)

        assert [bytes(view) for view in found.views] == before
    with contextlib.suppress(BufferError):
        for view in found.views:
            view.release()


# -- topics that keep less ------------------------------------------------------------------------


async def trimmed_to(group, offset, *, queue_id=0):
    """Wait until the queue begins at *offset* on every node."""

    def begins():
        tables = [member.running._files.derived.queues for member in group.alive]
        queues = [found.get("t", queue_id) for found in tables]
        return {None if queue is None else queue.min_offset for queue in queues}

    await until(f"all begin at {offset}", lambda: begins() == {offset}, seconds=5)


async def test_a_topic_that_keeps_messages_less_long_is_trimmed_on_every_node(
    autojump_clock, make_brokers
):
    group = make_brokers(3, store=SMALL)
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t", attributes="+retention.ms=3600000")
        await caller.create_topic("all")
        await caller.sent(b"a", b"b", b"c")
        await caller.sent(b"x", topic="all")
        group.clock.wall_offset_ms = HOUR_MS // 2
        await caller.sent(b"d", b"e")
        await trio.sleep(1)
        assert len(bodies_of(await caller.pull())) == 5
        group.clock.wall_offset_ms = HOUR_MS + 60_000
        await trimmed_to(group, 3)

        answer = await caller.pull(1)
        assert answer.code == ResponseCode.PULL_OFFSET_MOVED
        assert answer.ext_fields["nextBeginOffset"] == 3
        assert "older messages are gone" in answer.remark
        assert bodies_of(await caller.pull(3)) == [b"d", b"e"]
        assert bodies_of(await caller.pull(topic="all")) == [b"x"], "only that topic"
    for member in group:
        async with group.caller(member) as caller:
            minimum = await caller.ok(RequestCode.GET_MIN_OFFSET, {"topic": "t", "queueId": 0})
            assert minimum.ext_fields["offset"] == 3
            assert bodies_of(await caller.pull(3)) == [b"d", b"e"]


async def test_a_topic_bounded_by_size_keeps_the_youngest(autojump_clock, make_brokers):
    group = make_brokers(store=SMALL)
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t", attributes="+retention.bytes=20000")
        for number in range(12):
            await caller.sent(b"%d" % number * 1500, queue_id=number % 2)
        await until("it is trimmed", lambda: trimmed_bytes(group["n1"]) <= 20_000)

        kept = [len(bodies_of(await caller.pull(1, queue_id=queue_id))) for queue_id in (0, 1)]
    assert kept[0] + kept[1] in range(8, 13)


def trimmed_bytes(member):
    derived = member.running._files.derived
    total = 0
    for queue_id in (0, 1):
        queue = derived.queues.get("t", queue_id)
        if queue is None:
            return float("inf")  # what was sent is still to be taken in
        units = queue.units_from(queue.min_offset, unit_count_max=1000)
        total += sum(
            int.from_bytes(units[at + 8 : at + 12], "big") for at in range(0, len(units), 20)
        )
    return total


async def test_a_trim_survives_restarts_and_a_change_of_the_lead(autojump_clock, make_brokers):
    group = make_brokers(3, store=SMALL)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t", attributes="+retention.ms=3600000")
        await caller.sent(*[b"old"] * 5)
        group.clock.wall_offset_ms = 2 * HOUR_MS
        await caller.sent(b"new")
        await trimmed_to(group, 5)
    await group.equal()
    for member in group:
        await member.kill()
    for path in leader.disk.files():
        if "/derived/" in path:
            leader.disk.unlink(path)

    for member in group:
        await member.start()
    await group.leader()
    await trimmed_to(group, 5)

    async with group.caller(await group.leader()) as caller:
        await caller.sent(b"newer")
        assert bodies_of(await caller.pull(5)) == [b"new", b"newer"]
        assert (await caller.pull(4)).code == ResponseCode.PULL_OFFSET_MOVED


async def test_a_member_that_gets_the_state_begins_where_the_queue_was_trimmed(
    autojump_clock, make_brokers
):
    group = make_brokers(3, store={**SMALL, "log_size_max": 128 * KIB})
    await group.start()
    leader = await group.leader()
    late, _ = group.others(leader)
    async with group.caller(leader) as caller:
        await caller.create_topic("t", attributes="+retention.ms=3600000")
        await late.kill()
        await fill(caller, 40)
        group.clock.wall_offset_ms = 2 * HOUR_MS
        await fill(caller, 3, queue_id=1)
        await trimmed_to(group, 40)
        await fill(caller, 40, queue_id=1)
        await until("retention", lambda: leader.running.ledger.store.base.index > 45)

    await late.start()
    await group.equal()

    await trimmed_to(group, 40)


async def test_nothing_is_trimmed_where_no_topic_asks_for_it(autojump_clock, make_brokers):
    group = make_brokers(store=SMALL)
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.create_topic("t")
        await caller.sent(b"a")
        end = member.running.ledger.store.end_index
        group.clock.wall_offset_ms = 1000 * HOUR_MS
        await trio.sleep(1)

        assert member.running.ledger.store.end_index == end


async def test_trims_go_on_when_the_disk_is_too_full_for_messages(autojump_clock, make_brokers):
    group = make_brokers(store=SMALL)
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.create_topic("t", attributes="+retention.ms=3600000")
        await caller.sent(b"a", b"b")
        member.disk.usage = percent(95)
        await until("it is noticed", lambda: member.running.ledger.write_refusal)
        group.clock.wall_offset_ms = 2 * HOUR_MS

        await trimmed_to(group, 2)
