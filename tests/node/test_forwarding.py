"""Any node takes any request: what it cannot answer goes to the leader, or waits for one."""

import json
import struct

import pytest
import trio

from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import FLAG_ONEWAY, Command, SerializeType
from dledger.remoting.frame import FRAME_SIZE_MAX, encode_frame
from tests.fakes.brokers import bodies_of, ext, pull_fields, raw_answers, records
from tests.fakes.nodes import until

HOLD_SECONDS = 3.0


async def test_a_follower_passes_a_send_on_and_says_who_leads(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(brokers.others(leader)[0]) as caller:
        answer = await caller.sent(b"x")

        assert answer.ext_fields["queueOffset"] == 0
        assert answer.ext_fields["leaderId"] == leader.name
        assert answer.ext_fields["leaderAddress"] == brokers.address(leader)
        await brokers.equal()
        assert bodies_of(await caller.pull()) == [b"x"]


async def test_a_hundred_forwarded_sends_keep_their_order(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(brokers.others(leader)[0]) as caller:
        answers = [caller.send(b"%d" % n, is_grouped=True) for n in range(100)]
        caller.flush()
        await until("all answers", lambda: all(answers))

        assert [ext(answer)["queueOffset"] for answer in answers] == list(range(100))


async def test_a_forwarded_request_is_answered_in_its_own_serialization(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(brokers.others(leader)[0]) as caller:
        answer = await caller.ask(
            RequestCode.GET_MAX_OFFSET,
            {"topic": "t", "queueId": "0"},
            serialization=SerializeType.JSON,
        )

    assert answer.serialization is SerializeType.JSON
    assert int(answer.ext_fields["offset"]) == 0


async def test_a_forwarded_refusal_keeps_code_and_reason(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(brokers.others(leader)[0]) as caller:
        refused = await caller.sent(b"x", queue_id=99)

    assert refused.code == ResponseCode.SYSTEM_ERROR
    assert "queueId" in refused.remark


async def test_a_forwarded_oneway_request_is_done(autojump_clock, brokers):
    leader = await brokers.leader()
    async with brokers.caller(brokers.others(leader)[0]) as caller:
        fields, body = records(b"x")
        answers = caller.submit(RequestCode.SEND_BATCH_MESSAGE, fields, body, flag=FLAG_ONEWAY)
        caller.flush()
        await trio.sleep(1)

        assert not answers
        assert bodies_of(await caller.pull()) == [b"x"]


@pytest.mark.parametrize(
    "code",
    [
        RequestCode.GET_ROUTEINFO_BY_TOPIC,
        RequestCode.GET_ALL_TOPIC_CONFIG,
        RequestCode.GET_MIN_OFFSET,
        RequestCode.PULL_MESSAGE,
        RequestCode.GET_GROUP_STATUS,
    ],
)
async def test_what_every_node_knows_is_answered_without_a_leader(autojump_clock, brokers, code):
    for other in brokers.others(brokers["n1"]):
        await other.kill()
    await until("nobody leads", lambda: brokers["n1"].running.ledger.leader_id is None)
    fields = {
        "topic": "t", "queueId": 0, "queueOffset": 0, "consumerGroup": "g", "maxMsgNums": 1,
        "sysFlag": 0,
    }  # fmt: skip
    async with brokers.caller(brokers["n1"]) as caller:
        began = trio.current_time()
        answer = await caller.ask(code, fields)

        assert answer.code in (ResponseCode.SUCCESS, ResponseCode.PULL_NOT_FOUND)
        assert trio.current_time() - began < 0.1
        if code == RequestCode.GET_ROUTEINFO_BY_TOPIC:
            (broker,) = json.loads(bytes(answer.body))["brokerDatas"]
            assert "0" not in broker["brokerAddrs"], "id 0 is the leader, and nobody leads"


@pytest.mark.parametrize(
    "code",
    [
        RequestCode.GET_ROUTEINFO_BY_TOPIC,
        RequestCode.GET_MIN_OFFSET,
        RequestCode.PULL_MESSAGE,
    ],
)
async def test_a_node_that_lags_does_not_say_that_a_topic_is_not_there(
    autojump_clock, brokers, code
):
    """After a start nothing is known to be committed: the leader has to be asked."""
    leader = await brokers.leader()
    lagging = brokers.others(leader)[0]
    lagging.workers["sync"].stall()
    fields = pull_fields(topic="fresh", wait_ms=1000)
    async with brokers.caller(leader) as writer, brokers.caller(lagging) as reader:
        await writer.create_topic("fresh")
        answer = await reader.ask(code, fields)
        unknown = await reader.ask(code, {**fields, "topic": "nowhere"})

    assert answer.code in (ResponseCode.SUCCESS, ResponseCode.PULL_NOT_FOUND)
    assert unknown.code == ResponseCode.TOPIC_NOT_EXIST, "the leader is sure of it"


async def test_a_topic_outlives_a_restart_of_all_for_a_reader_that_is_there_first(
    autojump_clock, brokers
):
    async with brokers.caller(await brokers.leader()) as caller:
        await caller.sent(b"x")
    for member in brokers:
        await member.kill()
    await brokers["n1"].start()
    async with brokers.caller(brokers["n1"]) as reader:
        answers = reader.submit(RequestCode.PULL_MESSAGE, pull_fields(wait_ms=5000))
        reader.flush()
        await brokers["n2"].start()
        await until("the pull is answered", lambda: answers)

    assert bodies_of(answers[0]) == [b"x"]


async def test_a_request_forwarded_twice_is_refused(autojump_clock, brokers):
    """Two nodes that each think the other leads would hand it to and fro for ever."""
    leader = await brokers.leader()
    async with brokers.caller(brokers.others(leader)[0]) as caller:
        fields, body = records(b"x")
        answer = await caller.ask(
            RequestCode.SEND_BATCH_MESSAGE, {**fields, "forwardedBy": "n9"}, body
        )

    assert answer.code == ResponseCode.NOT_LEADER
    assert answer.ext_fields["leaderId"] == leader.name


async def test_what_a_link_held_back_until_its_node_leads_again_is_not_done_twice(
    autojump_clock, brokers
):
    """A leader was cut off with a send on its way to it, which went to the next one instead."""
    leader = await brokers.leader()
    term = leader.running.ledger.term
    fields, body = records(b"x")
    codes = []
    async with brokers.caller(leader) as caller:
        for meant_in in (term - 1, term):
            marked = {**fields, "forwardedBy": "n9", "forwardedInTerm": meant_in}
            answer = await caller.ask(RequestCode.SEND_BATCH_MESSAGE, marked, body)
            codes.append(answer.code)

    assert codes == [ResponseCode.NOT_LEADER, ResponseCode.SUCCESS]


# -- while nobody leads -------------------------------------------------------------------------


async def test_a_request_made_during_an_election_is_answered_by_its_winner(autojump_clock, brokers):
    dead = await brokers.leader()
    one, two = brokers.others(dead)
    async with brokers.caller(one) as first, brokers.caller(two) as second:
        for member in (one, two):
            member.workers["vote"].stall()  # nobody is elected yet
        await dead.kill()
        await until("it is noticed", lambda: one.running.ledger.leader_id is None)
        answers = [first.send(b"a"), second.send(b"b")]
        first.flush()
        second.flush()
        await until("they wait", lambda: one.running.forwarder.held_count == 1)
        assert not any(answers)

        for member in (one, two):
            member.workers["vote"].go_on()
        await until("both are answered", lambda: all(answers))
        assert one.running.forwarder._held_size == two.running.forwarder._held_size == 0

    assert sorted(ext(answer)["queueOffset"] for answer in answers) == [0, 1]


async def test_what_a_leader_turns_away_waits_for_the_next(autojump_clock, brokers):
    """It has stepped down, and the follower that passed the request on has not heard of it."""
    leader = await brokers.leader()
    async with brokers.caller(brokers.others(leader)[0]) as caller:
        assert ext([await caller.sent(b"0")])["queueOffset"] == 0  # the connection stands
        leader.running.ledger.core.engine.abdicate()
        answers = [caller.send(b"1"), caller.send(b"2")]
        caller.flush()
        await until("they are answered", lambda: all(answers))

    assert [ext(answer)["queueOffset"] for answer in answers] == [1, 2]


async def test_requests_to_a_leader_that_is_not_ready_yet_wait_until_it_is(
    autojump_clock, make_brokers
):
    """It has won, and does not know yet what its predecessor committed."""
    group = make_brokers(3)
    for member in group:
        member.sync_seconds = 0.050
    await group.start()
    leader = await until(
        "somebody has won",
        lambda: next((m for m in group.alive if m.running.ledger.core.engine.is_leader), None),
    )
    assert not leader.running.queue.is_open
    async with group.caller(leader) as caller:
        answer = await caller.sent(b"x")

    assert answer.ext_fields["queueOffset"] == 0


async def test_nobody_waits_for_ever_for_a_leader(autojump_clock, brokers):
    for other in brokers.others(brokers["n1"]):
        await other.kill()
    await until("nobody leads", lambda: brokers["n1"].running.ledger.leader_id is None)
    async with brokers.caller(brokers["n1"]) as caller:
        began = trio.current_time()
        answer = await caller.sent(b"x")

    assert answer.code == ResponseCode.NOT_LEADER
    assert "is a majority of the group running?" in answer.remark
    assert HOLD_SECONDS <= trio.current_time() - began < HOLD_SECONDS + 2


async def test_what_waits_for_a_leader_is_bounded(autojump_clock, brokers):
    for other in brokers.others(brokers["n1"]):
        await other.kill()
    node = brokers["n1"].running
    await until("nobody leads", lambda: node.ledger.leader_id is None)
    node.forwarder._held_size_max = 15_000
    async with brokers.caller(brokers["n1"]) as caller:
        answers = [caller.send(bytes(4000)) for _ in range(5)]
        caller.flush()
        await trio.sleep(0.5)
        codes = [answer[0].code if answer else None for answer in answers]

    assert codes[:2] == [None, None]
    assert codes[3:] == [ResponseCode.SYSTEM_BUSY] * 2


async def test_what_a_client_waited_for_is_forgotten_when_it_is_gone(autojump_clock, brokers):
    for other in brokers.others(brokers["n1"]):
        await other.kill()
    node = brokers["n1"].running
    await until("nobody leads", lambda: node.ledger.leader_id is None)
    async with brokers.caller(brokers["n1"]) as caller:
        caller.send(b"x")
        caller.flush()
        await until("it waits", lambda: node.forwarder.held_count == 1)
    await until("it is forgotten", lambda: node.forwarder.held_count == 0)
    assert node.forwarder._held_size == 0


async def test_a_leader_that_dies_with_a_forwarded_send_leaves_its_outcome_unknown(
    autojump_clock, brokers
):
    leader = await brokers.leader()
    follower = brokers.others(leader)[0]
    for other in brokers.others(leader):
        other.workers["sync"].stall()
    async with brokers.caller(follower) as caller:
        answers = caller.send(b"x")
        caller.flush()
        await until("it is under way", lambda: leader.running.ledger.core.inflight_count)
        await leader.kill()
        for other in brokers.others(leader):
            other.workers["sync"].go_on()
        await until("it is answered", lambda: answers)

    assert answers[0].code == ResponseCode.OUTCOME_UNKNOWN
    assert leader.name in answers[0].remark


async def test_forwarding_goes_on_after_each_change_of_leader(autojump_clock, brokers):
    stays = brokers["n2"]
    async with brokers.caller(stays) as caller:
        for number in range(6):
            leader = await brokers.leader()
            target = next(m for m in brokers.others(leader))
            await leader.running.ledger.transfer(target.name)
            answer = await caller.sent(b"%d" % number)
            assert answer.ext_fields["queueOffset"] == number


async def test_a_send_to_a_leader_cut_off_ends_and_is_in_the_log_once_or_not_at_all(
    autojump_clock, brokers
):
    """Sent again with its sequence to the new leader it is there once."""
    old = await brokers.leader()
    async with brokers.caller(old) as caller:
        await caller.sent(b"0", producer_id=1, sequence=0)
        brokers.wires.isolate(old.name)
        answers = caller.send(b"1", producer_id=1, sequence=1)
        caller.flush()
        await until("it is answered", lambda: answers)
        assert answers[0].code == ResponseCode.OUTCOME_UNKNOWN
    new = await brokers.leader(other_than=old)
    async with brokers.caller(new) as caller:
        assert ext([await caller.sent(b"1", producer_id=1, sequence=1)])["queueOffset"] == 1
        brokers.wires.rejoin(old.name)
        await brokers.equal()
        assert bodies_of(await caller.pull()) == [b"0", b"1"]


# -- requests made to hurt: once each of them stopped the node that passed it on ------------------


def _header(kind: SerializeType, ext: bytes) -> bytes:
    if kind is SerializeType.JSON:
        return b'{"code":30,"opaque":9,"extFields":{"topic":' + ext + b"}}"
    return bytes((0x97, 30, 0, 9, 3, 1, 0xC0, 0x81, 0xA5)) + b"topic" + ext


@pytest.mark.parametrize(
    ("kind", "exts"),
    [
        (SerializeType.JSON, [b"9" * 30]),
        # As deep as can still be read: how deep that is depends on who calls.
        (SerializeType.MSGPACK, [b"\x91" * depth + b"\x01" for depth in range(990, 800, -1)]),
    ],
    ids=["a number of 100 bits", "lists in lists"],
)
async def test_what_can_be_read_and_not_be_passed_on_is_refused(
    autojump_clock, brokers, kind, exts
):
    leader = await brokers.leader()
    follower = brokers.others(leader)[0]
    for nested in exts:
        header = _header(kind, nested)
        data = struct.pack(">II", 4 + len(header), kind << 24 | len(header)) + header
        answers = await raw_answers(brokers, follower, data)
        if answers:
            break

    (answer,) = answers
    assert answer.opaque == 9
    assert answer.code in (ResponseCode.MESSAGE_ILLEGAL, ResponseCode.SYSTEM_ERROR)
    async with brokers.caller(follower) as caller:
        assert (await caller.sent(b"x")).code == ResponseCode.SUCCESS


@pytest.mark.parametrize("held", [False, True])
async def test_a_request_that_fills_its_frame_is_refused_by_a_follower(
    autojump_clock, brokers, held
):
    """With the field that says who passed it on it is too large."""
    leader = await brokers.leader()
    follower = brokers.others(leader)[0]
    fields = {"a": "g", "b": "t", "e": 0}
    size = FRAME_SIZE_MAX - sum(map(len, encode_frame(Command(310, ext_fields=fields))))
    async with brokers.caller(follower) as caller:
        if held:
            follower.running.forwarder._client_leader = None
        answer = await caller.ask(310, fields, bytes(size))
        assert answer.code == ResponseCode.MESSAGE_ILLEGAL
        assert "cannot be passed on" in answer.remark
        assert (await caller.sent(b"x")).code == ResponseCode.SUCCESS


@pytest.mark.parametrize("language", ["-7", "256", "9" * 30])
async def test_a_language_nobody_knows_breaks_no_link_to_the_leader(
    autojump_clock, brokers, language
):
    """The leader refused the header, and with it the connection that all requests share."""
    leader = await brokers.leader()
    follower = brokers.others(leader)[0]
    header = (
        f'{{"code":30,"opaque":9,"language":{language},"extFields":{{"topic":"t","queueId":"0"}}}}'
    ).encode()
    data = struct.pack(">II", 4 + len(header), len(header)) + header
    before = follower.running.forwarder._client

    (answer,) = await raw_answers(brokers, follower, data)

    assert answer.code == ResponseCode.SUCCESS
    assert follower.running.forwarder._client is before


async def test_headers_count_for_what_waits_for_a_leader(autojump_clock, brokers):
    for other in brokers.others(brokers["n1"]):
        await other.kill()
    node = brokers["n1"].running
    await until("nobody leads", lambda: node.ledger.leader_id is None)
    node.forwarder._held_size_max = 1_000_000
    fields = {"topic": "t", "queueId": 0, "junk": "x" * 300_000}
    async with brokers.caller(brokers["n1"]) as caller:
        answers = [caller.submit(RequestCode.GET_MAX_OFFSET, fields) for _ in range(5)]
        caller.flush()
        await trio.sleep(0.5)
        assert [bool(answer) for answer in answers] == [False, False, False, True, True]
        assert answers[-1][0].code == ResponseCode.SYSTEM_BUSY
