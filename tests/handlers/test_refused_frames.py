"""Sends that came together and are refused: answered as they are singly, leaving others turns."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from broker.message.limits import MessageLimits
from broker.metadata.topics import TopicConfig
from broker.protocol.bodies import decode_acks
from broker.protocol.response_code import ResponseCode
from dledger.errors import LedgerFullError
from dledger.remoting.command import FLAG_GROUPED, Command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame
from dledger.remoting.server import Flow, RemotingServer
from dledger.remoting.turns import PASS_COUNT_FIRST, PASS_COUNT_MAX
from tests.fakes.network import MemoryNetwork
from tests.handlers.send_bench import Broker, Clock, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


COUNT = 1024  # sends of one receive, as many as are read together
SINGLES_MAX = COUNT // 16  # of those that are handled amid others, in one turn


class Served(trio.abc.Instrument):
    """A broker whose server has one connection; counts what it handles singly in each turn."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.network = MemoryNetwork(capacity=4 << 20, receive_size_max=4 << 20)
        self.flow = Flow()
        self.turns: Counter[int] = Counter()  # sends handled by themselves in each turn of the loop
        self.turn = 0
        dispatch = broker.registry.dispatch

        def counted(*args: Any) -> None:
            self.turns[self.turn] += 1
            dispatch(*args)

        broker.registry.dispatch = counted  # type: ignore[method-assign]
        self.stream: Any = None
        self.on_turn: Callable[[], None] = lambda: None
        self.latency: Counter[int] = Counter()  # answers that were timed, by their codes
        broker.registry._latency = self  # type: ignore[assignment]

    clock = Clock()

    def observe(self, _: int, response_code: int, *, times: int = 1, **__: object) -> None:
        """See `RpcLatency`."""
        self.latency[response_code] += times

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        broker = self.broker
        server = RemotingServer(
            self.network, host="127.0.0.1", port=10911, handler=broker.registry, flow=self.flow,
            on_run=broker.registry.on_run, find_others=broker.sends.find_frames,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            self.stream = await self.network.connect("127.0.0.1", 10911)
            trio.lowlevel.add_instrument(self)
            task_status.started()

    def before_io_wait(self, _: float) -> None:
        """See `trio.abc.Instrument`."""
        self.turn += 1
        self.on_turn()

    def send(self, commands: list[Command]) -> None:
        frames = b"".join(b"".join(encode_frame(each)) for each in commands)
        assert not self.stream.send_now([frames])

    async def codes(self, count: int) -> dict[int, int]:
        """Return the codes of so many answers, by opaque; each must come once."""
        connection = Connection()
        found: Counter[tuple[int, int]] = Counter()
        for _ in range(1000):
            if found.total() >= count:
                break
            with trio.move_on_after(0.01):
                connection.receive_data(await self.stream.receive_some())
            for reply in connection.commands():
                if reply.flag & FLAG_GROUPED:
                    assert not isinstance(reply.body, list)
                    found.update((ack.opaque, ack.code) for ack in decode_acks(reply.body))
                else:
                    found[reply.opaque, reply.code] += 1
            self.broker.ledger.commit()
        codes = dict(found.keys())
        assert len(codes) == found.total() == count
        return codes


def refusing_broker(limits: MessageLimits | None = None) -> Broker:
    broker = Broker(pending_size_max=1 << 20, limits=limits)
    broker.topics["closed"] = TopicConfig(topic="closed", write_queue_count=64, perm=4)
    broker.topics["going"] = TopicConfig(topic="going", write_queue_count=64)
    broker.topics["few"] = TopicConfig(topic="few", write_queue_count=2)
    broker.sends._intake.is_being_deleted = lambda topic: topic == "going"
    broker.sends._send_topics._is_being_deleted = lambda topic: topic == "going"
    return broker


@pytest.fixture
async def served(nursery: trio.Nursery, autojump_clock: Any, way: str) -> AsyncIterator[Served]:
    served = Served(refusing_broker())
    await nursery.start(served.run)
    yield served
    nursery.cancel_scope.cancel()


def first_then(**others: Any) -> list[Command]:
    """Return a send that is taken, and those behind it that are not."""
    first = send(0, 0, queue_id=63, producer_id=0)
    rest = [send(n, 9, queue_id=n % 60, **({"producer_id": 0} | others)) for n in range(1, COUNT)]
    return [first, *rest]


REFUSED: dict[str, tuple[Callable[[], list[Command]], ResponseCode]] = {
    "closed": (lambda: first_then(topic="closed"), ResponseCode.NO_PERMISSION),
    "no topic": (lambda: first_then(topic="none"), ResponseCode.TOPIC_NOT_EXIST),
    "going": (lambda: first_then(topic="going"), ResponseCode.TOPIC_NOT_EXIST),
    "no queue": (
        lambda: (
            [send(0, 0, topic="few", queue_id=1, producer_id=0)]
            + [send(n, 0, topic="few", queue_id=2, producer_id=0) for n in range(1, COUNT)]
        ),
        ResponseCode.SYSTEM_ERROR,
    ),
    "unknown": (lambda: first_then(producer_id=7), ResponseCode.UNKNOWN_PRODUCER),
    "busy": (lambda: first_then(body=bytes(2000)), ResponseCode.SYSTEM_BUSY),
}


@pytest.mark.parametrize("why", REFUSED)
async def test_sends_that_are_refused_behind_one_that_is_taken_leave_others_their_turns(
    served: Served, autojump_clock: Any, why: str
) -> None:
    """A thousand of them held the event loop up for 39 ms once."""
    make, code = REFUSED[why]

    served.send(make())
    codes = await served.codes(COUNT)

    assert max(served.turns.values()) <= PASS_COUNT_MAX
    if why != "busy":  # else the first ones are taken
        assert next(iter(served.turns.values())) <= SINGLES_MAX + PASS_COUNT_FIRST
    assert codes[0] == 0
    assert set(codes.values()) == {0, code}
    assert served.latency == Counter(codes.values())
    assert served.flow.inflight_size == 0


async def test_few_that_are_refused_do_not_take_the_others_apart(
    served: Served, autojump_clock: Any, way: str
) -> None:
    commands = [
        send(n, n // 60, topic="closed" if not n % 20 else "t", queue_id=n % 60)
        for n in range(COUNT)
    ]
    served.send(commands)
    codes = await served.codes(COUNT)

    refused = [n for n in codes if codes[n]]
    assert sorted(refused) == list(range(0, COUNT, 20))
    if way == "compiled":
        assert sum(served.turns.values()) == len(refused)


async def test_sends_behind_those_that_take_all_room_wait_for_it_though_they_are_refused(
    served: Served, autojump_clock: Any
) -> None:
    """They went on being handled, however much of their connection was under way."""
    served.flow.connection_size_max = 10_000
    taken = [send(n, 0, queue_id=n, producer_id=0, body=bytes(900)) for n in range(60)]
    refused = [
        send(n, 0, topic="closed", queue_id=n % 60, producer_id=0) for n in range(60, 60 + COUNT)
    ]

    served.send(taken + refused)
    await trio.testing.wait_all_tasks_blocked()

    assert served.turns.total() <= SINGLES_MAX + len(taken)
    served.broker.ledger.commit()
    codes = await served.codes(60 + COUNT)
    assert [codes[n] == 0 for n in range(60 + COUNT)] == [True] * 60 + [False] * COUNT


async def test_of_a_connection_that_ends_amid_its_refused_sends_no_more_is_handled(
    served: Served, autojump_clock: Any
) -> None:
    served.on_turn = lambda: served.stream.close() if served.turns else None

    served.send(first_then(topic="closed"))
    await trio.testing.wait_all_tasks_blocked()

    assert 0 < served.turns.total() < COUNT - 1
    served.broker.ledger.commit()
    assert served.flow.inflight_size == 0
    assert served.broker.registry.session_count == 0


def refused_in_many_ways(chance: random.Random) -> list[Command]:
    """Return sends of which some are refused, for all reasons there are."""
    sequences: dict[tuple[str, int, int], int] = defaultdict(int)
    commands = []
    wrong = chance.choice((0.01, 0.1, 0.6))
    for opaque in range(chance.randrange(80, 200)):
        topic, queue_id, producer_id = "t", chance.randrange(64), chance.choice((0, 7))
        if chance.random() < wrong:
            topic = chance.choice(("closed", "going", "few", "none", "badly"))
        count, body = chance.choice((1, 1, 3)), bytes(chance.choice((0, 50)))
        key = topic, queue_id, producer_id
        sequence = sequences[key]
        if producer_id and chance.random() < wrong:  # gap, unknown, duplicate or being written
            sequence = max(0, sequence + chance.choice((-1, -1, 1, 9)))
        sequences[key] = sequence + count
        if chance.random() < wrong / 4:
            body = bytes(300)  # too large
        commands.append(
            send(
                opaque, sequence, topic=topic, queue_id=queue_id, producer_id=producer_id,
                count=count, body=body,
                **chance.choice(({},) * 20 + ({"acks": "majority"}, {"acks": "some"})),
            )
        )  # fmt: skip
    return commands


STATES: dict[str, Callable[[Broker], None]] = {
    "as usual": lambda broker: None,
    "read-only": lambda broker: setattr(broker.ledger, "write_refusal", LedgerFullError("90 %")),
    "disk full": lambda broker: setattr(broker.ledger.core, "disk_full", LedgerFullError("full")),
    "nearly busy": lambda broker: setattr(broker.ledger.core, "pending_size", (1 << 20) - 9000),
    "busy": lambda broker: setattr(broker.ledger.core, "pending_size", 1 << 20),
    "not leader": lambda broker: setattr(broker.ledger, "is_leader", False),
    "just lost": lambda broker: broker.queue._close(),
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("seed", range(8))
def test_what_is_refused_hears_the_same_however_it_came(seed: int, state: str) -> None:
    """By frames, by commands of one receive, and one by one: code and remark, and the log."""
    chance = random.Random(f"{seed} {state}")
    first, second = refused_in_many_ways(chance), refused_in_many_ways(chance)
    ways: list[Callable[[Broker, list[Command]], object]] = [
        Broker.receive_one_by_one,
        Broker.receive,
        Broker.receive_frames,
    ]
    found = []
    for receive in ways:
        broker = refusing_broker(MessageLimits(body_size_max=200))
        receive(broker, first)
        if chance.random() < 0.5:
            broker.ledger.commit()
        STATES[state](broker)
        receive(broker, second)
        broker.ledger.commit()
        assert broker.session.inflight_size == 0
        told = sorted(
            (reply.opaque, reply.code, reply.remark, str(reply.ext_fields))
            for reply in broker.session.replies
            if not reply.flag & FLAG_GROUPED
        )
        held = [command.opaque for command in broker.forwarder.held]
        found.append((told, broker.acks, held, b"".join(broker.ledger.bodies)))

    assert found[1] == found[0]
    assert found[2] == found[0]
