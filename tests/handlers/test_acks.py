"""What an ack stands on: asked for by send, topic or broker, told in the answer, and true."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from broker.message.properties import encode_properties
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import FlushDiskType
from dledger.remoting.command import FLAG_GROUPED, Command
from tests.fakes.brokers import bodies_of, records
from tests.fakes.nodes import until


def send(caller: Any, body: bytes, *, grouped: bool = False, **fields: Any) -> list[Any]:
    """Queue a send of one record that asks for *fields*; see `Caller.submit`."""
    sequence = {name: fields.pop(name) for name in ("producer_id", "sequence") if name in fields}
    header, encoded = records(body, **sequence)
    return caller.submit(
        RequestCode.SEND_BATCH_MESSAGE,
        header | fields,
        encoded,
        flag=FLAG_GROUPED if grouped else 0,
    )


async def sent(caller: Any, body: bytes, **fields: Any) -> Command:
    answers = send(caller, body, **fields)
    caller.flush()
    await until("the send is answered", lambda: answers)
    return answers[0]


def durability(answer: Command) -> tuple[int, str]:
    return answer.code, answer.ext_fields.get("durability", "")


@pytest.fixture
async def three(make_brokers):
    """Return what makes a group of three that leads, with the topic t, its leader and a caller."""

    async def make(**settings: Any) -> tuple[Any, Any]:
        group = make_brokers(3, **settings)
        await group.start()
        leader = await group.leader()
        async with group.caller(leader) as caller:
            await caller.create_topic("t", queues=1)
        return group, leader

    return make


# -- what is asked for, and by whom -------------------------------------------------------------


async def test_a_majority_has_it_on_disk_unless_somebody_asks_for_something_else(
    autojump_clock, three
):
    group, leader = await three()
    async with group.caller(leader) as caller:
        assert durability(await sent(caller, b"a")) == (0, "majority/sync")
        assert durability(await sent(caller, b"b", acks="leader", flush="async")) == (
            0, "leader/async",
        )  # fmt: skip
        assert durability(await sent(caller, b"c", acks="leader")) == (0, "leader/sync")
        assert durability(await sent(caller, b"d", flush="async")) in [
            (0, "majority/async"), (0, "majority/sync"),
        ]  # fmt: skip
        assert durability(await sent(caller, b"e", acks="all")) == (0, "all/sync")


@pytest.mark.parametrize(
    ("role", "flush", "found"),
    [
        ("ASYNC_MASTER", FlushDiskType.SYNC_FLUSH, "leader/sync"),
        ("ASYNC_MASTER", FlushDiskType.ASYNC_FLUSH, "leader/async"),
        ("SYNC_MASTER", FlushDiskType.ASYNC_FLUSH, "majority/async"),
        ("ALL", FlushDiskType.ASYNC_FLUSH, "all/async"),
        ("ALL", FlushDiskType.SYNC_FLUSH, "all/sync"),
    ],
)
async def test_the_broker_s_default_holds_where_nobody_says_otherwise(
    autojump_clock, three, role, flush, found
):
    group, leader = await three(broker={"broker_role": role}, store={"flush_disk_type": flush})
    async with group.caller(leader) as caller:
        assert durability(await sent(caller, b"a")) == (0, found)


async def test_the_topic_comes_before_the_broker_and_the_send_before_the_topic(
    autojump_clock, three
):
    group, leader = await three(broker={"broker_role": "ALL"})
    async with group.caller(leader) as caller:
        await caller.create_topic("t", queues=1, attributes="+acks=leader,+flush=async")
        assert durability(await sent(caller, b"a")) == (0, "leader/async")
        assert durability(await sent(caller, b"b", acks="majority")) == (0, "majority/async")
        assert durability(await sent(caller, b"c", flush="sync")) == (0, "leader/sync")


async def test_a_disk_is_waited_for_where_only_the_send_asks_for_it(autojump_clock, three):
    """ASYNC_FLUSH syncs every half second; who asks for it does not wait that long."""
    group, leader = await three(store={"flush_disk_type": FlushDiskType.ASYNC_FLUSH})
    async with group.caller(leader) as caller:
        began = trio.current_time()
        for wanted in ("leader", "majority", "all"):
            found = durability(await sent(caller, b"a", acks=wanted, flush="sync"))
            assert found == (0, f"{wanted}/sync")
        assert trio.current_time() - began < 0.45


@pytest.mark.parametrize(
    ("properties", "found"),
    [
        ({"WAIT": "false"}, "leader/async"),
        ({"WAIT": "true"}, "majority/sync"),
        ({"DLEDGER_ACKS": "all"}, "all/sync"),
        ({"DLEDGER_ACKS": "leader", "DLEDGER_FLUSH": "async"}, "leader/async"),
    ],
)
async def test_rocketmq_s_clients_ask_by_properties(autojump_clock, three, properties, found):
    group, leader = await three()
    async with group.caller(leader) as caller:
        answer = await caller.ask(
            RequestCode.SEND_MESSAGE_V2,
            {
                "a": "writers", "b": "t", "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "1",
                "h": "0", "i": encode_properties(properties).decode(), "j": "0", "k": "false",
                "m": "false",
            },
            b"body",
        )  # fmt: skip
        assert durability(answer) == (0, found)


@pytest.mark.parametrize("field", ["acks", "flush"])
async def test_a_level_that_there_is_not_is_refused_by_name(autojump_clock, three, field):
    group, leader = await three()
    async with group.caller(leader) as caller:
        answer = await sent(caller, b"a", **{field: "most"})
        assert answer.code == ResponseCode.SYSTEM_ERROR
        assert f"field {field}" in (answer.remark or "")


# -- when ---------------------------------------------------------------------------------------


async def test_sends_of_one_entry_are_answered_each_at_its_own_level(autojump_clock, three):
    group, leader = await three()
    for member in group:
        for worker in member.workers.values():
            worker.seconds = 0.05 if member is leader else 0.2
    async with group.caller(leader) as caller:
        wanted = [("leader", "async"), ("leader", "sync"), ("majority", "sync"), ("all", "sync")]
        answers = [
            send(caller, b"%d" % n, acks=acks, flush=flush)
            for n, (acks, flush) in enumerate(wanted)
        ]
        end = leader.running.ledger.store.end_index
        caller.flush()
        heard: list[float] = []
        for each in answers:
            await until("the next is answered", lambda each=each: each)
            heard.append(trio.current_time())
        assert leader.running.ledger.store.end_index == end + 1, "they share an entry"
        assert [durability(each[0])[1] for each in answers] == ["/".join(each) for each in wanted]
        assert heard[0] < heard[1] < heard[2] <= heard[3]


async def test_grouped_acks_of_different_levels_come_in_frames_of_their_own(autojump_clock, three):
    group, leader = await three()
    async with group.caller(leader) as caller:
        for number in range(6):
            acks = "leader" if number % 2 else "majority"
            send(caller, b"%d" % number, grouped=True, acks=acks, flush="sync")
        caller.flush()
        await until("all acks", lambda: len(caller.acks) == 6)
        assert (
            sorted(ack.durability for ack in caller.acks)
            == ["leader/sync"] * 3 + ["majority/sync"] * 3
        )


async def test_nothing_is_shown_before_it_is_committed_however_early_it_is_acknowledged(
    autojump_clock, three
):
    group, leader = await three()
    for other in group.others(leader):
        group.wires.silence(leader.name, other.name)
    async with group.caller(leader) as caller:
        answer = await sent(caller, b"early", acks="leader", flush="async")
        assert durability(answer) == (0, "leader/async")
        assert bodies_of(await caller.pull()) == []


# -- when it is not reached ---------------------------------------------------------------------


async def test_with_a_member_gone_all_is_answered_with_what_was_reached(autojump_clock, three):
    group, leader = await three(broker={"ack_timeout_ms": 500})
    gone = group.others(leader)[0]
    await gone.kill()
    async with group.caller(leader) as caller:
        began = trio.current_time()
        assert durability(await sent(caller, b"majority")) == (0, "majority/sync")
        assert durability(await sent(caller, b"leader", acks="leader")) == (0, "leader/sync")
        assert trio.current_time() - began < 0.4

        answer = await sent(caller, b"all", acks="all")
        assert durability(answer) == (ResponseCode.SLAVE_NOT_AVAILABLE, "majority/sync")
        assert 0.5 <= trio.current_time() - began < 1.0
        for word in (gone.name, leader.name, "queue 0", "'t'", "do not send it again"):
            assert word in (answer.remark or "")
        assert bodies_of(await caller.pull()) == [b"majority", b"leader", b"all"]

        await gone.start()
        await group.equal()
        assert durability(await sent(caller, b"again", acks="all")) == (0, "all/sync")


async def test_with_a_member_that_is_slow_all_is_answered_with_what_was_reached(
    autojump_clock, three
):
    group, leader = await three(broker={"ack_timeout_ms": 300})
    group.others(leader)[0].workers["sync"].seconds = 1.0
    async with group.caller(leader) as caller:
        answers = [send(caller, b"%d" % n, acks="all", grouped=True) for n in range(5)]
        caller.flush()
        await until("all are answered", lambda: all(answers))
        assert {durability(each[0]) for each in answers} == {
            (ResponseCode.FLUSH_SLAVE_TIMEOUT, "majority/sync")
        }
        offsets = [each[0].ext_fields["queueOffset"] for each in answers]
        assert offsets == list(range(5))


async def test_a_disk_that_is_slow_is_told_as_such(autojump_clock, three):
    group, leader = await three(
        broker={"ack_timeout_ms": 300}, store={"flush_disk_type": FlushDiskType.ASYNC_FLUSH}
    )
    for member in group:
        member.workers["sync"].seconds = 1.0
    async with group.caller(leader) as caller:
        answer = await sent(caller, b"a", flush="sync")
        assert durability(answer) == (ResponseCode.FLUSH_DISK_TIMEOUT, "all/async")


async def test_a_duplicate_is_answered_at_the_level_it_asks_for(autojump_clock, three):
    group, leader = await three()
    async with group.caller(leader) as caller:
        for wanted in ("leader", "majority", "all", "all"):
            answer = await sent(caller, b"a", acks=wanted, producer_id=7, sequence=0)
            assert durability(answer)[0] == 0
        assert durability(answer) == (0, "all/sync")
        assert bodies_of(await caller.pull()) == [b"a"]


async def test_a_lead_lost_before_the_commit_takes_with_it_what_only_the_leader_had(
    autojump_clock, three
):
    """The next number is out of order for the new leader, and a new producer id helps."""
    group, leader = await three()
    async with group.caller(leader) as caller:
        await sent(caller, b"kept", producer_id=7, sequence=0)
    for other in group.others(leader):
        group.wires.silence(leader.name, other.name)
    async with group.caller(leader) as caller:
        answer = await sent(
            caller, b"lost", acks="leader", flush="async", producer_id=7, sequence=1
        )
        assert durability(answer) == (0, "leader/async")
    await leader.kill()
    new = await group.leader()
    async with group.caller(new) as caller:
        answer = await sent(caller, b"next", producer_id=7, sequence=2)
        assert answer.code == ResponseCode.OUT_OF_ORDER_SEQUENCE
        assert durability(await sent(caller, b"next", producer_id=8, sequence=0))[0] == 0
        assert bodies_of(await caller.pull()) == [b"kept", b"next"]
