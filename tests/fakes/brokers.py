"""Whole broker nodes in one event loop, under virtual time, and callers that speak to them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import trio

from broker.config import BrokerConfig, MemberConfig, NameserverConfig, NodeConfig
from broker.message.batch import encode_sizes
from broker.message.codec import decode_records, encode_record
from broker.message.model import HostAddress
from broker.node import Node
from broker.open_files import OpenFiles, open_files
from broker.protocol.bodies import Ack, decode_acks
from broker.protocol.headers import PULL_FLAG_SUSPEND
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.send_headers import SendRecordsRequest
from broker.wiring import Surroundings
from dledger.config import KIB, RaftConfig, StoreConfig
from dledger.remoting.client import RemotingClient
from dledger.remoting.command import FLAG_GROUPED, Command, SerializeType
from dledger.remoting.connection import Connection
from dledger.remoting.errors import RemotingError
from tests.fakes.nodes import FakeMember, FakeMembers, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from broker.message.model import StoredMessage
    from tests.fakes.worker import FakeWorker

BROKER_PORT = 9000
PEER_PORT = 7000
HOST = HostAddress(b"\x7f\x00\x00\x01", BROKER_PORT)
SECONDS = 20.0  # virtual: longest time a caller waits


class Brokers(FakeMembers):
    """A group of broker nodes."""

    def __init__(
        self,
        nursery: trio.Nursery,
        count: int = 3,
        *,
        store: dict[str, Any] | None = None,
        raft: dict[str, Any] | None = None,
        broker: dict[str, Any] | None = None,
        nameserver: dict[str, Any] | None = None,
        seed: int = 1,
        group: str = "g",
        cluster: str = "",
        beside: FakeMembers | None = None,
        port_shift: int = 0,
    ) -> None:
        """Make a group; *beside* another one on the same network, its ports moved."""
        super().__init__(nursery, count, seed=seed)
        self._group, self._cluster, self._port_shift = group, cluster, port_shift
        if beside is not None:
            self.wires = beside.wires
        self._store = StoreConfig(
            # All in memory, and copied whole by each sync.
            **{"segment_size": 256 * KIB, "index_file_units": 96 * KIB, **(store or {})}
        )
        self._raft = RaftConfig(**(raft or {}))
        self._broker = BrokerConfig(**(broker or {}))
        self._nameserver = NameserverConfig(**(nameserver or {}))
        self._files: dict[str, OpenFiles] = {}

    def config(self, name: str) -> NodeConfig:
        return NodeConfig(
            group=self._group,
            cluster=self._cluster,
            node_id=name,
            members=tuple(
                MemberConfig(
                    node_id=other,
                    host=f"{other}-host.my-group",
                    peer_port=PEER_PORT + self._port_shift + number,
                    broker_port=BROKER_PORT + self._port_shift + number,
                )
                for number, other in enumerate(self.members)
            ),
            data_folder="/data",
            store=self._store,
            raft=self._raft,
            broker=self._broker,
            nameserver=self._nameserver,
        )

    def build(self, member: FakeMember, make_worker: Callable[[str], FakeWorker]) -> Node:
        config = self.config(member.name)
        files = self._files[member.name] = open_files(config, member.disk)
        surroundings = Surroundings(
            clock=self.clock,
            disk=member.disk,
            network=self.wires.of(member.name),
            chance=member.chance(),
            make_worker=make_worker,
        )
        return Node(config, files, surroundings, store_host=HOST)

    def bury(self, member: FakeMember, dead: Node | None) -> None:
        if dead is not None:
            dead.close(write_down=False)
        elif (files := self._files.get(member.name)) is not None:
            files.derived.close()
            files.store.close()
            files.folder.close()

    # -- what tests ask -------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        return [member.broker_address for member in self.config("n1").members]

    def address(self, member: FakeMember) -> str:
        return self.config(member.name).advertised_address

    @property
    def leader_now(self) -> FakeMember | None:
        leaders = [member for member in self.alive if member.running.queue.is_open]
        return max(leaders, key=lambda member: member.running.ledger.term, default=None)

    async def leader(self, *, other_than: FakeMember | None = None) -> FakeMember:
        """Wait for a serving leader that every member alive, but for *other_than*, follows."""

        def led() -> FakeMember | None:
            leader = self.leader_now
            if leader is None or leader is other_than:
                return None
            follow = [
                member
                for member in self.alive
                if member is other_than or member.running.ledger.leader_id == leader.name
            ]
            return leader if len(follow) == len(self.alive) else None

        return await until("a leader that all follow", led)

    async def equal(self) -> None:
        """Wait until all members alive have taken in one log."""

        def are_equal() -> bool:
            nodes = [member.running for member in self.alive]
            ends = {node.ledger.store.end_index for node in nodes}
            return (
                len(ends) == 1
                and ends == {node.ledger.committed_index for node in nodes}
                and ends == {node.dispatch._derived.dispatched_index for node in nodes}
            )

        await until("all members are equal", are_equal)
        points = {member.running.ledger.store.last_chain_crc for member in self.alive}
        assert len(points) == 1

    @contextlib.asynccontextmanager
    async def caller(self, member: FakeMember, *, port: int = 0) -> AsyncIterator[Caller]:
        """Connect to a member, at *port* unless that is 0."""
        caller = Caller(self, member, port=port)
        self.nursery.start_soon(caller.run)
        await until("the caller is connected", lambda: not caller.client.closed)
        yield caller
        caller.client.close()


class Caller:
    """One connection to one broker, and what came over it."""

    def __init__(self, brokers: Brokers, member: FakeMember, *, port: int = 0) -> None:
        port = port or brokers.config(member.name).listen_broker_port
        self.acks: list[Ack] = []
        self.pushes: list[int] = []  # acks in each grouped response
        self.client = RemotingClient(
            brokers.wires.of("a client"), f"{member.name}-host", port, on_push=self._take
        )

    async def run(self) -> None:
        with contextlib.suppress(RemotingError):
            await self.client.run()

    def _take(self, command: Command) -> None:
        if command.is_grouped:
            stated = command.ext_fields.get("durability", "")
            found = list(decode_acks(command.body, stated))  # type: ignore[arg-type]
            self.acks += found
            self.pushes.append(len(found))

    async def ask(
        self,
        code: int,
        fields: dict[str, Any] | None = None,
        body: bytes = b"",
        *,
        serialization: SerializeType = SerializeType.MSGPACK,
        seconds: float = SECONDS,
    ) -> Command:
        """Send one request and return the answer, whatever its code."""
        command = Command(
            int(code), ext_fields=dict(fields or {}), body=body, serialization=serialization
        )
        return await self.client.request(command, timeout_seconds=seconds)

    async def ok(self, code: int, fields: dict[str, Any] | None = None, body: bytes = b""):
        """As `ask`, for a request that has to succeed."""
        answer = await self.ask(code, fields, body)
        assert answer.code == ResponseCode.SUCCESS, (answer.code, answer.remark)
        return answer

    def submit(
        self, code: int, fields: dict[str, Any], body: bytes = b"", *, flag: int = 0
    ) -> list[Any]:
        """Queue one request; the list returned gets its answer. Sent by `flush`."""
        answers: list[Any] = []
        self.client.submit(
            Command(int(code), flag, ext_fields=dict(fields), body=body), answers.append
        )
        return answers

    def flush(self) -> None:
        self.client.flush()

    async def create_topic(self, topic: str = "t", *, queues: int = 2, **fields: Any) -> None:
        await self.ok(
            RequestCode.UPDATE_AND_CREATE_TOPIC,
            {"topic": topic, "readQueueNums": queues, "writeQueueNums": queues, **fields},
        )

    def send(
        self,
        *bodies: bytes,
        topic: str = "t",
        queue_id: int = 0,
        producer_id: int = 0,
        sequence: int = 0,
        is_grouped: bool = False,
    ) -> list[Any]:
        """Queue one SEND_BATCH_MESSAGE of records; see `submit`."""
        fields, body = records(
            *bodies, topic=topic, queue_id=queue_id, producer_id=producer_id, sequence=sequence
        )
        flag = FLAG_GROUPED if is_grouped else 0
        return self.submit(RequestCode.SEND_BATCH_MESSAGE, fields, body, flag=flag)

    async def sent(self, *bodies: bytes, **kinds: Any) -> Command:
        """Send records and return the answer."""
        answers = self.send(*bodies, **kinds)
        self.flush()
        await until("the send is answered", lambda: answers)
        answer: Command = answers[0]
        return answer

    async def pull(
        self,
        offset: int = 0,
        *,
        topic: str = "t",
        queue_id: int = 0,
        wait_ms: int = 0,
        count: int = 1000,
        **fields: Any,
    ) -> Command:
        return await self.ask(
            RequestCode.PULL_MESSAGE, pull_fields(
                offset, topic=topic, queue_id=queue_id, wait_ms=wait_ms, count=count, **fields
            )
        )  # fmt: skip


def pull_fields(
    offset: int = 0,
    *,
    topic: str = "t",
    queue_id: int = 0,
    wait_ms: int = 0,
    count: int = 1000,
    **fields: Any,
) -> dict[str, Any]:
    return {
        "consumerGroup": "readers",
        "topic": topic,
        "queueId": queue_id,
        "queueOffset": offset,
        "maxMsgNums": count,
        "sysFlag": PULL_FLAG_SUSPEND if wait_ms else 0,
        "suspendTimeoutMillis": wait_ms,
        **fields,
    }


def records(
    *bodies: bytes,
    topic: str = "t",
    queue_id: int = 0,
    producer_id: int = 0,
    sequence: int = 0,
) -> tuple[dict[str, Any], bytes]:
    """Return the header fields and the body of a SEND_BATCH_MESSAGE of records."""
    encoded = [encode_record(topic=topic.encode(), queue_id=queue_id, body=body) for body in bodies]
    header = SendRecordsRequest(
        producer_group="writers",
        topic=topic,
        queue_id=queue_id,
        record_format=1,
        sizes=encode_sizes([len(record) for record in encoded]),
        producer_id=producer_id,
        sequence=sequence,
    )
    return header.encode(), b"".join(encoded)


def messages_of(answer: Command) -> list[StoredMessage]:
    return decode_records(bytes(answer.body))  # type: ignore[arg-type]


def bodies_of(answer: Command) -> list[bytes]:
    return [bytes(message.body) for message in messages_of(answer)]


def ext(answers: Sequence[Any]) -> dict[str, Any]:
    """Return the ext fields of the one answer in *answers*."""
    (answer,) = answers
    assert isinstance(answer, Command), answer
    assert answer.code == ResponseCode.SUCCESS, (answer.code, answer.remark)
    return answer.ext_fields


async def raw_answers(brokers: Brokers, node: FakeMember, data: bytes) -> list[Command]:
    """Send bytes that our own encoders refuse to make; return what comes back within a second."""
    port = brokers.config(node.name).listen_broker_port
    stream = await brokers.wires.of("a client").connect(f"{node.name}-host", port)
    rest = stream.send_now([data])
    connection = Connection()
    answers: list[Command] = []
    with trio.move_on_after(1):
        while rest:
            await stream.wait_writable()
            rest = stream.send_now(rest)
        while received := await stream.receive_some():
            connection.receive_data(received)
            answers += connection.commands()
    stream.close()
    return answers
