"""A leader dies with what a RocketMQ client asked of it by way of another node: it is asked again.

Seen with the real clients: Java's fails a send with a callback on code 1, and the C++ core loses a
message that it could not give back and leaves a queue locked that it could not release.
"""

import json

import pytest
import trio

from broker.message.batch import BatchMessage, encode_batch_body
from broker.message.codec import decode_records
from broker.message.model import HostAddress
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, SerializeType
from tests.fakes.brokers import bodies_of, pull_fields
from tests.fakes.nodes import until

JSON = SerializeType.JSON
MESSAGE = {
    "a": "p", "b": "t", "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "1795652955546", "h": "0",
    "i": "UNIQ_KEY\x01mine\x02", "j": "0", "k": "false", "l": "16", "m": "false",
}  # fmt: skip


async def asked_of_the_dying(brokers, code, fields, body=b"", *, reaches_it=True, is_next=True):
    """Ask a follower for what the leader dies with; return the answer, and the follower.

    Unless *is_next* the other follower dies, too, and nobody leads any more.

    The others promise nothing before the leader is dead: it cannot have answered.
    """
    leader = await brokers.leader()
    follower, other = brokers.others(leader)
    async with brokers.caller(follower) as caller, trio.open_nursery() as nursery:
        await caller.sent(b"first")  # the way to the leader is there
        await brokers.equal()
        answers = []
        for survivor in (follower, other):
            survivor.workers["sync"].stall()
        if not reaches_it:
            for survivor in (follower, other):
                brokers.wires.silence(leader.name, survivor.name)

        async def ask():
            answers.append(await caller.ask(code, fields, body, serialization=JSON))

        nursery.start_soon(ask)
        if reaches_it:
            await until("it is under way", lambda: leader.running.ledger.core.inflight_count)
        else:
            await until("it is asked", lambda: follower.running.forwarder.unanswered_count)
        await leader.kill()
        if not is_next:
            await other.kill()
        for survivor in (follower, other)[: 1 + is_next]:
            survivor.workers["sync"].go_on()
    return answers[0], follower


async def all_of(brokers, follower, **where):
    await brokers.leader()
    await brokers.equal()
    async with brokers.caller(follower) as caller:
        return bodies_of(await caller.pull(**where))


@pytest.mark.parametrize("reaches_it", [True, False])
async def test_a_send_is_there_once_whether_the_dead_leader_passed_it_on_or_not(
    autojump_clock, brokers, reaches_it
):
    answer, follower = await asked_of_the_dying(
        brokers, RequestCode.SEND_MESSAGE_V2, MESSAGE, b"x", reaches_it=reaches_it
    )

    assert (answer.code, answer.ext_fields["queueOffset"]) == (ResponseCode.SUCCESS, "1")
    assert answer.ext_fields["transactionId"] == "mine"
    assert await all_of(brokers, follower) == [b"first", b"x"]


async def test_a_send_that_nobody_can_be_asked_for_any_more_is_unknown(autojump_clock, brokers):
    """It may be written: nobody may be told that no leader was there, as if nothing had been."""
    answer, _ = await asked_of_the_dying(
        brokers, RequestCode.SEND_MESSAGE_V2, MESSAGE, b"x", is_next=False
    )

    assert answer.code != ResponseCode.SUCCESS
    assert "a leader of before may have done it" in answer.remark


@pytest.mark.parametrize("reaches_it", [True, False])
async def test_a_batch_is_there_once(autojump_clock, brokers, reaches_it):
    keys = [f"UNIQ_KEY\x01k{n}\x02".encode() for n in range(3)]
    body = encode_batch_body([BatchMessage(0, b"%d" % n, key) for n, key in enumerate(keys)])
    answer, follower = await asked_of_the_dying(
        brokers,
        RequestCode.SEND_BATCH_MESSAGE,
        {**MESSAGE, "i": "", "m": "true"},
        body,
        reaches_it=reaches_it,
    )

    assert (answer.code, answer.ext_fields["queueOffset"]) == (ResponseCode.SUCCESS, "1")
    assert len(answer.ext_fields["msgId"].split(",")) == 3
    assert await all_of(brokers, follower) == [b"first", b"0", b"1", b"2"]


