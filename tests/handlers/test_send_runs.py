"""Sends gathered from one receive: the same log and the same answers as one by one."""

from __future__ import annotations

import random
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from broker.handlers.ack_policy import AckPolicy
from broker.handlers.registry import Registry
from broker.handlers.send import SendHandlers
from broker.handlers.send_answers import SendAnswers
from broker.handlers.send_mixed import _Receive
from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.limits import MessageLimits
from broker.message.model import HostAddress
from broker.metadata.subscription_groups import SubscriptionGroups
from broker.metadata.topics import TopicConfig
from broker.metrics.rpc import OpenRequests
from broker.protocol.bodies import Ack, decode_acks
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.store import compiled
from broker.store.append_queue import AppendQueue
from broker.store.producers import ProducerTable
from dledger.config import LedgerConfig, Member, RaftConfig
from dledger.durability import Copies, Durability
from dledger.errors import OutcomeUnknownError
from dledger.remoting.command import FLAG_GROUPED, FLAG_ONEWAY, Buffer, Command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame
from dledger.remoting.frame_run import RunFinder

COMMITTED = Durability(Copies.MAJORITY, synced=True)


class Clock:
    def now(self) -> float:
        return 1.0

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    def local_hour(self) -> int:
        return self.wall_ms() // 3_600_000 % 24


class Session:
    closed = False

    def __init__(self) -> None:
        self.replies: list[Command] = []
        self.inflight_size = 0

    def charge(self, size: int) -> None:
        self.inflight_size += size

    def release(self, size: int) -> None:
        self.inflight_size -= size

    def reply(self, command: Command) -> None:
        self.replies.append(command)

    def send(self, buffers: list[Buffer]) -> None:
        connection = Connection()
        connection.receive_data(b"".join(buffers))
        self.replies += connection.commands()

    write = send

    def flush(self) -> None:
        pass


class Ledger:
    """Appends to a list of bodies; commits when told to."""

    has_failed = False
    leader_id = "n1"
    write_refusal = None

    def __init__(self, pending_size_max: int) -> None:
        self.config = LedgerConfig(
            group="g",
            node_id="n1",
            members=(Member(node_id="n1", host="127.0.0.1", port=1),),
            data_folder="d",
            raft=RaftConfig(pending_size_max=pending_size_max),
        )
        self.core: Any = SimpleNamespace(
            unfinished_count=0,
            disk_full=None,
            pending_size=0,
            engine=SimpleNamespace(
                first_index_of_own_term=0,
                leader_ready=True,
                levels=SimpleNamespace(of_commit=COMMITTED),
            ),
        )
        self.committed_index = 1 << 30
        self.store: Any = SimpleNamespace(end_index=0, entries=lambda first, last: iter(()))
        self.bodies: list[bytes] = []
        self.proposals: list[Any] = []
        self.position = 0

    @property
    def is_leader(self) -> bool:
        return bool(self.core.engine.leader_ready)

    @is_leader.setter
    def is_leader(self, value: bool) -> None:
        self.core.engine.leader_ready = value

    def propose(self, proposal: Any) -> None:
        self.core.unfinished_count += 1
        self.core.pending_size += proposal.body_size
        body = b"".join(proposal.encode(self.position + 48))
        self.position += 48 + len(body)
        self.store.end_index += 1
        self.bodies.append(body)
        self.proposals.append(proposal)

    def commit(self) -> None:
        while self.proposals:
            proposal = self.proposals.pop(0)
            self.core.unfinished_count -= 1
            self.core.pending_size -= proposal.body_size
            proposal.on_committed(1, 1)

    def lose(self) -> None:
        proposals, self.proposals = self.proposals, []
        for proposal in proposals:
            proposal.on_failed(OutcomeUnknownError("the lead was lost"))


class Forwarder:
    def __init__(self) -> None:
        self.held: list[Command] = []

    def hold_again(self, session: Session, command: Command) -> None:
        self.held.append(command)

    def ask_next(self, session: Session, command: Command) -> bool:
        return False  # no client of RocketMQ's


