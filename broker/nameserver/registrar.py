"""A node registers with name servers: with all of them, every 30 s and when something changes.

Each name server has one connection and one task; one that cannot be reached is tried again, and is
nobody's trouble but of the clients that know no other.  The request is RocketMQ's, so that it may
be a name server of RocketMQ as well.

Source: RocketMQ ``BrokerController.registerBrokerAll``, ``BrokerOuterAPI``.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from broker.nameserver import routes
from broker.protocol.bodies import TopicEntry
from broker.protocol.headers import PERM_INHERIT, PERM_READ, PERM_WRITE
from broker.protocol.name_headers import RegisterBrokerRequest, UnregisterBrokerRequest
from broker.protocol.registration import encode_topic, join_topics
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.client import RemotingClient
from dledger.remoting.command import Command, SerializeType
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.config import RouteMode
    from broker.metadata.topic_config import TopicConfig
    from broker.metadata.topics import Topics
    from dledger.remoting.network import Network
    from dledger.server import LedgerServer

REGISTER_SECONDS: Final = 30.0  # Source: RocketMQ ``BrokerConfig.registerNameServerPeriod``
ANSWER_SECONDS: Final = 6.0  # Source: RocketMQ ``BrokerConfig.registerBrokerTimeoutMills``
# Least time between two registrations: topics may be created by the hundred, and all of them are
# told each time.
PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0  # between two tries to reach one that cannot be reached

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a registration says, but for the topics themselves."""

    topics_version: int
    leads: bool
    term: int


