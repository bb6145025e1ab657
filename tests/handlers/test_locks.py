"""Queues that one consumer of a group reads alone."""

import json

import pytest
import trio

from broker.config import BrokerConfig
from broker.groups.lock_paths import LATE_SECONDS_MAX
from broker.handlers import locks
from broker.handlers.forward import FORWARDED
from broker.handlers.locks import _WANTED_BY_MAX, ARRIVED_AT
from broker.protocol.heartbeat import CLIENT_ID_SIZE_MAX
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import KIB
from dledger.errors import LedgerBusyError
from dledger.remoting.command import SerializeType
from tests.fakes.nodes import until
from tests.handlers.readers import readers

LOCK_SECONDS = BrokerConfig().queue_lock_max_ms / 1000


def body(client, *queues, topic="t", group="g", broker="b"):
    return json.dumps(
        {
            "clientId": client,
            "consumerGroup": group,
            "mqSet": [{"brokerName": broker, "queueId": queue, "topic": topic} for queue in queues],
        }
    ).encode()


async def ask(caller, code, *args, **kinds):
    answer = await caller.ask(code, {}, body(*args, **kinds), serialization=SerializeType.JSON)
    assert answer.code == ResponseCode.SUCCESS, answer.remark
    return answer


async def lock(caller, *args, **kinds):
    answer = await ask(caller, RequestCode.LOCK_BATCH_MQ, *args, **kinds)
    return [queue["queueId"] for queue in json.loads(bytes(answer.body))["lockOKMQSet"]]


async def held_of(answers):
    await until("all are answered", lambda: all(answers))
    return [bool(json.loads(bytes(answer.body))["lockOKMQSet"]) for (answer,) in answers]


async def unlock(caller, *args, **kinds):
    await ask(caller, RequestCode.UNLOCK_BATCH_MQ, *args, **kinds)


async def make_group(caller, name="g"):
    body = json.dumps({"groupName": name}).encode()
    await caller.ok(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, body)


@pytest.fixture
async def caller(caller):
    await make_group(caller)
    return caller


@pytest.fixture
async def among_three(make_brokers):
    """A connection to the leader of three, and the name of a node that handed requests on to it."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await make_group(caller)
        yield caller, next(node.name for node in group if node is not leader)


async def test_only_groups_that_there_are_have_locks(autojump_clock, caller, brokers):
    answer = await caller.ask(RequestCode.LOCK_BATCH_MQ, {}, body("a", 0, group="nobody"))

    assert answer.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
    assert "nobody" in answer.remark
    assert len(brokers._files["n1"].locks) == 0
    await unlock(caller, "a", 0, group="nobody")


async def test_one_has_it_and_the_other_has_not(autojump_clock, caller):
    assert await lock(caller, "a", 0) == [0]
    assert await lock(caller, "b", 0, 1) == [1]
    assert await lock(caller, "a", 0, 1) == [0]

    await unlock(caller, "b", 0, 1)
    assert await lock(caller, "a", 0, 1) == [0, 1]


async def test_the_broker_s_name_goes_back_as_it_came(autojump_clock, caller):
    answer = await ask(caller, RequestCode.LOCK_BATCH_MQ, "a", 0, broker="g-n1")

    assert bytes(answer.body) == (
        b'{"lockOKMQSet":[{"brokerName":"g-n1","queueId":0,"topic":"t"}]}'
    )


async def test_a_lock_that_is_not_asked_for_runs_out(autojump_clock, caller):
    await lock(caller, "a", 0)
    await trio.sleep(LOCK_SECONDS - 1)
    assert await lock(caller, "b", 0) == []
    await trio.sleep(2)

    assert await lock(caller, "b", 0) == [0]
    assert await lock(caller, "a", 0) == []


async def test_a_lock_that_is_asked_for_holds(autojump_clock, caller):
    await lock(caller, "a", 0)
    for _ in range(9):
        await trio.sleep(LOCK_SECONDS / 3)
        assert await lock(caller, "a", 0) == [0]
        assert await lock(caller, "b", 0) == []


async def test_asking_again_is_written_and_asking_in_vain_is_not(autojump_clock, caller, brokers):
    """The next leader has to know how a lock was asked for by who believes in it."""
    await lock(caller, "a", 0)
    end = brokers["n1"].running.ledger.core.store.end_index
    await lock(caller, "b", 0)
    assert brokers["n1"].running.ledger.core.store.end_index == end
    await lock(caller, "a", 0)

    assert brokers["n1"].running.ledger.core.store.end_index == end + 1


async def test_a_failover_leaves_each_lock_with_its_holder(autojump_clock, make_brokers):
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await make_group(caller)
        assert await lock(caller, "a", 0) == [0]
        await trio.sleep(LOCK_SECONDS - 5)
    await leader.kill()
    async with group.caller(await group.leader()) as caller:
        await trio.sleep(10)
        assert await lock(caller, "b", 0) == [], "when it was last asked for nobody knows"
        assert await lock(caller, "a", 0) == [0]
        await trio.sleep(LOCK_SECONDS + 1)
        assert await lock(caller, "b", 0) == [0]


async def test_a_leader_of_the_past_grants_nothing(autojump_clock, make_brokers):
    """Its word alone would let two hold a lock: one by it, and one by who leads now."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await make_group(caller)
        await lock(caller, "a", 0)
        group.wires.isolate(leader.name)

        answers = [
            await caller.ask(RequestCode.LOCK_BATCH_MQ, {}, body(client, queue))
            for client, queue in (("a", 0), ("b", 1))
        ]

    assert all(answer.code != ResponseCode.SUCCESS for answer in answers)


