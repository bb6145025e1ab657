"""Messages that come later, and those that come again."""

import pytest
import trio

from broker.handlers.repeats import GIVEN_KEY, SENT_AFTER
from broker.message.codec import decode_records
from broker.message.delay import DELAY_LEVELS_MS, SCHEDULE_TOPIC
from broker.metadata.consumer_offsets import commit_offsets
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, SerializeType
from tests.fakes.nodes import until
from tests.handlers.test_stock_sends import HEADER, send

WAIT_MS = 9000


async def until_there(caller, count=1, *, topic="t", queue_id=0):
    """Wait until a queue has *count* messages; return them."""

    async def pull(offset):
        return await caller.pull(offset, topic=topic, queue_id=queue_id, wait_ms=WAIT_MS)

    with trio.fail_after(20_000):
        while True:
            await pull(count - 1)  # the node lets it wait for the last of them
            answer = await pull(0)
            messages = decode_records(answer.body) if answer.code == ResponseCode.SUCCESS else []
            if len(messages) >= count:
                return messages
            await trio.sleep(0.01)


async def back(caller, message, *, version=63, **fields):
    """Send a message back, as a client of that version."""
    fields = {"offset": message.position, "group": "readers", "delayLevel": 0, **fields}
    return await caller.client.request(
        Command(
            int(RequestCode.CONSUMER_SEND_MSG_BACK),
            version=version,
            ext_fields=fields,
            serialization=SerializeType.JSON,
        ),
        timeout_seconds=20,
    )


# -- later --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 3, 5])
async def test_a_delayed_message_comes_when_its_level_says(autojump_clock, caller, level):
    begun = trio.current_time()
    answer = await send(caller, b"x", queueId=1, properties=f"TAGS\x01a\x02DELAY\x01{level}\x02")
    (message,) = await until_there(caller, queue_id=1)

    assert answer.code == ResponseCode.SUCCESS
    assert 0 <= trio.current_time() - begun - DELAY_LEVELS_MS[level - 1] / 1000 < 0.2
    assert (message.body, message.tag) == (b"x", "a")
    assert message.unique_key == answer.ext_fields["transactionId"]
    assert "REAL_TOPIC" not in message.properties


async def test_a_message_comes_at_a_time_of_its_own(autojump_clock, caller, brokers):
    wanted = brokers.clock.wall_ms() + 67_300
    await send(caller, b"x", properties=f"__STARTDELIVERTIME\x01{wanted}\x02")
    (message,) = await until_there(caller)

    assert 0 <= brokers.clock.wall_ms() - wanted < 1200
    assert message.properties["__STARTDELIVERTIME"] == str(wanted)


async def test_messages_of_one_level_keep_their_order(autojump_clock, caller):
    for number in range(300):
        await send(caller, b"%d" % number, properties="DELAY\x011\x02")
    messages = await until_there(caller, 300)

    assert [message.body for message in messages] == [b"%d" % number for number in range(300)]


