"""Sends: what becomes of the good, and what the bad are told."""

import pytest
import trio

from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.message_id import decode_offset_id
from broker.message.properties import encode_properties
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import KIB, MIB
from dledger.remoting.command import FLAG_ONEWAY, Command, SerializeType
from tests.fakes.brokers import bodies_of, ext, messages_of, records
from tests.fakes.nodes import until

PLAIN = {
    "producerGroup": "writers",
    "topic": "t",
    "queueId": 1,
    "properties": encode_properties({"TAGS": "red", "UNIQ_KEY": "u1"}).decode(),
    "bornTimestamp": 1234,
}
PLAIN_V2 = {
    "a": "writers", "b": "t", "c": "TBW102", "d": 4, "e": 1, "f": 0, "g": 1234, "h": 0,
    "i": PLAIN["properties"], "j": 0, "k": False, "m": False,
}  # fmt: skip


# -- records ------------------------------------------------------------------------------------


async def test_records_are_stored_in_order_and_say_where(autojump_clock, caller):
    first = await caller.sent(b"a", b"b")
    second = await caller.sent(b"c")

    assert (first.ext_fields["queueOffset"], second.ext_fields["queueOffset"]) == (0, 2)
    found = messages_of(await caller.pull())
    assert [bytes(message.body) for message in found] == [b"a", b"b", b"c"]
    assert [message.queue_offset for message in found] == [0, 1, 2]
    assert found[0].position == first.ext_fields["position"]
    assert found[2].position == second.ext_fields["position"]


async def test_acks_of_one_pass_come_in_one_frame(autojump_clock, caller):
    for number in range(3):
        caller.send(b"%d" % number, is_grouped=True)
    caller.flush()
    await until("all acks", lambda: len(caller.acks) == 3)

    assert caller.pushes == [3]
    assert [(ack.code, ack.queue_id, ack.queue_offset) for ack in caller.acks] == [
        (0, 0, 0), (0, 0, 1), (0, 0, 2),
    ]  # fmt: skip
    found = messages_of(await caller.pull())
    assert [ack.position for ack in caller.acks] == [message.position for message in found]


@pytest.mark.parametrize("count", [1, 3, 4, 9, 300])
@pytest.mark.parametrize("size", [1, 3])
async def test_many_sends_of_one_receive_get_the_places_they_have(
    autojump_clock, caller, count, size
):
    """From four on they are handled together; nobody may see a difference."""
    bodies = [[b"%d/%d" % (number, part) for part in range(size)] for number in range(count)]
    for number, parts in enumerate(bodies):
        caller.send(*parts, producer_id=5, sequence=size * number, is_grouped=True)
    caller.flush()
    await until("all acks", lambda: len(caller.acks) == count)

    found = messages_of(await caller.pull())
    assert [bytes(message.body) for message in found] == [
        body for parts in bodies for body in parts
    ]
    assert [(ack.queue_offset, ack.position) for ack in caller.acks] == [
        (message.queue_offset, message.position) for message in found[::size]
    ]


async def test_a_broken_send_among_many_fails_alone(autojump_clock, caller):
    fields, body = records(b"spoilt")
    answers = [caller.send(b"%d" % number) for number in range(4)]
    spoilt = caller.submit(RequestCode.SEND_BATCH_MESSAGE, fields, body[:-1] + b"!")
    answers += [caller.send(b"%d" % number) for number in range(4, 8)]
    caller.flush()
    await until("all answers", lambda: all([*answers, spoilt]))

    assert spoilt[0].code == ResponseCode.CORRUPT_RECORD
    assert [ext(answer)["queueOffset"] for answer in answers] == list(range(8))
    assert bodies_of(await caller.pull()) == [b"%d" % number for number in range(8)]


async def test_sends_to_different_queues_in_one_receive_find_theirs(autojump_clock, caller):
    answers = [caller.send(b"%d" % number, queue_id=number % 2) for number in range(10)]
    caller.flush()
    await until("all answers", lambda: all(answers))

    assert bodies_of(await caller.pull(queue_id=0)) == [b"0", b"2", b"4", b"6", b"8"]
    assert bodies_of(await caller.pull(queue_id=1)) == [b"1", b"3", b"5", b"7", b"9"]
    assert [ext(answer)["queueOffset"] for answer in answers] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


