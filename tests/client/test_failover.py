"""Leaders that die, freeze, are deposed or cannot be reached, while messages are on their way."""

from __future__ import annotations

import itertools
import random

import pytest
import trio

import broker
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode as Code
from dledger.remoting.command import response


def sends_of(node):
    return [c for c in node.requests if c.code == RequestCode.SEND_BATCH_MESSAGE]


class Stream:
    """Sends numbered messages to one queue, each from a task of its own, one each 5 ms."""

    def __init__(self, producer, count, interval=0.005):
        self.producer = producer
        self.count = count
        self.interval = interval
        self.acked = {}
        self.failed = {}
        self.acked_at = []

    async def run(self):
        async with trio.open_nursery() as nursery:
            for number in range(self.count):
                nursery.start_soon(self.send, number)
                await trio.sleep(self.interval)

    async def send(self, number):
        try:
            self.acked[number] = await self.producer.send("orders", b"%06d" % number, queue=0)
        except broker.ClientError as error:
            self.failed[number] = error
        else:
            self.acked_at.append(trio.current_time())

    @property
    def longest_gap(self):
        times = sorted(self.acked_at)
        return max(later - sooner for sooner, later in itertools.pairwise(times))


def assert_stored_once_and_in_order(group, count):
    assert group.bodies("orders")[0] == [b"%06d" % number for number in range(count)]


async def test_a_killed_leader_costs_the_election_and_a_few_milliseconds(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 400)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        group.elect(None)
        group.nodes[0].kill()
        await trio.sleep(0.100)
        group.elect(1)

    assert not stream.failed
    assert_stored_once_and_in_order(group, 400)
    assert stream.longest_gap < 0.130