async def test_a_restart_and_a_failover_lose_nothing_that_waits(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        for number in range(20):
            await send(caller, b"%d" % number, properties="DELAY\x014\x02")
        await leader.kill()
    async with group.caller(await group.leader()) as caller:
        messages = await until_there(caller, 20)
        await trio.sleep(40)
        assert await until_there(caller, 20) == messages, "once"

    assert [message.body for message in messages] == [b"%d" % number for number in range(20)]


async def test_what_was_delivered_does_not_come_again_when_an_append_fails(
    autojump_clock, caller, brokers, monkeypatch
):
    """Seed 730057: the leader began anew from what was dispatched, and the log was ahead of it."""
    node = brokers["n1"].running
    await send(caller, b"x", properties="DELAY\x011\x02")
    await trio.sleep(0.5)
    with monkeypatch.context() as held:
        held.setattr(node.dispatch._derived, "dispatch_up_to", lambda index: None)
        await trio.sleep(2)
        assert node.schedule.delivered_count == 1
        node.queue.group_failed()
        node.queue.refresh()
        await trio.sleep(2)
    await send(caller, b"y")

    messages = await until_there(caller, 2)
    assert [message.body for message in messages] == [b"x", b"y"]


async def test_what_was_delivered_does_not_come_again_after_a_failover(
    autojump_clock, make_brokers
):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await send(caller, b"x", properties="DELAY\x011\x02")
        await until_there(caller)
        await trio.sleep(1)
        await leader.kill()
    async with group.caller(await group.leader()) as caller:
        await trio.sleep(10)

        assert len(await until_there(caller)) == 1


async def test_a_leader_lost_between_a_delivery_and_its_progress_delivers_nothing_twice(
    autojump_clock, make_brokers, monkeypatch
):
    """The progress was an entry of its own behind the message; with it the next leader began."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await caller.create_topic("other")
        for number in range(6):
            topic = "other" if number % 3 == 0 else "t"
            await send(caller, b"%d" % number, topic=topic, properties="DELAY\x011\x02")
        for number in (6, 7):
            await send(caller, b"%d" % number, properties="DELAY\x012\x02")
        monkeypatch.setattr(
            "broker.delivery.schedule.commit_offsets",
            lambda group, topic, offsets: commit_offsets(group, topic, {}),
        )
        await until_there(caller, 4)
        await until_there(caller, 2, topic="other")
        await leader.kill()
    async with group.caller(await group.leader()) as caller:
        await trio.sleep(10)
        messages = await until_there(caller, 6)
        others = await until_there(caller, 2, topic="other")

    assert [message.body for message in messages] == [b"1", b"2", b"4", b"5", b"6", b"7"]
    assert [message.body for message in others] == [b"0", b"3"]


async def test_a_message_whose_topic_is_gone_holds_up_nobody(autojump_clock, caller):
    await caller.create_topic("gone")
    await send(caller, b"x", topic="gone", properties="DELAY\x011\x02")
    await send(caller, b"y", properties="DELAY\x011\x02")
    await caller.ok(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "gone"})

    assert [message.body for message in await until_there(caller)] == [b"y"]


async def test_a_message_due_waits_while_its_topic_is_being_deleted(
    autojump_clock, brokers, caller, monkeypatch
):
    """Nothing may be appended behind a deletion, and the deletion may come to nothing."""
    going = {"t"}
    monkeypatch.setattr(brokers["n1"].running.schedule, "_is_being_deleted", going.__contains__)
    await caller.create_topic("other")
    await send(caller, b"x", properties="DELAY\x011\x02")
    await send(caller, b"y", topic="other", properties="DELAY\x012\x02")

    await until_there(caller, topic="other")
    assert (await caller.pull(wait_ms=0)).code == ResponseCode.PULL_NOT_FOUND
    going.clear()
    assert [message.body for message in await until_there(caller)] == [b"x"]


async def test_nobody_reads_or_writes_where_messages_wait(autojump_clock, caller):
    await send(caller, b"x", properties="DELAY\x0118\x02")

    read = await caller.pull(topic=SCHEDULE_TOPIC, queue_id=17)
    written = await send(caller, b"x", topic=SCHEDULE_TOPIC)

    assert read.code == written.code == ResponseCode.NO_PERMISSION


async def test_a_delay_that_is_none_is_refused(autojump_clock, caller):
    answer = await send(caller, b"x", properties="DELAY\x01soon\x02")

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert "DELAY" in answer.remark


# -- again --------------------------------------------------------------------------------------


async def test_a_message_sent_back_comes_again_after_ten_seconds(autojump_clock, caller):
    await send(caller, b"x", properties="TAGS\x01a\x02KEYS\x01k\x02")
    (first,) = await until_there(caller)
    begun = trio.current_time()

    assert (await back(caller, first)).code == ResponseCode.SUCCESS
    (again,) = await until_there(caller, topic="%RETRY%readers")

    assert 0 <= trio.current_time() - begun - 10 < 0.2
    assert (again.body, again.tag, again.keys) == (b"x", "a", ("k",))
    assert again.reconsume_times == 1
    assert again.properties["RETRY_TOPIC"] == "t"
    assert again.properties["ORIGIN_MESSAGE_ID"].endswith(f"{first.position:016X}")
    assert again.unique_key == first.unique_key


async def test_each_time_it_waits_longer_and_stays_what_it_was(autojump_clock, caller):
    await send(caller, b"x")
    (message,) = await until_there(caller)
    first = message
    waited = []
    for times in range(1, 5):
        begun = trio.current_time()
        await back(caller, message)
        message = (await until_there(caller, times, topic="%RETRY%readers"))[-1]
        waited.append(round(trio.current_time() - begun))
        assert message.reconsume_times == times

    assert waited == [10, 30, 60, 120]
    assert message.properties["RETRY_TOPIC"] == "t"
    assert message.properties["ORIGIN_MESSAGE_ID"].endswith(f"{first.position:016X}")


async def test_who_failed_too_often_goes_to_the_dead_letters(autojump_clock, caller):
    await send(caller, b"x")
    (message,) = await until_there(caller)
    await back(caller, message, version=121, maxReconsumeTimes=0)
    (dead,) = await until_there(caller, topic="%DLQ%readers")

    assert dead.body == b"x"
    assert dead.properties["RETRY_TOPIC"] == "t"


async def test_a_level_below_zero_is_the_way_to_the_dead_letters(autojump_clock, caller):
    await send(caller, b"x")
    (message,) = await until_there(caller)
    await back(caller, message, delayLevel=-1)

    assert len(await until_there(caller, topic="%DLQ%readers")) == 1


@pytest.mark.parametrize(("level", "topic"), [(0, "%RETRY%readers"), (-1, "%DLQ%readers")])
async def test_what_is_sent_back_behind_a_deletion_of_its_topic_comes_to_a_new_one(
    autojump_clock, caller, level, topic
):
    """It stood behind the deletion, in a topic that was gone, or was dropped when it was due."""
    await send(caller, b"x")
    (message,) = await until_there(caller)
    await back(caller, message, delayLevel=level)
    await until_there(caller, topic=topic)
    deleted = caller.submit(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": topic})
    fields = {"offset": message.position, "group": "readers", "delayLevel": level}
    again = caller.submit(RequestCode.CONSUMER_SEND_MSG_BACK, fields)
    caller.flush()

    for answers in (deleted, again):
        (answer,) = await until("it is answered", lambda answers=answers: answers)
        assert answer.code == ResponseCode.SUCCESS
    await trio.sleep(11)
    answer = await caller.pull(1, topic=topic)
    assert answer.code == ResponseCode.SUCCESS, answer
    (found,) = decode_records(answer.body)
    assert (found.queue_offset, found.body) == (1, b"x")


async def test_old_clients_do_not_say_how_often(autojump_clock, caller):
    """Source: RocketMQ ``MQVersion.V3_4_9``."""
    await send(caller, b"x")
    (message,) = await until_there(caller)
    await back(caller, message, version=120, maxReconsumeTimes=0)

    assert len(await until_there(caller, topic="%RETRY%readers")) == 1


async def test_what_clients_write_to_be_tried_again_is_dead_after_its_last_time(
    autojump_clock, caller
):
    """Those that read in order do so by themselves; RocketMQ's broker counts for them."""
    wanted = {"topic": "%RETRY%readers", "maxReconsumeTimes": 3, "properties": "DELAY\x011\x02"}
    for times in (2, 3):
        answer = await send(caller, b"%d" % times, reconsumeTimes=times, **wanted)
        assert answer.code == ResponseCode.SUCCESS

    (dead,) = await until_there(caller, topic="%DLQ%readers")
    (again,) = await until_there(caller, topic="%RETRY%readers")
    assert (dead.body, dead.reconsume_times, "DELAY" in dead.properties) == (b"3", 3, False)
    assert (again.body, again.reconsume_times) == (b"2", 2)


async def test_what_a_follower_handed_out_comes_again_when_its_leader_has_yet_to_take_it_in(
    autojump_clock, make_brokers, monkeypatch
):
    """The leader said that no message lay there.

    ali-ons wrote it to the retry topic by itself then, not to wait; PyPI's rocketmq forgot it.
    """
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    follower = next(node for node in group if node is not leader)
    async with group.caller(leader) as caller, group.caller(follower) as reader:
        await caller.create_topic("t")
        with monkeypatch.context() as held:
            held.setattr(leader.running.dispatch._derived, "dispatch_up_to", lambda index: None)
            await send(caller, b"x")
            (message,) = await until_there(reader)
            fields = {"offset": message.position, "group": "readers", "delayLevel": 2}
            answers = reader.submit(RequestCode.CONSUMER_SEND_MSG_BACK, fields)
            reader.flush()
            await trio.sleep(0.5)
            assert not answers
        begun = trio.current_time()
        leader.running.dispatch._wake_up()
        (again,) = await until_there(reader, topic="%RETRY%readers")

    assert answers[0].code == ResponseCode.SUCCESS
    assert 5.0 <= trio.current_time() - begun < 6.0
    assert (again.body, again.reconsume_times) == (b"x", 1)


@pytest.mark.parametrize("offset", [-1, 3, 1 << 40])
async def test_what_is_no_message_cannot_come_again(autojump_clock, caller, offset):
    await send(caller, b"x")
    (message,) = await until_there(caller)
    answer = await back(caller, message, offset=offset)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert str(offset) in answer.remark


async def test_a_record_inside_a_message_is_no_message(autojump_clock, caller):
    """Who may send could otherwise have the broker take any bytes for a message of any topic."""
    await send(caller, b"x")
    (message,) = await until_there(caller)
    whole = (await caller.pull()).body
    await send(caller, bytes(whole))
    outer = (await until_there(caller, 2))[1]

    answer = await back(caller, outer, offset=outer.position + 88)

    assert message.body == b"x"
    assert answer.code == ResponseCode.SYSTEM_ERROR


# -- handed to a second leader ------------------------------------------------------------------


async def test_a_send_without_a_key_that_is_handed_on_twice_is_stored_once(autojump_clock, caller):
    """Each leader gave it a key of its own, and found no message with it."""
    for again in ({}, {SENT_AFTER: 0}):
        for properties in ("", "DELAY\x011\x02"):
            fields = {**HEADER, "properties": properties, **again}
            fields[GIVEN_KEY] = f"key{len(properties)}"
            await caller.ok(RequestCode.SEND_MESSAGE, fields, b"x")

    await trio.sleep(3)
    assert len(await until_there(caller)) == 2


async def test_a_send_handed_on_again_after_its_time_has_come_is_stored_once(
    autojump_clock, caller, brokers
):
    """It waited at another level than it would now, or at none."""
    properties = f"__STARTDELIVERTIME\x01{brokers.clock.wall_ms() + 5500}\x02"
    fields = {**HEADER, "properties": properties, GIVEN_KEY: "key"}
    await caller.ok(RequestCode.SEND_MESSAGE, fields, b"x")
    for seconds in (1, 6):
        await trio.sleep(seconds)
        await caller.ok(RequestCode.SEND_MESSAGE, {**fields, SENT_AFTER: 0}, b"x")

    await trio.sleep(10)
    assert len(await until_there(caller)) == 1


async def test_a_message_given_back_that_is_handed_on_twice_comes_once(autojump_clock, caller):
    await send(caller, b"x")
    (message,) = await until_there(caller)
    for group in ("readers", "others"):  # each for itself
        for level in (1, -1):
            fields = {"offset": message.position, "group": group, "delayLevel": level}
            await caller.ok(RequestCode.CONSUMER_SEND_MSG_BACK, fields)
            await caller.ok(RequestCode.CONSUMER_SEND_MSG_BACK, {**fields, SENT_AFTER: 0})

    await trio.sleep(3)
    for topic in ("%RETRY%readers", "%RETRY%others", "%DLQ%readers", "%DLQ%others"):
        assert len(await until_there(caller, topic=topic)) == 1


async def test_a_send_handed_on_twice_to_one_leader_waits_for_the_first_try(
    autojump_clock, caller, brokers
):
    """The simulation's seed 800159: the link broke, and not the leader, whose disk was slow."""
    for worker in brokers["n1"].workers.values():
        worker.seconds = 0.5
    fields = {**HEADER, "properties": "", GIVEN_KEY: "key"}
    first = caller.submit(RequestCode.SEND_MESSAGE, fields, b"x")
    caller.flush()
    await trio.sleep(0.1)
    assert not first
    again = await caller.ok(RequestCode.SEND_MESSAGE, {**fields, SENT_AFTER: 0}, b"x")

    assert again.ext_fields["queueOffset"] == first[0].ext_fields["queueOffset"]
    assert len(await until_there(caller)) == 1


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.6])
async def test_a_send_that_several_nodes_hand_on_is_stored_once(
    autojump_clock, caller, brokers, pause
):
    """Two had held it for want of a leader; each was looked for before the other was written."""
    for worker in brokers["n1"].workers.values():
        worker.seconds = 0.5
    fields = {**HEADER, "properties": "", GIVEN_KEY: "key", SENT_AFTER: 0}
    tries = []
    for _ in range(4):
        tries.append(caller.submit(RequestCode.SEND_MESSAGE, fields, b"x"))
        caller.flush()
        await trio.sleep(pause)
    await until("all are answered", lambda: all(tries))

    assert {answer.ext_fields["queueOffset"] for (answer,) in tries} == {0}
    assert len(await until_there(caller)) == 1