async def test_a_json_client_gets_json_and_no_grouped_ack(autojump_clock, caller):
    """The grouped flag is ours and means nothing in RocketMQ's serializations."""
    answer = await caller.ask(
        RequestCode.SEND_MESSAGE_V2,
        {key: str(value) for key, value in PLAIN_V2.items()},
        b"body",
        serialization=SerializeType.JSON,
    )

    assert answer.code == ResponseCode.SUCCESS
    assert answer.serialization is SerializeType.JSON
    assert not caller.pushes


# -- body and properties ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "fields"),
    [(RequestCode.SEND_MESSAGE, PLAIN), (RequestCode.SEND_MESSAGE_V2, PLAIN_V2)],
)
async def test_a_plain_message_becomes_a_record(autojump_clock, caller, code, fields):
    answer = await caller.ok(code, fields, b"body")

    (message,) = messages_of(await caller.pull(queue_id=1))
    assert bytes(message.body) == b"body"
    assert message.properties == {"TAGS": "red", "UNIQ_KEY": "u1"}
    assert message.born_timestamp_ms == 1234
    assert answer.ext_fields["queueId"] == 1
    assert answer.ext_fields["queueOffset"] == 0
    assert answer.ext_fields["transactionId"] == "u1"
    host, position = decode_offset_id(answer.ext_fields["msgId"])
    assert position == message.position
    assert host.ip == b"\x7f\x00\x00\x01"


async def test_a_message_without_born_time_gets_the_broker_s(autojump_clock, caller, brokers):
    fields = {key: value for key, value in PLAIN.items() if key != "bornTimestamp"}
    await caller.ok(RequestCode.SEND_MESSAGE, fields, b"body")

    (message,) = messages_of(await caller.pull(queue_id=1))
    assert abs(message.born_timestamp_ms - brokers.clock.wall_ms()) < 5000


async def test_queue_minus_one_lets_the_broker_pick_in_turn(autojump_clock, caller):
    picked = [
        (await caller.ok(RequestCode.SEND_MESSAGE, {**PLAIN, "queueId": -1}, b"x")).ext_fields[
            "queueId"
        ]
        for _ in range(4)
    ]

    assert sorted(picked) == [0, 0, 1, 1]
    assert picked[0] != picked[1]


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["producerGroup", "topic", "queueId", "sizes"])
@pytest.mark.parametrize("wrong", ["missing", "of the wrong kind"])
async def test_a_bad_field_of_a_record_send_is_named(autojump_clock, caller, name, wrong):
    fields, body = records(b"x")
    if wrong == "missing":
        del fields[name]
    else:
        fields[name] = [1]

    answer = await caller.ask(RequestCode.SEND_BATCH_MESSAGE, fields, body)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert name in answer.remark


@pytest.mark.parametrize("name", ["producerGroup", "topic", "queueId"])
async def test_a_missing_field_of_a_plain_send_is_named(autojump_clock, caller, name):
    fields = {key: value for key, value in PLAIN.items() if key != name}

    answer = await caller.ask(RequestCode.SEND_MESSAGE, fields, b"x")

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert name in answer.remark


async def test_an_unknown_record_format_is_refused(autojump_clock, caller):
    fields, body = records(b"x")

    answer = await caller.ask(RequestCode.SEND_BATCH_MESSAGE, {**fields, "recordFormat": 7}, body)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "recordFormat" in answer.remark
    assert "7 is unknown" in answer.remark


@pytest.mark.parametrize("queue_id", [2, 99, -1])
async def test_a_queue_the_topic_has_not_is_refused(autojump_clock, caller, queue_id):
    answer = await caller.sent(b"x", queue_id=queue_id)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "queueId" in answer.remark


@pytest.mark.parametrize("perm", [4, 0])
async def test_a_topic_that_may_not_be_written_is_refused(autojump_clock, caller, perm):
    await caller.create_topic("sealed", queues=1, perm=perm)

    answer = await caller.sent(b"x", topic="sealed")

    assert answer.code == ResponseCode.NO_PERMISSION
    assert "'sealed' may not be written" in answer.remark