async def test_of_many_that_want_a_lock_one_gets_it(autojump_clock, caller):
    answers = [
        caller.submit(RequestCode.LOCK_BATCH_MQ, {}, body(f"c{number}", 0)) for number in range(20)
    ]
    caller.flush()
    held = await held_of(answers)

    assert held == [True] + [False] * 19


async def test_who_had_a_lock_does_not_keep_it_while_another_takes_it(autojump_clock, caller):
    await lock(caller, "a", 0)
    await trio.sleep(LOCK_SECONDS + 1)
    answers = [
        caller.submit(RequestCode.LOCK_BATCH_MQ, {}, body(client, 0)) for client in ("b", "a", "c")
    ]
    caller.flush()

    assert await held_of(answers) == [True, False, False]


async def test_who_asks_for_a_lock_behind_its_own_unlock_is_not_told_it_has_it(
    autojump_clock, caller
):
    await lock(caller, "a", 0)
    freed = caller.submit(RequestCode.UNLOCK_BATCH_MQ, {}, body("a", 0))
    again = caller.submit(RequestCode.LOCK_BATCH_MQ, {}, body("a", 0))
    caller.flush()
    held = await held_of([again])
    await until("it is free", lambda: freed)

    assert await lock(caller, "b", 0) == [0]
    assert held == [False], "both would read the queue"


async def test_a_queue_that_is_not_there_is_not_locked(autojump_clock, caller):
    assert await lock(caller, "a", 0, 7) == [0]
    assert await lock(caller, "a", 0, topic="nowhere") == []


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "body"),
        (b"{}", "clientId"),
        (body("", 0), "clientId"),
        (body("a", group="a b"), "a b"),
    ],
)
async def test_a_request_that_is_none_is_refused(autojump_clock, caller, sent, said):
    answer = await caller.ask(RequestCode.LOCK_BATCH_MQ, {}, sent)

    assert answer.code in (ResponseCode.SYSTEM_ERROR, ResponseCode.MESSAGE_ILLEGAL)
    assert said in answer.remark


async def test_numbers_may_be_written_as_strings(autojump_clock, caller):
    sent = body("a", 0).replace(b'"queueId": 0', b'"queueId": "0"')
    answer = await caller.ask(RequestCode.LOCK_BATCH_MQ, {}, sent)

    assert answer.code == ResponseCode.SUCCESS
    assert b'"queueId":0' in bytes(answer.body)


async def test_a_request_to_free_a_lock_that_waited_elsewhere_frees_no_newer_one(
    autojump_clock, among_three
):
    """The simulation's seed 800017: its client had given it up, and locked by another node."""
    caller, other = among_three
    await trio.sleep(LATE_SECONDS_MAX + 1)  # the leader is not new
    await lock(caller, "a", 0)
    late = {FORWARDED: other, ARRIVED_AT: 3.0}

    await caller.ok(RequestCode.UNLOCK_BATCH_MQ, late, body("a", 0))
    assert await lock(caller, "b", 0) == [], "two would read the queue"

    await trio.sleep(LATE_SECONDS_MAX + 1)
    await caller.ok(RequestCode.UNLOCK_BATCH_MQ, late, body("a", 0))
    assert await lock(caller, "b", 0) == [0], "none waits that long"