async def test_acks_lost_with_the_connection_write_nothing_twice(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        stream = Stream(producer, 300)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            for _ in range(10):
                await trio.sleep(0.1)
                group.lose_acks = 1

    assert not stream.failed
    assert_stored_once_and_in_order(group, 300)
    assert producer.stats.retried >= 10
    for number, result in stream.acked.items():
        assert result.queue_offset == number


async def test_many_batches_under_way_are_resent_in_order(group, connect, autojump_clock):
    """Five requests of one queue are on their way when the connection breaks."""
    group.ack_delay = 0.020
    async with connect() as mq, mq.producer(batch_count_max=3) as producer:
        stream = Stream(producer, 500, interval=0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            for _ in range(8):
                await trio.sleep(0.050)
                group.nodes[0].break_connections()

    assert not stream.failed
    assert_stored_once_and_in_order(group, 500)


async def test_a_deposed_leader_that_names_the_new_one_is_followed_at_once(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(2)
        began = trio.current_time()
        await producer.send("orders", b"2", queue=0)
        assert trio.current_time() - began < 0.010
        assert mq.leader_address == group.nodes[2].address
    assert group.bodies("orders")[0] == [b"1", b"2"]


async def test_a_node_that_forwards_tells_where_the_leader_is(group, connect, autojump_clock):
    group.forwards = True
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(2)
        await producer.send("orders", b"2", queue=0)
        assert mq.leader_address == group.nodes[2].address
        await producer.send("orders", b"3", queue=0)
        assert producer.stats.retried == 0
    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]
    assert [len(sends_of(node)) for node in group.nodes] == [2, 0, 1]


async def test_a_leader_that_steps_down_is_not_asked_until_it_leads_again(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 200)
        nursery.start_soon(stream.run)
        await trio.sleep(0.3)
        group.elect(None)
        before = len(sends_of(group.nodes[0]))
        await trio.sleep(0.200)
        assert len(sends_of(group.nodes[0])) <= before + 1
        group.elect(1)

    assert_stored_once_and_in_order(group, 200)
    assert stream.longest_gap < 0.230


async def test_a_node_that_cannot_forward_after_all_is_not_asked_in_circles(
    group, connect, autojump_clock
):
    """The leader is out of our reach, and of the reach of the others too, who still name it."""

    def refuse(node, command):
        if node is not group.nodes[0] and command.code == RequestCode.SEND_BATCH_MESSAGE:
            return response(command, Code.NOT_LEADER, "cannot reach it either")
        return None

    async with connect() as mq, mq.producer(send_timeout=4.0) as producer:
        await producer.send("orders", b"1", queue=0)
        group.refuse = refuse
        group.nodes[0].kill()
        await trio.sleep(0.01)  # or the send goes out on a connection that breaks under it
        with pytest.raises(broker.NotWrittenError, match="cannot reach it either"):
            await producer.send("orders", b"2", queue=0)
        assert 1 <= sum(len(sends_of(node)) for node in group.nodes[1:]) < 1000


async def test_a_new_leader_ends_all_waiting(group, connect, autojump_clock):
    """The pauses for a busy leader have grown to 200 ms when another one takes over."""
    busy = group.nodes[0]

    def refuse(node, command):
        if node is busy and group.leader is busy and command.code == RequestCode.SEND_BATCH_MESSAGE:
            return response(command, Code.SYSTEM_BUSY, "busy")
        return None

    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.refuse = refuse
        heard = []
        mq._session.finder.listen(lambda: heard.append(trio.current_time()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"2")
            await trio.sleep(2)
            group.elect(1)
        assert trio.current_time() - heard[-1] < 0.005
        assert mq.leader_address == group.nodes[1].address


async def test_a_leader_that_refuses_is_not_asked_in_circles(group, connect, autojump_clock):
    """It says it leads, and that it does not: at most once in 10 ms, until another one leads."""
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(1)
        await producer.send("orders", b"2", queue=0)
        before = len(sends_of(group.nodes[0]))
        group.nodes[0].believes = group.nodes[0]
        group.elect(None)
        group.nodes[1].kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"3")
            await trio.sleep(0.5)
            assert len(sends_of(group.nodes[0])) <= before + 55
            group.elect(2)
            elected = trio.current_time()
        assert trio.current_time() - elected < 0.030
    assert len(group.all_bodies("orders")) == 3


async def test_a_node_that_claims_an_older_lead_is_not_followed(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(1)
        group.elect(2)
        await producer.send("orders", b"2", queue=0)
        await trio.sleep(2)  # the new leader's term has been heard by now
        group.elect(None)
        group.nodes[2].kill()
        group.nodes[0].believes = group.nodes[0]
        before = len(sends_of(group.nodes[0]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send, "orders", b"3")
            await trio.sleep(0.5)
            group.elect(1)
        assert len(sends_of(group.nodes[0])) == before
    assert len(group.all_bodies("orders")) == 3


async def test_a_frozen_leader_is_left_once_others_follow_another(group, connect, autojump_clock):
    """SIGSTOP: the connection stands, and nothing comes; what it took may be written later."""
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 400)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        group.nodes[0].freeze()
        await trio.sleep(0.150)
        group.elect(1)
        await trio.sleep(2.0)
        group.nodes[0].thaw()

    assert not stream.failed
    assert_stored_once_and_in_order(group, 400)
    assert stream.longest_gap < 0.600


async def test_a_slow_leader_is_not_left(group, connect, autojump_clock):
    """A disk that stalls for three seconds: the leader still says that it leads."""
    group.ack_delay = 3.0
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        assert producer.stats.retried == 0
        assert len(group.nodes[0].streams) == 1


async def test_nodes_that_still_name_the_dead_leader_do_not_bring_it_back(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 200)
        nursery.start_soon(stream.run)
        await trio.sleep(0.3)
        dead = group.nodes[0]
        dead.kill()
        group.nodes[1].believes = group.nodes[2].believes = dead
        await trio.sleep(0.2)
        group.nodes[1].believes = group.nodes[2].believes = None
        group.elect(2)

    assert not stream.failed
    assert_stored_once_and_in_order(group, 200)
    assert stream.longest_gap < 0.250


async def test_the_first_address_may_be_dead_from_the_start(group, connect, autojump_clock):
    group.nodes[0].kill()
    group.elect(2)
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1")
        assert trio.current_time() < 0.1
        assert mq.leader_address == group.nodes[2].address


async def test_one_address_is_enough_to_find_the_group(group, connect, autojump_clock):
    async with (
        broker.connect(group.nodes[1].address, network=group.network) as mq,
        mq.producer() as producer,
    ):
        await producer.send("orders", b"1")
        group.nodes[1].kill()
        group.elect(2)
        group.nodes[0].kill()
        await producer.send("orders", b"2")
    assert sorted(group.all_bodies("orders")) == [b"1", b"2"]


async def test_a_restarted_leader_is_found_again(group, connect, autojump_clock):
    """A group of one: there is nobody else to ask."""
    group.nodes[1].kill()
    group.nodes[2].kill()
    async with connect() as mq, mq.producer() as producer, trio.open_nursery() as nursery:
        stream = Stream(producer, 300)
        nursery.start_soon(stream.run)
        await trio.sleep(0.5)
        group.nodes[0].kill()
        await trio.sleep(0.5)
        await group.nodes[0].start()

    assert not stream.failed
    assert_stored_once_and_in_order(group, 300)


async def test_a_leader_out_of_reach_is_reached_through_another_node(
    group, connect, autojump_clock
):
    """The link between client and leader is cut; the group itself is well, so nobody is elected."""

    def forward(node, command):
        if node is group.nodes[1] and command.code == RequestCode.SEND_BATCH_MESSAGE:
            return group.send(group.nodes[0], None, command)
        return None

    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.refuse = forward
        group.nodes[0].kill()
        group.nodes[2].kill()
        result = await producer.send("orders", b"2", queue=0)

    assert group.bodies("orders")[0] == [b"1", b"2"]
    assert result.queue_offset == 1


# --- deadlines ------------------------------------------------------------------------------------


async def test_without_a_leader_nothing_is_written_and_the_error_says_so(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer(send_timeout=2.0) as producer:
        await producer.send("orders", b"1", queue=0)
        group.elect(None)
        with pytest.raises(
            broker.NotWrittenError, match=r"topic orders queue 0.*cannot duplicate"
        ) as caught:
            await producer.send("orders", b"2", queue=0)
        assert not isinstance(caught.value, broker.OutcomeUnknownError)
        assert trio.current_time() == pytest.approx(2.0, abs=0.2)
        group.elect(1)
        await producer.send("orders", b"3", queue=0)

    assert group.bodies("orders")[0] == [b"1", b"3"]


async def test_a_lost_answer_and_no_leader_since_is_unknown(group, connect, autojump_clock):
    async with connect() as mq, mq.producer(send_timeout=2.0) as producer:
        await producer.send("orders", b"1", queue=0)
        group.lose_acks = 1
        group.nodes[0].believes = None

        def refuse(node, command):
            if group.lose_acks == 0:
                group.elect(None)
            return

        group.refuse = refuse
        with pytest.raises(
            broker.OutcomeUnknownError, match=r"topic orders queue 0.*look for it before"
        ):
            await producer.send("orders", b"2", queue=0)
        group.refuse = lambda node, command: None
        group.elect(1)
        await producer.send("orders", b"3", queue=0)

    # It was written: the caller was told that nobody knew.
    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]


async def test_expired_and_fresh_messages_of_one_queue_part_ways(group, connect, autojump_clock):
    """What has expired unwritten is never written; what has time left goes on, in order."""
    group.elect(None)
    outcomes = {}

    async def send(number):
        try:
            await producer.send("orders", b"%d" % number, queue=0)
            outcomes[number] = "acked"
        except broker.NotWrittenError:
            outcomes[number] = "not written"

    async with (
        connect() as mq,
        mq.producer(send_timeout=3.0) as producer,
        trio.open_nursery() as nursery,
    ):
        for number in range(20):
            nursery.start_soon(send, number)
            await trio.sleep(0.2)
        group.elect(2)

    stored = [int(body) for body in group.bodies("orders")[0]]
    assert stored == [number for number in range(20) if outcomes[number] == "acked"]
    assert 2 < len(stored) < 18


async def test_a_busy_leader_is_asked_again_later(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)

        def busy(node, command):
            if command.code == RequestCode.SEND_BATCH_MESSAGE and trio.current_time() < 1.0:
                return response(command, Code.SYSTEM_BUSY, "too much at once")
            return None

        group.refuse = busy
        await producer.send("orders", b"2", queue=0)
        assert 1.0 <= trio.current_time() < 1.3
        # 5 ms, doubled up to 200 ms: a dozen requests at most, not a storm.
        assert len(sends_of(group.nodes[0])) < 20
    assert group.bodies("orders")[0] == [b"1", b"2"]


async def test_a_producer_the_broker_has_forgotten_takes_a_new_id(group, connect, autojump_clock):
    """Idle for days: the first attempt is refused, nothing can have been written."""
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.producers.clear()
        await producer.send("orders", b"2", queue=0)
        await producer.send("orders", b"3", queue=0)

    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]
    ids = [c.ext_fields["producerId"] for c in sends_of(group.nodes[0])]
    assert len(set(ids)) == 2


async def test_forgotten_between_a_lost_answer_and_its_retry_is_unknown(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.lose_acks = 1
        original = group.send

        def forget_after(node, stream, command):
            answer = original(node, stream, command)
            if answer is None:
                group.producers.clear()
            return answer

        group.send = forget_after
        with pytest.raises(broker.OutcomeUnknownError, match="UNKNOWN_PRODUCER"):
            await producer.send("orders", b"2", queue=0)
        await producer.send("orders", b"3", queue=0)
    assert group.bodies("orders")[0] == [b"1", b"2", b"3"]


async def test_a_broker_that_lacks_an_acknowledged_message_does_not_block_the_queue(
    group, connect, autojump_clock
):
    """It must not happen; if it does, the numbers behind the gap are dead and new ones are due."""
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        await producer.send("orders", b"2", queue=0)
        (state,) = group.producers.values()
        state["next"] = 1
        await producer.send("orders", b"3", queue=0)
        await producer.send("orders", b"4", queue=0)
        assert producer.stats.retried == 1
    assert group.bodies("orders")[0] == [b"1", b"2", b"3", b"4"]


async def test_sequences_are_dense_for_each_queue(group, connect, autojump_clock):
    async with (
        connect() as mq,
        mq.producer(batch_count_max=7) as producer,
        trio.open_nursery() as nursery,
    ):
        for number in range(300):
            nursery.start_soon(
                lambda n: producer.send("orders", b"x", ordering_key=f"k{n}"), number
            )
    following = {}
    for command in sends_of(group.nodes[0]):
        queue = command.ext_fields["queueId"]
        assert command.ext_fields["sequence"] == following.get(queue, 0)
        following[queue] = command.ext_fields["sequence"] + len(command.ext_fields["sizes"]) // 4
    assert sum(following.values()) == 300


async def test_without_idempotence_one_request_of_a_queue_is_under_way(
    group, connect, autojump_clock
):
    group.ack_delay = 0.010
    async with connect() as mq, mq.producer(idempotent=False, batch_count_max=5) as producer:
        stream = Stream(producer, 100, interval=0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await trio.sleep(0.0305)
            broken = trio.current_time()
            group.nodes[0].break_connections()
    assert {c.ext_fields["producerId"] for c in sends_of(group.nodes[0])} == {0}
    for sooner, later in itertools.pairwise(group.send_times):
        assert later - sooner > 0.0099 or sooner <= broken <= later
    stored = [int(body) for body in group.bodies("orders")[0]]
    assert stored == sorted(set(stored)), "in order, and nothing twice"


async def test_without_idempotence_what_may_be_written_is_unknown_and_never_repeated(
    group, connect, autojump_clock
):
    """It was sent again to the next leader, and the old one had written it."""
    group.ack_delay = 0.010
    async with connect() as mq, mq.producer(idempotent=False, batch_count_max=5) as producer:
        stream = Stream(producer, 100, interval=0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            await trio.sleep(0.0305)
            group.nodes[0].break_connections()
    assert stream.failed
    assert {type(error) for error in stream.failed.values()} == {broker.OutcomeUnknownError}
    stored = [int(body) for body in group.bodies("orders")[0]]
    assert len(set(stored)) == len(stored)
    assert set(stored) >= set(stream.acked)
    assert set(stored) | set(stream.failed) == set(range(100))


async def test_a_duplicate_whose_place_is_forgotten_is_written_all_the_same(
    group, connect, autojump_clock
):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        group.lose_acks = 1
        original = group.send

        def forget_place(node, stream, command):
            answer = original(node, stream, command)
            for state in group.producers.values():
                state["places"].clear()
            return answer

        group.send = forget_place
        result = await producer.send("orders", b"2", queue=0)
    assert (result.queue_offset, result.position, result.message_id) == (-1, -1, "")
    assert producer.stats.duplicates_answered == 1
    assert group.bodies("orders")[0] == [b"1", b"2"]


async def test_a_vanished_topic_is_created_again(group, connect, autojump_clock):
    async with connect() as mq, mq.producer() as producer:
        await producer.send("orders", b"1", queue=0)
        del group.topics["orders"]
        await producer.send("orders", b"2", queue=0)
    assert group.bodies("orders")[0] == [b"1", b"2"]


async def torment(group, chance, count):
    """Kills, freezes, lost acks, broken connections, depositions and refusals, by chance."""
    for _ in range(count):
        await trio.sleep(chance.uniform(0.02, 0.25))
        leader = group.leader
        what = chance.choice(["kill", "freeze", "lose", "break", "depose", "busy"])
        others = [n for n, node in enumerate(group.nodes) if node is not leader]
        if what == "lose":
            group.lose_acks += 1
        elif what == "break":
            leader.break_connections()
        elif what == "depose":
            group.elect(chance.choice(others))
        elif what == "busy":
            group.refuse = busy_until(trio.current_time() + 0.05)
        elif what == "kill":
            group.elect(None)
            leader.kill()
            await trio.sleep(chance.uniform(0.0, 0.3))
            group.elect(chance.choice(others))
            await leader.start()
        else:
            leader.freeze()
            await trio.sleep(chance.uniform(0.0, 0.3))
            group.elect(chance.choice(others))
            await trio.sleep(chance.uniform(0.0, 0.3))
            leader.thaw()


def busy_until(time):
    def refuse(node, command):
        if command.code == RequestCode.SEND_BATCH_MESSAGE and trio.current_time() < time:
            return response(command, Code.SYSTEM_BUSY, "busy")
        return None

    return refuse


@pytest.mark.parametrize("seed", range(12))
async def test_any_mix_of_failures_leaves_every_message_once_and_in_order(
    group, connect, autojump_clock, seed
):
    """Followers of odd seeds forward, so that copies of a batch reach the log by two ways."""
    group.ack_delay = 0.004
    group.forwards = seed % 2 == 1
    async with (
        connect() as mq,
        mq.producer(batch_count_max=4) as producer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(torment, group, random.Random(seed), 25)
        stream = Stream(producer, 1500, interval=0.003)
        nursery.start_soon(stream.run)

    assert not stream.failed
    assert_stored_once_and_in_order(group, 1500)
    for number, result in stream.acked.items():
        assert result.queue_offset in (number, -1)


@pytest.mark.parametrize("seed", range(12))
async def test_with_too_little_time_every_outcome_told_is_true(
    group, connect, autojump_clock, seed
):
    """Deadlines shorter than the failures: acknowledged, not written and unknown, all at once.

    A frozen follower of odd seeds forwards when it thaws what its client has long given up.
    """
    group.ack_delay = 0.004
    group.forwards = seed % 2 == 1
    async with (
        connect() as mq,
        mq.producer(batch_count_max=4, send_timeout=0.1) as producer,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(torment, group, random.Random(1000 + seed), 40)
        stream = Stream(producer, 2000, interval=0.004)
        nursery.start_soon(stream.run)

    stored = [int(body) for body in group.bodies("orders")[0]]
    assert len(set(stored)) == len(stored), "nothing is there twice"
    assert stream.acked.keys() <= set(stored), "what was acknowledged is there"
    kinds = {number: type(error) for number, error in stream.failed.items()}
    not_written = {number for number, kind in kinds.items() if kind is broker.NotWrittenError}
    unknown = {number for number, kind in kinds.items() if kind is broker.OutcomeUnknownError}
    assert not not_written & set(stored), "what was called not written is not there"
    assert len(stream.acked) + len(not_written) + len(unknown) == 2000
    assert not_written
    assert unknown
    known = [number for number in stored if number in stream.acked]
    assert known == sorted(known), "what was acknowledged is in order"
    for number, result in stream.acked.items():
        assert result.queue_offset in (-1, stored.index(number))
    # Some were acknowledged after their senders had given up.
    assert len(stream.acked) <= producer.stats.acked <= len(stream.acked) + len(unknown)
    assert producer.stats.acked + producer.stats.failed == 2000