async def test_a_body_above_the_limit_is_refused(autojump_clock, make_brokers):
    group = make_brokers(broker={"body_size_max": 1000})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        refused = await caller.sent(bytes(1001))
        plain = await caller.ask(RequestCode.SEND_MESSAGE, PLAIN, bytes(1001))
        taken = await caller.sent(bytes(1000))

    assert refused.code == plain.code == ResponseCode.MESSAGE_ILLEGAL
    assert "1000" in refused.remark
    assert taken.code == ResponseCode.SUCCESS


async def test_more_than_a_segment_holds_is_refused(autojump_clock, make_brokers):
    group = make_brokers(store={"segment_size": 64 * KIB})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        refused = await caller.sent(bytes(64 * KIB))
        taken = await caller.sent(bytes(63 * KIB))

    assert refused.code == ResponseCode.MESSAGE_ILLEGAL
    assert "segment_size" in refused.remark
    assert taken.code == ResponseCode.SUCCESS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body[:-1],
        lambda body: body + b"\0",
        lambda body: b"",
        lambda body: body[:4] + b"\xff\xff\xff\xff" + body[8:],
        lambda body: body.replace(b"body", b"bodY"),
    ],
    ids=["short", "long", "empty", "magic", "crc"],
)
async def test_records_that_are_none_are_refused(autojump_clock, caller, spoil):
    fields, body = records(b"body")

    answer = await caller.ask(RequestCode.SEND_BATCH_MESSAGE, fields, spoil(body))

    assert answer.code == ResponseCode.CORRUPT_RECORD, answer.remark
    assert answer.remark
    assert (await caller.sent(b"next")).ext_fields["queueOffset"] == 0, "nothing was written"


async def test_a_record_of_another_topic_than_the_header_says_is_refused(autojump_clock, caller):
    await caller.create_topic("other", queues=2)
    record = encode_record(topic=b"other", queue_id=0, body=b"x")
    fields, _ = records(b"x")

    answer = await caller.ask(
        RequestCode.SEND_BATCH_MESSAGE, {**fields, "sizes": encode_sizes([len(record)])}, record
    )

    assert answer.code == ResponseCode.CORRUPT_RECORD
    assert "topic" in answer.remark


async def test_an_empty_rocketmq_batch_is_refused(autojump_clock, caller):
    answer = await caller.ask(RequestCode.SEND_BATCH_MESSAGE, {**PLAIN_V2, "m": True}, b"")

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    assert "empty" in answer.remark


async def test_a_oneway_send_is_stored_and_not_answered(autojump_clock, caller):
    fields, body = records(b"x")
    answers = caller.submit(RequestCode.SEND_BATCH_MESSAGE, fields, body, flag=FLAG_ONEWAY)
    caller.flush()
    await trio.sleep(1)

    assert not answers
    assert bodies_of(await caller.pull()) == [b"x"]


async def test_too_much_under_way_is_refused_and_nothing_of_it_written(
    autojump_clock, make_brokers
):
    group = make_brokers(3, raft={"pending_size_max": MIB}, store={"segment_size": 4 * MIB})
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        for other in group.others(leader):
            other.workers["sync"].stall()
        answers = [caller.send(bytes(200 * KIB)) for _ in range(8)]
        caller.flush()
        await until("some are refused", lambda: any(answers))
        for other in group.others(leader):
            other.workers["sync"].go_on()
        await until("all answers", lambda: all(answers))
        kept = (await caller.pull()).ext_fields["maxOffset"]

    refused = [answer[0] for answer in answers if answer[0].code]
    assert 0 < len(refused) < 8
    assert {answer.code for answer in refused} == {ResponseCode.SYSTEM_BUSY}
    assert "send again later" in refused[0].remark
    assert kept == 8 - len(refused)


async def test_a_full_disk_is_told_and_passes(autojump_clock, make_brokers):
    group = make_brokers(store={"segment_size": 64 * KIB})
    await group.start()
    member = await group.leader()
    async with group.caller(member) as caller:
        await caller.create_topic("t")
        member.disk.capacity -= member.disk.free_bytes("/data")
        with trio.fail_after(30):
            while (answer := await caller.sent(bytes(20 * KIB))).code == ResponseCode.SUCCESS:
                pass
        assert answer.code == ResponseCode.SERVICE_NOT_AVAILABLE
        assert "room" in answer.remark
        assert (await caller.pull()).code == ResponseCode.SUCCESS, "reading goes on"

        member.disk.capacity += MIB
        await trio.sleep(2)
        assert (await caller.sent(b"again")).code == ResponseCode.SUCCESS