async def test_a_request_to_free_a_lock_that_waited_for_long_frees_none_that_is_believed_in(
    autojump_clock, among_three
):
    """The node that took it was stopped for a while: what it had goes on when it does."""
    caller, other = among_three
    await trio.sleep(LATE_SECONDS_MAX + 1)
    await lock(caller, "a", 0)
    await trio.sleep(29)  # its holder reads on for 30 s from its answer
    await caller.ok(RequestCode.UNLOCK_BATCH_MQ, {FORWARDED: other, ARRIVED_AT: 3.0}, body("a", 0))

    assert await lock(caller, "b", 0) == []


async def test_a_short_lock_is_given_back_by_another_node_once_it_would_have_run_out(
    autojump_clock, make_brokers
):
    """Its holder, which asks for it there again and again, would keep it for half a minute."""
    group = make_brokers(3, broker={"queue_lock_max_ms": 6000})
    await group.start()
    leader = await group.leader()
    other = next(node.name for node in group if node is not leader)
    async with group.caller(leader) as caller:
        await caller.create_topic("t")
        await make_group(caller)
        await trio.sleep(7)
        assert await lock(caller, "a", 0) == [0]
        for at in (3.0, 5.0, 7.0, 9.0):
            await trio.sleep(2)
            fields = {FORWARDED: other, ARRIVED_AT: at}
            await caller.ok(RequestCode.LOCK_BATCH_MQ, fields, body("a", 0))

        fields = {FORWARDED: other, ARRIVED_AT: 9.5}
        await caller.ok(RequestCode.UNLOCK_BATCH_MQ, fields, body("a", 0))

        assert await lock(caller, "b", 0) == [0]


async def test_a_request_to_free_a_lock_that_waited_here_frees_no_newer_one(
    autojump_clock, caller, brokers
):
    await trio.sleep(LATE_SECONDS_MAX + 1)
    earlier = brokers.clock.now()
    await trio.sleep(1)
    await lock(caller, "a", 0)

    await caller.ok(RequestCode.UNLOCK_BATCH_MQ, {ARRIVED_AT: earlier}, body("a", 0))
    assert await lock(caller, "b", 0) == []
    await unlock(caller, "a", 0)
    assert await lock(caller, "b", 0) == [0]


async def test_a_lock_that_is_on_its_way_is_told_to_who_asked_for_it_first(
    autojump_clock, caller, brokers, monkeypatch
):
    """Of the second asking nothing is written: to free it could come late, and be believed."""
    locks = brokers["n1"].running.locks
    when_current, barriers = locks._when_current, []
    monkeypatch.setattr(locks, "_when_current", lambda *barrier: barriers.append(barrier))
    answers = [caller.submit(RequestCode.LOCK_BATCH_MQ, {}, body("a", 0)) for _ in range(2)]
    caller.flush()
    await until("the first has it", lambda: answers[0] and barriers)
    when_current(*barriers[0])

    assert await held_of(answers) == [True, False]
    monkeypatch.undo()
    assert await lock(caller, "a", 0) == [0]