async def test_a_message_that_several_nodes_give_back_comes_once(autojump_clock, caller, brokers):
    await send(caller, b"x")
    (message,) = await until_there(caller)
    for worker in brokers["n1"].workers.values():
        worker.seconds = 0.5
    fields = {"offset": message.position, "group": "g", "delayLevel": 1, SENT_AFTER: 0}
    tries = [caller.submit(RequestCode.CONSUMER_SEND_MSG_BACK, fields) for _ in range(3)]
    caller.flush()
    await until("all are answered", lambda: all(tries))

    await trio.sleep(5)
    assert len(await until_there(caller, topic="%RETRY%g")) == 1


async def test_a_send_handed_on_again_is_not_refused_for_want_of_room(
    autojump_clock, caller, brokers
):
    """Whoever is told that it was not taken sends it again, and the first try goes on."""
    for worker in brokers["n1"].workers.values():
        worker.seconds = 0.5
    fields = {**HEADER, "properties": "", GIVEN_KEY: "key"}
    caller.submit(RequestCode.SEND_MESSAGE, fields, b"x")
    caller.flush()
    await trio.sleep(0.1)
    brokers["n1"].running.queue._pending_size_max = 1
    again = await caller.ask(RequestCode.SEND_MESSAGE, {**fields, SENT_AFTER: 0}, b"x")

    assert again.code == ResponseCode.OUTCOME_UNKNOWN


