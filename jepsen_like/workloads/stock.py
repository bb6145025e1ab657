"""A client that speaks the wire as RocketMQ's own do: JSON headers, one node at a time.

It holds a connection to each node it has asked, asks another one when the last said nothing in
time, and never sends a request twice by itself: what became of one is the caller's to tell.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import trio

from broker.message.codec import decode_records
from broker.protocol.request_code import ClientRequestCode, RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.client import RemotingClient
from dledger.remoting.command import Command, LanguageCode, SerializeType
from dledger.remoting.errors import ConnectFailedError, NotConnectedError, RemotingError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from broker.message.model import StoredMessage
    from dledger.remoting.network import Network

VERSION = 401  # Source: RocketMQ ``MQVersion.V4_9_4``
REQUEST_SECONDS = 1.0
PULL_COUNT = 32
CLUSTERING, BROADCASTING = "CLUSTERING", "BROADCASTING"
PULL_FLAGS = 0x2 | 0x4  # may be held; a subscription comes along

# Nothing was done: all other refusals may come after something was.
_SURELY_NOT = frozenset(
    {
        ResponseCode.SYSTEM_BUSY,
        ResponseCode.MESSAGE_ILLEGAL,
        ResponseCode.NO_PERMISSION,
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
    }
)


class NotDoneError(Exception):
    """What was asked for was surely not done."""


class UnclearError(Exception):
    """What was asked for may have been done, or may yet be."""


class Node(NamedTuple):
    """Where a member of the group listens for clients, and what the history calls it."""

    name: str
    host: str
    port: int


class Pulled(NamedTuple):
    """What a pull came to."""

    messages: list[StoredMessage]
    next_offset: int


class StockClient:
    """One client process."""

    def __init__(
        self,
        client_id: str,
        *,
        network: Network,
        nodes: Iterable[Node],
        chance: random.Random,
        nursery: trio.Nursery,
        on_cut: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make one that is connected to nobody yet.

        Args:
            client_id: by which brokers know it.
            network: of its machine.
            nodes: of the group; asked in an order of chance.
            chance: decides about that order.
            nursery: for its connections; they end with it.
            on_cut: called with the name of a node whose connection has ended.
        """
        self.client_id = client_id
        self.changed = trio.Event()  # a group has; set anew by who has looked
        self._network = network
        nodes = list(nodes)
        self._nodes = chance.sample(nodes, len(nodes))
        self._nursery = nursery
        self._on_cut = on_cut
        self._links: dict[str, RemotingClient] = {}
        self._opening = trio.Lock()
        self._at = 0

    @property
    def node(self) -> Node:
        """The node that is asked next."""
        return self._nodes[self._at % len(self._nodes)]

    async def ask(
        self,
        code: RequestCode,
        fields: Mapping[str, object],
        body: bytes = b"",
        *,
        seconds: float = REQUEST_SECONDS,
        anew: bool = True,
    ) -> Command:
        """Ask the node of the moment; return its answer, whatever the code.

        Args:
            code: of the request.
            fields: of the request.
            body: of the request.
            seconds: longest time to wait for the answer.
            anew: whether to connect where there is no connection.

        Raises:
            NotDoneError: it was never sent.
            UnclearError: no answer came.
        """
        node = self.node
        link = await self._link(node, anew=anew)
        command = Command(
            int(code),
            language=int(LanguageCode.JAVA),
            version=VERSION,
            ext_fields={name: str(value) for name, value in fields.items()},
            body=body,
            serialization=SerializeType.JSON,
        )
        try:
            return await link.request(command, timeout_seconds=seconds)
        except NotConnectedError as error:
            self._turn_from(node)
            raise NotDoneError(str(error)) from error
        except RemotingError as error:
            self._turn_from(node)
            raise UnclearError(str(error)) from error

    async def do(
        self,
        code: RequestCode,
        fields: Mapping[str, object],
        body: bytes = b"",
        *,
        anew: bool = True,
    ) -> Command:
        """As `ask`, for what has to succeed.

        Raises:
            NotDoneError, UnclearError: as `ask`; also for an answer that is no success.
        """
        answer = await self.ask(code, fields, body, anew=anew)
        if answer.code == ResponseCode.SUCCESS:
            return answer
        why = f"{answer.code}: {answer.remark}"
        if answer.code in _SURELY_NOT:
            raise NotDoneError(why)
        raise UnclearError(why)

    def _turn_from(self, node: Node) -> None:
        if self.node == node:
            self._at += 1

    async def _link(self, node: Node, *, anew: bool) -> RemotingClient:
        async with self._opening:  # several tasks ask; one connects
            link = self._links.get(node.name)
            if link is not None and not link.closed:
                return link
            if not anew:
                raise NotDoneError(f"the connection to {node.name} is gone")
            link = self._links[node.name] = RemotingClient(
                self._network,
                node.host,
                node.port,
                on_push=self._take,
                on_lost=lambda _: self._on_cut(node.name),
            )
            with trio.move_on_after(REQUEST_SECONDS) as scope:
                try:
                    await self._nursery.start(link.run)
                except ConnectFailedError as error:
                    await trio.sleep(0.02)  # a node that is down refuses at once
                    self._turn_from(node)
                    raise NotDoneError(str(error)) from error
            if scope.cancelled_caught:
                self._turn_from(node)
                raise NotDoneError(f"no connection to {node.name}")
            return link

    def _take(self, command: Command) -> None:
        if command.code == ClientRequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
            self.changed.set()

    # -- requests -------------------------------------------------------------------------------

    async def beat(self, group: str, topics: Iterable[str], model: str) -> None:
        """Send a heartbeat that says what *group* reads here."""
        data = {
            "clientID": self.client_id,
            "producerDataSet": [],
            "consumerDataSet": [
                {
                    "groupName": group,
                    "consumeType": "CONSUME_PASSIVELY",
                    "messageModel": model,
                    "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
                    "subscriptionDataSet": [
                        {"topic": topic, "subString": "*", "expressionType": "TAG"}
                        for topic in topics
                    ],
                }
            ],
        }
        await self.do(RequestCode.HEART_BEAT, {}, _json(data))

    async def leave(self, group: str) -> None:
        """Say that it consumes for *group* no more."""
        fields = {"clientID": self.client_id, "producerGroup": "", "consumerGroup": group}
        await self.do(RequestCode.UNREGISTER_CLIENT, fields)

    async def members(self, group: str) -> list[str]:
        """Return the ids of the clients that consume for *group*."""
        answer = await self.do(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": group})
        found = json.loads(bytes(answer.body))  # type: ignore[arg-type]
        return list(found["consumerIdList"])

    async def lock(self, group: str, topic: str, queues: Iterable[int]) -> list[int]:
        """Ask for queues to read alone; return those that it has."""
        answer = await self.do(RequestCode.LOCK_BATCH_MQ, {}, self._queues(group, topic, queues))
        found = json.loads(bytes(answer.body))  # type: ignore[arg-type]
        return sorted(queue["queueId"] for queue in found["lockOKMQSet"])

    async def unlock(self, group: str, topic: str, queues: Iterable[int]) -> None:
        """Give queues back."""
        await self.do(RequestCode.UNLOCK_BATCH_MQ, {}, self._queues(group, topic, queues))

    def _queues(self, group: str, topic: str, queues: Iterable[int]) -> bytes:
        found = [{"topic": topic, "brokerName": "b", "queueId": queue} for queue in queues]
        return _json({"clientId": self.client_id, "consumerGroup": group, "mqSet": found})

    async def offset(self, group: str, topic: str, queue: int) -> int | None:
        """Return what *group* has committed; None: nothing."""
        return (await self.place(group, topic, queue))[0]

    async def place(self, group: str, topic: str, queue: int) -> tuple[int | None, int]:
        """Return what *group* has committed, and the epoch, which such clients do not look at."""
        fields = {"consumerGroup": group, "topic": topic, "queueId": queue}
        answer = await self.ask(RequestCode.QUERY_CONSUMER_OFFSET, fields)
        epoch = int(answer.ext_fields.get("offsetEpoch", 0))
        if answer.code == ResponseCode.QUERY_NOT_FOUND:
            return None, epoch
        if answer.code != ResponseCode.SUCCESS:
            raise UnclearError(f"{answer.code}: {answer.remark}")
        return int(answer.ext_fields["offset"]), epoch

    async def commit(
        self, group: str, topic: str, queue: int, offset: int, *, anew: bool = True
    ) -> None:
        """Commit where *group* goes on; without *anew* only by a connection that there is."""
        fields = {
            "consumerGroup": group,
            "topic": topic,
            "queueId": queue,
            "commitOffset": offset,
        }
        await self.do(RequestCode.UPDATE_CONSUMER_OFFSET, fields, anew=anew)

    async def pull(
        self, group: str, topic: str, queue: int, offset: int, *, hold_seconds: float
    ) -> Pulled:
        """Return what there is from *offset* on; none, when nothing comes in time."""
        fields = {
            "consumerGroup": group,
            "topic": topic,
            "queueId": queue,
            "queueOffset": offset,
            "maxMsgNums": PULL_COUNT,
            "sysFlag": PULL_FLAGS,
            "commitOffset": 0,
            "suspendTimeoutMillis": int(hold_seconds * 1000),
            "subscription": "*",
            "subVersion": 0,
            "expressionType": "TAG",
        }
        seconds = hold_seconds + REQUEST_SECONDS
        answer = await self.ask(RequestCode.PULL_MESSAGE, fields, seconds=seconds)
        if answer.code == ResponseCode.SUCCESS:
            assert not isinstance(answer.body, list)
            messages = list(decode_records(answer.body))
            return Pulled(messages, int(answer.ext_fields["nextBeginOffset"]))
        if answer.code in (
            ResponseCode.PULL_NOT_FOUND,
            ResponseCode.PULL_RETRY_IMMEDIATELY,
            ResponseCode.PULL_OFFSET_MOVED,
        ):
            return Pulled([], int(answer.ext_fields["nextBeginOffset"]))
        raise NotDoneError(f"{answer.code}: {answer.remark}")

    async def send_back(self, group: str, position: int, *, level: int, times_max: int) -> None:
        """Have a message that could not be dealt with come again."""
        fields = {
            "offset": position,
            "group": group,
            "delayLevel": level,
            "originMsgId": "",
            "originTopic": "",
            "unitMode": "false",
            "maxReconsumeTimes": times_max,
        }
        await self.do(RequestCode.CONSUMER_SEND_MSG_BACK, fields)

    async def send(
        self, topic: str, queue: int, body: bytes, properties: str, *, wall_ms: int
    ) -> None:
        """Send one message."""
        fields = {
            "a": "stock",
            "b": topic,
            "c": "TBW102",
            "d": 4,
            "e": queue,
            "f": 0,
            "g": wall_ms,
            "h": 0,
            "i": properties,
            "j": 0,
            "k": "false",
            "l": 16,
            "m": "false",
        }
        await self.do(RequestCode.SEND_MESSAGE_V2, fields, body)


def _json(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()
