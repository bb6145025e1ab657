"""Consumers of RocketMQ's clients hear of a reset, and nothing they do meanwhile undoes it.

A reset begins a new epoch of a group's offsets (`broker.metadata.consumer_offsets`).  Our consumers
name the epoch they know; RocketMQ's know of none, so the node at the other end of their connection
does it for them.  It tells them where to go on (220), and until they do, their commits are of the
epoch before, and count for nothing:

    told       the queues of the reset, each with the offset to go on at
    followed   a queue is asked about again (14), or is committed at just that offset, as Java's
               consumers do ten seconds after they were told

A client that does not listen (npm's ali-ons) goes on where it was, and begins at the new place when
it is given the queue anew or started again.

Source: RocketMQ ``Broker2Client.resetOffset``, ``MQClientInstance.resetOffset``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.protocol.admin_bodies import QueuePlace, encode_reset, encode_reset_for_c
from broker.protocol.request_code import ClientRequestCode
from dledger.remoting.command import LanguageCode, SerializeType

if TYPE_CHECKING:
    from broker.handlers.connections import Client, Connections
    from broker.metadata.consumer_offsets import AppliedReset, ConsumerOffsets
    from dledger.clock import Clock
    from dledger.remoting.server import Session

    # What a client has not done yet: for each queue the offset to go on at.
    Places = dict[int, int]

READS_MAX = 4096  # groups with a topic that one connection reads; of others nothing is kept


class _Reader:
    """What is known of one connection that reads."""

    __slots__ = ("ahead", "reads")

    def __init__(self) -> None:
        self.reads: set[tuple[str, str]] = set()  # group and topic
        self.ahead: dict[tuple[str, str], Places] = {}  # where it has been told to go on


class ResetNews:
    """What the clients connected here know of resets."""

    def __init__(
        self, *, connections: Connections, offsets: ConsumerOffsets, clock: Clock, group_name: str
    ) -> None:
        """Make it with nothing told.

        Args:
            connections: who is connected here, for which groups.
            offsets: where groups are, and since which reset.
            clock: the time of what is told.
            group_name: of the broker group: under this name clients read.
        """
        self._connections = connections
        self._offsets = offsets
        self._clock = clock
        self._group_name = group_name
        self._readers: dict[Session, _Reader] = {}

    def asked(self, session: Session, group: str, topic: str, queue_id: int) -> None:
        """Take note that a client asks where it goes on in a queue: it will follow the answer."""
        if self._stock_client(session, group) is None:
            return
        reader = self._read(session, group, topic)
        if reader is not None:
            self._followed(reader, group, topic, queue_id)

    def epoch_of_commit(
        self, session: Session, group: str, topic: str, queue_id: int, offset: int
    ) -> int | None:
        """Return the epoch to which a commit of a client belongs; None: it may be of any.

        -1: of one that is over.  For clients that consume for the group by this connection and name
        no epoch; for all others (tools, say) the answer is None.
        """
        if self._stock_client(session, group) is None:
            return None
        reader = self._read(session, group, topic)
        if reader is not None and (places := reader.ahead.get((group, topic))) is not None:
            if queue_id in places and places[queue_id] != offset:
                return -1
            self._followed(reader, group, topic, queue_id)
        return self._offsets.epoch(group, topic)

    def tell(self, reset: AppliedReset) -> None:
        """Have the consumers of a group that are connected here go on where a reset has led."""
        group, topic, places = reset
        if not places:
            return
        table = {
            QueuePlace(topic, self._group_name, queue_id): offset
            for queue_id, offset in sorted(places.items())
        }
        fields = {
            "topic": topic,
            "group": group,
            "timestamp": str(self._clock.wall_ms()),
            "isForce": "true",
        }
        for session in self._connections.listeners(group):
            client = self._stock_client(session, group)
            if client is None or session.closed:
                continue
            reader = self._readers.setdefault(session, _Reader())
            reader.ahead[group, topic] = {**reader.ahead.get((group, topic), {}), **places}
            if (group, topic) not in reader.reads:
                continue  # it reads by another connection, perhaps at another node, and hears there
            is_cpp = client.language == LanguageCode.CPP
            self._connections.tell(
                session,
                ClientRequestCode.RESET_CONSUMER_CLIENT_OFFSET,
                fields,
                encode_reset_for_c(table) if is_cpp else encode_reset(table),
            )

    def drop_session(self, session: Session) -> None:
        """Forget a connection that has ended."""
        self._readers.pop(session, None)

    def _stock_client(self, session: Session, group: str) -> Client | None:
        """Return the client of a connection if it consumes for *group* and knows no epochs."""
        client = self._connections.client_of(session)
        if client is None or group not in client.groups:
            return None
        return None if client.serialization is SerializeType.MSGPACK else client

    def _read(self, session: Session, group: str, topic: str) -> _Reader | None:
        reader = self._readers.setdefault(session, _Reader())
        if (group, topic) not in reader.reads:
            if len(reader.reads) >= READS_MAX:
                return None
            reader.reads.add((group, topic))
        return reader

    @staticmethod
    def _followed(reader: _Reader, group: str, topic: str, queue_id: int) -> None:
        places = reader.ahead.get((group, topic))
        if places is not None:
            places.pop(queue_id, None)
            if not places:
                del reader.ahead[group, topic]