class Broker:
    """The handlers of sends over a queue of their own."""

    def __init__(self, *, pending_size_max: int = 1 << 26) -> None:
        self.ledger = Ledger(pending_size_max)
        self.forwarder = Forwarder()
        dispatched = SimpleNamespace(
            dispatched_index=0, producers=ProducerTable(), next_queue_offset=lambda *_: 0
        )
        self.queue = AppendQueue(
            ledger=self.ledger,  # type: ignore[arg-type]
            dispatched=dispatched,  # type: ignore[arg-type]
            clock=Clock(),
            store_host=bytes(8),
            ack_timeout_seconds=2.0,
            opened=lambda: None,
            finished=lambda: self.answers.send(),
        )
        self.topics = {name: TopicConfig(topic=name, write_queue_count=64) for name in "tu"}
        self.answers = SendAnswers(
            ledger=self.ledger,  # type: ignore[arg-type]
            queue=self.queue,
            forwarder=self.forwarder,  # type: ignore[arg-type]
            host=HostAddress(bytes(4), 1),
        )
        self.sends = SendHandlers(
            queue=self.queue,
            topics=self.topics,  # type: ignore[arg-type]
            answers=self.answers,
            policy=AckPolicy(
                topics=self.topics,  # type: ignore[arg-type]
                default=COMMITTED,
            ),
            clock=Clock(),
            limits=MessageLimits(),
            host=HostAddress(bytes(4), 1),
            held_count_max=10,
            held_size_max=1_000_000,
            auto_create_topic=False,
            default_queue_count=4,
            create_topic=lambda *_: None,
            is_being_deleted=lambda _: False,
            schedule=None,  # type: ignore[arg-type]
            earlier_tries=None,  # type: ignore[arg-type]
            groups=SubscriptionGroups(),
        )
        self.registry = Registry(
            is_serving=lambda: self.queue.is_open,
            forward=lambda session, command: self.forwarder.held.append(command),
            end_of_pass=self._end_of_pass,
            session_gone=lambda _: None,
        )
        self.registry.register(self.sends)
        self.queue.refresh()
        self.session = Session()

    def _end_of_pass(self) -> None:
        self.queue.seal()
        self.answers.send()

    def receive(self, commands: list[Command]) -> None:
        self.registry.on_commands(self.session, commands)  # type: ignore[arg-type]

    def receive_frames(self, commands: list[Command]) -> int:
        """Take what the server makes of the frames; return how many of them were runs."""
        connection = Connection(find_run=RunFinder(self.sends.find_frames).find)
        connection.receive_data(b"".join(b"".join(encode_frame(each)) for each in commands))
        run_count = 0
        pieces = connection.pieces()
        for piece in pieces:
            is_last = piece is pieces[-1]
            if not isinstance(piece, list):
                if self.registry.on_run(self.session, piece, ends_pass=is_last):  # type: ignore[arg-type]
                    run_count += 1
                    continue
                piece = piece.commands()
            self.registry.on_commands(self.session, piece, ends_pass=is_last)  # type: ignore[arg-type]
        return run_count

    def receive_one_by_one(self, commands: list[Command]) -> None:
        for command in commands:
            self.registry.dispatch(self.session, command)  # type: ignore[arg-type]
        self._end_of_pass()

    @property
    def acks(self) -> list[Ack]:
        """Every answer as an ack, in the order of the requests."""
        found = []
        for reply in self.session.replies:
            if reply.flag & FLAG_GROUPED:
                assert not isinstance(reply.body, list)
                found += list(decode_acks(reply.body))
            else:
                found.append(Ack(reply.opaque, reply.code))
        return sorted(found)


def send(
    opaque: int,
    sequence: int,
    *,
    queue_id: int = 0,
    producer_id: int = 7,
    count: int = 1,
    topic: str = "t",
    body: bytes = b"body",
    **ext: Any,
) -> Command:
    records = [
        encode_record(topic=topic.encode(), queue_id=queue_id, body=body + b"%d" % n)
        for n in range(count)
    ]
    return Command(
        RequestCode.SEND_BATCH_MESSAGE.value,
        FLAG_GROUPED,
        opaque,
        ext_fields={
            "producerGroup": "p",
            "topic": topic,
            "queueId": queue_id,
            "recordFormat": 1,
            "sizes": encode_sizes([len(record) for record in records]),
            "producerId": producer_id,
            "sequence": sequence,
        }
        | ext,
        body=memoryview(b"".join(records)),
    )


def both(commands: list[Command], **options: Any) -> tuple[Broker, Broker]:
    """Return a broker that took *commands* in one receive and one that took them singly."""
    together, singly = Broker(**options), Broker(**options)
    together.receive(commands)
    singly.receive_one_by_one(commands)
    for one in (together, singly):
        one.ledger.commit()
    return together, singly