async def test_a_member_that_ends_after_a_failover_frees_its_queues_at_once(
    autojump_clock, make_brokers
):
    """The next leader did not know how they had been asked for, and ignored it for 35 s."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    follower = next(node for node in group if node is not leader)
    async with group.caller(follower) as caller:
        await caller.create_topic("t")
        await make_group(caller)
        assert await lock(caller, "a", 0, 1) == [0, 1]
        await trio.sleep(20)
        assert await lock(caller, "a", 0, 1) == [0, 1]
        await leader.kill()
        await group.leader()
        await unlock(caller, "a", 0)

        assert await lock(caller, "b", 0, 1) == [0]


async def test_what_a_leader_was_asked_before_it_died_is_not_undone_by_the_next(
    autojump_clock, make_brokers
):
    """A request to free it came to the follower first, and to the leader when it was another."""
    group = make_brokers(3)
    await group.start()
    leader = await group.leader()
    follower = next(node for node in group if node is not leader)
    async with group.caller(leader) as caller, group.caller(follower) as other:
        await caller.create_topic("t")
        await make_group(caller)
        await lock(other, "a", 0, 1)
        earlier = group.clock.now()
        await trio.sleep(1)
        await lock(other, "a", 0)
        await lock(caller, "a", 1)
        await leader.kill()
        await group.leader()
        late = {ARRIVED_AT: earlier}
        await other.ok(RequestCode.UNLOCK_BATCH_MQ, late, body("a", 0, 1))

        assert await lock(other, "b", 0, 1) == []


async def test_what_comes_by_a_connection_that_was_given_up_is_older_than_it_seems(
    autojump_clock, caller, brokers
):
    """A node that was stopped reads it when it goes on, behind what came by the next perhaps."""
    async with brokers.caller(brokers["n1"]) as newer:
        await lock(newer, "a", 0)
        await unlock(caller, "a", 0)
        assert await lock(newer, "b", 0) == []
        await unlock(newer, "a", 0)
        assert await lock(newer, "b", 0) == [0]


async def test_a_client_of_another_group_that_goes_by_the_same_id_is_another(
    autojump_clock, caller, brokers
):
    """Two programs of a machine, each told the same name: what one gave back was ignored."""
    await make_group(caller, "h")
    async with brokers.caller(brokers["n1"]) as newer:
        await lock(caller, "a", 0)
        await lock(newer, "a", 0, group="h")
        await unlock(caller, "a", 0)
        assert await lock(caller, "b", 0) == [0]
        assert await lock(newer, "b", 0, group="h") == []


@pytest.fixture
async def sharing(three):
    """Two consumers of the group g, each at a follower of its own."""
    leader = await three.leader()
    async with three.caller(leader) as caller:
        await caller.create_topic("t")
    one_at, other_at = three.others(leader)
    async with readers(three, ("a", one_at), ("b", other_at)) as found:
        for reader in found:
            reader.group = "g"
            await reader.beat()
        await trio.sleep(0.1)
        for reader in found:
            reader.told.clear()
        yield found


async def test_who_was_refused_a_queue_is_told_when_it_is_free(autojump_clock, sharing):
    """RocketMQ's clients ask each 20 s by themselves."""
    one, other = sharing
    assert await lock(one.caller, "a", 0, 1) == [0, 1]
    assert await lock(other.caller, "b", 1) == []
    await unlock(one.caller, "a", 0)
    await trio.sleep(0.1)
    assert not other.told, "that is not what it wanted"

    begun = trio.current_time()
    await unlock(one.caller, "a", 1)
    await until("it is told", lambda: other.told)
    assert trio.current_time() - begun < 0.1
    assert [command.ext_fields for command in other.told] == [{"consumerGroup": "g"}]
    assert not one.told
    assert await lock(other.caller, "b", 1) == [1]


async def test_who_has_got_a_queue_by_now_is_not_told(autojump_clock, sharing):
    """It was refused once, then had it, and lost it, as it asked for it no more."""
    one, other = sharing
    await lock(one.caller, "a", 0)
    assert await lock(other.caller, "b", 0) == []
    await trio.sleep(LOCK_SECONDS + 1)
    assert await lock(other.caller, "b", 0) == [0]
    await trio.sleep(LOCK_SECONDS + 1)
    assert await lock(one.caller, "a", 0) == [0]
    await unlock(one.caller, "a", 0)
    await trio.sleep(1)
    assert not one.told
    assert not other.told


async def test_of_many_that_were_refused_the_last_are_told(autojump_clock, sharing):
    """Others had asked once, and vanished since: they took the place of who was still there."""
    one, other = sharing
    await lock(one.caller, "a", 0)
    for number in range(2 * _WANTED_BY_MAX):
        assert await lock(other.caller, f"gone{number}", 0) == []
    assert await lock(other.caller, "b", 0) == []
    await unlock(one.caller, "a", 0)
    await until("it is told", lambda: other.told)


