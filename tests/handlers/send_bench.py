"""Handlers of sends over a queue of their own: no sockets, no time, a ledger that is a list."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

from broker.handlers.ack_policy import AckPolicy
from broker.handlers.registry import Registry
from broker.handlers.send import SendHandlers
from broker.handlers.send_answers import SendAnswers
from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.limits import MessageLimits
from broker.message.model import HostAddress
from broker.metadata.subscription_groups import SubscriptionGroups
from broker.metadata.topics import TopicConfig
from broker.protocol.bodies import Ack, decode_acks
from broker.protocol.request_code import RequestCode
from broker.store.append_queue import AppendQueue
from broker.store.producers import ProducerTable
from dledger.config import LedgerConfig, Member, RaftConfig, StoreConfig
from dledger.durability import Copies, Durability
from dledger.errors import OutcomeUnknownError
from dledger.remoting.command import FLAG_GROUPED, Buffer, Command
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

    def __init__(self, pending_size_max: int, store: StoreConfig) -> None:
        self.config = LedgerConfig(
            group="g",
            node_id="n1",
            members=(Member(node_id="n1", host="127.0.0.1", port=1),),
            data_folder="d",
            store=store,
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

    def __init__(
        self,
        *,
        pending_size_max: int = 1 << 26,
        store: StoreConfig | None = None,
        limits: MessageLimits | None = None,
    ) -> None:
        self.ledger = Ledger(pending_size_max, store or StoreConfig())
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
            limits=limits or MessageLimits(),
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
        """Take what the server makes of the frames; return how many runs were taken whole."""
        connection = Connection(find_run=RunFinder(self.sends.find_frames).find)
        connection.receive_data(b"".join(b"".join(encode_frame(each)) for each in commands))
        run_count = 0
        pieces = deque(connection.pieces())
        while pieces:
            piece = pieces.popleft()
            is_last = not pieces
            if isinstance(piece, list):
                self.registry.on_commands(self.session, piece, ends_pass=is_last)  # type: ignore[arg-type]
            elif left := self.registry.on_run(self.session, piece, ends_pass=is_last):  # type: ignore[arg-type]
                pieces.appendleft(left)
            else:
                run_count += 1
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
