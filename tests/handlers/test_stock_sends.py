"""Sends as RocketMQ's clients write them, and what such a client is told."""

import pytest

from broker.handlers.born_host import born_host_of
from broker.message.batch import BatchMessage, encode_batch_body
from broker.message.codec import decode_records
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import STOCK_CODES, ResponseCode
from dledger.remoting.command import Command, SerializeType

HEADER = {
    "producerGroup": "p", "topic": "t", "defaultTopic": "TBW102", "defaultTopicQueueNums": 4,
    "queueId": 0, "sysFlag": 0, "bornTimestamp": "1795346771693", "flag": 0, "properties": "",
    "reconsumeTimes": "0", "unitMode": "0", "batch": "0", "AccessKey": "", "Signature": "x",
}  # fmt: skip


async def send(caller, body, **fields):
    return await caller.ask(
        RequestCode.SEND_MESSAGE, {**HEADER, **fields}, body, serialization=SerializeType.JSON
    )


async def stored(caller, **where):
    return decode_records((await caller.pull(**where)).body)


async def test_every_value_of_the_answer_is_a_string(autojump_clock, caller):
    """The C++ client drops numbers without a word, and an offset stays 0."""
    answer = await send(caller, b"x")

    assert answer.code == ResponseCode.SUCCESS
    assert answer.ext_fields["queueOffset"] == "0"
    assert all(isinstance(value, str) for value in answer.ext_fields.values())


@pytest.mark.parametrize("properties", ["", "TAGS\x01a", "TAGS\x01a\x02"])
async def test_a_message_without_a_unique_key_is_given_one(autojump_clock, caller, properties):
    answer = await send(caller, b"x", properties=properties)
    (message,) = await stored(caller)

    assert message.unique_key == answer.ext_fields["transactionId"]
    assert len(message.unique_key) == 32
    assert message.tag == ("a" if properties else None)


async def test_a_unique_key_given_is_kept(autojump_clock, caller):
    await send(caller, b"x", properties="UNIQ_KEY\x01mine\x02WAIT\x01true\x02")
    (message,) = await stored(caller)

    assert message.properties == {"UNIQ_KEY": "mine", "WAIT": "true"}


async def test_the_messages_of_a_batch_get_a_key_each(autojump_clock, caller):
    body = encode_batch_body([BatchMessage(0, b"a", b""), BatchMessage(0, b"b", b"")])
    answer = await send(caller, body, batch="1")
    keys = [message.unique_key for message in await stored(caller)]

    assert len(set(keys)) == 2
    assert answer.ext_fields["transactionId"] == ",".join(keys)


async def test_a_batch_by_the_short_names_is_its_messages(autojump_clock, caller):
    """The C++ core 2.1 sends one by code 310 with m = "1"; RocketMQ stores it as one message."""
    header = {
        "a": "p", "b": "t", "c": "TBW102", "d": 4, "e": 0, "f": 0, "g": "1795652955546", "h": 0,
        "i": "WAIT\x01true\x02", "j": "0", "k": "0", "l": 16, "m": "1",
    }  # fmt: skip
    body = encode_batch_body([BatchMessage(0, b"a", b""), BatchMessage(0, b"b", b"")])
    answer = await caller.ask(
        RequestCode.SEND_MESSAGE_V2, header, body, serialization=SerializeType.JSON
    )

    assert answer.code == ResponseCode.SUCCESS
    assert [bytes(message.body) for message in await stored(caller)] == [b"a", b"b"]
    assert len(answer.ext_fields["msgId"]) == 32


@pytest.mark.parametrize(
    ("topic", "fields", "queues"),
    [
        ("new", {"defaultTopicQueueNums": 2}, 2),
        ("new", {"defaultTopicQueueNums": "16"}, 4),
        ("new", {"defaultTopicQueueNums": 0}, 1),
        ("%RETRY%readers", {}, 1),
    ],
)
async def test_a_send_makes_its_topic_no_wider_than_it_asks(
    autojump_clock, caller, brokers, topic, fields, queues
):
    await send(caller, b"x", topic=topic, **fields)

    config = brokers._files["n1"].topics.get(topic)
    assert (config.read_queue_count, config.write_queue_count) == (queues, queues)


async def test_a_code_of_ours_is_told_to_our_own_clients_only(autojump_clock, make_brokers):
    """RocketMQ's clients give up on a code they do not know, and send again on these."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        group.wires.isolate(leader.name)

        unknown = await send(caller, b"x")  # appended before the node noticed
        refused = await send(caller, b"x")
        ours = await caller.ask(RequestCode.SEND_MESSAGE, HEADER, b"x")

    assert unknown.code == ResponseCode.SYSTEM_ERROR
    assert refused.code == ResponseCode.SERVICE_NOT_AVAILABLE
    assert ours.code == ResponseCode.NOT_LEADER
    assert unknown.remark
    assert refused.remark


def test_no_code_of_ours_stands_for_another():
    assert all(ours > 60_000 > stock for ours, stock in STOCK_CODES.items())


@pytest.mark.parametrize("at", ["leader", "follower"])
async def test_a_record_says_where_it_was_born(autojump_clock, make_brokers, at):
    """mqadmin showed 0.0.0.0:0, and told nobody who had sent a message."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    member = leader if at == "leader" else group.others(leader)[0]
    async with group.caller(member) as caller:
        await caller.create_topic("t")
        for session in member.running.server.sessions:  # the machines under test have names
            session.peer_address = "10.1.2.3:4567"
        batch = encode_batch_body([BatchMessage(0, b"two", b""), BatchMessage(0, b"three", b"")])
        for code, body in (
            (RequestCode.SEND_MESSAGE_V2, b"one"),
            (RequestCode.SEND_BATCH_MESSAGE, batch),
        ):
            answer = await caller.ask(
                code, {"a": "g", "b": "t", "e": "0"}, body, serialization=SerializeType.JSON
            )
            assert answer.code == ResponseCode.SUCCESS, answer.remark
        await caller.sent(b"ours")
        await group.equal()
        answer = await caller.pull()

        here = "10.1.2.3:4567"
        assert [str(record.born_host) for record in decode_records(answer.body)] == [
            here, here, here, "0.0.0.0:0",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.1.2.3:4567", "10.1.2.3:4567"),
        ("[::1]:4567", "0.0.0.0:0"),
        ("10.1.2.300:1", "0.0.0.0:0"),
        ("10.1.2.3:99999", "0.0.0.0:0"),
        ("10.1.2.3", "0.0.0.0:0"),  # as nodes of 0.1 hand it on
        ("", "0.0.0.0:0"),
        ("a.b.c.d:1", "0.0.0.0:0"),
    ],
)
def test_an_address_that_is_no_ipv4_is_left_out(address, host):
    command = Command(310, ext_fields={"stockClientHost": address})

    assert str(born_host_of(None, command)) == host