async def test_a_key_that_is_sent_twice_on_purpose_is_two_messages(autojump_clock, caller):
    """A node that hands both on may not have heard yet that the first is committed."""
    fields = {**HEADER, "properties": "UNIQ_KEY\x01mine\x02"}
    answers = [
        await caller.ok(
            RequestCode.SEND_MESSAGE, {**fields, "bornTimestamp": born, SENT_AFTER: 0}, b"x"
        )
        for born in (1000, 1001)
    ]

    assert [answer.ext_fields["queueOffset"] for answer in answers] == [0, 1]


async def test_a_dead_letter_in_another_queue_is_found(autojump_clock, caller):
    await caller.create_topic("%DLQ%readers", queues=3)
    await send(caller, b"x")
    await send(caller, b"y")
    x, y = await until_there(caller, 2)
    for message, again in ((x, {}), (y, {}), (y, {SENT_AFTER: 0})):
        fields = {"offset": message.position, "group": "readers", "delayLevel": -1, **again}
        await caller.ok(RequestCode.CONSUMER_SEND_MSG_BACK, fields)

    await trio.sleep(1)
    assert (await until_there(caller, topic="%DLQ%readers", queue_id=1))[0].body == b"y"
    assert (await caller.pull(topic="%DLQ%readers", queue_id=2)).code != ResponseCode.SUCCESS