async def test_of_many_queues_that_were_refused_the_last_are_known(
    autojump_clock, three, sharing, monkeypatch
):
    monkeypatch.setattr(locks, "_WANTED_MAX", 2)
    one, other = sharing
    async with three.caller(await three.leader()) as caller:
        await caller.create_topic("t", queues=4)
    await lock(one.caller, "a", 0, 1, 2)
    for queue in (0, 1, 0, 2):
        assert await lock(other.caller, "b", queue) == []
    for queue, is_told in ((1, False), (0, True), (2, True)):
        other.told.clear()
        await unlock(one.caller, "a", queue)
        await trio.sleep(1)
        assert bool(other.told) is is_told, queue


async def test_who_was_refused_is_told_also_behind_an_append_that_failed(
    autojump_clock, three, sharing
):
    one, other = sharing
    await lock(one.caller, "a", 0)
    assert await lock(other.caller, "b", 0) == []
    leader = await three.leader()
    leader.running.queue.group_failed()
    await until("it serves again", lambda: leader.running.queue.is_open)
    await unlock(one.caller, "a", 0)
    await until("it is told", lambda: other.told)


async def test_long_names_keep_nobody_from_being_told(autojump_clock, sharing):
    one, other = sharing
    await lock(one.caller, "a", 0)
    for number in range(4):
        assert await lock(other.caller, f"A{number}".ljust(CLIENT_ID_SIZE_MAX, "\xe9"), 0) == []
    assert await lock(other.caller, "b", 0) == []
    await unlock(one.caller, "a", 0)
    await until("it is told", lambda: other.told)


async def test_a_queue_is_freed_whatever_names_they_have_that_wanted_it(
    autojump_clock, make_brokers
):
    """The entry had to hold all of them, and was refused where it could not."""
    group = make_brokers(store={"segment_size": 8 * KIB})
    await group.start()
    async with group.caller(await group.leader()) as caller:
        await caller.create_topic("t")
        await make_group(caller)
        await lock(caller, "a", 0)
        for number in range(_WANTED_BY_MAX):
            name = f"{number:04}".ljust(CLIENT_ID_SIZE_MAX, "\U0001f40c")
            assert await lock(caller, name, 0) == []
        await unlock(caller, "a", 0)
        assert await lock(caller, "b", 0) == [0]


async def test_who_was_refused_is_told_when_the_second_try_to_free_it_succeeds(
    autojump_clock, three, sharing, monkeypatch
):
    one, other = sharing
    await lock(one.caller, "a", 0)
    assert await lock(other.caller, "b", 0) == []
    leader = await three.leader()

    def refuse(*_):
        raise LedgerBusyError("too much waits to be committed")

    with monkeypatch.context() as patch:
        patch.setattr(leader.running.queue, "put_command", refuse)
        request = body("a", 0)
        answer = await one.ask(RequestCode.UNLOCK_BATCH_MQ, {}, request)
        assert answer.code == ResponseCode.SYSTEM_BUSY
    await unlock(one.caller, "a", 0)
    await until("it is told", lambda: other.told)


@pytest.mark.parametrize("client", ["a", "b"])
async def test_who_asks_for_a_queue_while_it_is_being_freed_is_told_when_it_is(
    autojump_clock, sharing, client
):
    """It had to wait 20 s, as for the rest there is nothing that it could be told of."""
    one, other = sharing
    await lock(one.caller, "a", 0)
    reader = {"a": one, "b": other}[client]

    one.caller.submit(RequestCode.UNLOCK_BATCH_MQ, {}, body("a", 0))
    late = one.caller.submit(RequestCode.LOCK_BATCH_MQ, {}, body(client, 0))
    one.caller.flush()
    assert await held_of([late]) == [False], "it is on its way to nobody"
    begun = trio.current_time()
    await until("it is told", lambda: reader.told)
    assert trio.current_time() - begun < 0.1
    assert await lock(reader.caller, client, 0) == [0]
    await trio.sleep(1)
    assert len(one.told) + len(other.told) == 1


async def test_who_is_told_by_what_frees_a_queue_is_told_once(autojump_clock, sharing):
    one, other = sharing
    await lock(one.caller, "a", 0)
    assert await lock(other.caller, "b", 0) == []

    one.caller.submit(RequestCode.UNLOCK_BATCH_MQ, {}, body("a", 0))
    late = one.caller.submit(RequestCode.LOCK_BATCH_MQ, {}, body("b", 0))
    one.caller.flush()
    assert await held_of([late]) == [False]
    await trio.sleep(1)
    assert len(other.told) == 1