@pytest.mark.parametrize("which", [0, 1])
async def test_who_leads_next_has_what_it_handed_to_the_last(autojump_clock, brokers, which):
    """It learns that nothing comes back from there when it serves already, and serves that, too."""
    leader = await brokers.leader()
    follower = brokers.others(leader)[which]
    async with brokers.caller(follower) as caller:
        await caller.sent(b"first")
        for survivor in brokers.others(leader):
            brokers.wires.silence(leader.name, survivor.name)
        begun = trio.current_time()
        answer = await caller.ask(
            RequestCode.SEND_MESSAGE_V2, MESSAGE, b"x", serialization=JSON, seconds=10.0
        )

    assert (answer.code, answer.ext_fields["queueOffset"]) == (ResponseCode.SUCCESS, "1")
    assert trio.current_time() - begun < 2.0


async def test_the_same_key_in_an_older_message_is_no_earlier_try(autojump_clock, brokers):
    """Whoever sends a key twice on purpose gets two messages."""
    async with brokers.caller(await brokers.leader()) as caller:
        await caller.ask(RequestCode.SEND_MESSAGE_V2, MESSAGE, b"x", serialization=JSON)
    answer, follower = await asked_of_the_dying(
        brokers, RequestCode.SEND_MESSAGE_V2, MESSAGE, b"x", reaches_it=False
    )

    assert answer.ext_fields["queueOffset"] == "2"
    assert await all_of(brokers, follower) == [b"x", b"first", b"x"]


async def test_a_message_sent_back_comes_again(autojump_clock, brokers):
    async with brokers.caller(await brokers.leader()) as caller:
        sent = await caller.sent(b"x")
    fields = {"group": "readers", "offset": str(sent.ext_fields["position"]), "delayLevel": "-1"}
    answer, follower = await asked_of_the_dying(brokers, RequestCode.CONSUMER_SEND_MSG_BACK, fields)

    assert answer.code == ResponseCode.SUCCESS
    assert set(await all_of(brokers, follower, topic="%DLQ%readers")) == {b"x"}


async def test_a_lock_is_released(autojump_clock, brokers):
    queue = {"topic": "t", "brokerName": "b", "queueId": 0}

    def body(client_id):
        named = {"consumerGroup": "g", "clientId": client_id, "mqSet": [queue]}
        return json.dumps(named).encode()

    follower = brokers.others(await brokers.leader())[0]
    async with brokers.caller(follower) as caller:  # locked by the way by which it is released
        new = json.dumps({"groupName": "g"}).encode()
        await caller.ok(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, new)
        await caller.ok(RequestCode.LOCK_BATCH_MQ, {}, body("one"))
    answer, follower = await asked_of_the_dying(
        brokers, RequestCode.UNLOCK_BATCH_MQ, {}, body("one")
    )

    assert answer.code == ResponseCode.SUCCESS
    async with brokers.caller(follower) as caller:
        locked = await caller.ok(RequestCode.LOCK_BATCH_MQ, {}, body("two"))
        assert len(json.loads(bytes(locked.body))["lockOKMQSet"]) == 1


