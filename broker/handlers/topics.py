"""Topics: their list, where they are, and how one comes to be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from broker.errors import InvalidMessageError, TopicNotFoundError
from broker.handlers.registry import answer, error_response, handles
from broker.metadata.topic_config import ATTRIBUTE_FIELDS, TopicConfig, attribute_values
from broker.metadata.topics import create_topic, put_topic
from broker.protocol.bodies import TopicEntry, encode_topic_table
from broker.protocol.headers import CreateTopicRequest, RouteRequest
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.errors import NotLeaderError
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.handlers.forward import Forwarder
    from broker.metadata.topics import Topics
    from broker.store.append_queue import AppendQueue
    from broker.store.derived import DerivedState
    from dledger.errors import LedgerError
    from dledger.remoting.server import Session
    from dledger.server import LedgerServer


class TopicHandlers:
    """The family of topics."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        derived: DerivedState,
        queue: AppendQueue,
        topics: Topics,
        forwarder: Forwarder,
        advertised: Mapping[str, str],
        is_serving: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._derived = derived
        self._queue = queue
        self._topics = topics
        self._forwarder = forwarder
        self._advertised = advertised
        self._is_serving = is_serving
        self._waiting: list[tuple[int, Session, Command]] = []

    @handles(RequestCode.UPDATE_AND_CREATE_TOPIC, on_leader=True)
    def create(self, session: Session, command: Command) -> None:
        """Create a topic or alter one; answered when this node can be asked for it."""
        header = CreateTopicRequest.decode(command.ext_fields)
        self._check_shrinking(header)
        given = attribute_values(header.attributes)
        config = TopicConfig(
            topic=header.topic,
            read_queue_count=header.read_queue_nums,
            write_queue_count=header.write_queue_nums,
            perm=header.perm,
            order=header.order,
            filter_type=header.topic_filter_type,
            system_flag=header.topic_sys_flag,
            **given,
        )
        if header.only_if_missing:
            wanted = create_topic(config)
        else:
            wanted = put_topic(config, keep=set(ATTRIBUTE_FIELDS) - given.keys())

        def done(index: int, error: LedgerError | None) -> None:
            if error is None:
                self._waiting.append((index, session, command))
            elif isinstance(error, NotLeaderError):
                self._forwarder.hold_again(session, command)
            else:
                answer(session, command, error_response(command, error))
                if not session.closed:
                    session.flush_soon()

        self._queue.put_command(wanted, done)

    def _check_shrinking(self, header: CreateTopicRequest) -> None:
        known = self._topics.get(header.topic)
        if (
            known is not None
            and not header.only_if_missing
            and header.read_queue_nums < known.read_queue_count
        ):
            raise InvalidMessageError(
                f"topic {header.topic!r} has {known.read_queue_count} queues; with "
                f"{header.read_queue_nums} the messages of the others could not be read any more; "
                f"keep readQueueNums at {known.read_queue_count}, writeQueueNums may be less"
            )

    def create_missing(
        self, topic: str, queue_count: int, done: Callable[[int, LedgerError | None], None]
    ) -> None:
        """Propose a topic that a send has asked for.

        Raises:
            InvalidTopicError: no topic can have that name.
        """
        config = TopicConfig(
            topic=topic, read_queue_count=queue_count, write_queue_count=queue_count
        )
        self._queue.put_command(create_topic(config), done)

    def dispatched(self) -> None:
        """Answer the requests whose entry has been taken in."""
        if not self._waiting:
            return
        reached = self._derived.dispatched_index
        for index, session, command in self._waiting:
            if index <= reached and not session.closed:
                answer(session, command, response(command, int(ResponseCode.SUCCESS)))
                session.flush_soon()
        self._waiting = [item for item in self._waiting if item[0] > reached]

    @handles(RequestCode.GET_ALL_TOPIC_CONFIG)
    def list_topics(self, session: Session, command: Command) -> None:
        """Answer all topics this node knows of."""
        table = [
            TopicEntry(
                config.topic,
                config.read_queue_count,
                config.write_queue_count,
                config.perm,
                order=config.order,
                filter_type=config.filter_type,
                system_flag=config.system_flag,
                retention_ms=config.retention_ms,
                retention_bytes=config.retention_bytes,
                acks=config.acks,
                flush=config.flush,
            )
            for config in self._topics
        ]
        answer(
            session,
            command,
            response(
                command,
                int(ResponseCode.SUCCESS),
                body=encode_topic_table(table, version=self._topics.version),
            ),
        )

    @handles(RequestCode.GET_ROUTEINFO_BY_TOPIC)
    def route(self, session: Session, command: Command) -> None:
        """Answer where a topic's queues are: all on this group, id 0 being the leader."""
        header = RouteRequest.decode(command.ext_fields)
        config = self._topics.get(header.topic)
        if config is None and not self._is_serving():
            # This node may only be behind: who believed it would create the topic a second time.
            self._forwarder.take(session, command)
            return
        if config is None:
            raise TopicNotFoundError(
                f"topic {header.topic!r} does not exist; create it with `dledger topic create "
                f"{header.topic}`"
            )
        group = self._ledger.config.group
        body = {
            "brokerDatas": [
                {"brokerAddrs": self._broker_addresses(), "brokerName": group, "cluster": group}
            ],
            "filterServerTable": {},
            "queueDatas": [
                {
                    "brokerName": group,
                    "perm": config.perm,
                    "readQueueNums": config.read_queue_count,
                    "topicSysFlag": 0,
                    "writeQueueNums": config.write_queue_count,
                }
            ],
        }
        # Compact: RocketMQ's Go client cuts the addresses out of the raw text.
        encoded = json.dumps(body, separators=(",", ":")).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=encoded))

    def _broker_addresses(self) -> dict[str, str]:
        leader = self._ledger.leader_id
        addresses = {} if leader is None else {"0": self._advertised[leader]}
        others = [node_id for node_id in sorted(self._advertised) if node_id != leader]
        for number, node_id in enumerate(others, start=1):
            addresses[str(number)] = self._advertised[node_id]
        return addresses