def test_sends_of_one_receive_become_the_log_and_the_answers_they_become_singly() -> None:
    commands = [send(n, n // 2, queue_id=n % 2) for n in range(100)]

    together, singly = both(commands)

    assert together.ledger.bodies == singly.ledger.bodies
    assert together.acks == singly.acks
    assert [ack.opaque for ack in together.acks] == list(range(100))
    assert together.sends.message_count == 100


def test_gathered_sends_are_one_put_and_one_frame_of_acks() -> None:
    broker = Broker()

    broker.receive([send(n, n) for n in range(50)])

    (proposal,) = broker.ledger.proposals
    assert proposal.put_count == 1
    broker.ledger.commit()
    assert len(broker.session.replies) == 1


@pytest.mark.parametrize("seed", range(60))
def test_any_mix_of_sends_comes_out_as_singly(seed: int) -> None:
    chance = random.Random(seed)
    sequences: dict[tuple[int, int], int] = {}
    commands = []
    for opaque in range(chance.randrange(4, 60)):
        queue_id, producer_id = chance.randrange(3), chance.choice((0, 7, 8))
        count = chance.choice((1, 1, 1, 2, 5))
        key = queue_id, producer_id
        sequence = sequences.get(key, 0)
        sequences[key] = sequence + count
        if chance.random() < 0.03:
            sequence = max(0, sequence + chance.choice((-1, 1, 5)))
        body = chance.randbytes(chance.choice((0, 3, 200, 9000)))
        command = send(
            opaque, sequence, queue_id=queue_id, producer_id=producer_id, count=count, body=body
        )
        if chance.random() < 0.02:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.02:
            command.ext_fields["sizes"] = command.ext_fields["sizes"][:-1]
        if chance.random() < 0.02:
            command.ext_fields[chance.choice(("topic", "queueId", "producerId"))] = chance.choice(
                (None, "x", -1, [1], 9)
            )
        if chance.random() < 0.02:
            command.flag = chance.choice((0, FLAG_GROUPED | FLAG_ONEWAY))
        commands.append(command)

    together, singly = both(commands)

    assert [ack[:3] for ack in together.acks] == [ack[:3] for ack in singly.acks]
    # Where damage makes a queue go singly, other queues may be laid out before it; what one queue
    # and producer holds, and the offsets it got, are the same.
    assert {ack[:4] for ack in together.acks} == {ack[:4] for ack in singly.acks}
    assert sum(map(len, together.ledger.bodies)) == sum(map(len, singly.ledger.bodies))


def many_queues(seed: int) -> list[Command]:
    """Return sends of one receive, hardly two to the same queue."""
    chance = random.Random(seed)
    commands = []
    sequences: dict[tuple[str, int], int] = {}
    for opaque in range(chance.randrange(4, 80)):
        key = topic, queue_id = chance.choice("tuv"), chance.randrange(66)
        sequence = sequences.get(key, 0)
        sequences[key] = sequence + 1
        if chance.random() < 0.03:
            sequence = max(0, sequence + chance.choice((-1, 1, 5)))
        command = send(opaque, sequence, topic=topic, queue_id=queue_id, body=chance.randbytes(9))
        if chance.random() < 0.03:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.02:
            command.ext_fields[chance.choice(("topic", "queueId", "sizes"))] = chance.choice(
                (None, "x", -1, [1], 9, b"")
            )
        if chance.random() < 0.02:
            command.flag = chance.choice((0, FLAG_GROUPED | FLAG_ONEWAY))
        commands.append(command)
    return commands


@pytest.mark.parametrize("seed", range(60))
def test_sends_to_many_queues_become_the_log_and_the_answers_they_become_singly(seed: int) -> None:
    together, singly = both(many_queues(seed))

    assert together.ledger.bodies == singly.ledger.bodies
    assert together.acks == singly.acks
    assert together.sends.message_count == singly.sends.message_count
    assert together.session.inflight_size == 0


def test_sends_to_many_queues_are_acknowledged_in_one_frame() -> None:
    broker = Broker()
    broker.receive([send(n, 0, queue_id=n) for n in range(60)])
    (proposal,) = broker.ledger.proposals
    assert proposal.put_count == 60
    assert broker.session.inflight_size

    broker.ledger.commit()

    assert len(broker.session.replies) == 1
    assert [ack[:3] for ack in broker.acks] == [(n, 0, n) for n in range(60)]
    assert broker.session.inflight_size == 0


def test_sends_that_are_through_before_all_are_read_are_timed_once_each() -> None:
    """As where a group of one commits at once."""
    times_seen = []

    class Latency:
        clock = Clock()

        def observe(self, *_: int, times: int, **__: object) -> None:
            times_seen.append(times)

    session = Session()
    session.context = OpenRequests("n1", Latency())  # type: ignore[attr-defined, arg-type]
    receive = _Receive(None, session)  # type: ignore[arg-type]
    for put_count in (1, 2):
        receive.count += put_count
        receive.left += put_count
        for _ in range(put_count):
            receive.one_is_through()

    assert times_seen == [1, 2]


def test_a_lost_lead_answers_every_send_to_many_queues() -> None:
    broker = Broker()
    broker.receive([send(n, 0, queue_id=n) for n in range(60)])

    broker.ledger.lose()
    broker.answers.send()

    assert [ack[:2] for ack in broker.acks] == [
        (n, ResponseCode.OUTCOME_UNKNOWN) for n in range(60)
    ]
    assert broker.session.inflight_size == 0


# -- frames that are alike -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_any_frames_that_are_alike_come_out_as_singly(seed: int) -> None:
    chance = random.Random(seed)
    producer_id, count = chance.choice((0, 7)), chance.choice((1, 1, 3))
    sequences = [chance.choice((0, 1000))] * 3
    sizes = chance.choice(((4,), (3, 9, 70)))
    commands = []
    for opaque in range(70_000, 70_000 + chance.randrange(70, 300)):
        queue_id = chance.randrange(3)
        sequence = sequences[queue_id]
        sequences[queue_id] += count
        if chance.random() < 0.01:
            sequence = max(0, sequence + chance.choice((-1, 1)))
        command = send(
            opaque, sequence, queue_id=queue_id, producer_id=producer_id, count=count,
            body=chance.randbytes(chance.choice(sizes)),
        )  # fmt: skip
        if chance.random() < 0.01:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.01:
            command.ext_fields["queueId"] = chance.choice((3, 4, 100))
        if chance.random() < 0.01:
            command.ext_fields["sizes"] = bytes(len(command.ext_fields["sizes"]))
        commands.append(command)
    alike, singly = Broker(), Broker()

    alike.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (alike, singly):
        one.ledger.commit()

    assert {ack[:4] for ack in alike.acks} == {ack[:4] for ack in singly.acks}
    assert len(alike.acks) == len(commands)
    assert alike.sends.message_count == singly.sends.message_count
    assert alike.session.inflight_size == singly.session.inflight_size == 0


def test_frames_that_are_alike_become_the_log_they_become_singly() -> None:
    commands = [send(70_000 + n, n // 2, queue_id=n % 2, body=b"b" * (n % 5)) for n in range(100)]
    alike, singly = Broker(), Broker()

    assert alike.receive_frames(commands) == 1
    singly.receive_one_by_one(commands)
    for one in (alike, singly):
        one.ledger.commit()

    assert alike.ledger.bodies == singly.ledger.bodies
    assert alike.acks == singly.acks
    assert alike.sends.message_count == 100
    assert len(alike.session.replies) == 1


def test_frames_that_wait_are_in_memory_once() -> None:
    """What was received stays until it is answered; a copy beside it doubled what a full leader
    held, 16 MiB more for each connection."""
    broker = Broker()
    broker.ledger.core.unfinished_count = 4  # so that nothing is sealed
    broker.receive_frames([send(70_000 + n, n, queue_id=1) for n in range(80)])  # fills caches
    commands = [send(80_000 + n, n, body=bytes(8000)) for n in range(80)]
    tracemalloc.start()
    try:
        assert broker.receive_frames(commands) == 1
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    received = sum(len(command.body) for command in commands if command.body is not None)
    assert broker.session.inflight_size > received
    assert received < held < 1.5 * received


def test_frames_that_are_alike_and_not_written_are_handed_on_or_told() -> None:
    commands = [send(70_000 + n, n) for n in range(80)]
    held, lost, short = Broker(), Broker(), Broker()
    held.ledger.core.unfinished_count = 4  # so that nothing is sealed
    held.receive_frames(commands)
    held.ledger.is_leader = False
    held.queue.refresh()
    lost.receive_frames(commands)
    lost.ledger.lose()
    lost.answers.send()
    short.ledger.is_leader = False
    short.receive_frames(commands)

    opaques = [70_000 + n for n in range(80)]
    assert [command.opaque for command in held.forwarder.held] == opaques
    assert [ack[:2] for ack in lost.acks] == [(n, ResponseCode.OUTCOME_UNKNOWN) for n in opaques]
    assert [command.opaque for command in short.forwarder.held] == opaques


# -- frames that go to many queues ----------------------------------------------------------------


def spread_frames(seed: int) -> list[Command]:
    """Return sends to many queues, whose frames have headers of different lengths."""
    chance = random.Random(seed)
    sequences: dict[tuple[str, int, int], int] = {}
    commands = []
    first = chance.choice((0, 120, 65_500, 1 << 30))
    begins = chance.choice((0, 0, 120, 250))
    for opaque in range(first, first + chance.randrange(80, 250)):
        topic, queue_id = chance.choice(("t", "u", "longer")), chance.randrange(64)
        producer_id, count = chance.choice((0, 7, 8 << 40)), chance.choice((1, 1, 1, 3))
        key = topic, queue_id, producer_id
        sequence = sequences.get(key, begins)
        sequences[key] = sequence + count
        if chance.random() < 0.02:
            sequence = max(0, sequence + chance.choice((-1, 1, 5)))
        command = send(
            opaque, sequence, topic=topic, queue_id=queue_id, producer_id=producer_id,
            count=count, body=chance.randbytes(chance.choice((0, 3, 200))),
        )  # fmt: skip
        if chance.random() < 0.01:
            damaged = bytearray(command.body)  # type: ignore[arg-type]
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            command.body = memoryview(bytes(damaged))
        if chance.random() < 0.01:
            command.ext_fields[chance.choice(("topic", "queueId", "sizes"))] = chance.choice(
                (None, "v", -1, 64, b"", b"abcd")
            )
        if chance.random() < 0.01:
            command.ext_fields |= chance.choice(
                ({"acks": "majority"}, {"flush": "sync"}, {"more": 1}, {"producerId": 1 << 63})
            )
        if chance.random() < 0.01:
            command.flag = chance.choice((0, FLAG_GROUPED | FLAG_ONEWAY))
        if chance.random() < 0.01:
            command.remark = "a word"
        commands.append(command)
    return commands


def spread_broker() -> Broker:
    broker = Broker()
    broker.topics["longer"] = TopicConfig(topic="longer", write_queue_count=64)
    return broker


@pytest.mark.parametrize("seed", range(60))
def test_frames_to_many_queues_become_the_log_and_the_answers_they_become_singly(seed: int) -> None:
    commands = spread_frames(seed)
    together, singly = spread_broker(), spread_broker()

    together.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (together, singly):
        one.ledger.commit()

    assert b"".join(together.ledger.bodies) == b"".join(singly.ledger.bodies)
    assert together.acks == singly.acks
    assert together.sends.message_count == singly.sends.message_count
    assert together.session.inflight_size == singly.session.inflight_size == 0


@pytest.fixture(params=["compiled", "in Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Go both ways, where there are two."""
    if request.param == "in Python":
        monkeypatch.setattr(compiled, "loops", None)
    return "in Python" if compiled.loops is None else "compiled"


def test_frames_to_many_queues_are_one_put_and_one_frame_of_acks(way: str) -> None:
    """Of any lengths: topics' names, numbers, records."""
    names = ["t" * (1 + n % 9) for n in range(200)]
    commands = [
        send(n, 0, topic=names[n], queue_id=n // 9, producer_id=n, body=b"b" * (n % 7))
        for n in range(200)
    ]
    broker = Broker()
    broker.topics.update({name: TopicConfig(topic=name, write_queue_count=64) for name in names})

    count = broker.receive_frames(commands)

    (proposal,) = broker.ledger.proposals
    assert (count, proposal.put_count) == ((1, 1) if way == "compiled" else (0, 200))
    assert broker.session.inflight_size == sum(len(command.body) for command in commands)
    broker.ledger.commit()
    assert len(broker.session.replies) == 1
    assert [ack[:3] for ack in broker.acks] == [(n, 0, n // 9) for n in range(200)]
    assert broker.session.inflight_size == 0


@pytest.mark.usefixtures("way")
def test_frames_to_the_queues_of_one_topic_are_put_in_the_order_they_came() -> None:
    """They are alike, and too few for each queue to be gathered."""
    commands = [send(70_000 + n, n // 40, queue_id=n % 40) for n in range(100)]
    together, singly = Broker(), Broker()
    together.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (together, singly):
        one.ledger.commit()

    assert together.ledger.bodies == singly.ledger.bodies
    assert together.acks == singly.acks


@pytest.mark.usefixtures("way")
def test_frames_to_many_queues_that_are_not_written_are_handed_on_or_told() -> None:
    commands = [send(n, 0, topic="tu"[n % 2], queue_id=n // 2) for n in range(80)]
    held, lost, short = Broker(), Broker(), Broker()
    held.ledger.core.unfinished_count = 4  # so that nothing is sealed
    held.receive_frames(commands)
    held.ledger.is_leader = False
    held.queue.refresh()
    lost.receive_frames(commands)
    lost.ledger.lose()
    lost.answers.send()
    short.ledger.is_leader = False
    short.receive_frames(commands)

    assert [command.opaque for command in held.forwarder.held] == list(range(80))
    assert [ack[:2] for ack in lost.acks] == [(n, ResponseCode.OUTCOME_UNKNOWN) for n in range(80)]
    assert [command.opaque for command in short.forwarder.held] == list(range(80))
    assert held.session.inflight_size == lost.session.inflight_size == 0


@pytest.mark.usefixtures("way")
def test_frames_to_many_queues_hear_when_less_was_reached_than_asked_for() -> None:
    commands = [send(n, 0, topic="tu"[n % 2], queue_id=n // 2) for n in range(80)]
    broker = Broker()
    broker.receive_frames(commands)
    broker.ledger.core.engine.levels.of_commit = Durability(Copies.LEADER, synced=False)
    broker.ledger.core.engine.peer_ids = ()
    broker.ledger.core.connected_peers = ()
    broker.ledger.core.config = broker.ledger.config

    broker.ledger.commit()

    assert {ack.code for ack in broker.acks} == {ResponseCode.FLUSH_SLAVE_TIMEOUT}
    assert [ack.opaque for ack in broker.acks] == list(range(80))
    assert broker.session.inflight_size == 0


@pytest.mark.usefixtures("way")
def test_a_topic_is_looked_at_again_with_every_send() -> None:
    """It may have been closed, changed or deleted since the last one, and opened again."""
    broker = Broker()
    changes = [
        (TopicConfig(topic="t", write_queue_count=64), 0),
        (TopicConfig(topic="t", write_queue_count=64, perm=4), ResponseCode.NO_PERMISSION),
        (TopicConfig(topic="t", write_queue_count=64), 0),
        (None, ResponseCode.TOPIC_NOT_EXIST),
        (TopicConfig(topic="t", write_queue_count=1), ResponseCode.SYSTEM_ERROR),
    ]
    for number, (config, code) in enumerate(changes):
        broker.session.replies.clear()
        if config is None:
            del broker.topics["t"]
        else:
            broker.topics["t"] = config
        broker.receive_frames(
            [
                send(n, number, topic="tu"[n % 2], queue_id=1 + n // 2 % 60, producer_id=0)
                for n in range(80)
            ]
        )
        broker.ledger.commit()
        assert {ack.code for ack in broker.acks if not ack.opaque % 2} == {code}
        assert {ack.code for ack in broker.acks if ack.opaque % 2} == {0}


@pytest.mark.usefixtures("way")
def test_a_full_broker_takes_of_frames_to_many_queues_what_fits() -> None:
    commands = [
        send(n, 0, topic="tu"[n % 2], queue_id=n // 2 % 60, producer_id=0, body=bytes(7900))
        for n in range(400)
    ]
    together, singly = Broker(pending_size_max=1 << 20), Broker(pending_size_max=1 << 20)

    together.receive_frames(commands)
    singly.receive_one_by_one(commands)
    for one in (together, singly):
        one.ledger.commit()

    assert together.acks == singly.acks
    assert {ack.code for ack in together.acks} == {0, ResponseCode.SYSTEM_BUSY}
    assert together.ledger.bodies == singly.ledger.bodies


def test_sizes_that_cheat_a_neighbour_are_found() -> None:
    """The records of both together are sound; those of each by itself are not."""
    first, second = send(1, 0, body=b"long" * 10), send(2, 1, body=b"short")
    whole = bytes(first.body) + bytes(second.body)  # type: ignore[arg-type]
    first.body, second.body = memoryview(whole[:-3]), memoryview(whole[-3:])
    broker = Broker()

    broker.receive([send(0, 0, queue_id=1), first, second, send(3, 1, queue_id=1)] + [
        send(4 + n, 2 + n) for n in range(4)
    ])  # fmt: skip
    broker.ledger.commit()

    codes = {ack.opaque: ack.code for ack in broker.acks}
    assert codes[1] == codes[2] == ResponseCode.CORRUPT_RECORD
    assert codes[0] == codes[3] == 0


def test_one_damaged_record_costs_only_its_own_send() -> None:
    commands = [send(n, n, producer_id=0) for n in range(40)]
    damaged = bytearray(commands[20].body)  # type: ignore[arg-type]
    damaged[-8] ^= 1
    commands[20].body = memoryview(bytes(damaged))
    broker = Broker()

    broker.receive(commands)
    broker.ledger.commit()

    codes = {ack.opaque: ack.code for ack in broker.acks}
    assert codes.pop(20) == ResponseCode.CORRUPT_RECORD
    assert set(codes.values()) == {0}
    assert len(codes) == 39


def test_a_retry_of_what_is_written_is_acknowledged_with_its_place() -> None:
    broker = Broker()
    broker.receive([send(n, n) for n in range(40)])
    broker.ledger.commit()
    first = broker.acks
    broker.session.replies.clear()

    broker.receive([send(100 + n, n) for n in range(40)])
    broker.ledger.commit()

    assert len(broker.ledger.bodies) == 1
    assert [ack.queue_offset for ack in broker.acks] == [ack.queue_offset for ack in first]


def test_a_full_broker_takes_what_fits_and_refuses_the_rest() -> None:
    commands = [send(n, n, producer_id=0, body=bytes(8000)) for n in range(400)]

    together, singly = both(commands, pending_size_max=1 << 20)

    for broker in (together, singly):
        codes = [ack.code for ack in broker.acks]
        assert len(codes) == 400
        assert set(codes) == {0, ResponseCode.SYSTEM_BUSY}
    assert abs(len(together.ledger.bodies[-1]) - len(singly.ledger.bodies[-1])) < 1 << 20


def test_what_follows_an_unusual_request_stays_behind_it() -> None:
    large = send(10, 10, body=bytes(9000))
    broker = Broker()

    broker.receive([*(send(n, n) for n in range(10)), large, *(send(n, n) for n in range(11, 21))])
    broker.ledger.commit()

    assert [(ack.code, ack.queue_offset) for ack in broker.acks] == [(0, n) for n in range(21)]


def test_sends_to_a_topic_that_is_not_there_are_refused_one_by_one() -> None:
    broker = Broker()

    broker.receive([send(n, n, topic="other") for n in range(8)])

    assert [ack.code for ack in broker.acks] == [ResponseCode.TOPIC_NOT_EXIST] * 8


def test_a_lost_lead_answers_every_gathered_send() -> None:
    broker = Broker()
    broker.receive([send(n, n) for n in range(8)])

    broker.ledger.lose()
    broker.answers.send()

    assert [ack[:2] for ack in broker.acks] == [(n, ResponseCode.OUTCOME_UNKNOWN) for n in range(8)]


def test_gathered_sends_that_were_not_written_are_handed_on() -> None:
    broker = Broker()
    broker.ledger.core.unfinished_count = 4  # so that nothing is sealed
    broker.receive([send(n, n) for n in range(8)])
    broker.ledger.is_leader = False

    broker.queue.refresh()

    assert [command.opaque for command in broker.forwarder.held] == list(range(8))


def test_a_group_is_sealed_when_it_has_about_as_much_as_is_on_its_way() -> None:
    """Two thirds of it. Large batches share entries while the log is busy, and the first ones
    wait for nobody."""
    broker = Broker()

    def counts() -> list[int]:
        return [proposal.put_count for proposal in broker.ledger.proposals]

    for number in range(6):
        broker.receive([send(number, number, body=bytes(100_000))])
    assert counts() == [1, 1, 2], "two gather, as four are on their way"
    broker.receive([send(6, 6, body=bytes(100_000))])
    assert counts() == [1, 1, 2, 3]
    broker.receive([send(7, 7, body=bytes(100_000))])
    assert counts() == [1, 1, 2, 3], "no more than four groups"

    broker.ledger.commit()

    assert [ack.code for ack in broker.acks] == [0] * 8