@pytest.mark.parametrize("is_passed_on", [True, False])
@pytest.mark.parametrize(
    "code",
    [
        RequestCode.SEND_MESSAGE_V2,
        RequestCode.CONSUMER_SEND_MSG_BACK,
        RequestCode.LOCK_BATCH_MQ,
    ],
)
async def test_what_a_leader_began_that_is_deposed_and_lives_on_is_asked_of_the_next(
    autojump_clock, brokers, code, is_passed_on
):
    """Its clients were told code 1: ali-ons sent again what it gave back, at once, by itself."""
    leader = await brokers.leader()
    survivors = brokers.others(leader)
    async with brokers.caller(leader) as caller, trio.open_nursery() as nursery:
        first = await caller.sent(b"first")
        await brokers.equal()
        new = json.dumps({"groupName": "g"}).encode()
        await caller.ok(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, new)
        queue = {"topic": "t", "brokerName": "b", "queueId": 0}
        lock = {"consumerGroup": "g", "clientId": "c", "mqSet": [queue]}
        position = str(first.ext_fields["position"])
        fields, body, where, there = {
            RequestCode.SEND_MESSAGE_V2: (MESSAGE, b"x", "t", [b"first", b"x"]),
            RequestCode.CONSUMER_SEND_MSG_BACK: (
                {"group": "g", "offset": position, "delayLevel": "-1"},
                b"",
                "%DLQ%g",
                [b"first"],
            ),
            RequestCode.LOCK_BATCH_MQ: ({}, json.dumps(lock).encode(), "t", [b"first"]),
        }[code]
        answers = []

        async def ask():
            answers.append(await caller.ask(code, fields, body, serialization=JSON))

        for survivor in survivors:
            survivor.workers["sync"].stall()
            if not is_passed_on:
                brokers.wires.silence(leader.name, survivor.name)
        nursery.start_soon(ask)
        await until("it is under way", lambda: leader.running.ledger.core.inflight_count)
        await trio.sleep(0.01)
        brokers.wires.isolate(leader.name)
        for survivor in survivors:
            survivor.workers["sync"].go_on()
        await until("it leads no more", lambda: not leader.running.ledger.is_leader)
        brokers.wires.rejoin(leader.name)

    assert answers[0].code == ResponseCode.SUCCESS
    assert await all_of(brokers, leader, topic=where) == there


async def test_our_own_client_is_told_that_the_outcome_is_unknown(autojump_clock, brokers):
    """It numbers its messages and asks again by itself."""
    leader = await brokers.leader()
    follower, other = brokers.others(leader)
    for survivor in (follower, other):
        survivor.workers["sync"].stall()
    async with brokers.caller(follower) as caller:
        answers = caller.submit(RequestCode.SEND_MESSAGE_V2, MESSAGE, b"x")
        caller.flush()
        await until("it is under way", lambda: leader.running.ledger.core.inflight_count)
        await leader.kill()
        for survivor in (follower, other):
            survivor.workers["sync"].go_on()
        await until("it is answered", lambda: answers)

    assert answers[0].code == ResponseCode.OUTCOME_UNKNOWN


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize(("language", "version", "is_named"), [(1, 63, True), (1, 333, False)])
async def test_an_old_cpp_client_is_told_to_give_back_to_whom_it_reads_from(
    autojump_clock, brokers, language, version, is_named, is_held
):
    """It gives a message back to the host its record names, and loses it when that one is dead."""
    leader = await brokers.leader()
    follower = brokers.others(leader)[0]
    follower.running.pulls._host = here = HostAddress(b"\x7f\x00\x00\x02", 4711)
    async with (
        brokers.caller(leader) as sender,
        brokers.caller(follower) as caller,
        trio.open_nursery() as nursery,
    ):
        answers = []

        async def pull():
            command = Command(
                RequestCode.PULL_MESSAGE,
                language=language,
                version=version,
                ext_fields=pull_fields(wait_ms=5000),
            )
            answers.append(await caller.client.request(command, timeout_seconds=10.0))

        if is_held:
            nursery.start_soon(pull)
            await until("it is held", lambda: follower.running.pulls.hold.count)
        await sender.sent(b"a", b"b")
        await brokers.equal()
        if not is_held:
            nursery.start_soon(pull)
        await until("it is answered", lambda: answers)
    found = decode_records(bytes(answers[0].body))

    assert [bytes(message.body) for message in found] == [b"a", b"b"]
    assert all((message.store_host == here) == is_named for message in found)