# -- topics that come into being ----------------------------------------------------------------


async def test_sends_to_an_unknown_topic_create_it_and_keep_their_order(autojump_clock, caller):
    answers = [caller.send(b"%d" % number, topic="fresh") for number in range(20)]
    other = caller.send(b"other")
    caller.flush()
    await until("all answers", lambda: all([*answers, other]))

    assert [ext(answer)["queueOffset"] for answer in answers] == list(range(20))
    assert bodies_of(await caller.pull(topic="fresh")) == [b"%d" % number for number in range(20)]


async def test_sends_of_several_connections_create_a_topic_once(autojump_clock, brokers):
    async with brokers.caller(brokers["n1"]) as one, brokers.caller(brokers["n1"]) as two:
        answers = [each.send(b"x", topic="fresh") for each in (one, two)]
        one.flush()
        two.flush()
        await until("both answers", lambda: all(answers))

    assert sorted(ext(answer)["queueOffset"] for answer in answers) == [0, 1]


async def test_the_new_topic_has_the_number_of_queues_configured(autojump_clock, make_brokers):
    group = make_brokers(broker={"default_topic_queue_count": 7})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        assert (await caller.sent(b"x", topic="fresh", queue_id=6)).code == ResponseCode.SUCCESS
        assert (await caller.sent(b"x", topic="fresh", queue_id=7)).code != ResponseCode.SUCCESS


async def test_a_send_that_creates_its_topic_may_still_name_a_wrong_queue(autojump_clock, caller):
    answer = await caller.sent(b"x", topic="fresh", queue_id=50)

    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "queueId" in answer.remark


async def test_without_auto_create_an_unknown_topic_is_told(autojump_clock, make_brokers):
    group = make_brokers(broker={"auto_create_topic": False})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        answer = await caller.sent(b"x", topic="fresh")

    assert answer.code == ResponseCode.TOPIC_NOT_EXIST
    assert "dledger topic create fresh" in answer.remark


@pytest.mark.parametrize("topic", ["", "no spaces", "a/b", "x" * 128])
async def test_no_topic_of_a_bad_name_is_created(autojump_clock, caller, topic):
    answer = await caller.ask(RequestCode.SEND_MESSAGE, {**PLAIN, "topic": topic}, b"x")

    assert answer.code == ResponseCode.MESSAGE_ILLEGAL
    again = await caller.ask(RequestCode.SEND_MESSAGE, {**PLAIN, "topic": topic}, b"x")
    assert again.code == ResponseCode.MESSAGE_ILLEGAL, "nobody waits for it to come into being"


# -- requests of other kinds --------------------------------------------------------------------


async def test_an_unknown_code_is_refused_by_number(autojump_clock, caller):
    answer = await caller.ask(4711)

    assert answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
    assert "4711" in answer.remark


async def test_a_response_is_not_answered(autojump_clock, caller):
    caller.client.send(Command(0, 1, opaque=9))
    answer = await caller.ask(RequestCode.GET_GROUP_STATUS)

    assert answer.code == ResponseCode.SUCCESS


async def test_messages_and_commits_in_turns_do_not_wait_for_one_another(
    autojump_clock, brokers, caller
):
    """Each was an entry of its own, begun when the one before was done.

    The simulation's ground slow-members, seeds 135 and 138: 350 of them waited.
    """
    for worker in brokers["n1"].workers.values():
        worker.seconds = 0.5
    begun = trio.current_time()
    answers = []
    for number in range(4):
        answers.append(caller.send(b"%d" % number))
        caller.flush()
        await trio.sleep(0.01)
        fields = {"consumerGroup": "g", "topic": "t", "queueId": 0, "commitOffset": number}
        answers.append(caller.submit(RequestCode.UPDATE_CONSUMER_OFFSET, fields))
        caller.flush()
        await trio.sleep(0.01)
    await until("all are answered", lambda: all(answers))

    assert trio.current_time() - begun < 2.1