class Registrar:
    """Registers one node."""

    def __init__(
        self,
        *,
        servers: Sequence[tuple[str, int]],
        network: Network,
        ledger: LedgerServer,
        topics: Topics,
        advertised: Mapping[str, str],
        is_serving: Callable[[], bool],
        cluster: str,
        mode: RouteMode,
        auto_create_topic: bool,
        default_queue_count: int,
        connect_seconds: float,
    ) -> None:
        """Make one that has registered nowhere.

        Args:
            servers: (host, port) of each name server; none: there is nothing to do.
            network: for the connections to them.
            ledger: knows who leads, and in which term.
            topics: what exists.
            advertised: ``host:port`` of every member for clients.
            is_serving: whether this node leads and has taken in its predecessors' log.
            cluster: name of the cluster the group belongs to.
            mode: how RocketMQ's clients are to be told of the group.
            auto_create_topic: whether TBW102 is to have a route.
            default_queue_count: queues of a topic created by a first send.
            connect_seconds: longest time to wait for a connection.
        """
        self._servers = list(servers)
        self._network = network
        self._ledger = ledger
        self._topics = topics
        self._advertised = advertised
        self._is_serving = is_serving
        self._cluster = cluster
        self._mode = mode
        self._auto_create_topic = auto_create_topic
        self._default_queue_count = default_queue_count
        self._connect_seconds = connect_seconds
        self._seen: _Told | None = None
        self._news = trio.lowlevel.ParkingLot()  # who waits in it looks again what there is
        self._body: tuple[int, bytes] | None = None  # of a version of the topics
        self._encoded: dict[str, tuple[TopicConfig, bytes]] = {}
        self._clients: dict[str, RemotingClient] = {}  # of those that have answered
        self._complaints: dict[str, str] = {}
        self._is_leaving = False

    def counts(self) -> tuple[int, int]:
        """Return with how many name servers this node is registered, and with how many not."""
        return len(self._clients), len(self._servers) - len(self._clients)

    def look(self) -> None:
        """Register anew if there is anything new; called when something may have changed."""
        if self._servers and (now := self._now()) != self._seen:
            self._seen = now
            self._news.unpark_all()

    async def run(self) -> None:
        """Register with all of them until cancelled."""
        async with trio.open_nursery() as nursery:
            for host, port in self._servers:
                nursery.start_soon(self._serve, host, port)

    async def unregister(self) -> None:
        """Tell all of them that this node stops; who cannot be told notices by itself."""
        self._is_leaving = True
        async with trio.open_nursery() as nursery:
            for client in list(self._clients.values()):
                nursery.start_soon(self._unregister, client)

    async def _serve(self, host: str, port: int) -> None:
        while not self._is_leaving:
            client = RemotingClient(self._network, host, port, on_lost=self._lost)
            failure = await self._serve_connection(client)
            self._clients.pop(client.address, None)
            self._complain(client.address, failure)
            await trio.sleep(RETRY_SECONDS)

    def _lost(self, _: RemotingError) -> None:
        self._news.unpark_all()

    async def _serve_connection(self, client: RemotingClient) -> str:
        """Register over one connection for as long as it holds; return why it does no more."""
        failure = ""
        async with trio.open_nursery() as nursery:
            try:
                with trio.move_on_after(self._connect_seconds) as patience:
                    await nursery.start(client.run)
                if patience.cancelled_caught:
                    failure = "no connection in time (connect_timeout_ms)"
                else:
                    failure = await self._keep_registered(client)
            except RemotingError as error:
                failure = str(error)
            client.close()
            nursery.cancel_scope.cancel()
        return failure

    async def _keep_registered(self, client: RemotingClient) -> str:
        while not self._is_leaving:
            told = self._now()
            answer = await client.request(self._request(), timeout_seconds=ANSWER_SECONDS)
            if answer.code != ResponseCode.SUCCESS:
                return f"it refused: code {answer.code}: {answer.remark}"
            if client.address not in self._clients:
                self._clients[client.address] = client
                self._complaints.pop(client.address, None)
                logger.info("registered with the name server %s", client.address)
            await trio.sleep(PAUSE_SECONDS)
            with trio.move_on_after(REGISTER_SECONDS - PAUSE_SECONDS):
                while self._now() == told and not client.closed:
                    await self._news.park()
            if client.closed:
                return "the connection has ended"
        return "this node stops"

    async def _unregister(self, client: RemotingClient) -> None:
        header = UnregisterBrokerRequest(
            broker_name=self._ledger.config.group,
            broker_addr=self._address,
            cluster_name=self._cluster,
            broker_id=self._number,
        )
        command = Command(
            RequestCode.UNREGISTER_BROKER,
            ext_fields=header.encode(),
            serialization=SerializeType.JSON,
        )
        try:
            await client.request(command, timeout_seconds=ANSWER_SECONDS)
        except RemotingError as error:
            logger.info("%s was not told that this node stops: %s", client.address, error)

    def _request(self) -> Command:
        body = self._encoded_topics()
        header = RegisterBrokerRequest(
            broker_name=self._ledger.config.group,
            broker_addr=self._address,
            cluster_name=self._cluster,
            broker_id=self._number,
            body_crc32=zlib.crc32(body) & 0x7FFFFFFF,
            node_id=self._ledger.config.node_id,
            members=",".join(f"{node}={at}" for node, at in sorted(self._advertised.items())),
            route=self._mode.value,
            term=self._ledger.term,
        )
        return Command(
            RequestCode.REGISTER_BROKER,
            ext_fields=header.encode(),
            body=body,
            serialization=SerializeType.JSON,
        )

    def _encoded_topics(self) -> bytes:
        version = self._topics.version
        if self._body is None or self._body[0] != version:
            known, self._encoded = self._encoded, {}
            for config in self._topics:
                row = known.get(config.topic)
                # A topic that has changed is another object.
                if row is None or row[0] is not config:
                    row = config, encode_topic(_entry_of(config))
                self._encoded[config.topic] = row
            rows = [row for _, row in self._encoded.values()]
            if self._auto_create_topic:
                count = self._default_queue_count
                perm = PERM_READ | PERM_WRITE | PERM_INHERIT
                rows.append(encode_topic(TopicEntry(routes.DEFAULT_TOPIC, count, count, perm)))
            self._body = version, join_topics(rows, version=version)
        return self._body[1]

    def _now(self) -> _Told:
        return _Told(self._topics.version, self._is_serving(), self._ledger.term)

    @property
    def _address(self) -> str:
        return self._advertised[self._ledger.config.node_id]

    @property
    def _number(self) -> int:
        """Its number under the group's name: 0 for the leader, and one that no other has."""
        if self._is_serving():
            return 0
        return 1 + sorted(self._advertised).index(self._ledger.config.node_id)

    def _complain(self, address: str, failure: str) -> None:
        if failure != self._complaints.get(address) and not self._is_leaving:
            self._complaints[address] = failure  # tried every second, said once
            logger.warning("not registered with the name server %s: %s", address, failure)


def _entry_of(config: TopicConfig) -> TopicEntry:
    return TopicEntry(
        config.topic,
        config.read_queue_count,
        config.write_queue_count,
        config.perm,
        order=config.order,
        filter_type=config.filter_type,
        system_flag=config.system_flag,
    )
